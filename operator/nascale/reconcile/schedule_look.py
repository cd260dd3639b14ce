"""What a training's own plan needs of the generation of its schedule: to go on with it, and to end it."""

from __future__ import annotations

from nascale.api.generated_schedule import GeneratedSchedule
from nascale.api.trial import TrialPurpose
from nascale.contract import training_series as series
from nascale.contract.errors import ContractError
from nascale.progressive.generation.choice import Field, candidates
from nascale.progressive.generation.courses import compound, ramp_of
from nascale.progressive.generation.errors import GenerationError
from nascale.progressive.generation.problem import GenerationProblem
from nascale.reconcile.attempts import follow_trials, present_jobs, stop
from nascale.reconcile.draft import Draft
from nascale.reconcile.observed import Observed
from nascale.reconcile.profiled_training import profiled
from nascale.reconcile.schedule_context import Schedule, ScheduleContext
from nascale.reconcile.schedule_generation import Generated, Generator
from nascale.reconcile.schedule_problem import generation_problem
from nascale.reconcile.schedule_replanning import RunState, followed
from nascale.reconcile.schedule_reuse import Profile, profile_of
from nascale.reconcile.schedule_trials import SCHEDULE
from nascale.reconcile.snapshot import Children, TrialView, read_children
from nascale.reconcile.training_context import TrainingContext
from nascale.reconcile.training_course import Course
from nascale.reconcile.training_schedule import digest
from nascale.reconcile.trial_course import Attempt, Circumstances
from nascale.reconcile.trial_progress import Progress, Stage


class GenerationLook:
    """The trials of a training, and what can be done with them.

    Args:
        context: The training.
        observed: The snapshot.
    """

    def __init__(self, context: TrainingContext, observed: Observed) -> None:
        self._context = context
        self._observed = observed
        self._children = (
            Children((), {}, {})
            if context.training.spec.schedule is None
            else read_children(observed.trials, observed.jobs, observed.pods)
        )

    @property
    def trials(self) -> tuple[TrialView, ...]:
        """Its trials, by index."""
        return self._children.trials

    def look(self, draft: Draft) -> Generated:
        """Go on with the generation. The spec has no faults, and its model is known."""
        context, related = self._schedule_context(), self._observed.related
        return Generator(context, self._children, self._circumstances(), draft, related).look()

    def follow(self, draft: Draft) -> None:
        """Let what runs go on where the spec can't be carried out; nothing new is started."""
        context = self._readable()
        if context is not None:
            follow_trials(context, self._children, self._circumstances(), draft)

    def followed(self, course: Course, draft: Draft) -> GeneratedSchedule | None:
        """Compare the schedule with the run, and plan the rest again where there is a reason to."""
        own = self._context.training
        if own.spec.schedule is None or own.status.generated is None:
            return own.status.generated
        context = self._readable()
        if context is None:
            return own.status.generated
        problem = context.problem
        run = RunState(
            stages=self._context.stages,
            in_force=course.schedule if course.refused or course.edit_faults else (),
            gaining=course.stage if course.figures.number(series.WAITED) == 0 else None,
        )
        return followed(context, lambda: self._profile(problem), run, draft)

    def stop(self, draft: Draft) -> None:
        """End what has not ended, because the training has."""
        context = self._readable() if self._children.trials else None
        if context is None:
            return
        open_trials = [view for view in self._children.trials if view.outcome is None]
        jobs = present_jobs(self._children)
        progress = Progress(Stage.SETTLING, "TrainingEnded")
        stray = [Attempt(view, jobs.get((view.name, view.status.attempt)), progress) for view in open_trials]
        stop(context, self._children, stray, draft)

    def _circumstances(self) -> Circumstances:
        return Circumstances(self._observed.readings, self._observed.job_problems)

    def _readable(self) -> ScheduleContext | None:
        try:
            return self._schedule_context()
        except (ContractError, ValueError):
            return None

    def _schedule_context(self) -> ScheduleContext:
        own, pinned = self._context, self._context.model.pinned
        problem = generation_problem(own.training.spec, None if pinned is None else pinned.architecture)
        return ScheduleContext(
            settings=own.settings,
            now=own.now,
            training=own.training,
            profiled=profiled(own.training),
            problem=problem,
            candidates=self._candidates(problem),
        )

    def _profile(self, problem: GenerationProblem) -> Profile:
        training, related = self._context.training, self._observed.related
        return profile_of(training, problem, self._children.trials, related)

    def _candidates(self, problem: GenerationProblem) -> dict[str, Schedule]:
        """Return the candidate schedules that proxies which have not ended may try, by digest."""
        names = [
            dict(view.parameters).get(SCHEDULE, "")
            for view in self._children.trials
            if view.purpose is TrialPurpose.PROXY and view.outcome is None
        ]
        if not names:
            return {}
        try:
            found = candidates(problem, self._profile(problem).records)
        except GenerationError:
            return {}
        stages = [_stages_of(found, name) for name in names]
        return {digest(own): own for own in stages if own}


def _stages_of(field: Field, name: str) -> Schedule:
    """Return the stages of a candidate; empty: it is none of this training's."""
    known = next((own for own in field.everyone() if own.name == name), None)
    ramp = ramp_of(name)
    if known is None and ramp is not None:
        known = field.planner.plan(compound(field.problem, ramp))
    return () if known is None else known.stages
