"""Kubernetes' API conventions as a lint over ``crds/*.yaml`` (after kube-api-linter's rules)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

CRDS = sorted((Path(__file__).parents[2] / "crds").glob("*.yaml"))

SWITCHES = {
    "spec.schedule.generate.adapt",
    "spec.schedule.generate.dryRun",
    "spec.podTemplate.volumes[].readOnly",
    "spec.suspend",
    "spec.trialTemplate.volumes[].readOnly",
    "status.front[].feasible",
}
"""Booleans by name: what may one day have a third state is an enum."""
FREE_MAPS = {
    "spec.defaults.hardware.resources",
    "spec.placement.nodeSelector",
    "spec.placement.resources.limits",
    "spec.placement.resources.requests",
    "spec.podTemplate.annotations",
    "spec.podTemplate.labels",
    "spec.podTemplate.resources.limits",
    "spec.podTemplate.resources.requests",
    "spec.stages[].hardware.resources",
    "status.generated.stages[].hardware.resources",
    "spec.target.nodeSelector",
    "spec.target.resources.limits",
    "spec.target.resources.requests",
    "spec.trialTemplate.annotations",
    "spec.trialTemplate.labels",
    "spec.trialTemplate.resources.limits",
    "spec.trialTemplate.resources.requests",
}
"""Maps by name: all are maps in core/v1 as well. Everything else with names is a list."""
OF_THE_CONTRACT = {"nascale.io/architecture/v1", "mbconv"}
"""Enum values of the architecture document, which status holds word for word."""
UNITS = re.compile(r"(second|millisecond|MHz|byte|pixel|batch|sample|trial|pod)", re.IGNORECASE)


@dataclass(frozen=True)
class Node:
    """One node of a schema."""

    path: str
    schema: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.rsplit(".", 1)[-1]


def _walk(schema: dict[str, Any], path: str = "") -> Iterator[Node]:
    yield Node(path, schema)
    for name, child in schema.get("properties", {}).items():
        yield from _walk(child, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from _walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from _walk(schema["additionalProperties"], f"{path}.*")


def _definition(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def _version(path: Path) -> dict[str, Any]:
    (version,) = _definition(path)["spec"]["versions"]
    return dict(version)


def _ours(path: Path) -> list[Node]:
    """Every node of spec and status: the frame around them is Kubernetes' own."""
    root = _version(path)["schema"]["openAPIV3Schema"]
    return [node for node in _walk(root) if node.path.startswith(("spec", "status"))]


def _of_type(path: Path, kind: str) -> list[Node]:
    return [node for node in _ours(path) if node.schema.get("type") == kind]


def _breaches(nodes: list[Node], holds: Callable[[Node], bool]) -> list[str]:
    assert nodes, "a rule that looks at nothing can't fail"
    return [node.path for node in nodes if not holds(node)]


def _rules(path: Path) -> list[tuple[str, dict[str, Any]]]:
    root = _version(path)["schema"]["openAPIV3Schema"]
    return [(n.path, rule) for n in _walk(root) for rule in n.schema.get("x-kubernetes-validations", ())]


each_crd = pytest.mark.parametrize("path", CRDS, ids=lambda path: path.stem)


def test_there_is_a_crd_for_each_kind():
    assert [path.stem for path in CRDS] == [
        "nascale.io_architecturesearches",
        "nascale.io_progressivetrainings",
        "nascale.io_scalingsweeps",
        "nascale.io_trials",
    ]


@each_crd
def test_every_string_is_bounded(path: Path):
    def bounded(node: Node) -> bool:
        return bool({"maxLength", "enum"} & node.schema.keys()) or node.schema.get("format") == "date-time"

    assert not _breaches(_of_type(path, "string"), bounded)


@each_crd
def test_every_list_is_bounded_and_says_how_it_merges(path: Path):
    nodes = _of_type(path, "array")

    assert not _breaches(nodes, lambda node: "maxItems" in node.schema)
    assert not _breaches(
        nodes, lambda node: node.schema["x-kubernetes-list-type"] in {"atomic", "set", "map"}
    )


@each_crd
def test_the_key_of_a_list_map_is_a_required_field_of_its_items(path: Path):
    maps = [n for n in _of_type(path, "array") if n.schema["x-kubernetes-list-type"] == "map"]

    for node in maps:
        assert set(node.schema["x-kubernetes-list-map-keys"]) <= set(node.schema["items"]["required"])
    assert maps


@each_crd
def test_every_map_is_bounded_and_on_the_list_of_maps(path: Path):
    maps = [node for node in _ours(path) if "additionalProperties" in node.schema]

    assert [node.path for node in maps if "maxProperties" not in node.schema] == []
    assert {node.path for node in maps} <= FREE_MAPS


@each_crd
def test_every_number_is_a_whole_one_with_bounds_and_a_format(path: Path):
    nodes = _of_type(path, "integer")

    assert not _of_type(path, "number"), "no floats: a decimal is a text with a pattern"
    assert not _breaches(
        nodes, lambda node: {"minimum", "maximum"} <= node.schema.keys() or "enum" in node.schema
    )
    assert not _breaches(nodes, lambda node: node.schema["format"] in {"int32", "int64"})
    assert not _breaches(
        nodes,
        lambda node: node.schema["format"] == "int64" or node.schema.get("maximum", 0) < 2**31,
    )


@each_crd
def test_a_time_span_has_its_unit_in_its_name(path: Path):
    spans = [
        node
        for node in _of_type(path, "integer")
        if re.search(r"(deadline|ttl|timeout|linger|remaining|grace|period)", node.name, re.IGNORECASE)
    ]

    assert [node.path for node in spans if not re.search(r"(Seconds|seconds)", node.name)] == []


@each_crd
def test_a_boolean_is_a_switch_that_has_no_third_state(path: Path):
    assert {node.path for node in _of_type(path, "boolean")} <= SWITCHES


@each_crd
def test_every_field_is_described_in_a_sentence(path: Path):
    nodes = [node for node in _ours(path) if not node.path.endswith(("[]", ".*"))]

    assert not _breaches(nodes, lambda node: len(node.schema.get("description", "")) >= 10)
    assert not _breaches(nodes, lambda node: node.schema["description"].endswith((".", ")")))
    assert not _breaches(nodes, lambda node: "``" not in node.schema["description"])


@each_crd
def test_a_description_states_range_and_default_where_there_are_some(path: Path):
    numbers = [
        node for node in _of_type(path, "integer") if "maximum" in node.schema and node.name[-2:] != "[]"
    ]
    defaults = [
        node
        for node in _ours(path)
        if "default" in node.schema and not isinstance(node.schema["default"], dict | list)
    ]

    for node in numbers:
        assert f"From {node.schema['minimum']} to {node.schema['maximum']}." in node.schema["description"]
    for node in defaults:
        default = node.schema["default"]
        text = str(default).lower() if isinstance(default, bool) else str(default)
        assert f"Default: {text}." in node.schema["description"], node.path


@each_crd
def test_an_integer_says_what_it_counts_or_its_unit(path: Path):
    vague = [
        node.path
        for node in _of_type(path, "integer")
        if re.search(r"(Seconds|Milliseconds|Megahertz|resolution|batchSize)$", node.name)
        and not UNITS.search(node.schema["description"])
    ]

    assert not vague


@each_crd
def test_enum_values_are_camel_case(path: Path):
    enums = [node for node in _of_type(path, "string") if "enum" in node.schema]

    values = {value for node in enums for value in node.schema["enum"]}
    assert {value for value in values if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", value)} <= OF_THE_CONTRACT


@each_crd
def test_field_names_are_camel_case_and_no_phase_is_among_them(path: Path):
    names = {node.name.removesuffix("[]") for node in _ours(path)} - {"*"}

    assert [name for name in names if not re.fullmatch(r"[a-z][A-Za-z0-9]*", name)] == []
    assert not names & {"phase", "state", "namespace", "hostPath", "privileged", "securityContext"}


@each_crd
def test_conditions_come_first_in_status_as_a_map_by_type(path: Path):
    status = _version(path)["schema"]["openAPIV3Schema"]["properties"]["status"]
    first = next(iter(status["properties"]))
    conditions = status["properties"]["conditions"]

    assert first == "conditions"
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert sorted(conditions["items"]["required"]) == ["lastTransitionTime", "reason", "status", "type"]
    assert conditions["items"]["properties"]["reason"]["minLength"] == 1


@each_crd
def test_status_is_a_subresource_without_defaults(path: Path):
    assert _version(path)["subresources"] == {"status": {}}
    assert [n.path for n in _ours(path) if n.path.startswith("status") and "default" in n.schema] == []


@each_crd
def test_a_required_field_has_no_default(path: Path):
    for node in _ours(path):
        for name in node.schema.get("required", ()):
            assert "default" not in node.schema["properties"][name], f"{node.path}.{name}"


@each_crd
def test_every_rule_says_what_must_hold_in_one_line(path: Path):
    rules = _rules(path)
    assert rules

    for where, rule in rules:
        for key in ("message", "messageExpression"):
            text = rule.get(key, "must").lstrip("'")
            assert text.startswith("must"), f"{where}: {text}"
            assert "\n" not in text
            assert "  " not in rule["message"]


@each_crd
def test_the_schema_is_structural(path: Path):
    """No references, no titles, and alternatives only in the one form that int-or-string has."""
    for node in _walk(_version(path)["schema"]["openAPIV3Schema"]):
        schema = node.schema
        assert not {"$ref", "title", "oneOf", "allOf", "not", "const", "propertyNames"} & schema.keys(), (
            node.path
        )
        if "anyOf" in schema:
            assert schema["x-kubernetes-int-or-string"] is True
            assert schema["anyOf"] == [{"type": "integer"}, {"type": "string"}]
        else:
            assert schema["type"] in {"object", "array", "string", "integer", "boolean"}, node.path


@each_crd
def test_about_six_columns_show_by_default_and_each_is_described(path: Path):
    columns = _version(path)["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if column.get("priority", 0) == 0]

    assert 5 <= len(shown) <= 7
    assert shown[-1] == "Age"
    assert all(column["description"].endswith(".") for column in columns)


@each_crd
def test_names_are_the_kinds_own(path: Path):
    names = _definition(path)["spec"]["names"]

    assert names["categories"] == ["nascale"]
    assert names["singular"] == names["kind"].lower()
    assert all(re.fullmatch(r"[a-z]{3,6}", short) for short in names["shortNames"])


@each_crd
def test_it_fits_the_annotation_of_a_client_side_apply(path: Path):
    assert len(path.read_bytes()) < 262_144
