"""What is known of a run at a moment: the loop makes it, the exporter shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nascale.contract.run_order import StageOrder
from nascale.contract.run_report import StageReport


@dataclass(frozen=True)
class Totals:
    """Counts over the whole run; a checkpoint holds them.

    Attributes:
        non_finite: Losses that were NaN or infinite.
        roll_backs: Returns to a checkpoint because of one.
        lost_steps: Steps that were done again after a crash.
        repeated_samples: Samples trained again although a checkpoint held them.
        damaged_checkpoints: Checkpoints skipped because they were damaged.
        switches: Switches by class.
        diverged_at: Step at which the last loss that was NaN or infinite was found.
    """

    non_finite: int = 0
    roll_backs: int = 0
    lost_steps: int = 0
    repeated_samples: int = 0
    damaged_checkpoints: int = 0
    switches: Mapping[str, int] = field(default_factory=dict)
    diverged_at: int | None = None


@dataclass(frozen=True)
class RunSnapshot:
    """A run at a moment.

    Attributes:
        generation: Generation of the Job.
        revision: Revision of the desired state that was last applied.
        refused: Revision that was last refused, and the reason in one word.
        step: Optimizer steps of the run so far.
        samples: Samples of the run so far.
        whole: Length of the run, samples.
        remaining_seconds: Estimate to the end; ``None``: not known yet.
        place: Place of the present stage in the schedule, from 0.
        stage: The present stage.
        micro_batch: Samples of one forward pass.
        learning_rate: In force at the last step.
        throughput: Samples per second over the last steps.
        p50: Median step of the stage, seconds.
        p99: 99th percentile of the stage's steps, seconds.
        loss: Mean training loss of the last steps.
        metrics: Values of the last evaluation.
        history: Stages that have begun, the present one included.
        ends: Where each stage of the schedule ends, samples.
        places: Place in the schedule of each of them; a stage that was passed over has none.
        checkpoint_seconds: Duration of the last checkpoint.
        checkpoint_timestamp: When it was committed, seconds since the epoch; ``None``: not known.
        checkpoint_step: Optimizer steps that it holds.
        checkpoint_samples: Samples that it holds.
        totals: Counts over the run.
        recompiles: Compilations by torch.compile in this process.
        peak_memory: Highest memory in the present stage, bytes.
        waited: Evaluations since the metric of the stage's plateau last got better; ``None``: it has no
            plateau, or has been evaluated less than twice.
    """

    generation: int
    revision: int
    step: int
    samples: int
    whole: int
    place: int
    stage: StageOrder
    micro_batch: int
    refused: tuple[int, str] | None = None
    remaining_seconds: float | None = None
    learning_rate: float = 0.0
    throughput: float | None = None
    p50: float | None = None
    p99: float | None = None
    loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    history: tuple[StageReport, ...] = ()
    places: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    checkpoint_seconds: float | None = None
    checkpoint_timestamp: float | None = None
    checkpoint_step: int | None = None
    checkpoint_samples: int | None = None
    totals: Totals = Totals()
    recompiles: int = 0
    peak_memory: int | None = None
    waited: int | None = None
