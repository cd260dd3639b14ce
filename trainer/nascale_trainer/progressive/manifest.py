"""What a checkpoint says about itself, and what a run's folder says about its run: JSON, no tensors."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from nascale.contract.document import Document
from nascale.contract.run_order import MAX_STAGES, StageName, StageOrder
from nascale.contract.run_report import StageReport
from nascale.contract.switch_class import SwitchClass

MANIFEST_VERSION: Final = "nascale.io/checkpoint/v1"
RUN_RECORD_VERSION: Final = "nascale.io/run-folder/v1"

Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class RunRecord(Document):
    """``run.json``: who owns the folder."""

    version: Literal["nascale.io/run-folder/v1"] = RUN_RECORD_VERSION
    uid: str
    """Unique id of the run's object."""
    name: str
    """Name of that object, for people."""
    fingerprint: Digest
    """Digest of what decides whether a checkpoint is of the same run: model, data, seed, length."""
    ends: tuple[int, ...]
    """Bounds of the stages, samples, as they were resolved first."""


class PlateauRecord(Document):
    """How long the present stage's metric has not improved."""

    best: float | None = None
    """Best value so far; ``None``: not evaluated yet."""
    waited: Count = 0
    """Evaluations since."""
    evaluated: Count = 0
    """Evaluations in all."""


class StageRecord(Document):
    """A stage that has begun: its report, and what is needed to go on with it."""

    report: StageReport
    place: Count
    """Place in the schedule."""
    durations: tuple[float, ...] = ()
    """The last ordinary steps, seconds."""
    losses: tuple[float, ...] = ()
    """Losses of the last steps."""


class PendingSwitch(Document):
    """A switch that a later process has to finish."""

    kind: SwitchClass
    began: float
    """When the switch began, seconds since the epoch."""


class Manifest(Document):
    """``manifest.json``: everything of a checkpoint that is not a tensor, and the digests of the rest."""

    version: Literal["nascale.io/checkpoint/v1"] = MANIFEST_VERSION
    uid: str
    fingerprint: Digest
    generation: Annotated[int, Field(ge=1)]
    revision: Count
    refused: tuple[int, str] | None = None
    """Revision that was last refused, and why."""
    step: Count
    samples: Count
    """Cursor: the number of the next sample."""
    place: Count
    """Place of the stage that comes next."""
    going_to: int | None = Field(default=None, ge=0)
    """Place of the stage to go on to before that one's bound; ``None``: none."""
    world: Annotated[int, Field(ge=1)]
    format: str
    """Which format the tensors are in."""
    stages: Annotated[tuple[StageOrder, ...], Field(min_length=1, max_length=MAX_STAGES)]
    """The schedule in force."""
    ends: tuple[int, ...]
    """Its bounds, samples."""
    history: tuple[StageRecord, ...] = ()
    plateau: PlateauRecord = PlateauRecord()
    metrics: dict[str, float] = Field(default_factory=dict)
    """Values of the last evaluation."""
    switches: dict[str, int] = Field(default_factory=dict)
    """Switches so far, by class."""
    pending: PendingSwitch | None = None
    paused: bool = False
    """Whether its generation has ended with it, for a pause."""
    scaler: dict[str, Any] | None = None
    """State of the loss scale, where one is in force."""
    committed: float = 0.0
    """When it was written, seconds since the epoch."""
    files: dict[str, Digest] = Field(default_factory=dict)
    """SHA-256 of each other file, by name."""


class Incidents(Document):
    """``incidents.json``: counts that going back to a checkpoint must not take back."""

    non_finite: Count = 0
    diverged_at: Count | None = None
    """Step at which a loss was last found not to be finite."""
    roll_backs: Count = 0
    lost_steps: Count = 0
    repeated_samples: Count = 0
    damaged_checkpoints: Count = 0
    failed_checkpoints: Count = 0
    safe_stage: StageName | None = None
    """Stage that is trained with quality-safe hardware settings to its end."""


class FinishedRun(Document):
    """``metrics.json``: the result, written last."""

    uid: str
    fingerprint: Digest
    generation: Annotated[int, Field(ge=1)]
    revision: Count
    refused: Count | None = None
    """Revision that was last refused."""
    refused_reason: str | None = None
    """Why, in one word."""
    step: Count
    samples: Count
    whole: Count
    model: str | None = None
    """Name of the weights' file in the run's folder."""
    digest: Digest | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    stages: tuple[StageReport, ...] = ()
