"""From stages with lengths in any unit to boundaries in samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from nascale.contract.errors import ContractError
from nascale.contract.run_order import StageOrder
from nascale.contract.spans import SpanUnit, parts, samples_of

COARSEST_SHARE: Final = 1000
"""Shares have three digits or more (a third is 0.333): the sum may miss the whole by one part in so many."""


class ScheduleError(ContractError):
    """Stages that don't make a schedule; the message names field, value and what is allowed."""


@dataclass(frozen=True)
class Boundaries:
    """Where stages end, in samples from the run's beginning.

    A stage ends at the first optimizer step boundary at or after its bound. An early end (by a metric, by
    ``advance_to``) lets the next stage begin earlier and leaves every later bound where it is, so that the
    whole length never changes.

    Attributes:
        ends: One for each stage, increasing; the last one is the whole length.
    """

    ends: tuple[int, ...]

    @property
    def whole(self) -> int:
        """Length of the run, samples."""
        return self.ends[-1]

    def begin(self, index: int) -> int:
        """Return where a stage is planned to begin."""
        return self.ends[index - 1] if index else 0


def resolve(length: str, stages: Sequence[StageOrder], samples_per_epoch: int) -> Boundaries:
    """Turn lengths into boundaries.

    Args:
        length: Length of the whole run; batches count at the first stage's global batch.
        stages: In order.
        samples_per_epoch: Size of the training part.

    Raises:
        ScheduleError: a length can't be resolved, or the stages sum to less or more than the whole.
    """
    try:
        first = stages[0].model.global_batch
        whole = samples_of(length, samples_per_epoch=samples_per_epoch, batch=first, whole=None)
    except ValueError as error:
        raise ScheduleError(f"length: {error}") from error
    ends: list[int] = []
    reached = 0
    for index, stage in enumerate(stages):
        last = index == len(stages) - 1
        if stage.length is None:
            if not last:
                raise ScheduleError(f"stages[{index}].length: must be given for every stage but the last one")
            _check_left(whole, ends, _rounding(stages))
            reached = whole
        else:
            try:
                reached += samples_of(
                    stage.length,
                    samples_per_epoch=samples_per_epoch,
                    batch=stage.model.global_batch,
                    whole=whole,
                )
            except ValueError as error:
                raise ScheduleError(f"stages[{index}].length: {error}") from error
        ends.append(reached)
    return Boundaries(_exact(ends, whole, _slack(stages, whole)))


def _slack(stages: Sequence[StageOrder], whole: int) -> int:
    """Return by how many samples the sum may miss the whole: what rounding and few written digits cost."""
    lengths = [stage.length for stage in stages if stage.length is not None]
    shares = any(parts(length).unit is SpanUnit.FRACTION for length in lengths)
    return _rounding(stages) + (whole // COARSEST_SHARE if shares else 0)


def _rounding(stages: Sequence[StageOrder]) -> int:
    """Return by how many samples rounding alone may move the sum."""
    lengths = [stage.length for stage in stages if stage.length is not None]
    rounded = any("." in length or parts(length).unit is SpanUnit.FRACTION for length in lengths)
    return len(lengths) if rounded else 0


def _exact(ends: list[int], whole: int, slack: int) -> tuple[int, ...]:
    if abs(ends[-1] - whole) > slack:
        raise ScheduleError(
            f"stages: lengths must sum to the whole length, {whole} samples, not {ends[-1]}: "
            f"stages end at {ends}"
        )
    _check_left(whole, ends[:-1])
    return (*ends[:-1], whole)


def _check_left(whole: int, before: Sequence[int], rounding: int = 0) -> None:
    # What only rounding leaves is nothing: four quarters of 35,901 samples sum to 35,900.
    if before and before[-1] >= whole - rounding:
        raise ScheduleError(
            f"stages[{len(before)}].length: must be left something of the {whole} samples, "
            f"but the stages before take {before[-1]}"
        )
