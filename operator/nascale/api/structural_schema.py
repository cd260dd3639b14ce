"""From a pydantic model to the structural OpenAPI schema that a CustomResourceDefinition holds.

Structural means: every node has a type, nothing is referenced, and alternatives are made of optional
fields and CEL rules instead of ``anyOf``. Descriptions come from the docstrings; defaults and ranges are
added to them, since ``kubectl explain`` shows nothing else.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from pydantic import BaseModel

from nascale.api import (
    budget,
    generation,
    objectives,
    pod_template,
    resource,
    scaling,
    space,
    training,
    trial,
)
from nascale.contract import architecture, run_order, run_report, stage_settings, switch_class, work_order

Schema = dict[str, Any]

VALIDATIONS: Final = "x-kubernetes-validations"
INT_OR_STRING: Final = "x-kubernetes-int-or-string"
_INT32: Final = 2**31 - 1
_KEPT: Final = (
    "pattern",
    "format",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "enum",
)
_MODULES_WITH_ENUMS: Final = (
    architecture,
    budget,
    generation,
    objectives,
    pod_template,
    resource,
    run_order,
    run_report,
    scaling,
    space,
    stage_settings,
    switch_class,
    training,
    trial,
    work_order,
)


def structural_schema(model: type[BaseModel], *, defaults: bool = True) -> Schema:
    """Return the structural schema of a model.

    Args:
        model: A model whose JSON schema is made of objects, lists, maps and scalars.
        defaults: Whether the API server fills in defaults and checks rules: yes in a spec, no in a status,
            which holds what the operator wrote and nothing else.

    Raises:
        ValueError, TypeError: the model holds something that a structural schema can't say.
    """
    document = model.model_json_schema(by_alias=True)
    return _node(document, document.get("$defs", {}), model.__name__, defaults=defaults)


def _node(raw: Schema, definitions: Mapping[str, Schema], where: str, *, defaults: bool) -> Schema:
    node, enum_name = _resolved(raw, definitions)
    kind = node.get("type")
    if node.get(INT_OR_STRING):
        schema: Schema = {INT_OR_STRING: True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    elif kind is None:
        raise ValueError(f"{where}: must have one type, not {sorted(node)}")
    else:
        schema = {"type": kind}
    if "const" in node:
        node["enum"] = [node["const"]]
    schema |= {key: node[key] for key in _KEPT if key in node}
    schema |= {
        key: value
        for key, value in node.items()
        if key.startswith("x-kubernetes-") and (defaults or key != VALIDATIONS)
    }
    if kind == "integer":
        largest = max(abs(node.get("minimum", 0)), abs(node.get("maximum", 0)))
        schema["format"] = "int32" if largest <= _INT32 else "int64"
    if kind == "array":
        schema.setdefault("x-kubernetes-list-type", "atomic")
        schema["items"] = _node(node["items"], definitions, f"{where}[]", defaults=defaults)
    if kind == "object":
        schema |= _object(node, definitions, where, defaults=defaults)
    if defaults and (default := _default(node, schema)) is not None:
        schema["default"] = default
    description = _description(node, schema, enum_name)
    return {"description": description, **schema} if description else schema


def _resolved(raw: Schema, definitions: Mapping[str, Schema]) -> tuple[Schema, str | None]:
    """Follow a reference and drop the alternative ``null``; what stands beside a reference wins over it."""
    node = dict(raw)
    name: str | None = None
    while "$ref" in node or "anyOf" in node:
        if "anyOf" in node:
            alternatives = [option for option in node.pop("anyOf") if option.get("type") != "null"]
            if len(alternatives) != 1:
                raise ValueError(f"{raw.get('title')}: must have one type beside null, not {alternatives}")
            target = alternatives[0]
        else:
            name = node.pop("$ref").rsplit("/", 1)[-1]
            target = definitions[name]
        rules = [*target.get(VALIDATIONS, ()), *node.get(VALIDATIONS, ())]
        node = {**target, **node}
        if rules:
            node[VALIDATIONS] = rules
    return node, name


def _object(node: Schema, definitions: Mapping[str, Schema], where: str, *, defaults: bool) -> Schema:
    if "properties" in node:
        schema: Schema = {
            "properties": {
                name: _node(child, definitions, f"{where}.{name}", defaults=defaults)
                for name, child in node["properties"].items()
            }
        }
        if node.get("required"):
            schema["required"] = sorted(node["required"])
        return schema
    values = node.get("additionalProperties")
    if not isinstance(values, dict):
        raise TypeError(f"{where}: must have properties or typed values")
    return {"additionalProperties": _node(values, definitions, f"{where}.*", defaults=defaults)}


def _default(node: Schema, schema: Schema) -> Any:
    """Return the default, ``None`` where there is none.

    It is written in full: the API server checks a default against the CEL rules before it fills in the
    defaults inside of it.
    """
    default = node.get("default")
    if schema.get("type") == "object" and "properties" not in schema:
        return None
    return None if _is_absent(default) else _written(default)


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _written(entry) for key, entry in value.items() if not _is_absent(entry) and entry != {}}
    if isinstance(value, list | tuple):
        return [_written(entry) for entry in value]
    return value


def _is_absent(value: Any) -> bool:
    """Say whether a value means the same as no value: stored objects stay short."""
    return value is None or value in ((), [], "")


def _description(node: Schema, schema: Schema, enum_name: str | None) -> str:
    parts = [_plain(node.get("description", ""))]
    if "enum" in schema and enum_name is not None:
        meanings = _enum_meanings().get(enum_name, {})
        listed = [
            f"{value} ({meanings[value].rstrip('.')})" if value in meanings else str(value)
            for value in schema["enum"]
        ]
        parts.append(f"One of {', '.join(listed)}.")
    elif "enum" in schema:
        parts.append(f"One of {', '.join(str(value) for value in schema['enum'])}.")
    parts.append(_range(schema))
    default = schema.get("default")
    if isinstance(default, bool):
        parts.append(f"Default: {str(default).lower()}.")
    elif default is not None and not isinstance(default, dict):
        text = ", ".join(map(str, default)) if isinstance(default, list) else str(default)
        parts.append(f"Default: {text}.")
    return " ".join(part for part in parts if part)


def _range(schema: Schema) -> str:
    if schema.get("type") == "integer":
        low, high = schema.get("minimum"), schema.get("maximum")
        return f"From {low} to {high}." if low is not None and high is not None else ""
    if schema.get("type") == "array" and "maxItems" in schema:
        low = schema.get("minItems", 0)
        return f"{low} to {schema['maxItems']} entries."
    return ""


def _plain(text: str) -> str:
    return " ".join(text.replace("``", "").split())


@cache
def _enum_meanings() -> dict[str, dict[str, str]]:
    """Read the docstrings below enum members: they exist in the source alone."""
    meanings: dict[str, dict[str, str]] = {}
    for module in _MODULES_WITH_ENUMS:
        for statement in ast.parse(inspect.getsource(module)).body:
            if isinstance(statement, ast.ClassDef):
                meanings[statement.name] = _member_meanings(statement)
    return meanings


def _member_meanings(definition: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for member, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(member, ast.Assign)
            and isinstance(member.value, ast.Constant)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[str(member.value.value)] = _plain(str(text.value.value))
    return found
