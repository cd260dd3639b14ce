"""What comes before the first step: whether the run can be carried out here, and where it goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TypeVar

import torch

from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.schedule import Boundaries, ScheduleError
from nascale.contract.switch_class import SwitchClass
from nascale_trainer.progressive.capabilities import check_stage
from nascale_trainer.progressive.manifest import FinishedRun, Manifest, RunRecord
from nascale_trainer.progressive.proposals import Objection, Schedule, Standing, check_batch, edited
from nascale_trainer.progressive.ranks import Ranks
from nascale_trainer.progressive.refusal import CannotTrain
from nascale_trainer.progressive.run_folder import RunFolder
from nascale_trainer.progressive.task import TrainingTask

STATE_FORMAT = 1
"""Raised when the course of a training changes: older checkpoints are then of another run."""

T = TypeVar("T")


def fingerprint(order: RunOrder, task: TrainingTask) -> str:
    """Return a digest of what decides whether a checkpoint is of the same run."""
    stated = order.model_dump(mode="json", include={"seed", "architecture", "parameters", "data", "length"})
    stated |= {"samples": task.samples, "task": dict(task.fingerprint()), "format": STATE_FORMAT}
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def claim(order: RunOrder, task: TrainingTask, folder: RunFolder, ranks: Ranks) -> tuple[str, Schedule]:
    """Make the folder this run's; return its fingerprint and the order's schedule.

    The bounds that count are those that were resolved first: stages that still have their lengths keep them.

    Raises:
        CannotTrain: the volume is of no use or another run's, or the lengths can't be resolved.
    """
    work = fingerprint(order, task)
    try:
        schedule = Schedule.of(order.length, order.stages, task.samples)
    except ScheduleError as error:
        raise CannotTrain("InvalidSchedule", str(error)) from error
    together(ranks, lambda: folder.prepare() if ranks.rank == 0 else None)
    record = RunRecord(uid=order.run.uid, name=order.run.name, fingerprint=work, ends=schedule.bounds.ends)
    together(ranks, lambda: folder.claim(record) if ranks.rank == 0 else None)
    return work, schedule


def finished(order: RunOrder, work: str, folder: RunFolder, ranks: Ranks) -> FinishedRun | None:
    """Return the result where the run has ended before, by a process whose report was lost."""
    found = folder.finished() if ranks.rank == 0 else None
    if found is not None and (found.uid, found.fingerprint) != (order.run.uid, work):
        found = None
    text = ranks.broadcast(found.to_json() if found else None)
    return FinishedRun.model_validate_json(text) if text else None


def scheduled(order: RunOrder, schedule: Schedule, manifest: Manifest | None) -> tuple[Schedule, int]:
    """Return the schedule in force and its revision: the checkpoint's, or the order's where that is newer.

    Raises:
        CannotTrain: the order changes what has been trained.
    """
    if manifest is None:
        return schedule, order.revision
    kept = Schedule(order.length, manifest.stages, Boundaries(manifest.ends), schedule.samples_per_epoch)
    newer = order.revision > manifest.revision or (
        order.generation > manifest.generation and order.revision == manifest.revision
    )
    if not newer:
        return kept, manifest.revision
    begun = {
        record.place for record in manifest.history if record.report.end is not None or record.report.steps
    }
    standing = Standing(manifest.place, manifest.samples, begun, fresh=True)
    try:
        return edited(kept, order.stages, standing), order.revision
    except Objection as objection:
        raise CannotTrain(objection.reason, str(objection.args[0])) from objection


def check_stages(order: RunOrder, schedule: Schedule, place: int, task: TrainingTask, ranks: Ranks) -> None:
    """Refuse what can't be carried out here, before anything is trained; all processes call it alike.

    Raises:
        CannotTrain: naming the stage.
    """
    together(ranks, lambda: check_present(order, schedule.stages[place], ranks))
    together(ranks, lambda: check_following(schedule, place, task, ranks.device))


def check_present(order: RunOrder, stage: StageOrder, ranks: Ranks) -> None:
    """Refuse a stage that wants another number of processes than there are.

    Raises:
        CannotTrain: it does.
    """
    wanted, given = stage.hardware.workers, order.workers
    if wanted != given:
        raise CannotTrain(
            "WrongWorkers", f"stage {stage.name}: workers: must be {given} in this generation, not {wanted}"
        )
    wanted, given = stage.hardware.processes_per_worker, order.processes_per_worker
    if wanted != given:
        raise CannotTrain(
            "WrongWorkers",
            f"stage {stage.name}: processesPerWorker: must be {given} in this generation, not {wanted}",
        )
    if ranks.world != stage.hardware.world:
        raise CannotTrain(
            "WrongWorkers",
            f"stage {stage.name}: processes: must be {stage.hardware.world}, not {ranks.world}",
        )


def check_following(schedule: Schedule, place: int, task: TrainingTask, device: torch.device) -> None:
    """Refuse stages from this one on that model, device or division don't allow.

    Raises:
        CannotTrain: naming the stage.
    """
    here = schedule.stages[place].hardware
    for number, stage in enumerate(schedule.stages[place:], start=place):
        try:
            check_batch(number, stage)
        except Objection as objection:
            raise CannotTrain(objection.reason, str(objection.args[0])) from objection
        task.check(stage)
        check_stage(stage, device, present=here)


def needs_new_pods(order: RunOrder, stage: StageOrder, kind: SwitchClass) -> bool:
    """Say whether a stage can't be trained by this generation's pods."""
    return kind is SwitchClass.RESCHEDULE or (
        stage.hardware.workers,
        stage.hardware.processes_per_worker,
    ) != (
        order.workers,
        order.processes_per_worker,
    )


def together(ranks: Ranks, part: Callable[[], T]) -> T:
    """Do a part on all processes; where one refuses, all do.

    Raises:
        CannotTrain: with the reason of the first process that has one.
    """
    refusal: CannotTrain | None = None
    try:
        result = part()
    except CannotTrain as error:
        refusal = error
    found = ranks.objections(None if refusal is None else f"{refusal.reason}: {refusal}")
    if found:
        reason, _, message = found[0].partition(": ")
        raise CannotTrain(reason, message) from refusal
    return result
