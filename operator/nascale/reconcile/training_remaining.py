"""The time that a running training still takes: its bounds, and what is known of the speed of its stages."""

from __future__ import annotations

from nascale.api.training_status import ProgressiveTrainingStatus
from nascale.contract import training_series as series
from nascale.contract.remaining import measured_rates, remaining_seconds
from nascale.reconcile.training_context import TrainingContext
from nascale.reconcile.training_course import Course


def time_left(context: TrainingContext, course: Course, status: ProgressiveTrainingStatus) -> float | None:
    """Estimate the seconds to the end of a running training; ``None``: not known.

    A later stage counts with what an earlier one with the same settings has measured, else with what its
    generated schedule predicts, corrected by how far the present stage is off its own prediction, else with
    the present throughput. A run that does not say where its stages end says itself how long it takes.

    Args:
        context: The training.
        course: Where it stands; its figures are known.
        status: Its status with the stages that have ended.
    """
    figures = course.figures
    place, count = figures.place, len(course.schedule)
    if place is None or place >= count or set(figures.bounds) != set(range(count)):
        return figures.number(series.REMAINING)
    present = figures.number(series.THROUGHPUT)
    predicted = _predicted(context, course, place, present)
    places = {stage.name: number for number, stage in enumerate(course.schedule)}
    medians = {
        places[stage.name]: None if stage.step_p50_seconds is None else float(stage.step_p50_seconds)
        for stage in status.stages
        if stage.name in places
    }
    rates = predicted | measured_rates(course.schedule, place, medians)
    ends = [figures.bounds[number] for number in range(count)]
    return remaining_seconds(figures.count(series.SAMPLES), place, ends, rates, present)


def _predicted(
    context: TrainingContext, course: Course, place: int, present: float | None
) -> dict[int, float]:
    generated = course.generated or context.training.status.generated
    if generated is None:
        return {}
    stated = {row.name: float(row.throughput) for row in generated.table if row.throughput is not None}
    own = stated.get(course.schedule[place].name)
    factor = present / own if present and own else 1.0
    return {
        number: stated[stage.name] * factor
        for number, stage in enumerate(course.schedule)
        if number > place and stated.get(stage.name)
    }
