"""The chart as an earlier release of it would be: fewer templates and values, CRDs with fewer fields.

There is no earlier release yet. What an upgrade adds is taken out of the present chart here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import yaml

VERSION: Final = "0.0.9"
LATER_VALUES: Final = ("networkPolicy", "podDisruptionBudget")
"""Values, and the templates that need them, which the earlier release has not."""
LATER_TEMPLATES: Final = ("networkpolicies.yaml", "poddisruptionbudget.yaml", "NOTES.txt")
LATER_FIELD: Final = "ttlSecondsAfterFinished"
"""Of every spec that people write: no rule mentions it, and it has no default that reading would add."""
LATER_TRIAL_FIELD: Final = "remeasures"
LATER_COLUMN: Final = "Age"


def write(chart: Path, folder: Path) -> None:
    """Write the earlier release of ``chart`` into ``folder``, which must not exist."""
    shutil.copytree(chart, folder)
    _edit_yaml(folder / "Chart.yaml", lambda text: text | {"version": VERSION, "appVersion": VERSION})
    for name in LATER_TEMPLATES:
        (folder / "templates" / name).unlink()
    _edit_yaml(folder / "values.yaml", _without_later_values)
    schema_path = folder / "values.schema.json"
    schema = json.loads(schema_path.read_text())
    schema["properties"] = _without_later_values(schema["properties"])
    schema["required"] = [name for name in schema["required"] if name not in LATER_VALUES]
    schema_path.write_text(json.dumps(schema))
    paths = sorted((folder / "crd-files").glob("*.yaml"))
    assert len(paths) == 4
    for path in paths:
        _edit_yaml(path, _earlier_crd)


def _edit_yaml(path: Path, change: Any) -> None:
    path.write_text(yaml.safe_dump(change(yaml.safe_load(path.read_text())), sort_keys=False))


def _without_later_values(values: dict[str, Any]) -> dict[str, Any]:
    assert set(LATER_VALUES) <= set(values)
    return {name: value for name, value in values.items() if name not in LATER_VALUES}


def _earlier_crd(crd: dict[str, Any]) -> dict[str, Any]:
    (version,) = crd["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del fields[LATER_TRIAL_FIELD if crd["spec"]["names"]["kind"] == "Trial" else LATER_FIELD]
    columns = version["additionalPrinterColumns"]
    version["additionalPrinterColumns"] = [each for each in columns if each["name"] != LATER_COLUMN]
    assert len(version["additionalPrinterColumns"]) == len(columns) - 1
    # The chart adds its annotation by the line "metadata:".
    return {key: crd[key] for key in ("apiVersion", "kind", "metadata", "spec")}
