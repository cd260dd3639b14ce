"""The run report: what a training's container leaves in its termination message at the end of a generation.

Like a trial's report it never exceeds 4,096 bytes. It holds the exact final values and the short history of
every stage; what is longer lies on the run's volume.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from nascale.contract.document import Document, parse_document
from nascale.contract.errors import ReportTooLongError
from nascale.contract.report import MAX_REPORT_BYTES, DeviceReport
from nascale.contract.run_order import MAX_STAGES, StageName
from nascale.contract.switch_class import SwitchClass
from nascale.contract.work_order import MetricName

RUN_REPORT_VERSION: Final = "nascale.io/run-report/v1"
SIGNIFICANT_DIGITS: Final = 5
"""Of the history's numbers: enough for people, short enough for 16 stages."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Reason = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]{0,39}$")]


class RunOutcome(StrEnum):
    """How a generation ended, as its container saw it. All but Failed leave a committed checkpoint."""

    COMPLETED = "Completed"
    """The whole length is trained; the model lies on the volume."""
    SWITCH = "Switch"
    """The next stage needs other pods."""
    PAUSED = "Paused"
    """Saved and stopped because the desired state says so."""
    REFUSED = "Refused"
    """It can't be carried out here; nothing was trained. The reason names the stage."""
    FAILED = "Failed"
    """It ended by its own error."""


class SwitchPhase(StrEnum):
    """What the seconds of a switch were spent on."""

    SAVE = "save"
    """Writing the checkpoint."""
    GAP = "gap"
    """From the checkpoint's commit to the start of the new process."""
    START = "start"
    """From the start of the process to the first line of training code: imports, rendezvous."""
    RESTORE = "restore"
    """Reading the checkpoint."""
    APPLY = "apply"
    """Changing the settings: data, layout, wrapping."""
    FIRST_STEP = "firstStep"
    """The first step, less an ordinary one's time: compilation is here."""


class StageReport(Document):
    """The short history of one stage."""

    name: StageName
    """Name of the stage."""
    begin: int = Field(ge=0)
    """Samples at which it began."""
    end: int | None = Field(default=None, ge=0)
    """Samples at which it ended; ``None``: it runs."""
    steps: int = Field(default=0, ge=0)
    """Optimizer steps."""
    seconds: Seconds = 0.0
    """Time in steps."""
    p50: Seconds | None = None
    """Median step, seconds."""
    p99: Seconds | None = None
    """99th percentile of the steps, seconds."""
    loss: Number | None = None
    """Mean training loss of its last part, in the loss's unit."""
    metrics: dict[MetricName, Number] = Field(default_factory=dict, max_length=4)
    """Values of its last evaluation."""
    switch: SwitchClass = SwitchClass.NONE
    """Class of the switch into it."""
    phases: dict[SwitchPhase, Seconds] = Field(default_factory=dict)
    """Seconds of that switch."""


class RunReport(Document):
    """How a generation ended."""

    version: Literal["nascale.io/run-report/v1"] = RUN_REPORT_VERSION
    """Version of the document."""
    generation: int = Field(ge=1)
    """Generation of the run order."""
    revision: int = Field(default=0, ge=0)
    """Revision of the desired state that was last applied."""
    refused: int | None = Field(default=None, ge=0)
    """Revision that was last refused."""
    refused_reason: Reason | None = None
    """Why, as one word."""
    outcome: RunOutcome
    """How it ended."""
    reason: Reason | None = None
    """Why, as one word for programs."""
    message: str | None = Field(default=None, max_length=1024)
    """Why, as a sentence for people; cut where the report would be too long."""
    step: int = Field(default=0, ge=0)
    """Optimizer steps of the run so far."""
    samples: int = Field(default=0, ge=0)
    """Samples of the run so far."""
    whole: int | None = Field(default=None, ge=1)
    """Length of the run, samples."""
    stage: StageName | None = None
    """The next stage to train, or the last one."""
    stages: tuple[StageReport, ...] = Field(default=(), max_length=MAX_STAGES)
    """Stages that have begun."""
    metrics: dict[MetricName, Number] = Field(default_factory=dict, max_length=8)
    """Final values, exact."""
    lost_steps: int = Field(default=0, ge=0)
    """Steps of the run that had to be done again: those since the last checkpoint before a crash."""
    roll_backs: int = Field(default=0, ge=0)
    """Times that a loss which is not finite has sent the run back."""
    model: str | None = Field(default=None, max_length=256)
    """Path of the weights, relative to the folder in which the run's own folder lies: the container does not
    know where on the volume that is."""
    digest: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the weights' file."""
    device: DeviceReport | None = None
    """Where it ran."""

    def encode(self) -> bytes:
        """Return the bytes for the termination message.

        The history's numbers are rounded. What gives way where it would still be too long, in this order:
        the end of the message, the phases, the metrics of stages, their figures, the message and the device.
        Final values, and where stages begin and end, always fit.

        Raises:
            ReportTooLongError: it does not fit even so.
        """
        shorter = _with_stages(self, _rounded)
        for cut in (None, *_CUTS):
            shorter = shorter if cut is None else cut(shorter)
            encoded = _compact(shorter).encode()
            if len(encoded) <= MAX_REPORT_BYTES:
                return encoded
        raise ReportTooLongError(f"run report: must be at most {MAX_REPORT_BYTES} bytes, not {len(encoded)}")


def parse_run_report(text: str) -> RunReport:
    """Read a run report.

    Raises:
        UnknownVersionError: the report states another version.
        ReportTooLongError: it exceeds 4,096 bytes (the kubelet would have cut it).
        ContractError: it is not JSON, or a field is out of range.
    """
    size = len(text.encode())
    if size > MAX_REPORT_BYTES:
        raise ReportTooLongError(f"run report: must be at most {MAX_REPORT_BYTES} bytes, not {size}")
    return parse_document(text, RunReport, RUN_REPORT_VERSION, "run report")


def _rounded(stage: StageReport) -> StageReport:
    return stage.model_copy(
        update={
            "seconds": _short(stage.seconds),
            "p50": None if stage.p50 is None else _short(stage.p50),
            "p99": None if stage.p99 is None else _short(stage.p99),
            "loss": None if stage.loss is None else _short(stage.loss),
            "metrics": {name: _short(value) for name, value in stage.metrics.items()},
            "phases": {phase: _short(value) for phase, value in stage.phases.items()},
        }
    )


def _short(value: float) -> float:
    rounded = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    return rounded if math.isfinite(rounded) else value


def _compact(report: RunReport) -> str:
    """Return the JSON text without what a reader of a stage fills in by itself."""
    document = report.model_dump(mode="json", by_alias=True, exclude_none=True)
    document["stages"] = [
        stage.model_dump(mode="json", by_alias=True, exclude_defaults=True) for stage in report.stages
    ]
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _with_stages(report: RunReport, change: Callable[[StageReport], StageReport]) -> RunReport:
    return report.model_copy(update={"stages": tuple(change(stage) for stage in report.stages)})


def _without(report: RunReport, **defaults: object) -> RunReport:
    """Return the report with these fields of its stages at their defaults."""
    return _with_stages(report, lambda stage: stage.model_copy(update=defaults))


_CUTS: Final[tuple[Callable[[RunReport], RunReport], ...]] = (
    lambda report: report.model_copy(update={"message": (report.message or "")[:200] or None}),
    lambda report: _without(report, phases={}),
    lambda report: _without(report, metrics={}),
    lambda report: _without(report, p50=None, p99=None, loss=None),
    lambda report: report.model_copy(update={"message": None, "device": None}),
)
"""What gives way, one after the other."""
