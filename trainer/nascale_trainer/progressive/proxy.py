"""Tries a schedule: a whole run, shortened, in one process and in a folder that is gone afterwards.

It is the training loop that trains, with the switches of a real run. What needs a new process there (threads)
goes on in this one, from the checkpoint that the switch has made. A proxy has one pod of its own, so stages'
``resources`` have no meaning in it and are left out; several processes are refused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nascale.contract import environment
from nascale.contract.report import Outcome
from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.run_report import RunOutcome, RunReport, SwitchPhase
from nascale_trainer.device import peak_memory_bytes, reset_peak_memory
from nascale_trainer.outcomes import CandidateEnd, Stopped
from nascale_trainer.progressive.loop import TrainingLoop
from nascale_trainer.progressive.profile_bench import Bench, check_settings, failures_of_settings
from nascale_trainer.progressive.ranks import AloneRanks
from nascale_trainer.progressive.refusal import CannotTrain
from nascale_trainer.progressive.run_end import EndKind
from nascale_trainer.progressive.run_folder import RunFolder
from nascale_trainer.progressive.snapshot import RunSnapshot
from nascale_trainer.progressive.task import TrainingTask
from nascale_trainer.progressive.worker import present_stage


class ProxyDiverged(CandidateEnd):
    """The schedule's loss is no longer finite; another attempt would end alike."""

    outcome = Outcome.EARLY_STOPPED
    reason = "Diverged"


@dataclass(frozen=True)
class TriedSchedule:
    """What a schedule has brought.

    Attributes:
        metrics: Of the last evaluation.
        seconds: All steps, and the switches between them; evaluations and checkpoints apart.
        samples: Trained.
        peak_memory: Highest memory that any stage held, bytes; see ``device.peak_memory_bytes``.
        report: The run's.
    """

    metrics: Mapping[str, float]
    seconds: float
    samples: int
    peak_memory: int
    report: RunReport


class ProxyObserver:
    """Shows a schedule that is tried as what it is: a trial."""

    def __init__(self, bench: Bench, trial: str) -> None:
        """Prepare."""
        self._bench, self._trial = bench, trial
        self.peak_memory = 0
        self.stage: StageOrder | None = None

    def publish(self, snapshot: RunSnapshot) -> None:
        """Show how far it is."""
        self.stage = snapshot.stage
        self.peak_memory = max(self.peak_memory, snapshot.peak_memory or 0)
        self._bench.observer.progress(self._trial, snapshot.samples / snapshot.whole)
        if snapshot.loss is not None:
            self._bench.observer.training_loss(self._trial, snapshot.loss)

    def observe_step(self, seconds: float) -> None:
        """Count a step."""
        self._bench.observer.step(self._trial, seconds)


def without_resources(stages: tuple[StageOrder, ...]) -> tuple[StageOrder, ...]:
    """Return the stages as one pod can train them."""
    return tuple(
        stage.model_copy(update={"hardware": stage.hardware.model_copy(update={"resources": {}})})
        for stage in stages
    )


def try_schedule(task: TrainingTask, order: RunOrder, bench: Bench, trial: str) -> TriedSchedule:
    """Train a schedule from its first stage to its last, and evaluate.

    Args:
        task: Model, data and loss.
        order: The run, with stages of one process each.
        bench: Where the work is done.
        trial: The trial's name.

    Raises:
        CannotTrain: model, data or device don't allow a stage, or the lengths don't make a schedule.
        ProxyDiverged: a loss is no number.
        OutOfMemory: a stage doesn't fit.
        Stopped: the process was asked to end.
    """
    for stage in order.stages:
        check_settings(stage, task, bench.device, order)
    observer = ProxyObserver(bench, trial)
    reset_peak_memory(bench.device)
    with tempfile.TemporaryDirectory(prefix="nascale-proxy-") as name:
        report = _train(task, order, bench, observer, Path(name))
    if report.outcome is RunOutcome.REFUSED:
        raise CannotTrain(report.reason or "Refused", report.message or "")
    if report.outcome is not RunOutcome.COMPLETED:
        if report.reason == "Diverged":
            raise ProxyDiverged(report.message or "")
        raise RuntimeError(f"{report.outcome}: {report.reason}: {report.message}")
    return TriedSchedule(
        metrics=report.metrics,
        seconds=training_seconds(report),
        samples=report.samples,
        peak_memory=max(observer.peak_memory, peak_memory_bytes(bench.device)),
        report=report,
    )


def training_seconds(report: RunReport) -> float:
    """Return what a run's steps and switches took; a switch's first step is one of its steps."""
    steps = sum(stage.seconds for stage in report.stages)
    switches = sum(
        seconds
        for stage in report.stages
        for phase, seconds in stage.phases.items()
        if phase is not SwitchPhase.FIRST_STEP
    )
    return steps + switches


def _train(
    task: TrainingTask, order: RunOrder, bench: Bench, observer: ProxyObserver, folder: Path
) -> RunReport:
    """Train in this folder to the run's end: once more for each stage that would need a new process."""
    for _ in order.stages:
        first = present_stage(order, {environment.RUN_DIRECTORY: str(folder)})
        bench.set_threads(first)
        loop = TrainingLoop(
            order, task, AloneRanks(bench.device), RunFolder(folder), observer, stop=bench.stop
        )
        with failures_of_settings(lambda: observer.stage or order.stages[0]):
            end = loop.run()
        if end.kind is EndKind.STOPPED:
            raise Stopped
        if end.report is not None:
            return end.report
    raise RuntimeError(f"more than {len(order.stages)} parts for {len(order.stages)} stages")
