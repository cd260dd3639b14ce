"""The largest network of a ray that keeps a budget: found by few measurements, each one predicted."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from nascale.scaling.latency_model import LatencyModel, exceeding
from nascale.scaling.rays import Ray

MOST_MEASUREMENTS: Final = 6
"""Per ray and budget."""
SURE: Final = 0.8
"""Probability of breaking the budget from which a network need not be measured."""


@dataclass(frozen=True)
class Sighting:
    """What is known of a ray's networks, by position.

    Attributes:
        seen: Log of the measured latency over the reference's.
        dead: Networks that can't be used.
        pending: Networks that are being measured.
    """

    seen: Mapping[int, float]
    dead: AbstractSet[int]
    pending: AbstractSet[int]


@dataclass(frozen=True)
class Answer:
    """What follows; at most one of both is set, and neither: nothing but waiting.

    Attributes:
        place: Position of the network that is wanted; -1: the ray has none.
        measure: Position of the network to measure next.
    """

    place: int | None = None
    measure: int | None = None


def search(ray: Ray, sighting: Sighting, model: LatencyModel, limit: float, left: int) -> Answer:
    """Say which network of a ray is wanted for a budget, or which one is measured next.

    Networks that can't be used count as if they broke the budget. The search is over when the network above
    the largest measured one that keeps the budget is measured, or surely breaks it by prediction.

    Args:
        ray: The networks.
        sighting: What is known of them.
        model: Of the latency.
        limit: Log of the budget over the reference's latency.
        left: Measurements that may still be asked for.
    """
    usable = [place for place, log in sighting.seen.items() if log <= limit and place not in sighting.dead]
    low = max(usable, default=-1)
    above = {place for place in sighting.seen.keys() | sighting.dead if place > low}
    high = min(above, default=len(ray.networks))
    if any(low < place < high for place in sighting.pending):
        return Answer()
    # The base is measured by references alone.
    start = max(low + 1, 1)
    if start >= high:
        return Answer(place=low) if sighting.seen or sighting.dead else Answer()
    if left <= 0:
        return Answer(place=low)
    prediction = model.along(ray.features, ray.coefficients, dict(sighting.seen))
    keeping = [place for place in range(start, high) if prediction.mean[place] <= limit]
    if keeping:
        return Answer(measure=keeping[-1])
    breaking = exceeding(float(prediction.mean[start]), float(prediction.deviation[start]), limit)
    return Answer(place=low) if low >= 0 and breaking >= SURE else Answer(measure=start)
