"""``ProgressiveTraining``: from an observation to actions and status (``docs/design/0004``).

The same rules as for searches (``docs/design/0002-reconcile.md``). What a run is at follows from its Jobs,
its pods' annotations and reports; the trainer goes from stage to stage by itself, and needs the operator
only for other pods.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from pydantic import ValidationError

from nascale.api.progressive_training import ProgressiveTraining
from nascale.api.training_status import ProgressiveTrainingStatus, TrainingResult
from nascale.contract import training_series as series
from nascale.contract.document import describe
from nascale.contract.run_report import RunOutcome, RunReport
from nascale.reconcile.actions import DeleteJob, DeleteOwner, FollowSeries, Plan
from nascale.reconcile.conditions import Assertion, OwnerCondition, assertion, find
from nascale.reconcile.draft import AFTER_STATUS_SECONDS, Draft
from nascale.reconcile.ending import Ending
from nascale.reconcile.observed import Observed
from nascale.reconcile.owner_course import unreadable
from nascale.reconcile.schedule_look import GenerationLook
from nascale.reconcile.training_conditions import stall_limit
from nascale.reconcile.training_context import NOUN, TrainingContext, training_context
from nascale.reconcile.training_course import Course
from nascale.reconcile.training_events import tell_training
from nascale.reconcile.training_gauges import gauges
from nascale.reconcile.training_generations import Generation
from nascale.reconcile.training_moves import (
    clean_up,
    fall_back,
    former_placement,
    make_generation,
    pause,
    tell_pods,
    tidy_up,
)
from nascale.reconcile.training_progress import RunProgress, RunStage
from nascale.reconcile.training_queries import question
from nascale.reconcile.training_revisions import answer_of
from nascale.reconcile.training_schedule import wanted_schedule
from nascale.reconcile.training_status import reported_metrics, training_status

LOST_JOB_MARGIN_SECONDS: Final = 5.0
"""Beyond the pods' grace period, before the Job of a generation that somebody deleted is made again."""


def plan(observed: Observed) -> Plan:
    """Decide what to do for one training."""
    if observed.owner["metadata"].get("deletionTimestamp"):
        # Jobs go with their owner; the run's folder stays on its volume.
        return Plan()
    try:
        training = ProgressiveTraining.model_validate(observed.owner)
    except ValidationError as error:
        return unreadable(observed, ProgressiveTrainingStatus, NOUN, [describe(error)])
    context = training_context(training, observed)
    # Runs have no Trials: there are some only where a schedule is, or was, generated.
    generation = GenerationLook(context, observed)
    draft = Draft(generation.trials)
    if training.status.completion_time is not None:
        return _after_the_end(context, generation, draft)
    return _Step(context, generation, draft).plan()


def _after_the_end(context: TrainingContext, generation: GenerationLook, draft: Draft) -> Plan:
    clean_up(context, draft)
    generation.stop(draft)
    training = context.training
    ttl, ended = training.spec.ttl_seconds_after_finished, training.status.completion_time
    if ttl is not None and ended is not None:
        due = ended + timedelta(seconds=ttl)
        if context.now >= due:
            draft.act(DeleteOwner(training.metadata.uid))
        else:
            draft.look_again_at(due, context.now)
    return draft.plan(None, gauges(training, training.status))


class _Step:
    """One look at a training that has not ended."""

    def __init__(self, context: TrainingContext, generating: GenerationLook, draft: Draft) -> None:
        self._context = context
        self._generating = generating
        self._draft = draft
        status = context.training.status
        generation = context.generation
        order = None if generation is None else generation.order
        self._course = Course(
            number=context.number,
            job_name=status.job_name if generation is None else generation.job.name,
            workers=status.workers if order is None else order.workers,
            processes=status.processes_per_worker if order is None else order.processes_per_worker,
            stage=self._adopted_stage(generation),
            generation=generation,
            revision=status.revision if order is None else max(status.revision, order.revision),
            fallback=status.fallback,
        )

    def _adopted_stage(self, generation: Generation | None) -> str | None:
        status = self._context.training.status
        if generation is not None and generation.number > status.run_generation:
            # Its Job was made just before a crash.
            return generation.begins
        return status.current_stage or (None if generation is None else generation.begins)

    def plan(self) -> Plan:
        """Go through the steps."""
        context, course = self._context, self._course
        tidy_up(context, self._draft)
        if context.generation is not None:
            self._look_at(context.generation)
        wanted = wanted_schedule(context, course.answer, course.stage)
        course.schedule, course.edit_faults = wanted.schedule, wanted.faults
        course.refused = wanted.refused
        if not self._deadline():
            self._decide()
        if context.training.spec.schedule is not None and course.generated is None:
            course.generated = self._generating.followed(course, self._draft)
        return self._conclude()

    # --- what is seen --------------------------------------------------------------------------------------

    def _look_at(self, generation: Generation) -> None:
        context, course = self._context, self._course
        progress = context.progress(generation)
        course.progress, course.report = progress, progress.report
        course.figures = context.figures(generation)
        course.reading = context.reading(generation.leader)
        course.answer = answer_of(context, course.report, course.figures)
        course.started = self._has_started(generation, progress)
        place = course.figures.place
        told = () if generation.order is None else generation.order.stages
        if course.report is not None and course.report.stage is not None:
            course.stage = course.report.stage
        elif place is not None and place < len(told):
            course.stage = told[place].name
        if generation.leader is not None and not generation.job.finished:
            pod = generation.leader.name
            asked = question(context, course.stage, pod)
            self._draft.act(FollowSeries(pod, series.PREFIX, series.STEPS, asked))

    def _has_started(self, generation: Generation, progress: RunProgress) -> bool | None:
        """Say whether a generation has made its first step; ``None``: it runs, and nobody can say."""
        stages, course = self._context.training.status.stages, self._course
        if any(stage.generation >= generation.number for stage in stages):
            return True
        if progress.report is not None:
            return progress.report.outcome is not RunOutcome.REFUSED
        if progress.stage is not RunStage.RUNNING:
            return False
        if course.figures.plain:
            return course.figures.number(series.THROUGHPUT) is not None
        return None

    # --- what follows --------------------------------------------------------------------------------------

    def _deadline(self) -> bool:
        training, now = self._context.training, self._context.now
        limit, status = training.spec.active_deadline_seconds, training.status
        if limit is None or status.start_time is None:
            return False
        if self._course.report is not None and self._course.report.outcome is RunOutcome.COMPLETED:
            return False
        away = timedelta(seconds=status.suspended_seconds)
        if status.suspended_since is not None:
            away += max(timedelta(), now - status.suspended_since)
        left = limit - (now - status.start_time - away).total_seconds()
        if left > 0:
            if not training.spec.suspend:
                self._draft.look_again(left)
            return False
        message = f"activeDeadlineSeconds ({limit} s) have passed; the last checkpoint stays on the volume"
        self._end("DeadlineReached", message, failed=True)
        return True

    def _decide(self) -> None:
        context, course = self._context, self._course
        if course.number == 0:
            self._begin()
        elif context.generation is None:
            self._without_job()
        elif self._resumes():
            self._go_on(course.stage)
        elif course.progress is not None:
            self._follow(context.generation, course.progress)

    def _begin(self) -> None:
        context, course = self._context, self._course
        if context.model.waiting:
            course.activity = self._said("WaitingForModel", context.model.waiting, going=False)
        elif context.faults:
            self._generating.follow(self._draft)
        elif context.training.status.model is None:
            # Soon, but not at once: that look must see the model in the status.
            course.activity = self._said("Starting", "the model is known")
            self._draft.look_again(AFTER_STATUS_SECONDS)
        elif context.generating:
            self._generate()
        elif context.training.spec.suspend:
            course.suspended = True
        else:
            make_generation(context, course, self._draft, None, number=1)

    def _generate(self) -> None:
        """Go on with what comes before the run: a schedule for it."""
        course = self._course
        found = self._generating.look(self._draft)
        course.generated, course.activity, course.end = found.status, found.activity, found.end
        course.suspended = self._context.training.spec.suspend and found.end is None

    def _resumes(self) -> bool:
        """Say whether a run that was suspended, and is seen as that in the status, goes on."""
        context = self._context
        newer = context.number > context.training.status.run_generation
        said = find(context.training.status.conditions, OwnerCondition.SUSPENDED)
        if context.training.spec.suspend or said is None or newer:
            return False
        if said.status == "True":
            return True
        # Its pods were ended by us, and the spec has changed before that was noted.
        generation = context.generation
        stopped = generation is not None and generation.job.suspended and not generation.job.queue
        return said.reason == "Pausing" and stopped

    def _without_job(self) -> None:
        """Go on where somebody has deleted the Job of the latest generation."""
        context, course = self._context, self._course
        status, spec = context.training.status, context.training.spec
        if spec.suspend:
            course.suspended = True
            return
        if self._resumes():
            self._go_on(course.stage)
            return
        grace = spec.pod_template.termination_grace_period_seconds + LOST_JOB_MARGIN_SECONDS
        said = find(status.conditions, OwnerCondition.PROGRESSING)
        told = said is not None and said.reason == "JobLost"
        since = said.last_transition_time if told and said is not None else context.now
        left = grace - (context.now - since).total_seconds()
        if not course.schedule:
            message = (
                f"Job {status.job_name} is gone, and with it the schedule that it followed; that of the spec "
                "was refused: stages must be as before the edit"
            )
            course.activity = self._said("JobLost", message, going=False)
            return
        # Its pods may still save; and this snapshot may be old. The same name is safe in either case.
        if told and left <= 0:
            make_generation(context, course, self._draft, course.stage, number=course.number)
            return
        message = f"Job {status.job_name} is gone; it is made again, and goes on from the last checkpoint"
        course.activity = self._said("JobLost", message, going=False)
        self._draft.look_again(max(AFTER_STATUS_SECONDS, left))

    def _go_on(self, stage: str | None) -> None:
        """Make the next generation."""
        context, course = self._context, self._course
        if not course.schedule:
            message = "neither the spec nor any Job holds a schedule that can be carried out"
            course.activity = self._said("InvalidSpec", message, going=False)
            return
        generation = context.generation
        keeps = generation is not None and generation.fell_back is not None and generation.fell_back == stage
        if not keeps:
            course.fallback = None
        make_generation(context, course, self._draft, stage, number=course.number + 1, fell_back=keeps)

    def _follow(self, generation: Generation, progress: RunProgress) -> None:
        course = self._course
        suspend = self._context.training.spec.suspend
        match progress.stage:
            case RunStage.REPORTED:
                self._after_report(progress)
            case RunStage.DIED:
                self._after_death(generation, progress)
            case RunStage.INTERRUPTED:
                if suspend:
                    course.suspended = True
                else:
                    self._draft.tell("GenerationInterrupted", progress.message, warning=True)
                    self._go_on(course.stage)
            case RunStage.SETTLING:
                self._draft.look_again(progress.look_again_seconds)
                course.activity = self._said(progress.reason, progress.message)
            case RunStage.QUEUED if suspend:
                self._stopped(generation)
            case RunStage.QUEUED:
                course.activity = self._said(
                    "Queued", f"{progress.message}: its queue has not admitted it", going=False
                )
            case _ if suspend:
                course.activity = self._said("Pausing", "it saves and stops")
                pause(self._context, course, self._draft, generation)
            case _:
                self._keep_running(generation, progress)

    def _stopped(self, generation: Generation) -> None:
        """Look at a Job that is suspended while the spec says so."""
        job, course = generation.job, self._course
        if job.queue:
            self._draft.act(DeleteJob(job.name, job.uid))
        course.suspended = all(pod.over for pod in generation.pods)
        course.activity = self._said("Pausing", "its pods end")

    def _after_report(self, progress: RunProgress) -> None:
        report, course = progress.report, self._course
        if report is None:
            return
        suspend = self._context.training.spec.suspend
        match report.outcome:
            case RunOutcome.COMPLETED:
                if report.model is not None:
                    course.result = self._result(report, report.model)
                steps = f"{report.step} steps, {report.samples} samples"
                self._end("Completed", f"the whole length is trained: {steps}", failed=False)
            case RunOutcome.SWITCH | RunOutcome.PAUSED if suspend:
                course.suspended = True
            case RunOutcome.SWITCH | RunOutcome.PAUSED:
                self._go_on(report.stage)
            case RunOutcome.REFUSED if self._had_another():
                if suspend:
                    course.suspended = True
                else:
                    self._go_on(course.stage)
            case RunOutcome.REFUSED | RunOutcome.FAILED:
                self._end(progress.reason, progress.message, failed=True)

    def _had_another(self) -> bool:
        """Say whether a generation has refused an edit, and there is another schedule to go on with."""
        generation, course = self._context.generation, self._course
        order = None if generation is None else generation.order
        if generation is None or order is None or generation.fell_back is not None:
            return False
        edit = course.answer.refused == order.revision
        return edit and bool(course.schedule) and course.schedule != order.stages

    def _result(self, report: RunReport, model: str) -> TrainingResult:
        # Only the operator knows where on the volume the run's folder lies.
        path = f"{self._context.training.spec.volume.path}/{model}"
        metrics = reported_metrics(report)
        return TrainingResult(path=path, digest=report.digest or "", metrics=metrics)

    def _after_death(self, generation: Generation, progress: RunProgress) -> None:
        former = former_placement(self._context, generation)
        if former is not None and not self._course.started and not self._context.training.spec.suspend:
            why = f"{progress.reason}: {progress.message}"
            fall_back(self._context, self._course, self._draft, former, why)
            return
        self._end(progress.reason, progress.message, failed=True)

    def _keep_running(self, generation: Generation, progress: RunProgress) -> None:
        context, course = self._context, self._course
        going = progress.stage is not RunStage.BLOCKED
        reason = "WaitingForInfrastructure" if not going else progress.reason
        if progress.stage is RunStage.RUNNING:
            reason = "Training"
        course.activity = self._said(reason, progress.message, going=going)
        if self._starts_in_time(generation, progress):
            tell_pods(context, course, self._draft, generation, paused=False)
            self._watch_steps()

    def _starts_in_time(self, generation: Generation, progress: RunProgress) -> bool:
        """Say whether a generation may go on; where it has made no first step in time it falls back."""
        context, course, draft = self._context, self._course, self._draft
        if course.started:
            if generation.fell_back is None:
                course.fallback = None
            return True
        limit = context.training.spec.restarts.start_timeout_seconds
        due = (generation.job.started or generation.job.created) + timedelta(seconds=limit)
        if context.now < due:
            draft.look_again_at(due, context.now)
            return True
        if course.started is None:
            # Its pods run, and Prometheus can't say what they do: they are believed to train.
            course.started = True
            return True
        why = f"within startTimeoutSeconds ({limit} s): {progress.reason}: {progress.message}"
        former = former_placement(context, generation)
        if former is not None:
            fall_back(context, course, draft, former, why)
            return False
        message = (
            f"generation {generation.number} has made no first step {why}; there is nothing to go back to"
        )
        course.degraded = assertion(OwnerCondition.DEGRADED, True, "NotStarted", message)
        return True

    def _watch_steps(self) -> None:
        """Look again when the run would count as stalled, or its checkpoint as overdue."""
        limit, reading = stall_limit(self._context, self._course), self._course.reading
        if limit is not None and reading is not None and reading.still_since is not None:
            left = (reading.still_since + limit - self._context.now).total_seconds()
            if left > 0:
                self._draft.look_again(left + 1.0)

    def _end(self, reason: str, message: str, *, failed: bool) -> None:
        self._course.end = Ending(reason, message, failed=failed)
        self._course.suspended = False

    def _said(self, reason: str, message: str, *, going: bool = True) -> Assertion:
        return assertion(OwnerCondition.PROGRESSING, going, reason, message)

    def _conclude(self) -> Plan:
        context, draft = self._context, self._draft
        old = context.training.status
        new = training_status(context, self._course)
        tell_training(draft, old, new)
        if self._course.end is not None:
            outcome = "Failed" if self._course.end.failed else "Succeeded"
            draft.count("trainings_finished", {"outcome": outcome})
            # Soon, but not at once: that look must see the end in the status.
            draft.look_again(AFTER_STATUS_SECONDS)
        return draft.plan(None if new == old else new.to_dict(), gauges(context.training, new))
