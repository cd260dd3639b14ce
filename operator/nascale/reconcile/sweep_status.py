"""The status of a sweep: what it shares with other kinds, its phase, its steadiness, its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from nascale.api.scaling_sweep import ScalingSweepStatus
from nascale.reconcile.conditions import Assertion, OwnerCondition, assertion, find, updated
from nascale.reconcile.owner_status import Course, shared_fields
from nascale.reconcile.sweep_context import SweepContext, cap_of_pods
from nascale.reconcile.sweep_results import found_fields, member_figures
from nascale.scaling.engine import Phase, Proposals, Summary
from nascale.scaling.forecast import remaining_seconds

_ACTIVITIES: Final[Mapping[Phase, tuple[str, str]]] = {
    Phase.MEASURING: ("MeasuringLatency", "the latency of scaled networks is measured"),
    Phase.TRAINING: ("Training", "networks of candidate vectors are trained"),
    Phase.VERIFYING: ("Verifying", "networks of the best vectors are trained at the members"),
    Phase.BASELINES: ("Baselines", "networks of the baselines are trained"),
    Phase.FINISHED: ("Finishing", "the family is complete"),
}


@dataclass(frozen=True)
class SweepCourse(Course):
    """Where a sweep stands.

    Attributes:
        proposals: What the engine says of what comes next; ``None``: it was not asked.
        summary: The state of affairs; ``None``: it is that of the status.
        remeasuring: Whether a pod is measured again because the reference has moved.
    """

    proposals: Proposals | None = None
    summary: Summary | None = None
    remeasuring: bool = False


def sweep_status(context: SweepContext, course: SweepCourse) -> ScalingSweepStatus:
    """Compute the whole status."""
    old, sweep = context.sweep.status, context.sweep
    shared = shared_fields(context, course, _activity(context, course))
    found = {} if course.summary is None else found_fields(context, course.summary)
    new = old.model_copy(
        update={
            **shared,
            **found,
            "estimated_remaining_seconds": _remaining_seconds(context, course),
            "base_trial": old.base_trial or context.base.trial,
            "base_architecture": old.base_architecture or context.base.architecture,
        }
    )
    if context.base.waiting:
        new = new.model_copy(update={"start_time": None})
    said = [_steady(context, new, course)]
    conditions = updated(new.conditions, said, generation=sweep.metadata.generation, now=context.now)
    return new.model_copy(update={"conditions": conditions})


def _remaining_seconds(context: SweepContext, course: SweepCourse) -> int | None:
    """Estimate the time to the end by the trainings that are left, as many at a time as the budget allows."""
    if course.end is not None or context.problem is None:
        return None
    if course.summary is None:
        # Nothing has ended since, and a figure that changes with the clock alone costs writes.
        return context.sweep.status.estimated_remaining_seconds
    costs = [level.epochs * float(level.data_fraction) for level in context.sweep.spec.fidelities.levels]
    left = remaining_seconds(context.problem, context.records(course.trials), costs)
    return None if left is None else round(left / context.sweep.spec.budget.parallel_trials)


def gauges(context: SweepContext, status: ScalingSweepStatus) -> dict[str, float]:
    """Return the sweep's figures for the operator's exporter."""
    figures = member_figures(context, status.family)
    for name, value in status.trials.model_dump().items():
        figures[f"trials/{name}"] = float(value)
    for name, value in status.phase_seconds.model_dump().items():
        figures[f"device_seconds/{name}"] = float(value)
    if status.latency_model_error is not None:
        figures["latency_model_error"] = float(status.latency_model_error)
    if status.reference.last_ratio is not None:
        figures["reference_drift"] = float(status.reference.last_ratio) - 1.0
    return figures


def _activity(context: SweepContext, course: SweepCourse) -> Assertion:
    kind = OwnerCondition.PROGRESSING
    if context.base.waiting:
        return assertion(
            kind, False, "WaitingForBase", f"{context.base.waiting}; the sweep begins when it has"
        )
    if course.proposals is not None:
        reason, message = _ACTIVITIES[course.proposals.phase]
        cap = cap_of_pods(context.sweep) if course.proposals.phase is Phase.MEASURING else ""
        return assertion(kind, True, reason, f"{message}; {cap}" if cap else message)
    said = find(context.sweep.status.conditions, kind)
    if said is not None and said.reason in {reason for reason, _ in _ACTIVITIES.values()}:
        return assertion(kind, True, said.reason, said.message)
    return assertion(kind, True, *_ACTIVITIES[Phase.MEASURING])


def _steady(context: SweepContext, status: ScalingSweepStatus, course: SweepCourse) -> Assertion:
    """Say whether the target's latency has drifted."""
    kind, reference = OwnerCondition.LATENCY_STEADY, status.reference
    ratio = context.sweep.spec.exploration.drift_ratio
    if reference.measurements == 0:
        return assertion(kind, None, "NothingMeasured", "the reference network has not been measured yet")
    if course.remeasuring and course.end is None:
        return assertion(
            kind, False, "Remeasuring", f"the reference has moved by more than driftRatio ({ratio})"
        )
    if reference.corrected_pods:
        return assertion(
            kind,
            False,
            "Corrected",
            f"values of {reference.corrected_pods} pods are corrected by their reference's drift, which "
            f"stayed above driftRatio ({ratio})",
        )
    return assertion(kind, True, "Steady", f"the reference stays within driftRatio ({ratio})")
