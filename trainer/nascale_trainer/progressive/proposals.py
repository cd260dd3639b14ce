"""Edits of a running schedule: what may still change, and what it becomes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from nascale.contract.run_order import DesiredState, StageOrder
from nascale.contract.schedule import Boundaries, ScheduleError, resolve
from nascale.contract.stage_settings import micro_batch

EDIT_REFUSED = "EditRefused"
"""A stage that has ended or runs was changed, or the lengths don't sum to the whole."""
UNKNOWN_STAGE = "UnknownStage"
INDIVISIBLE_BATCH = "IndivisibleBatch"


class Objection(Exception):  # noqa: N818  # an answer
    """What is against a proposal."""

    def __init__(self, reason: str, message: str) -> None:
        """Take the reason, one word for programs, and the sentence for people."""
        super().__init__(message)
        self.reason = reason

    def __str__(self) -> str:
        """Return both, as they travel between processes."""
        return f"{self.reason}: {self.args[0]}"


@dataclass(frozen=True)
class Schedule:
    """The stages in force and their bounds.

    Attributes:
        length: The whole length, as the order states it.
        stages: In order.
        bounds: Where they end.
        samples_per_epoch: Size of the training part.
    """

    length: str
    stages: tuple[StageOrder, ...]
    bounds: Boundaries
    samples_per_epoch: int

    @classmethod
    def of(cls, length: str, stages: tuple[StageOrder, ...], samples_per_epoch: int) -> Schedule:
        """Resolve the lengths.

        Raises:
            ScheduleError: they can't be, or don't sum to the whole.
        """
        return cls(length, stages, resolve(length, stages, samples_per_epoch), samples_per_epoch)

    def place_of(self, name: str) -> int | None:
        """Return a stage's place; ``None``: there is no such stage."""
        return next((place for place, stage in enumerate(self.stages) if stage.name == name), None)

    def after(self, place: int, samples: int) -> int:
        """Return the place of the stage that follows, past any whose bound is already reached."""
        following = place + 1
        while following < len(self.stages) - 1 and self.bounds.ends[following] <= samples:
            following += 1
        return following


@dataclass(frozen=True)
class Standing:
    """Where a run stands in its schedule.

    Attributes:
        place: Place of the present stage.
        samples: Cursor, samples.
        begun: Places of stages that have ended, and of the present one if it has made a step.
        fresh: Whether a generation begins: its hardware may differ from the schedule's before.
    """

    place: int
    samples: int
    begun: Collection[int]
    fresh: bool = False


def edited(schedule: Schedule, stages: tuple[StageOrder, ...], standing: Standing) -> Schedule:
    """Return the schedule after an edit.

    Stages that have ended must be as they were. The one that runs may change its length, as long as its bound
    stays ahead, and what ends it earlier; where a generation begins, its hardware too. Stages to come are
    free, within the same whole.

    Raises:
        Objection: the edit changes what can't change.
    """
    if stages == schedule.stages:
        return schedule
    _check_names(stages)
    if len(stages) <= standing.place:
        raise Objection(
            EDIT_REFUSED,
            f"stages: must keep the first {standing.place + 1}, which have begun, "
            f"not be {len(stages)} in all",
        )
    for place in range(standing.place):
        # A stage that was passed over has never begun, but its bound lies behind.
        _check_ended(place, schedule.stages[place], stages[place], fresh=standing.fresh)
    if standing.place in standing.begun:
        _check_present(standing, schedule.stages[standing.place], stages[standing.place])
    try:
        new = Schedule.of(schedule.length, stages, schedule.samples_per_epoch)
    except ScheduleError as error:
        raise Objection(EDIT_REFUSED, str(error)) from error
    _check_bounds(schedule, new, standing)
    for place in range(standing.place, len(stages)):
        check_batch(place, stages[place])
    return new


def check_target(schedule: Schedule, state: DesiredState) -> int | None:
    """Return the place of the stage to go on to; ``None``: the desired state names none.

    Raises:
        Objection: there is no such stage.
    """
    if state.advance_to is None:
        return None
    place = schedule.place_of(state.advance_to)
    if place is None:
        names = [stage.name for stage in schedule.stages]
        raise Objection(UNKNOWN_STAGE, f"advanceTo: must be one of {names}, not {state.advance_to!r}")
    return place


def check_batch(place: int, stage: StageOrder) -> None:
    """Refuse a global batch that its processes can't share evenly.

    Raises:
        Objection: naming the stage.
    """
    if micro_batch(stage.model, stage.hardware) is None:
        share = stage.hardware.accumulation * stage.hardware.world
        raise Objection(
            INDIVISIBLE_BATCH,
            f"stages[{place}] ({stage.name}): globalBatch: must be a multiple of {share} "
            f"(accumulation {stage.hardware.accumulation} x {stage.hardware.world} processes), "
            f"not {stage.model.global_batch}",
        )


def _check_names(stages: Sequence[StageOrder]) -> None:
    names = [stage.name for stage in stages]
    if len(set(names)) != len(names):
        raise Objection(EDIT_REFUSED, f"stages: each name must appear once, not {names}")


def _check_ended(place: int, before: StageOrder, after: StageOrder, *, fresh: bool) -> None:
    # A new generation may run on other pods, which the operator writes into all stages.
    same = before == (after.model_copy(update={"hardware": before.hardware}) if fresh else after)
    if not same:
        raise Objection(EDIT_REFUSED, f"stages[{place}] ({before.name}): must stay as it was: it has ended")


def _check_present(standing: Standing, before: StageOrder, after: StageOrder) -> None:
    free = {"length", "until_metric", "until_plateau"} | ({"hardware"} if standing.fresh else set())
    if after.model_copy(update={name: getattr(before, name) for name in free}) != before:
        raise Objection(
            EDIT_REFUSED,
            f"stages[{standing.place}] ({before.name}): may change its length and what ends it earlier "
            "alone: it is being trained",
        )


def _check_bounds(before: Schedule, after: Schedule, standing: Standing) -> None:
    if after.bounds.whole != before.bounds.whole:
        raise Objection(
            EDIT_REFUSED,
            f"stages: must sum to {before.bounds.whole} samples, not {after.bounds.whole}",
        )
    if after.bounds.ends[: standing.place] != before.bounds.ends[: standing.place]:
        raise Objection(EDIT_REFUSED, "stages: bounds of stages that have ended must stay")
    bound = after.bounds.ends[standing.place]
    present = after.stages[standing.place]
    if bound <= standing.samples and bound != before.bounds.ends[standing.place]:
        raise Objection(
            EDIT_REFUSED,
            f"stages[{standing.place}] ({present.name}): length: must end after the {standing.samples} "
            f"samples that are trained, not at {bound}",
        )
