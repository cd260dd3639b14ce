"""Environment, arguments and the downward API, without a cluster."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nascale.api.quantity import in_units, parse_quantity
from nascale.local.node.environment import declared_environment, invocation, thread_limit
from nascale.local.node.errors import ConfigurationMissingError, StartRefusedError
from nascale.local.node.expansion import expand
from nascale.local.node.fields import Placement, format_map, read_field, read_resource
from nascale.local.node.paths import PathRewriter

PLACEMENT = Placement("node-a", "127.0.0.1", "127.88.0.1", {"cpu": "4", "memory": "8Gi"})


def pod(container: dict, **metadata: dict) -> dict:
    return {
        "metadata": {"name": "p", "namespace": "n", "uid": "u", **metadata},
        "spec": {"containers": [{"name": "main", **container}], "serviceAccountName": "sa"},
    }


def environment(container: dict, objects: dict | None = None) -> dict[str, str]:
    made = pod(container)
    found = objects or {}
    return declared_environment(
        made, made["spec"]["containers"][0], PLACEMENT, lambda kind, name: found.get((kind, name))
    )


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$(C)", "$(C)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$($(A))", "$($(A))"),
        ("$()", "$()"),
    ],
)
def test_references_expand_as_a_kubelet_expands_them(text: str, expanded: str):
    assert expand(text, {"A": "1", "B": "2"}) == expanded


@given(st.text(st.characters(exclude_characters="$")), st.dictionaries(st.text(), st.text()))
def test_a_text_without_a_dollar_sign_stays(text: str, values: dict[str, str]):
    assert expand(text, values) == text


def test_a_value_sees_only_what_stands_before_it():
    found = environment({"env": [{"name": "B", "value": "$(A)"}, {"name": "A", "value": "1"}]})
    assert found == {"B": "$(A)", "A": "1"}


def test_env_wins_over_env_from_and_sees_it():
    objects = {("configmaps", "c"): {"data": {"A": "from", "B": "kept"}}}
    container = {
        "envFrom": [{"configMapRef": {"name": "c"}}],
        "env": [{"name": "A", "value": "own $(B)"}],
    }
    assert environment(container, objects) == {"A": "own kept", "B": "kept"}


def test_secrets_are_decoded():
    objects = {("secrets", "s"): {"data": {"k": "aGVsbG8="}}}
    reference = {"secretKeyRef": {"name": "s", "key": "k"}}
    assert environment({"env": [{"name": "A", "valueFrom": reference}]}, objects) == {"A": "hello"}


@pytest.mark.parametrize(
    ("objects", "message"),
    [({}, 'configmap "c" not found'), ({("configmaps", "c"): {}}, "couldn't find key k in configmap c")],
)
def test_a_missing_object_or_key_is_waited_for_unless_optional(objects: dict, message: str):
    reference = {"name": "c", "key": "k"}
    with pytest.raises(ConfigurationMissingError, match=message):
        environment({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": reference}}]}, objects)
    optional = {"configMapKeyRef": {**reference, "optional": True}}
    assert environment({"env": [{"name": "A", "valueFrom": optional}]}, objects) == {}


def test_expansion_sees_container_paths_and_every_text_is_rewritten_once():
    container = {
        "name": "main",
        "command": ["run", "--in=$(ROOT)/x"],
        "args": ["/data"],
        "workingDir": "/data/w",
    }
    made = invocation(
        container,
        declared={"ROOT": "/data"},
        given={"PATH": "/data/bin"},
        rewriter=PathRewriter({"/data": "/real/data"}),
        default_directory="/own",
    )
    assert made.arguments == ("run", "--in=/real/data/x", "/real/data")
    assert made.environment == {"ROOT": "/real/data", "PATH": "/data/bin"}
    assert made.working_directory == "/real/data/w"


def test_what_the_pod_declares_comes_before_what_the_node_gives():
    made = invocation(
        {"name": "main", "command": ["run"]},
        declared={"OMP_NUM_THREADS": "7"},
        given={"OMP_NUM_THREADS": "2", "HOME": "/own"},
        rewriter=PathRewriter({}),
        default_directory="/own",
    )
    assert made.environment == {"OMP_NUM_THREADS": "7", "HOME": "/own"}
    assert made.working_directory == "/own"


@pytest.mark.parametrize(
    ("resources", "threads"),
    [
        ({}, None),
        ({"requests": {"cpu": "100m"}}, "1"),
        ({"requests": {"cpu": "1"}, "limits": {"cpu": "2500m"}}, "3"),
        ({"limits": {"memory": "1Gi"}}, None),
    ],
)
def test_threads_follow_the_cpu_limit_then_the_request(resources: dict, threads: str | None):
    assert thread_limit({"resources": resources}) == threads


def test_fields_of_the_downward_api():
    made = pod({}, labels={"a/b": "l"}, annotations={"k": 'say "hi"\n'})
    assert read_field(made, "metadata.labels['a/b']", PLACEMENT) == "l"
    assert read_field(made, "metadata.annotations['none']", PLACEMENT) == ""
    assert read_field(made, "metadata.annotations", PLACEMENT) == 'k="say \\"hi\\"\\n"'
    assert read_field(made, "spec.serviceAccountName", PLACEMENT) == "sa"
    assert read_field(made, "status.hostIP", PLACEMENT) == "127.0.0.1"
    assert format_map({"b": "2", "a": "1"}) == 'a="1"\nb="2"'
    with pytest.raises(StartRefusedError, match="fieldPath: must be a field of the downward API"):
        read_field(made, "status.phase", PLACEMENT)


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.cpu", "0", "2"),
        ("limits.cpu", "1m", "1500"),
        ("limits.memory", "1Mi", "8192"),
        ("requests.memory", None, "0"),
    ],
)
def test_resources_are_given_in_multiples_rounded_up(resource: str, divisor: str | None, value: str):
    made = pod({"resources": {"limits": {"cpu": "1500m"}}})
    reference = {"resource": resource, **({"divisor": divisor} if divisor else {})}
    assert read_resource(made, made["spec"]["containers"][0], reference, PLACEMENT) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", "2"), ("500m", "0.5"), ("8Gi", str(8 * 2**30)), ("1e3", "1000"), ("1.5k", "1500"), (".5", "0.5")],
)
def test_quantities(text: str, value: str):
    assert parse_quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["", "x", "1GB", "1ki", "--1", "1 2"])
def test_what_is_no_quantity_is_refused(text: str):
    with pytest.raises(ValueError, match="quantity: must be a number"):
        parse_quantity(text)


@given(st.decimals(0, 10**6, places=3), st.sampled_from(["1m", "1", "1Ki"]))
def test_multiples_are_the_smallest_that_cover_the_value(value: Decimal, divisor: str):
    size = parse_quantity(divisor)
    count = in_units(value, size)
    assert (count - 1) * size < value <= count * size
