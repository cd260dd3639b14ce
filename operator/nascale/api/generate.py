"""Write what is generated from the models: CRDs, the chart's copy of them, contract schemas, reference.

``python -m nascale.api.generate`` writes, ``--check`` says what differs and fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from nascale.api.custom_resource_definition import KINDS, custom_resource_definition
from nascale.api.reference import reference
from nascale.contract.architecture import ARCHITECTURE_VERSION, Architecture
from nascale.contract.document import Document
from nascale.contract.profile_order import PROFILE_ORDER_VERSION, ProfileOrder
from nascale.contract.report import REPORT_VERSION, Report
from nascale.contract.run_order import DESIRED_STATE_VERSION, RUN_ORDER_VERSION, DesiredState, RunOrder
from nascale.contract.run_report import RUN_REPORT_VERSION, RunReport
from nascale.contract.work_order import WORK_ORDER_VERSION, WorkOrder

REPOSITORY: Final = Path(__file__).parents[3]
CHART_COPY: Final = Path("charts/nascale/crd-files")
_HEADER: Final = "# Generated from operator/nascale/api (make generate).\n"

_DOCUMENTS: Final[dict[str, tuple[type[Document], str]]] = {
    "work-order": (WorkOrder, WORK_ORDER_VERSION),
    "report": (Report, REPORT_VERSION),
    "architecture": (Architecture, ARCHITECTURE_VERSION),
    "profile-order": (ProfileOrder, PROFILE_ORDER_VERSION),
    "run-order": (RunOrder, RUN_ORDER_VERSION),
    "desired-state": (DesiredState, DESIRED_STATE_VERSION),
    "run-report": (RunReport, RUN_REPORT_VERSION),
}


def generated_files() -> Iterator[tuple[Path, str]]:
    """Yield each generated file: its path from the repository's root, and its text."""
    for kind in KINDS:
        text = _HEADER + yaml.dump(
            custom_resource_definition(kind),
            Dumper=_PlainDumper,
            sort_keys=False,
            width=110,
            allow_unicode=True,
        )
        yield Path("crds") / kind.file_name, text
        yield CHART_COPY / kind.file_name, text
    yield Path("docs/reference.md"), reference()
    for name, (model, version) in _DOCUMENTS.items():
        schema = document_schema(model, version)
        yield Path("docs/contract") / f"{name}.schema.json", json.dumps(schema, indent=2) + "\n"


def document_schema(model: type[Document], version: str) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a contract document."""
    schema = model.model_json_schema(by_alias=True)
    # The defaults are the model's: a document must state its version all the same.
    required = sorted({*schema.get("required", ()), "version"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"https://{version.rsplit('/', 1)[0]}.{version.rsplit('/', 1)[1]}.schema.json",
        **schema,
        "required": required,
    }


class _PlainDumper(yaml.SafeDumper):
    """Writes every value in full: anchors are hard to read, and some readers refuse them."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the generated files, or check them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m nascale.api.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a file differs")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="the repository's root")
    options = parser.parse_args(arguments)
    stale = []
    for path, text in generated_files():
        target: Path = options.root / path
        if target.is_file() and target.read_text() == text:
            continue
        stale.append(str(path))
        if not options.check:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    if options.check and stale:
        sys.stderr.write(f"must be generated anew (make generate): {', '.join(stale)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
