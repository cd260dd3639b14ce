"""What makes a sweep impossible, found before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from nascale.contract.architecture import Architecture
from nascale.scaling.errors import (
    InvalidBaseError,
    InvalidExplorationError,
    InvalidFamilyError,
    InvalidRangeError,
    ScalingError,
)
from nascale.scaling.problem import Axis, Range, ScaledParameter, ScalingProblem

LARGEST_FACTOR: Final = 4.0
MIN_PER_POD: Final = 2
MIN_VECTORS: Final = 2


def validate(problem: ScalingProblem) -> None:
    """Refuse a sweep that can't be run.

    Raises:
        ScalingError: the message names every fault by field (relative to spec), value and allowed range. Of
            the subclass of the part at fault, where all faults are of one part.
    """
    found = [
        *((InvalidBaseError, fault) for fault in _base_faults(problem)),
        *((InvalidRangeError, fault) for fault in _range_faults(problem)),
        *((InvalidRangeError, fault) for fault in _side_faults(problem)),
        *((InvalidFamilyError, fault) for fault in _family_faults(problem)),
        *((InvalidExplorationError, fault) for fault in _exploration_faults(problem)),
    ]
    if found:
        kinds = {kind for kind, _ in found}
        kind: type[ScalingError] = kinds.pop() if len(kinds) == 1 else ScalingError
        raise kind("; ".join(fault for _, fault in found))


def _base_faults(problem: ScalingProblem) -> Iterator[str]:
    base = problem.base
    if isinstance(base, Architecture):
        if base.resolution < base.total_stride:
            yield (
                "base.architecture.resolution: must be at least the network's total stride, "
                f"{base.total_stride} pixels, not {base.resolution}"
            )
        return
    if not base:
        yield "base.parameters: must be at least 1, not 0"
    names = [own.name for own in base]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"base.parameters: name: must differ between parameters, not {name} {names.count(name)} times"
    for place, own in enumerate(base):
        yield from _parameter_faults(f"base.parameters[{place}]", own)


def _parameter_faults(field: str, own: ScaledParameter) -> Iterator[str]:
    if own.value < 1:
        yield f"{field}.value: must be at least 1, not {own.value}"
    if own.multiple_of < 1:
        yield f"{field}.multipleOf: must be at least 1, not {own.multiple_of}"


def _range_faults(problem: ScalingProblem) -> Iterator[str]:
    ranges = {
        Axis.DEPTH: problem.depth,
        Axis.WIDTH: problem.width,
        Axis.RESOLUTION: problem.resolution,
    }
    faults = [fault for axis, own in ranges.items() for fault in _faults_of(axis, own)]
    yield from faults
    if faults:
        return
    if all(own.low == own.high for own in ranges.values()):
        yield (
            "coefficients: must have a range with min below max, not three points: "
            "there is but one vector to choose from"
        )
    elif problem.base and not any(ranges[axis].high > 1 for axis in _axes(problem)):
        growing = ", ".join(f"coefficients.{axis.value.lower()}" for axis in Axis if axis in _axes(problem))
        yield f"{growing}: must have a max above 1 for an axis that something grows along, not 1"


def _side_faults(problem: ScalingProblem) -> Iterator[str]:
    base, largest = problem.base, problem.largest_side
    if not isinstance(base, Architecture) or largest is None:
        return
    if base.resolution > largest:
        yield (
            f"base.architecture.resolution: must be at most {largest} pixels, the largest side that the "
            f"training data can give, not {base.resolution}"
        )
    elif base.resolution * problem.resolution.high > largest:
        yield (
            f"coefficients.resolution.max: must be at most {_hundredths(largest / base.resolution):g} "
            f"for a base of {base.resolution} pixels, not {problem.resolution.high:g}: the training data can "
            f"give {largest} pixels a side at most"
        )


def _hundredths(value: float) -> float:
    """Round down, so that what a message allows is allowed."""
    return math.floor(round(100 * value, 6)) / 100


def _axes(problem: ScalingProblem) -> frozenset[Axis]:
    if isinstance(problem.base, Architecture):
        return frozenset(Axis)
    return frozenset(own.axis for own in problem.base)


def _faults_of(axis: Axis, own: Range) -> Iterator[str]:
    field = f"coefficients.{axis.value.lower()}"
    if not own.low >= 1:
        yield f"{field}.min: must be at least 1, not {own.low:g}: members never shrink the base"
    if not own.high <= LARGEST_FACTOR:
        yield f"{field}.max: must be at most {LARGEST_FACTOR:g}, not {own.high:g}"
    if own.low > own.high:
        yield f"{field}: must have min at most max ({own.high:g}), not {own.low:g}"


def _family_faults(problem: ScalingProblem) -> Iterator[str]:
    if not problem.members:
        yield "family: must have at least 1 member, not 0"
    names = [member.name for member in problem.members]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"family: name: must differ between members, not {name} {names.count(name)} times"
    before: dict[str, tuple[float, str]] = {}
    for place, member in enumerate(problem.members):
        given = {"latencySeconds": member.seconds, "latencyMultiple": member.multiple}
        budgets = {name: value for name, value in given.items() if value is not None}
        if len(budgets) != 1:
            yield (
                f"family[{place}]: must have exactly one of latencySeconds, latencyMultiple, "
                f"not {len(budgets)}"
            )
            continue
        ((field, value),) = budgets.items()
        low, above = (0, "above 0 seconds") if field == "latencySeconds" else (1, "at least 1")
        if value < low or (field == "latencySeconds" and value == 0):
            yield f"family[{place}].{field}: must be {above}, not {value:g}"
        elif field in before and value <= before[field][0]:
            largest, name = before[field]
            yield (
                f"family[{place}].{field}: must be more than {largest:g}, the budget of member {name}, not "
                f"{value:g}: members go from small to large"
            )
        before[field] = max(before.get(field, (0.0, "")), (value, member.name))


def _exploration_faults(problem: ScalingProblem) -> Iterator[str]:
    if problem.per_pod < MIN_PER_POD:
        yield (
            f"budget.trialsPerPod: must be at least {MIN_PER_POD}, a network and the reference beside it, "
            f"not {problem.per_pod}"
        )
    if problem.vectors < MIN_VECTORS:
        yield f"exploration.vectors: must be at least {MIN_VECTORS}, not {problem.vectors}"
    if not 1 <= problem.trained_vectors <= problem.vectors:
        yield (
            f"exploration.trainedVectors: must be from 1 to vectors ({problem.vectors}), "
            f"not {problem.trained_vectors}"
        )
    if not 1 <= problem.finalists <= problem.trained_vectors:
        yield (
            f"exploration.finalists: must be from 1 to trainedVectors ({problem.trained_vectors}), "
            f"not {problem.finalists}"
        )
    yield from _precision_faults(problem)


def _precision_faults(problem: ScalingProblem) -> Iterator[str]:
    if problem.repeats < 1:
        yield f"exploration.repeats: must be at least 1, not {problem.repeats}"
    for field, ratio in (("toleranceRatio", problem.tolerance), ("driftRatio", problem.drift)):
        if not 0 < ratio < 1:
            yield f"exploration.{field}: must be above 0 and below 1, not {ratio:g}"
    if problem.max_remeasurements < 0:
        yield f"exploration.maxRemeasurements: must be at least 0, not {problem.max_remeasurements}"
    if problem.rungs < 1:
        yield f"fidelities.levels: must be at least 1, not {problem.rungs}"
    if problem.rungs > 1 and problem.reduction_factor < 2:  # noqa: PLR2004 - halving at least
        yield f"fidelities.reductionFactor: must be at least 2, not {problem.reduction_factor}"
