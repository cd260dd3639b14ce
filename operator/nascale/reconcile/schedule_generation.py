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
from nascale.api.generated_schedule import GeneratedSchedule, GenerationActivity
from nascale.api.training import FidelityLevel
from nascale.api.trial import TrialPurpose, TrialSpec
from nascale.progressive.generation import rules
from nascale.progressive.generation.choice import Choice, choose
from nascale.progressive.generation.errors import NothingFeasibleError, QualityFloorError
from nascale.progressive.generation.problem import ProfileRecord, known
from nascale.progressive.generation.profile import Design, design
from nascale.progressive.generation.proxies import choose_by_quality, propose_proxies
from nascale.reconcile.attempts import follow_trials, stop
from nascale.reconcile.conditions import Assertion, OwnerCondition, assertion
from nascale.reconcile.draft import AFTER_STATUS_SECONDS, Draft
from nascale.reconcile.ending import Ending, ending
from nascale.reconcile.launch import TrialPlan, create_trials, free_indices, launch_jobs
from nascale.reconcile.observed import Related
from nascale.reconcile.owner_course import tidy_jobs
from nascale.reconcile.schedule_context import ScheduleContext, places
from nascale.reconcile.schedule_reuse import Profile, profile_of
from nascale.reconcile.schedule_status import measured, planned
from nascale.reconcile.schedule_trials import (
    Parameters,
    device_seconds,
    proxy_parameters,
    proxy_records,
    settings_as_parameters,
)
from nascale.reconcile.snapshot import Children, TrialView
from nascale.reconcile.trial_course import Attempt, Circumstances

_UNTRAINED: Final = FidelityLevel(epochs=0)
_LONGEST_ORIGIN: Final = 63


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


@dataclass(frozen=True)
class Wanted:
    """A trial that is to be created.

    Attributes:
        purpose: Measurement or proxy.
        parameters: Its settings, or its schedule.
        origin: Why it is asked for, for people.
    """

    purpose: TrialPurpose
    parameters: Parameters
    origin: str

    def with_lead(self, known: int | None) -> TrialPlan:
        """Return what makes the Trial.

        Args:
            known: Index of the first trial of its pod; ``None``: of the first one that is created with it.
        """

        def spec(index: int, lead: int) -> TrialSpec:
            return TrialSpec(
                index=index,
                candidate=index,
                lead=lead if known is None else known,
                fidelity=_UNTRAINED,
                parameters=tuple(ParameterSetting(name=name, value=value) for name, value in self.parameters),
                origin=self.origin[:_LONGEST_ORIGIN],
                purpose=self.purpose,
            )

        return spec


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
        if not created or not untouched or len({view.purpose for view in created}) > 1:
            return False
        purpose = created[0].purpose
        ended = tuple(view for view in draft.trials if view.outcome is not None)
        profile = profile_of(context.training, context.problem, ended, self._related)
        if purpose is TrialPurpose.PROXY:
            wanted = self._proxies(profile, ended)
        else:
            found = self._design(profile.records)
            wanted = self._measurements(found, most=1 if profile.awaits_device else None)
        present = {view.parameters: view.lead for view in created}
        if not present.keys() < {own.parameters for pod in wanted for own in pod}:
            return False
        pods: list[list[TrialPlan]] = []
        for pod in wanted:
            lead = min((present[own.parameters] for own in pod if own.parameters in present), default=None)
            pods.append([own.with_lead(lead) for own in pod if own.parameters not in present])
        create_trials(context, pods, free_indices(context, self._children), draft)
        return draft.created > 0

    def _decide(self) -> Generated:
        """Say what follows from the trials that have ended: all of them."""
        profile, records = self._profile, self._profile.records
        found = self._design(records)
        first = len(records) <= self._context.problem.per_batch
        if (first or not found.finished) and (end := self._longer_than_training(records)) is not None:
            return self._ended(end)
        if not found.finished:
            # What is taken over may make all but the first measurement needless.
            return self._measure(found, most=1 if profile.awaits_device else None)
        if self._context.generation.proxy is None:
            return self._plan(choose(self._context.problem, records), found)
        wanted = self._proxies(profile, self._draft.trials)
        if wanted:
            return self._create(wanted, GenerationActivity.PROXIES, "candidate schedules are tried", found)
        return self._plan(self._choose_by_quality(), found)

    @cached_property
    def _profile(self) -> Profile:
        context = self._context
        return profile_of(context.training, context.problem, self._draft.trials, self._related)

    def _design(self, records: Sequence[ProfileRecord]) -> Design:
        """Say what is measured next: something again only where the training is long enough for that."""
        whole = self._recipe_seconds(records)
        pays = whole is None or self._spent <= rules.AGAIN * whole
        return design(self._context.problem, records, again=pays)

    def _measure(self, found: Design, *, most: int | None) -> Generated:
        wanted = self._measurements(found, most=most)
        return self._create(wanted, GenerationActivity.PROFILING, found.reason, found)

    def _measurements(self, found: Design, *, most: int | None) -> list[list[Wanted]]:
        base = self._context.problem.base.hardware
        # What shares a pod has the same pods and processes.
        alike: dict[tuple[int, int], list[Wanted]] = {}
        for own in found.proposals[:most]:
            parameters = settings_as_parameters(own.combination, base, guarded=own.guarded)
            wanted = Wanted(TrialPurpose.PROFILE, parameters, own.origin)
            alike.setdefault(places(own.combination.hardware), []).append(wanted)
        size = self._context.per_pod
        return [
            group[start : start + size] for group in alike.values() for start in range(0, len(group), size)
        ]

    def _proxies(self, profile: Profile, trials: Sequence[TrialView]) -> list[list[Wanted]]:
        """Return the candidate schedules to try next, each in a pod of its own."""
        context, proxy = self._context, self._context.generation.proxy
        if proxy is None:
            return []
        found = propose_proxies(
            context.problem,
            profile.records,
            proxy_records(trials),
            proxy.candidates,
            metric=context.quality_metric,
            direction=context.quality_direction,
        )
        return [
            [
                Wanted(
                    TrialPurpose.PROXY,
                    proxy_parameters(own.candidate.name, own.candidate.stages),
                    own.origin,
                )
            ]
            for own in found
        ]

    def _choose_by_quality(self) -> Choice:
        context = self._context
        return choose_by_quality(
            context.problem,
            self._profile.records,
            proxy_records(self._draft.trials),
            metric=context.quality_metric,
            direction=context.quality_direction,
        )

    def _create(
        self, wanted: Sequence[Sequence[Wanted]], activity: GenerationActivity, reason: str, found: Design
    ) -> Generated:
        indices = free_indices(self._context, self._children)
        pods = ([own.with_lead(None) for own in pod] for pod in wanted)
        create_trials(self._context, pods, indices, self._draft)
        return self._going(activity, reason, grid_size=found.grid_size)

    def _plan(self, choice: Choice, found: Design) -> Generated:
        context, draft = self._context, self._draft
        before = self._measured(GenerationActivity.PLANNED, found.grid_size)
        metric = context.quality_metric
        qualities = {
            own.candidate: own.values[metric] for own in proxy_records(draft.trials) if metric in own.values
        }
        status = planned(before, context, choice, plan=1, qualities=qualities)
        draft.count("training_plans", {"cause": "Generated"})
        if context.generation.dry_run:
            message = f"dryRun: nothing is trained; {choice.reason}"
            return Generated(
                status, _said("ScheduleGenerated", message), Ending("ScheduleGenerated", message)
            )
        # Soon, but not at once: that look must see the schedule in the status.
        draft.look_again(AFTER_STATUS_SECONDS)
        return Generated(status, _said("SchedulePlanned", choice.reason))

    def _longer_than_training(self, records: Sequence[ProfileRecord]) -> Ending | None:
        """Say so where measuring has held its devices longer than the constant recipe would."""
        whole = self._recipe_seconds(records)
        if whole is None or self._spent <= whole:
            return None
        message = (
            f"spec.length: must be so long that measuring pays: the profile has taken {self._spent} "
            f"device-seconds so far, and {self._context.training.spec.length} with the settings of "
            f"spec.defaults take {whole:.3g}"
        )
        return Ending("ProfileLongerThanTraining", message, failed=True)

    def _recipe_seconds(self, records: Sequence[ProfileRecord]) -> float | None:
        """Return the constant recipe's device-seconds; ``None``: not known, or nothing is to be trained."""
        context = self._context
        problem = known(context.problem, records)
        recipe = next((own for own in records if own.measured and own.combination == problem.full), None)
        if context.generation.dry_run or recipe is None or problem.length is None:
            return None
        steps = problem.length / problem.base.model.global_batch
        return steps * recipe.step_seconds * problem.devices(recipe.hardware)

    @property
    def _spent(self) -> int:
        """Device-seconds of all measurements."""
        return device_seconds(self._draft.trials, TrialPurpose.PROFILE)

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
