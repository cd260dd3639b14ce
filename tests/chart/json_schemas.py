"""JSON schemas of an API server's kinds, and of kinds of CRDs, as kubeconform reads them.

Made from what the server itself says of its kinds (``/openapi/v2``), in the way of the project
kubernetes-json-schema: all definitions in one file, and a file per kind that refers to it. Fields that no
definition names are not allowed, but where it names none at all or says that it takes any.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

Schema = dict[str, Any]
LOCATION: Final = "{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json"
"""Where kubeconform finds a kind's schema below the folder; the group of core kinds is "v1" to it."""
_DEFINITIONS: Final = "_definitions.json"
_OBJECT_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_QUANTITY: Final = "io.k8s.apimachinery.pkg.api.resource.Quantity"


def write_schemas(folder: Path, openapi: Schema, crds: Iterable[Schema]) -> set[str]:
    """Write the schemas of all kinds into the folder; return their paths in it."""
    definitions = {name: strict(definition) for name, definition in openapi["definitions"].items()}
    # The server takes 2 for "2", which OpenAPI's one type does not tell.
    definitions[_QUANTITY] = {"type": ["string", "number"]}
    kinds: dict[str, Schema] = {}
    for name, definition in openapi["definitions"].items():
        served = definition.get("x-kubernetes-group-version-kind", [])
        # What is of many groups (DeleteOptions, WatchEvent) is never a manifest.
        if len(served) == 1:
            path = _path(served[0]["group"], served[0]["version"], served[0]["kind"])
            kinds[path] = {"$ref": f"../{_DEFINITIONS}#/definitions/{name}"}
    for crd in crds:
        spec = crd["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"$ref": f"../{_DEFINITIONS}#/definitions/{_OBJECT_META}"}
            kinds[_path(spec["group"], version["name"], spec["names"]["kind"])] = schema
    _write(folder / _DEFINITIONS, {"definitions": definitions})
    for path, schema in kinds.items():
        _write(folder / path, schema)
    return set(kinds)


def strict(schema: Schema) -> Schema:
    """Return the schema with all fields refused that it does not name.

    Only what describes an object's own fields is gone through: branches of ``anyOf`` and the like name a part
    of them.
    """
    made = dict(schema)
    if schema.get("format") == "int-or-string":
        del made["format"]
        made["type"] = ["integer", "string"]
    if "properties" in schema:
        made["properties"] = {name: strict(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            made[part] = strict(schema[part])
    return made


def _path(group: str, version: str, kind: str) -> str:
    return f"{group or version}/{kind.lower()}_{version}.json"


def _write(path: Path, schema: Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(schema))
