"""Events of a training: one per transition, derived from its status before and after."""

from __future__ import annotations

from typing import Final

from nascale.api.generated_schedule import GeneratedSchedule, GenerationActivity
from nascale.api.training_status import ProgressiveTrainingStatus, StageState
from nascale.contract.switch_class import SwitchClass
from nascale.reconcile.conditions import OwnerCondition, find
from nascale.reconcile.draft import Draft
from nascale.reconcile.owner_events import tell_transitions
from nascale.reconcile.training_context import NOUN

_WARNINGS: Final = {
    OwnerCondition.STAGE_APPLIED: frozenset({"InvalidSpec", "EditRefused"}),
    OwnerCondition.CHECKPOINTS_HEALTHY: frozenset({"Overdue", "Damaged"}),
    OwnerCondition.DEGRADED: frozenset({"NotStarted"}),
    OwnerCondition.DIVERGED: frozenset({"RolledBack", "Stopped", "NotFinite"}),
    OwnerCondition.STALLED: frozenset({"NoSteps", "SlowSteps"}),
    OwnerCondition.QUALITY_SAFE: frozenset({"UnsafeLastStage"}),
}
"""Reasons of conditions that somebody should look at."""
_NAMES: Final = {
    "InvalidSpec": "EditRefused",
    "Overdue": "CheckpointOverdue",
    "Damaged": "CheckpointDamaged",
    "RolledBack": "Diverged",
    "Stopped": "Diverged",
    "NotFinite": "Diverged",
    "NoSteps": "Stalled",
    "SlowSteps": "Stalled",
}
"""What events are called, where the condition's reason alone would not say it."""


def tell_training(draft: Draft, old: ProgressiveTrainingStatus, new: ProgressiveTrainingStatus) -> None:
    """Add the events of what changes from one status to the next."""
    for kind, reasons in _WARNINGS.items():
        _tell_condition(draft, old, new, kind, reasons)
    _tell_recovery(draft, old, new)
    _tell_generation(draft, old.generated, new.generated)
    before = {stage.name: stage for stage in old.stages}
    for stage in new.stages:
        _tell_stage(draft, before.get(stage.name), stage)
    if new.restarts > old.restarts:
        draft.tell("Restarted", f"restarts by errors of its own: {new.restarts}", warning=True)
    tell_transitions(draft, NOUN, old, new)


def _tell_condition(
    draft: Draft,
    old: ProgressiveTrainingStatus,
    new: ProgressiveTrainingStatus,
    kind: OwnerCondition,
    reasons: frozenset[str],
) -> None:
    before, after = find(old.conditions, kind), find(new.conditions, kind)
    if after is None or after.reason not in reasons:
        return
    if before is None or (before.reason, before.message) != (after.reason, after.message):
        reason = _NAMES.get(after.reason, after.reason)
        draft.tell(reason, after.message, warning=True)


def _tell_recovery(draft: Draft, old: ProgressiveTrainingStatus, new: ProgressiveTrainingStatus) -> None:
    before, after = (find(status.conditions, OwnerCondition.STALLED) for status in (old, new))
    if before is not None and after is not None and (before.status, after.reason) == ("True", "StepsGoOn"):
        draft.tell("StepsGoOn", "steps come as usual again")
    before, after = (find(status.conditions, OwnerCondition.DIVERGED) for status in (old, new))
    if before is not None and after is not None and (before.status, after.reason) == ("True", "Recovered"):
        draft.tell("Recovered", after.message)
    before, after = (find(status.conditions, OwnerCondition.STAGE_APPLIED) for status in (old, new))
    if before is None or after is None or before.reason in ("Applied", "NothingApplied"):
        return
    if after.reason == "Applied":
        draft.tell("ScheduleApplied", after.message)


def _tell_generation(draft: Draft, old: GeneratedSchedule | None, new: GeneratedSchedule | None) -> None:
    if new is not None and new.not_reused and (old is None or old.not_reused != new.not_reused):
        draft.tell("ProfileNotReused", new.not_reused, warning=True)
    if new is None or (old is not None and (old.activity, old.plan) == (new.activity, new.plan)):
        return
    match new.activity:
        case GenerationActivity.PROFILING:
            draft.tell("ProfileStarted", f"settings are measured, {new.max_measured} combinations at most")
        case GenerationActivity.PROXIES:
            draft.tell("ProxiesStarted", f"{new.measured} combinations are measured; candidates are tried")
        case GenerationActivity.PLANNED if new.plan > 1:
            draft.tell("ScheduleReplanned", f"plan {new.plan}: {new.reason}")
        case GenerationActivity.PLANNED:
            draft.tell("SchedulePlanned", new.reason or "")


def _tell_stage(draft: Draft, old: StageState | None, new: StageState) -> None:
    if old is None:
        draft.tell("StageStarted", f"stage {new.name} began at {new.begin_samples} samples")
    switched = new.switch_seconds is not None and new.switch_class not in (None, SwitchClass.NONE)
    if switched and (old is None or old.switch_seconds is None) and new.switch_class is not None:
        seconds = float(new.switch_seconds or 0)
        phases = ", ".join(f"{phase.name} {float(phase.seconds):.3g} s" for phase in new.switch_phases)
        message = f"the switch to stage {new.name} ({new.switch_class.value}) took {seconds:.3g} s: {phases}"
        draft.tell("StageSwitched", message)
        draft.count("training_switch_seconds", {"class": new.switch_class.value}, seconds)
