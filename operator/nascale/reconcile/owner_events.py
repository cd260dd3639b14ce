"""Events of a search or sweep: one per transition, derived from its status before and after.

A trial that succeeds has none: with thousands of trials they would only push out those that matter.
"""

from __future__ import annotations

from typing import TypeAlias

from nascale.api.architecture_search import ArchitectureSearchStatus
from nascale.api.scaling_sweep import ScalingSweepStatus
from nascale.api.training_status import ProgressiveTrainingStatus
from nascale.reconcile.conditions import OwnerCondition, find, is_true
from nascale.reconcile.draft import Draft

Status: TypeAlias = ArchitectureSearchStatus | ScalingSweepStatus | ProgressiveTrainingStatus


def tell_transitions(draft: Draft, noun: str, old: Status, new: Status) -> None:
    """Add the events of what changes from one status to the next.

    Args:
        draft: Takes the events.
        noun: What messages call the owner (search, sweep).
        old: As observed.
        new: As it will be.
    """
    if old.start_time is None and new.start_time is not None:
        draft.tell(f"{noun.capitalize()}Started", f"the {noun} has begun")
    suspended = find(new.conditions, OwnerCondition.SUSPENDED)
    before = is_true(old.conditions, OwnerCondition.SUSPENDED)
    if suspended is not None and (suspended.status == "True") != before:
        draft.tell(suspended.reason, suspended.message)
    _tell_metrics(draft, old, new)
    _tell_shares(draft, old, new)
    _tell_progress(draft, old, new)
    tell_end(draft, noun, old, new)


def _tell_metrics(draft: Draft, old: Status, new: Status) -> None:
    before = find(old.conditions, OwnerCondition.METRICS_AVAILABLE)
    after = find(new.conditions, OwnerCondition.METRICS_AVAILABLE)
    if after is None or (before is not None and before.reason == after.reason):
        return
    if after.status == "False" and after.reason.startswith("Prometheus"):
        draft.tell("PrometheusFallback", f"{after.reason}: {after.message}", warning=True)
    elif before is not None and before.status == "False":
        draft.tell("MetricsAvailable", after.message)


def _tell_shares(draft: Draft, old: Status, new: Status) -> None:
    before, after = (find(status.conditions, OwnerCondition.DEVICES_EXCLUSIVE) for status in (old, new))
    if after is None or after.status != "False" or (before is not None and before.reason == after.reason):
        return
    draft.tell("DeviceShared", f"{after.reason}: {after.message}", warning=True)


def _tell_progress(draft: Draft, old: Status, new: Status) -> None:
    before = find(old.conditions, OwnerCondition.PROGRESSING)
    after = find(new.conditions, OwnerCondition.PROGRESSING)
    if after is None or (before is not None and before.reason == after.reason):
        return
    if after.reason == "WaitingForInfrastructure":
        draft.tell(after.reason, after.message, warning=True)
    elif after.reason in ("Queued", "WaitingForBase", "WaitingForModel"):
        draft.tell(after.reason, after.message)


def tell_end(draft: Draft, noun: str, old: Status, new: Status) -> None:
    """Add the events of an owner that ends, or whose spec can't be carried out."""
    failed, succeeded = (
        find(new.conditions, kind) for kind in (OwnerCondition.FAILED, OwnerCondition.SUCCEEDED)
    )
    if succeeded is not None and is_true(new.conditions, OwnerCondition.SUCCEEDED):
        draft.tell(f"{noun.capitalize()}Succeeded", f"{succeeded.reason}: {succeeded.message}")
    if failed is None or not is_true(new.conditions, OwnerCondition.FAILED):
        return
    before = find(old.conditions, OwnerCondition.FAILED)
    if before is None or (before.status, before.message) != (failed.status, failed.message):
        reason = "InvalidSpec" if failed.reason == "InvalidSpec" else f"{noun.capitalize()}Failed"
        draft.tell(reason, f"{failed.reason}: {failed.message}", warning=True)
