"""What is done to a training's Jobs and pods: begin, tell, pause, go on elsewhere, tidy up."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from nascale.api import names
from nascale.api.training_status import Fallback
from nascale.contract.run_order import StageOrder
from nascale.contract.stage_settings import HardwareSettings
from nascale.reconcile.actions import AnnotatePod, CreateJob, DeleteJob, SuspendJob
from nascale.reconcile.conditions import OwnerCondition, assertion
from nascale.reconcile.draft import Draft
from nascale.reconcile.training_context import TrainingContext
from nascale.reconcile.training_course import Course
from nascale.reconcile.training_generations import Generation, desired_state
from nascale.reconcile.training_job import generation_job, generation_job_name, run_order
from nascale.reconcile.training_progress import RunStage
from nascale.reconcile.training_queries import next_stage
from nascale.reconcile.training_revisions import Schedule, newest_revision, stages_of_revisions
from nascale.reconcile.training_schedule import (
    desired,
    former_text,
    placed,
    same_placement,
    stage_named,
)

PAUSE_PATIENCE_SECONDS: Final = 60.0
"""How long a run may take to save and stop by itself before its pods are told by SIGTERM."""
LEAVING_SECONDS: Final = 10.0
"""How long the pods of a generation that has reported its end may take to leave."""


def make_generation(
    context: TrainingContext,
    course: Course,
    draft: Draft,
    stage_name: str | None,
    *,
    number: int,
    fell_back: bool = False,
) -> None:
    """Create the Job of a generation.

    Args:
        context: The training.
        course: Takes what follows; its schedule is what the generation is given.
        draft: Takes the actions.
        stage_name: Stage that it begins with; unknown ones mean the first one that has not ended.
        number: Its number.
        fell_back: Whether that stage has the workers of an earlier generation.
    """
    stage = stage_named(course.schedule, stage_name) or _first_open(context, course.schedule)
    order = run_order(context, number, _revision_of(context, course.schedule), course.schedule, stage)
    draft.act(CreateJob(generation_job(context, order, stage, fell_back=fell_back)))
    course.number = number
    course.job_name = generation_job_name(context.prefix, number)
    course.workers = order.workers
    course.processes = order.processes_per_worker
    course.revision = order.revision
    course.stage = stage.name
    course.suspended = False
    workers = "1 worker" if order.workers == 1 else f"{order.workers} workers"
    message = f"generation {number} begins with stage {stage.name} on {workers}"
    course.activity = assertion(OwnerCondition.PROGRESSING, True, "Starting", message)
    draft.tell("GenerationStarted", message)
    draft.count("training_generations")


def _revision_of(context: TrainingContext, stages: Schedule) -> int:
    """Return the newest revision where that has these stages, else the next: no pod knows this edit."""
    newest = newest_revision(context)
    return newest if stages_of_revisions(context).get(newest, stages) == stages else newest + 1


def _first_open(context: TrainingContext, stages: Schedule) -> StageOrder:
    ended = {stage.name for stage in context.training.status.stages if stage.end_samples is not None}
    return next((stage for stage in stages if stage.name not in ended), stages[-1])


def tell_pods(
    context: TrainingContext, course: Course, draft: Draft, generation: Generation, *, paused: bool
) -> None:
    """Let every pod of a generation know what is wanted; those that do are left alone."""
    if generation.order is None or not course.schedule or not generation.live:
        return
    move = None if paused else next_stage(context, course)
    target = None if move is None else move[0]
    state = desired(context, generation, course.schedule, paused=paused, advance_to=target)
    course.state = state
    course.revision = max(course.revision, state.revision)
    text, former = state.to_json(), former_text(generation, state)
    for pod in generation.live:
        if desired_state(pod) == state:
            continue
        if desired_state(pod) is None and state.revision == 0:
            continue
        annotations = {
            names.ANNOTATION_DESIRED_STATE: text,
            names.ANNOTATION_FORMER_STATES: former,
        }
        draft.act(AnnotatePod(pod.name, pod.uid, annotations))
    new = state.revision > context.training.status.revision
    if new and move is not None and state.advance_to == target:
        draft.tell("StageEnded", move[1])
    elif new and state.stages is not None and not paused:
        draft.tell("ScheduleSent", f"revision {state.revision} of the schedule is on its way to the pods")


def pause(context: TrainingContext, course: Course, draft: Draft, generation: Generation) -> None:
    """Let a generation save and stop; where it does not, end its pods by SIGTERM, with the same effect."""
    job = generation.job
    if not any(pod.running for pod in generation.live):
        # Nothing runs that could save: there is nothing to lose either.
        draft.act(DeleteJob(job.name, job.uid))
        return
    tell_pods(context, course, draft, generation, paused=True)
    since = context.training.status.suspended_since or context.now
    left = PAUSE_PATIENCE_SECONDS - (context.now - since).total_seconds()
    if left > 0:
        draft.look_again(left)
    elif job.queue:
        # Its queue would start a suspended Job again.
        draft.act(DeleteJob(job.name, job.uid))
    else:
        draft.act(SuspendJob(job.name, job.uid, suspend=True))


def former_placement(context: TrainingContext, generation: Generation) -> HardwareSettings | None:
    """Return the workers to go back to; ``None``: there are none, or they are the same."""
    order, begins = generation.order, generation.begins
    if order is None or begins is None or generation.fell_back is not None:
        return None
    if any(stage.name == begins and stage.steps for stage in context.training.status.stages):
        # The stage has run with these workers before: it was suspended, or interrupted.
        return None
    names_in_order = [stage.name for stage in order.stages]
    place = names_in_order.index(begins) if begins in names_in_order else 0
    if place == 0:
        return None
    before, own = order.stages[place - 1].hardware, order.stages[place].hardware
    return None if same_placement(before, own) else before


def fall_back(
    context: TrainingContext, course: Course, draft: Draft, former: HardwareSettings, why: str
) -> None:
    """Go on in a further generation with the workers and resources from before."""
    generation = course.generation
    if generation is None or generation.begins is None:
        return
    name = generation.begins
    course.schedule = placed(course.schedule, name, former)
    message = (
        f"generation {generation.number} made no first step ({why}): stage {name} goes on with "
        f"{former.workers} x {former.processes_per_worker} processes, as the stage before"
    )
    course.fallback = Fallback(
        stage=name, generation=generation.number, workers=former.workers, message=message
    )
    course.degraded = assertion(OwnerCondition.DEGRADED, True, "FellBack", message)
    draft.tell("FellBack", message, warning=True)
    make_generation(context, course, draft, name, number=generation.number + 1, fell_back=True)


def tidy_up(context: TrainingContext, draft: Draft) -> None:
    """Delete Jobs of earlier generations that still hold pods; ended ones stay to the run's end.

    Only those that the status has left behind: a newer one may be all that is left of a crash.
    """
    for generation in context.generations.values():
        job = generation.job
        if generation.number >= context.training.status.run_generation or job.finished or job.deleting:
            continue
        progress = context.progress(generation)
        ended = None if progress.pod is None else progress.pod.finished
        if progress.stage is RunStage.REPORTED and ended is not None:
            left = (ended + timedelta(seconds=LEAVING_SECONDS) - context.now).total_seconds()
            if left > 0:
                draft.look_again(left)
                continue
        draft.act(DeleteJob(job.name, job.uid))


def clean_up(context: TrainingContext, draft: Draft) -> None:
    """After the end: delete what still runs at once, what has ended when its logs were kept long enough."""
    keep = timedelta(seconds=context.settings.job_ttl_seconds)
    ended = context.training.status.completion_time or context.now
    for generation in context.generations.values():
        job = generation.job
        if job.deleting:
            continue
        over = job.finished or context.progress(generation).stage is RunStage.REPORTED
        due = max(ended, job.settled or ended) + keep
        if not over or context.now >= due:
            draft.act(DeleteJob(job.name, job.uid))
        else:
            draft.look_again_at(due, context.now)
