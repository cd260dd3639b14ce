"""What a course must keep to where no proxy says what it does to the quality (``rules.Floor``)."""

from __future__ import annotations

from collections.abc import Iterator

from nascale.progressive.generation import rules
from nascale.progressive.generation.courses import Course, is_number
from nascale.progressive.generation.grid import growing
from nascale.progressive.generation.problem import GenerationProblem, Growth

_ROUNDING = 1e-6


def breaches(problem: GenerationProblem, course: Course, floor: rules.Floor | None = None) -> tuple[str, ...]:
    """Say where a course goes beyond what has cost nothing; none: it may go without a proxy.

    Args:
        problem: What is asked for.
        course: The course.
        floor: What it must keep to; ``None``: ``rules.CONSERVATIVE``.
    """
    return tuple(_breaches(problem, course, floor or rules.CONSERVATIVE))


def _breaches(problem: GenerationProblem, course: Course, floor: rules.Floor) -> Iterator[str]:
    for growth in growing(problem):
        if growth.own:
            yield from _start(growth, course, floor.own_scale)
        elif growth.name == "resolution":
            yield from _images(problem, growth, course, floor)
        else:
            yield from _start(growth, course, floor.scale)
    factor = max(piece.model.global_batch for piece in course.pieces) / problem.base.model.global_batch
    if factor > floor.batch_factor:
        yield f"globalBatch: must be at most {floor.batch_factor:g} times the base's, not {factor:g} times"


def _start(growth: Growth, course: Course, least: float) -> Iterator[str]:
    value, full = growth.of(course.pieces[0].model), growth.values[-1]
    if is_number(value) and is_number(full) and float(value or 0) < least * float(full) - _ROUNDING:
        yield f"{growth.name}: must begin at {least:g} of the full value or more, not {value}"


def _images(
    problem: GenerationProblem, growth: Growth, course: Course, floor: rules.Floor
) -> tuple[str, ...]:
    """Say where images are too small for too long; a long last stage lets them begin smaller."""
    usual = (*_start(growth, course, floor.scale), *_mean(problem, course, floor.mean_scale))
    full_share = 1 - course.begin(len(course.pieces) - 1) / problem.whole
    if not usual or full_share < floor.full_share - _ROUNDING:
        return usual
    return (*_start(growth, course, floor.small_scale), *_mean(problem, course, floor.small_mean_scale))


def _mean(problem: GenerationProblem, course: Course, least: float) -> Iterator[str]:
    full = problem.base.model.resolution
    if full is None:
        return
    sides = [
        (piece.end - course.begin(place)) * (piece.model.resolution or full)
        for place, piece in enumerate(course.pieces)
    ]
    mean = sum(sides) / full / problem.whole
    if mean < least - _ROUNDING:
        yield f"resolution: must be {least:g} of the full one in the mean, not {mean:.3g}"
