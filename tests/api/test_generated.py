"""What is generated is checked in, and matches the models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from nascale.api.generate import CHART_COPY, REPOSITORY, document_schema, generated_files, main
from nascale.contract.architecture import ARCHITECTURE_VERSION, Architecture
from nascale.contract.report import REPORT_VERSION, CandidateReport, DeviceReport, Outcome, Report
from nascale.contract.run_order import (
    DESIRED_STATE_VERSION,
    RUN_ORDER_VERSION,
    DesiredState,
    MetricEnd,
    RunOrder,
    StageOrder,
)
from nascale.contract.run_report import (
    RUN_REPORT_VERSION,
    RunOutcome,
    RunReport,
    StageReport,
    SwitchPhase,
)
from nascale.contract.stage_settings import HardwareSettings, ModelSettings
from nascale.contract.switch_class import SwitchClass
from nascale.contract.work_order import (
    WORK_ORDER_VERSION,
    CandidateOrder,
    ConstraintOrder,
    Fidelity,
    RunIdentity,
    WorkOrder,
)

FILES = dict(generated_files())


@pytest.mark.parametrize("path", FILES, ids=str)
def test_the_checked_in_file_is_the_generated_one(path: Path):
    assert (REPOSITORY / path).read_text() == FILES[path], "run: make generate"


def test_check_passes_on_fresh_files_and_names_each_stale_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = f"--root={tmp_path}"
    assert main(["--check", root]) == 1
    assert not list(tmp_path.iterdir()), "a check writes nothing"
    assert main([root]) == 0
    assert main(["--check", root]) == 0

    stale = tmp_path / "crds" / "nascale.io_trials.yaml"
    stale.write_text(stale.read_text().replace("maximum: 5", "maximum: 6"))
    capsys.readouterr()

    assert main(["--check", root]) == 1
    assert capsys.readouterr().err == (
        "must be generated anew (make generate): crds/nascale.io_trials.yaml\n"
    )


def test_the_chart_holds_every_crd_and_nothing_else():
    ours = sorted(path.name for path in (REPOSITORY / "crds").iterdir())

    assert sorted(path.name for path in (REPOSITORY / CHART_COPY).iterdir()) == ours
    assert len(ours) == 4


def _order() -> WorkOrder:
    return WorkOrder(
        run=RunIdentity(kind="ArchitectureSearch", name="digits", namespace="default", uid="1-2"),
        candidates=(CandidateOrder(trial="digits-abcde-0", index=0, parameters={"width": 8, "rate": 0.1}),),
        metrics=("accuracy",),
        constraints=(ConstraintOrder(metric="latency_p50_seconds", at_most=0.02),),
        fidelity=Fidelity(epochs=1),
    )


def _report() -> Report:
    result = CandidateReport(trial="digits-abcde-0", outcome=Outcome.SUCCEEDED, metrics={"accuracy": 0.9})
    return Report(results=(result,), device=DeviceReport(type="cpu", name="a processor"))


def _stage() -> StageOrder:
    end = MetricEnd(metric="accuracy", at_least=0.9)
    return StageOrder(
        name="a", length="1ep", until_metric=end, model=ModelSettings(), hardware=HardwareSettings()
    )


def _run_order() -> RunOrder:
    run = RunIdentity(kind="ProgressiveTraining", name="digits", namespace="default", uid="1-2")
    architecture = Architecture.model_validate(ARCHITECTURE)
    return RunOrder(run=run, generation=1, architecture=architecture, length="1ep", stages=(_stage(),))


def _run_report() -> RunReport:
    stage = StageReport(
        name="a", begin=0, metrics={"accuracy": 0.9}, switch=SwitchClass.LIVE, phases={SwitchPhase.APPLY: 0.1}
    )
    return RunReport(generation=1, outcome=RunOutcome.COMPLETED, stages=(stage,))


ARCHITECTURE = {
    "version": ARCHITECTURE_VERSION,
    "stem": {"channels": 16, "stride": 2},
    "stages": [{"block": "MBConv", "kernel": 3, "stride": 1, "expansion": 4, "channels": 16, "depth": 1}],
    "head": {"channels": 64},
    "resolution": 8,
}


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("work-order", json.loads(_order().to_json())),
        ("report", json.loads(_report().to_json())),
        ("architecture", ARCHITECTURE),
        ("architecture", json.loads(Architecture.model_validate(ARCHITECTURE).to_json())),
        ("run-order", json.loads(_run_order().to_json())),
        ("desired-state", json.loads(DesiredState(revision=2, stages=(_stage(),)).to_json())),
        ("run-report", json.loads(_run_report().encode())),
    ],
)
def test_a_document_of_the_contract_fits_its_published_schema(name: str, document: Any):
    schema = json.loads((REPOSITORY / "docs/contract" / f"{name}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)

    jsonschema.Draft202012Validator(schema).validate(document)

    wrong = [
        {key: value for key, value in document.items() if key != "version"},
        {**document, "version": document["version"].replace("/v1", "/v2")},
        {**document, "surprise": 1},
    ]
    for other in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema).validate(other)


@pytest.mark.parametrize(
    ("model", "version"),
    [
        (WorkOrder, WORK_ORDER_VERSION),
        (Report, REPORT_VERSION),
        (Architecture, ARCHITECTURE_VERSION),
        (RunOrder, RUN_ORDER_VERSION),
        (DesiredState, DESIRED_STATE_VERSION),
        (RunReport, RUN_REPORT_VERSION),
    ],
)
def test_every_field_of_the_contract_is_described(model: Any, version: str):
    schema = document_schema(model, version)
    definitions = {model.__name__: schema, **schema.get("$defs", {})}
    bare = [
        f"{name}.{field}"
        for name, definition in definitions.items()
        for field, node in definition.get("properties", {}).items()
        if not (node.get("description") or _description_behind(node, schema))
    ]

    assert not bare


def _description_behind(node: dict[str, Any], schema: dict[str, Any]) -> str:
    for option in (node, *node.get("anyOf", ())):
        if "$ref" in option:
            return str(schema["$defs"][option["$ref"].rsplit("/", 1)[-1]].get("description", ""))
    return ""


def test_the_crds_are_plain_yaml_without_anchors():
    for path in (REPOSITORY / "crds").iterdir():
        text = path.read_text()
        assert yaml.safe_load(text)["kind"] == "CustomResourceDefinition"
        assert ": &" not in text
        assert ": *" not in text
