"""``docs/reference.md``: every field of the kinds, from the same schemas that the API server serves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nascale.api import names
from nascale.api.custom_resource_definition import KINDS, Kind, custom_resource_definition
from nascale.api.structural_schema import INT_OR_STRING, VALIDATIONS, Schema

_HEAD = f"""# Field reference

<!-- Generated from operator/nascale/api (make generate). -->

Kinds of the API group `{names.GROUP}`, version `{names.VERSION}`. `kubectl explain` shows the same texts.
Decimals are texts (`"0.005"`, `"1e-3"`), since JSON's numbers do not survive every client. What stands under
*Between fields* is checked by the API server when an object is created or changed.
"""


def reference() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *(line for kind in KINDS for line in _kind(kind))]).rstrip() + "\n"


def _kind(kind: Kind) -> Iterator[str]:
    (version,) = custom_resource_definition(kind)["spec"]["versions"]
    root: Schema = version["schema"]["openAPIV3Schema"]
    yield f"## {kind.kind}\n"
    yield f"`kubectl get {kind.plural}`, short `{', '.join(kind.short_names)}`. {root['description']}\n"
    for part in ("spec", "status"):
        yield from _objects(root["properties"][part], part)


def _objects(schema: Schema, path: str) -> Iterator[str]:
    """Write a table for an object, then one for each object in it."""
    yield f"### {path}\n"
    if description := schema.get("description"):
        yield f"{description}\n"
    yield "| field | type | meaning |"
    yield "| --- | --- | --- |"
    required = schema.get("required", ())
    for name, child in schema["properties"].items():
        mark = " (required)" if name in required else ""
        yield f"| `{name}`{mark} | {_type(child)} | {_escaped(child.get('description', ''))} |"
    yield ""
    if rules := list(_rules(schema)):
        yield "Between fields:\n"
        yield from rules
        yield ""
    for name, child in schema["properties"].items():
        inner = child.get("items", child)
        if "properties" in inner:
            suffix = "[]" if "items" in child else ""
            yield from _objects(inner, f"{path}.{name}{suffix}")


def _rules(schema: Schema) -> Iterator[str]:
    """List the rules of an object, and those of its lists, maps and texts."""
    yield from (f"- {_escaped(rule['message'])}" for rule in _checked(schema))
    for name, child in schema["properties"].items():
        if "properties" not in child:
            yield from (f"- `{name}` {_escaped(rule['message'])}" for rule in _checked(child))


def _checked(schema: Schema) -> list[dict[str, Any]]:
    return [
        {**rule, "message": f"`{rule['fieldPath'].lstrip('.')}` {rule['message']}"}
        if "fieldPath" in rule
        else rule
        for rule in schema.get(VALIDATIONS, ())
    ]


def _type(schema: Schema) -> str:
    if schema.get(INT_OR_STRING):
        return "whole number or text" if "pattern" in schema else "quantity"
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}"
    if schema.get("format") == "date-time":
        return "time"
    return str(schema["type"])


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
