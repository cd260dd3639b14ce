"""From nothing but ranges to a schedule: what a training does before its run begins (docs/design/0005).

Settings are measured by trials, several to a pod; candidate schedules may be tried by further ones; then one
is chosen and written into the status, from where the run takes it. Trials, the status and nothing else are
the memory: the same measurements give the same schedule, whoever looks at them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from nascale.api.architecture_search import ParameterSetting
from nascale.api.generation import GeneratedSchedule, GenerationActivity
from nascale.api.training import FidelityLevel
from nascale.api.trial import TrialPurpose, TrialSpec
from nascale.progressive.generation.choice import Choice, choose
from nascale.progressive.generation.errors import NothingFeasibleError, QualityFloorError
from nascale.progressive.generation.problem import ProfileRecord, known
from nascale.progressive.generation.profile import Design, Proposal, design
from nascale.reconcile.attempts import follow_trials, stop
from nascale.reconcile.conditions import Assertion, OwnerCondition, assertion
from nascale.reconcile.draft import Draft
from nascale.reconcile.ending import Ending, ending
from nascale.reconcile.launch import TrialPlan, create_trials, free_indices, launch_jobs
from nascale.reconcile.observed import Related
from nascale.reconcile.owner_course import tidy_jobs
from nascale.reconcile.schedule_context import ScheduleContext
from nascale.reconcile.schedule_reuse import Profile, profile_of
from nascale.reconcile.schedule_status import measured, planned
from nascale.reconcile.schedule_trials import (
    Parameters,
    device_seconds,
    settings_as_parameters,
)
from nascale.reconcile.snapshot import Children
from nascale.reconcile.trial_course import Attempt, Circumstances

_UNTRAINED: Final = FidelityLevel(epochs=0)
_AFTER_STATUS_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Generated:
    """Where a generation stands.

    Attributes:
        status: What the training's status shows of it.
        activity: What the condition Progressing says.
        end: Why the training ends with it; ``None``: it does not.
    """

    status: GeneratedSchedule
    activity: Assertion
    end: Ending | None = None


class Generator:
    """One look at a training whose schedule is not there yet.

    Args:
        context: The training.
        children: Its trials, their Jobs and pods.
        circumstances: What was observed beside them.
        draft: Takes the actions.
        related: The training whose profile it reuses.
    """

    def __init__(
        self,
        context: ScheduleContext,
        children: Children,
        circumstances: Circumstances,
        draft: Draft,
        related: Related,
    ) -> None:
        self._context = context
        self._related = related
        self._children = children
        self._circumstances = circumstances
        self._draft = draft

    def look(self) -> Generated:
        """Go through the steps."""
        context, draft = self._context, self._draft
        attempts = follow_trials(context, self._children, self._circumstances, draft)
        end = ending(context, self._children, attempts, draft, goals_reached=False)
        if end is not None:
            stop(context, self._children, attempts, draft)
            return self._ended(end)
        attempts = tidy_jobs(context, self._children, attempts, draft)
        if context.owner.spec.suspend:
            return self._going(GenerationActivity.PROFILING, "measurements are suspended")
        try:
            if self._completes_batch(attempts):
                return self._under_way(attempts)
            launch_jobs(context, attempts, draft)
            return self._under_way(attempts) if attempts else self._decide()
        except NothingFeasibleError as error:
            return self._ended(Ending("NothingFeasible", str(error), failed=True))
        except QualityFloorError as error:
            return self._ended(Ending("QualityFloorMissed", str(error), failed=True))

    def _under_way(self, attempts: Sequence[Attempt]) -> Generated:
        proxies = any(attempt.view.purpose is TrialPurpose.PROXY for attempt in attempts)
        if proxies:
            return self._going(GenerationActivity.PROXIES, "candidate schedules are tried")
        return self._going(GenerationActivity.PROFILING, "settings are measured on the target hardware")

    def _completes_batch(self, attempts: Sequence[Attempt]) -> bool:
        """Create what a crash has left out of a batch none of whose trials has begun; say whether it did.

        Else the measurements that follow, and with them the schedule, would be other ones than without it.
        """
        context, draft = self._context, self._draft
        created = [attempt.view for attempt in attempts]
        untouched = all(attempt.job is None and attempt.view.status.attempt == 0 for attempt in attempts)
        if not created or not untouched or any(v.purpose is not TrialPurpose.PROFILE for v in created):
            return False
        ended = tuple(view for view in draft.trials if view.outcome is not None)
        profile = profile_of(context.training, context.problem, ended, self._related)
        found = design(context.problem, profile.records)
        proposals = found.proposals[: 1 if profile.awaits_device else None]
        present = {view.parameters: view.lead for view in created}
        if not present.keys() < {parameters_of(own) for own in proposals}:
            return False
        pods: list[list[TrialPlan]] = []
        for pod in _split(proposals, context.per_pod):
            leads = [present[parameters_of(own)] for own in pod if parameters_of(own) in present]
            pods.append(
                [_planned(own, min(leads, default=None)) for own in pod if parameters_of(own) not in present]
            )
        create_trials(context, pods, free_indices(context, self._children), draft)
        return draft.created > 0

    def _decide(self) -> Generated:
        """Say what follows from the trials that have ended: all of them."""
        profile, records = self._profile, self._profile.records
        found = design(self._context.problem, records)
        first = len(records) <= self._context.problem.per_batch
        if (first or not found.finished) and (end := self._longer_than_training(records)) is not None:
            return self._ended(end)
        if not found.finished:
            # What is taken over may make all but the first measurement needless.
            return self._measure(found, most=1 if profile.awaits_device else None)
        return self._plan(choose(self._context.problem, records), found)

    @cached_property
    def _profile(self) -> Profile:
        context = self._context
        return profile_of(context.training, context.problem, self._draft.trials, self._related)

    def _measure(self, found: Design, *, most: int | None) -> Generated:
        context = self._context
        indices = free_indices(context, self._children)
        pods = _split(found.proposals[:most], context.per_pod)
        create_trials(context, ([_planned(own) for own in pod] for pod in pods), indices, self._draft)
        return self._going(GenerationActivity.PROFILING, found.reason, grid_size=found.grid_size)

    def _plan(self, choice: Choice, found: Design) -> Generated:
        context, draft = self._context, self._draft
        before = self._measured(GenerationActivity.PLANNED, found.grid_size)
        status = planned(before, context, choice, plan=1)
        draft.count("training_plans", {"cause": "Generated"})
        if context.generation.dry_run:
            message = f"dryRun: nothing is trained; {choice.reason}"
            return Generated(
                status, _said("ScheduleGenerated", message), Ending("ScheduleGenerated", message)
            )
        # Soon, but not at once: that look must see the schedule in the status.
        draft.look_again(_AFTER_STATUS_SECONDS)
        return Generated(status, _said("SchedulePlanned", choice.reason))

    def _longer_than_training(self, records: Sequence[ProfileRecord]) -> Ending | None:
        """Say so where measuring has taken longer than the training with its constant recipe would."""
        context = self._context
        problem = known(context.problem, records)
        recipe = next((own for own in records if own.measured and own.combination == problem.full), None)
        if context.generation.dry_run or recipe is None or problem.length is None:
            return None
        whole = problem.length / problem.base.model.global_batch * recipe.step_seconds
        spent = device_seconds(self._draft.trials, TrialPurpose.PROFILE)
        if spent <= whole:
            return None
        message = (
            f"spec.length: must be so long that measuring pays: the profile has taken {spent} s so far, and "
            f"{context.training.spec.length} with the settings of spec.defaults take {whole:.3g} s"
        )
        return Ending("ProfileLongerThanTraining", message, failed=True)

    def _going(self, activity: GenerationActivity, message: str, *, grid_size: int = 0) -> Generated:
        return Generated(self._measured(activity, grid_size), _said(activity.value, message))

    def _measured(self, activity: GenerationActivity, grid_size: int) -> GeneratedSchedule:
        return measured(
            self._context,
            self._draft.trials,
            activity,
            grid_size=grid_size,
            profile=self._profile,
        )

    def _ended(self, end: Ending) -> Generated:
        old = self._context.training.status.generated
        activity = GenerationActivity.PROFILING if old is None else old.activity
        return Generated(self._measured(activity, 0), _said(end.reason, end.message), end)


def _said(reason: str, message: str) -> Assertion:
    return assertion(OwnerCondition.PROGRESSING, True, reason, message)


def _split(proposals: Sequence[Proposal], size: int) -> list[Sequence[Proposal]]:
    return [proposals[start : start + size] for start in range(0, len(proposals), size)]


def parameters_of(proposal: Proposal) -> Parameters:
    """Return the parameters of the trial that makes a measurement."""
    return settings_as_parameters(proposal.combination, guarded=proposal.guarded)


def _planned(proposal: Proposal, lead: int | None = None) -> TrialPlan:
    return trial_plan(TrialPurpose.PROFILE, parameters_of(proposal), proposal.origin, lead=lead)


def trial_plan(
    purpose: TrialPurpose, parameters: Parameters, origin: str, *, lead: int | None = None
) -> TrialPlan:
    """Return what makes the Trial of a measurement or a proxy.

    Args:
        purpose: Which of the two.
        parameters: Its settings, or its schedule.
        origin: Why it is asked for.
        lead: First trial of its pod; ``None``: the first one that is created with it.
    """
    known = lead

    def spec(index: int, lead: int) -> TrialSpec:
        return TrialSpec(
            index=index,
            candidate=index,
            lead=lead if known is None else known,
            fidelity=_UNTRAINED,
            parameters=tuple(ParameterSetting(name=name, value=value) for name, value in parameters),
            origin=origin[:63],
            purpose=purpose,
        )

    return spec
