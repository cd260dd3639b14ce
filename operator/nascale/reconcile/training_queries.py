"""Stages that a query to Prometheus ends: what is asked, and when the answer sends the training on.

The trainer decides alone about every end that it can see itself. What only Prometheus knows (a device's
energy, a metric of the user's own exporter) is asked for here, and the move reaches the pods as ``advanceTo``
of the desired state. An answer counts for the stage that it was asked for: one that comes late ends nothing.
"""

from __future__ import annotations

from nascale.api.stages import QueryReached
from nascale.reconcile.actions import Question
from nascale.reconcile.prometheus_queries import filled_in
from nascale.reconcile.training_context import TrainingContext
from nascale.reconcile.training_course import Course


def question(context: TrainingContext, stage: str | None, pod: str) -> Question | None:
    """Return what Prometheus is asked while a stage is trained; ``None``: no query ends it.

    Args:
        context: The training.
        stage: Name of the present stage.
        pod: Name of the first worker's pod.
    """
    wanted = _end_of(context, stage)
    if wanted is None or stage is None:
        return None
    values = {"pod": pod, "namespace": context.training.metadata.namespace}
    return Question(stage, filled_in(wanted.promql, values))


def next_stage(context: TrainingContext, course: Course) -> tuple[str, str] | None:
    """Return the stage to go on to, and why; ``None``: the present one goes on."""
    wanted, reading = _end_of(context, course.stage), course.reading
    if wanted is None or reading is None or reading.answer is None or reading.question is None:
        return None
    value = reading.answer.value
    if reading.question.about != course.stage or value is None:
        return None
    low = None if wanted.at_least is None else float(wanted.at_least)
    high = None if wanted.at_most is None else float(wanted.at_most)
    if (low is not None and value < low) or (high is not None and value > high):
        return None
    names = [stage.name for stage in course.schedule]
    place = names.index(course.stage) + 1 if course.stage in names else len(names)
    if place >= len(names):
        return None
    bound = f"at least {wanted.at_least}" if low is not None else f"at most {wanted.at_most}"
    why = f"until.query of stage {course.stage} has reached {value:g} ({bound}): on to stage {names[place]}"
    return names[place], why


def problem(context: TrainingContext, course: Course) -> str:
    """Say why the query of the present stage has no value; empty: it has one, or none is asked."""
    wanted, reading = _end_of(context, course.stage), course.reading
    if wanted is None or reading is None or reading.answer is None or reading.question is None:
        return ""
    if reading.question.about != course.stage or reading.answer.problem is None:
        return ""
    return f"until.query of stage {course.stage}: {reading.answer.message}; the stage takes its length"


def _end_of(context: TrainingContext, name: str | None) -> QueryReached | None:
    stages = context.training.spec.stages
    found = next((stage for stage in stages if stage.name == name), None)
    return None if found is None or found.until is None else found.until.query
