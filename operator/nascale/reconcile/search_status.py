"""The status of a search: what it shares with other kinds, and its results."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from nascale.api.architecture_search import ArchitectureSearchStatus, BaseNetwork
from nascale.reconcile.conditions import OwnerCondition, assertion
from nascale.reconcile.ending import running_time
from nascale.reconcile.owner_status import Course, shared_fields
from nascale.reconcile.results import Results, best_values, latest_values
from nascale.reconcile.search_context import SearchContext
from nascale.reconcile.snapshot import TrialView


@dataclass(frozen=True)
class SearchCourse(Course):
    """Where a search stands.

    Attributes:
        results: What has been found.
        base: The base network of a search that ends.
    """

    results: Results = field(default_factory=Results)
    base: BaseNetwork | None = None


def search_status(context: SearchContext, course: SearchCourse) -> ArchitectureSearchStatus:
    """Compute the whole status."""
    old = context.search.status
    activity = assertion(OwnerCondition.PROGRESSING, True, "Searching", "trials run, or are about to")
    shared = shared_fields(context, course, activity)
    return old.model_copy(
        update={
            **shared,
            "estimated_remaining_seconds": _remaining_seconds(context, course, shared["finished"]),
            "front": course.results.front,
            "front_size": course.results.front_size,
            "hypervolume": course.results.hypervolume,
            "best": course.results.best,
            "base_network": course.base or old.base_network,
        }
    )


def gauges(
    context: SearchContext, status: ArchitectureSearchStatus, trials: Iterable[TrialView]
) -> dict[str, float]:
    """Return the search's figures for the operator's exporter."""
    figures = {
        "pareto_size": float(status.front_size),
        "hypervolume": float(status.hypervolume or 0.0),
        "device_seconds": float(status.device_seconds),
    }
    for name, value in status.trials.model_dump().items():
        figures[f"trials/{name}"] = float(value)
    for metric, best in best_values(context, status.front).items():
        figures[f"best/{metric}"] = best
    for metric, latest in latest_values(context, trials).items():
        figures[f"latest/{metric}"] = latest
    return figures


def _remaining_seconds(context: SearchContext, course: SearchCourse, finished: int) -> int | None:
    old = context.search.status
    if course.end is not None:
        return None
    if finished == old.finished:
        # Between two ends nothing is learnt, and a figure that changes with the clock alone costs writes.
        return old.estimated_remaining_seconds
    most = context.search.spec.budget.max_trials
    return round(running_time(context).total_seconds() / max(1, finished) * max(0, most - finished))
