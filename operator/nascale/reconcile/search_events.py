"""Events of a search: one per transition, derived from its status before and after.

A trial that succeeds has none: with thousands of trials they would only push out those that matter.
"""

from __future__ import annotations

from nascale.api.architecture_search import ArchitectureSearchStatus
from nascale.reconcile.conditions import SearchCondition, find, is_true
from nascale.reconcile.draft import Draft


def tell_transitions(draft: Draft, old: ArchitectureSearchStatus, new: ArchitectureSearchStatus) -> None:
    """Add the events of what changes from one status to the next."""
    if old.start_time is None and new.start_time is not None:
        draft.tell("SearchStarted", "the search has begun")
    suspended = find(new.conditions, SearchCondition.SUSPENDED)
    before = is_true(old.conditions, SearchCondition.SUSPENDED)
    if suspended is not None and (suspended.status == "True") != before:
        draft.tell(suspended.reason, suspended.message)
    _tell_metrics(draft, old, new)
    _tell_progress(draft, old, new)
    tell_end(draft, old, new)


def _tell_metrics(draft: Draft, old: ArchitectureSearchStatus, new: ArchitectureSearchStatus) -> None:
    before = find(old.conditions, SearchCondition.METRICS_AVAILABLE)
    after = find(new.conditions, SearchCondition.METRICS_AVAILABLE)
    if after is None or (before is not None and before.reason == after.reason):
        return
    if after.status == "False" and after.reason.startswith("Prometheus"):
        draft.tell("PrometheusFallback", f"{after.reason}: {after.message}", warning=True)
    elif before is not None and before.status == "False":
        draft.tell("MetricsAvailable", after.message)


def _tell_progress(draft: Draft, old: ArchitectureSearchStatus, new: ArchitectureSearchStatus) -> None:
    before = find(old.conditions, SearchCondition.PROGRESSING)
    after = find(new.conditions, SearchCondition.PROGRESSING)
    if after is None or (before is not None and before.reason == after.reason):
        return
    if after.reason == "WaitingForInfrastructure":
        draft.tell(after.reason, after.message, warning=True)
    elif after.reason == "Queued":
        draft.tell(after.reason, after.message)


def tell_end(draft: Draft, old: ArchitectureSearchStatus, new: ArchitectureSearchStatus) -> None:
    """Add the events of a search that ends, or whose spec can't be carried out."""
    if new.base_network is not None and old.base_network is None:
        base = new.base_network
        draft.tell("BaseNetworkChosen", f"{base.trial}: {base.reason}")
    failed, succeeded = (
        find(new.conditions, kind) for kind in (SearchCondition.FAILED, SearchCondition.SUCCEEDED)
    )
    if succeeded is not None and is_true(new.conditions, SearchCondition.SUCCEEDED):
        draft.tell("SearchSucceeded", f"{succeeded.reason}: {succeeded.message}")
    if failed is None or not is_true(new.conditions, SearchCondition.FAILED):
        return
    before = find(old.conditions, SearchCondition.FAILED)
    if before is None or (before.status, before.message) != (failed.status, failed.message):
        reason = "InvalidSpec" if failed.reason == "InvalidSpec" else "SearchFailed"
        draft.tell(reason, f"{failed.reason}: {failed.message}", warning=True)
