"""How long the rest of a schedule takes, from what is known of the speed of its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from nascale.contract.run_order import StageOrder

_WITHOUT_WORK: Final = frozenset({"learning_rate_factor", "weight_decay", "momentum", "label_smoothing"})
"""Settings of the model that change what a step does, and not how long it takes."""


def same_speed(first: StageOrder, second: StageOrder) -> bool:
    """Say whether two stages have the same settings, as far as these decide how long a step takes."""
    return _work(first) == _work(second)


def _work(stage: StageOrder) -> tuple[object, object]:
    """Return what decides how long a stage's step takes."""
    return stage.model.model_dump(exclude=set(_WITHOUT_WORK)), stage.hardware


def remaining_seconds(
    samples: int,
    place: int,
    ends: Sequence[int],
    rates: Mapping[int, float],
    present: float | None,
) -> float | None:
    """Estimate the time from here to the run's end; switches are not counted.

    Args:
        samples: Samples of the run so far.
        place: Place of the present stage.
        ends: Where each stage ends, samples of the run.
        rates: Samples per second of later stages of which anything is known, by their places.
        present: Samples per second now: of the present stage, and of those of which nothing is known.

    Returns:
        Seconds; ``None``: the speed is not known.
    """
    if present is None or present <= 0:
        return None
    seconds, begin = 0.0, samples
    for number in range(place, len(ends)):
        end = max(ends[number], begin)
        rate = present if number == place else rates.get(number, present)
        seconds += (end - begin) / (rate if rate > 0 else present)
        begin = end
    return seconds


def measured_rates(
    stages: Sequence[StageOrder], place: int, medians: Mapping[int, float | None]
) -> dict[int, float]:
    """Return samples per second of later stages, each from the latest stage with the same settings.

    Those with the present stage's settings are left out: they are as fast as it is now.

    Args:
        stages: The schedule.
        place: Place of the present stage.
        medians: Median step of stages that have ended, seconds, by their places.
    """
    found: dict[int, float] = {}
    works = [_work(stage) for stage in stages]
    for number in range(place + 1, len(stages)):
        if works[number] == works[place]:
            continue
        for earlier in sorted(medians, reverse=True):
            usual = medians[earlier]
            if earlier < place and usual and works[number] == works[earlier]:
                found[number] = stages[number].model.global_batch / usual
                break
    return found
