"""What one look at a training has found out and decided, on its way to the status."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from nascale.api.generated_schedule import GeneratedSchedule
from nascale.api.training_status import Fallback, TrainingResult
from nascale.contract.run_order import DesiredState
from nascale.contract.run_report import RunReport
from nascale.reconcile.actions import SeriesReading
from nascale.reconcile.conditions import Assertion, OwnerCondition, assertion
from nascale.reconcile.ending import Ending
from nascale.reconcile.training_figures import Figures
from nascale.reconcile.training_generations import Generation
from nascale.reconcile.training_progress import RunProgress
from nascale.reconcile.training_revisions import Answer, Schedule

NO_ANSWER: Final = Answer()
UNDECIDED: Final = assertion(OwnerCondition.PROGRESSING, None, "Undecided")


@dataclass
class Course:
    """Where a training stands, and what follows.

    Attributes:
        number: Number of the latest generation, the one that is just being made included.
        job_name: Name of its Job.
        workers: Its pods.
        processes: Training processes in each.
        stage: Name of the stage that is trained.
        generation: The generation that was looked at; ``None``: there is none, or its Job is gone.
        progress: How far it has come.
        report: Its report.
        figures: Its figures.
        reading: What Prometheus said last.
        answer: What the run has said about revisions.
        schedule: Schedule that it shall follow.
        edit_faults: Why the spec's stages are not followed: they change what can't be changed any more.
        refused: The spec's stages are not followed because the run has refused them.
        state: What its pods shall know.
        started: Whether it has made a first step; ``None``: nobody can say.
        suspended: Whether nothing of it runs, because the spec says so.
        activity: What the condition Progressing says.
        degraded: What the condition Degraded says; ``None``: as before.
        fallback: A stage that goes on with former workers.
        end: Why it ends now.
        result: The trained model.
        generated: The generated schedule, or how far its generation has come; ``None``: as before.
    """

    number: int = 0
    job_name: str | None = None
    workers: int | None = None
    processes: int | None = None
    stage: str | None = None
    generation: Generation | None = None
    progress: RunProgress | None = None
    report: RunReport | None = None
    figures: Figures = field(default_factory=Figures)
    reading: SeriesReading | None = None
    answer: Answer = NO_ANSWER
    schedule: Schedule = ()
    edit_faults: tuple[str, ...] = ()
    refused: bool = False
    state: DesiredState | None = None
    revision: int = 0
    started: bool | None = None
    suspended: bool = False
    activity: Assertion = UNDECIDED
    degraded: Assertion | None = None
    fallback: Fallback | None = None
    end: Ending | None = None
    result: TrainingResult | None = None
    generated: GeneratedSchedule | None = None
