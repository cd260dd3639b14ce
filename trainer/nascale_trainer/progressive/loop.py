"""The loop: steps, and between two steps everything else.

All processes do the same things at the same boundaries. What one of them learns alone (a signal, a desired
state, the clock, a loss) goes through ``Ranks.exchange`` first.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

import torch

from nascale.contract.run_order import (
    DesiredState,
    DivergenceAction,
    RunOrder,
    StageOrder,
)
from nascale.contract.run_report import RunOutcome, SwitchPhase
from nascale.contract.spans import samples_of
from nascale.contract.switch_class import SwitchClass, classify
from nascale_trainer.device import reset_peak_memory
from nascale_trainer.progressive import evaluation, run_end, run_start
from nascale_trainer.progressive.agreement import agree
from nascale_trainer.progressive.announcement import Announcement
from nascale_trainer.progressive.course import learning_rate
from nascale_trainer.progressive.divergence import LossWatch
from nascale_trainer.progressive.generation_end import SUPERSEDED
from nascale_trainer.progressive.manifest import FinishedRun, Incidents, PendingSwitch
from nascale_trainer.progressive.observation import Observation, Observer
from nascale_trainer.progressive.ranks import Ranks, Signals
from nascale_trainer.progressive.refusal import CannotTrain
from nascale_trainer.progressive.resuming import EndPending, Resumed, Resuming, in_force
from nascale_trainer.progressive.run_checkpoint import Checkpoints
from nascale_trainer.progressive.run_end import EndKind, RunEnd
from nascale_trainer.progressive.run_folder import Progress, RunFolder, Superseded
from nascale_trainer.progressive.run_state import RunState
from nascale_trainer.progressive.task import TrainingTask
from nascale_trainer.progressive.trainee import Trainee

log = logging.getLogger(__name__)


class Diverged(Exception):  # noqa: N818  # an event
    """A loss or a weight is not finite; all processes know."""


class TrainingLoop:
    """One process's part in a generation of a run."""

    def __init__(
        self,
        order: RunOrder,
        task: TrainingTask,
        ranks: Ranks,
        folder: RunFolder,
        observer: Observer,
        *,
        desired: Callable[[], DesiredState | None] = lambda: None,
        stop: Callable[[], bool] = lambda: False,
        announce: Callable[[StageOrder], None] = lambda _: None,
        started_at: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Prepare; nothing is read or built yet.

        Args:
            order: The run order.
            task: Model, data and loss.
            ranks: All processes.
            folder: The run's folder.
            observer: Shows the run to the outside.
            desired: Returns the newest desired state; asked on rank 0 alone.
            stop: Says whether this process was asked to end.
            announce: Told of a stage that will need new processes, some seconds before.
            started_at: When this process was started, seconds since the epoch.
            clock: Seconds.
        """
        self._order, self._task, self._ranks, self._folder = order, task, ranks, folder
        self._desired, self._stop, self._clock = desired, stop, clock
        self._started_at = started_at
        self._observation = Observation(order, observer, ranks, clock)
        self._announcement = Announcement(order, announce)
        self._checkpoints = Checkpoints(folder, ranks, order.generation, order.checkpoints, clock)
        self._watch = LossWatch(ranks.device)
        self._incidents = Incidents()
        self._diverged = False
        self._evaluated_at = -1
        self._state: RunState
        self._trainee: Trainee
        self._resuming: Resuming
        self._evaluate_every: int

    def run(self) -> RunEnd:
        """Train to the end of this process's part, and return what it is."""
        try:
            finished = self._start()
        except CannotTrain as refusal:
            log.error("refused: %s: %s", refusal.reason, refusal)  # noqa: TRY400  # the message says all
            return RunEnd(EndKind.REPORTED, run_end.refused(self._order, refusal, self._ranks.device))
        except EndPending as pending:
            self._state = pending.state
            return self._report(pending.outcome)
        if finished is not None:
            return self._completed(finished)
        try:
            return self._train()
        except CannotTrain as problem:
            return self._failed(problem.reason, str(problem))
        except Superseded as error:
            return self._failed(SUPERSEDED, str(error))
        finally:
            self._folder.close()

    def _start(self) -> FinishedRun | None:
        work, schedule = run_start.claim(self._order, self._task, self._folder, self._ranks)
        # Rank 0's: a stage that is trained safely must be so everywhere, whatever a volume's cache shows.
        self._incidents = self._shared(self._folder.incidents())
        finished = run_start.finished(self._order, work, self._folder, self._ranks)
        if finished is not None:
            return finished
        self._resuming = Resuming(
            self._order,
            self._task,
            self._ranks,
            self._folder,
            checkpoints=self._checkpoints,
            work=work,
            schedule=schedule,
        )
        self._take_up(self._resuming.start(self._incidents, self._started_at))
        state = self._state
        self._evaluate_every = samples_of(
            self._order.evaluation.every,
            samples_per_epoch=self._task.samples,
            batch=state.schedule.stages[0].model.global_batch,
            whole=state.whole,
        )
        return None

    def _take_up(self, resumed: Resumed) -> None:
        self._state, self._trainee, self._incidents = resumed.state, resumed.trainee, resumed.incidents
        self._diverged = False
        self._watch.drop()
        self._evaluated_at = -1
        self._record_progress()
        self._publish()

    def _train(self) -> RunEnd:
        while True:
            try:
                end = self._boundary()
                if end is not None:
                    return end
                self._step()
            except Diverged:
                end = self._recover()
                if end is not None:
                    return end

    def _boundary(self) -> RunEnd | None:
        """Do what is to be done between two steps; return the end, where this is one."""
        newest = self._desired() if self._ranks.rank == 0 else None
        told = self._stop()
        signals = self._ranks.exchange(
            Signals(
                stop=told,
                revision=newest.revision if newest else 0,
                diverged=self._diverged,
                checkpoint=self._ranks.rank == 0 and self._checkpoints.due_by_clock(),
            )
        )
        if signals.stop:
            return self._stopped(told=told)
        if signals.diverged:
            raise Diverged
        if signals.revision > self._state.looked_at:
            end = self._consider(newest)
            if end is not None:
                return end
        while self._state.stage_is_over:
            end = self._switch()
            if end is not None:
                return end
        if self._checkpoints.due(self._state.step, by_clock=signals.checkpoint):
            self._save()
        return None

    def _step(self) -> None:
        state = self._state
        begin = self._clock()
        rate = learning_rate(self._order.optimizer, self._trainee.stage.model, state.samples / state.whole)
        loss = self._trainee.step(state.step, state.samples, rate)
        before = state.samples
        state.step += 1
        state.samples += self._trainee.stage.model.global_batch
        self._note(self._watch.put(loss))
        self._record_progress()
        seconds = self._clock() - begin
        state.history.present.step(seconds)
        self._observation.step(seconds, self._trainee.stage.model.global_batch)
        if evaluation.due(self._evaluate_every, before, state.samples):
            self._evaluate()
            self._judge()
        if self._observation.due:
            self._publish()
            throughput = self._observation.throughput
            self._announcement.look(state, self._trainee.stage, throughput, self._incidents)

    def _note(self, loss: float | None) -> None:
        if loss is None:
            return
        if math.isfinite(loss):
            self._state.history.present.losses.append(loss)
        else:
            self._diverged = True

    def _check_health(self) -> None:
        """Make sure, all together, that every loss so far and all weights are finite."""
        begin = self._clock()
        self._note(self._watch.take())
        # A GPU is still at work on the last step when the host has gone on; no further step waits for it.
        self._state.history.present.wait(self._clock() - begin)
        ill = self._diverged or not self._trainee.is_finite()
        if float(self._ranks.total(torch.tensor([float(ill)]))[0]):
            raise Diverged

    def _evaluate(self) -> None:
        """Evaluate, once for a step."""
        state = self._state
        if self._evaluated_at == state.step:
            return
        self._check_health()
        with self._trainee.for_evaluation():
            # A whole one: processes evaluate different numbers of batches, which FSDP's own parts can't.
            network = self._trainee.complete()
            state.metrics = evaluation.evaluate(self._task, network, self._ranks)
        state.history.present.metrics = dict(state.metrics)
        self._evaluated_at = state.step
        self._publish()

    def _judge(self) -> None:
        state = self._state
        ended, state.plateau = evaluation.judge(state.stage, state.metrics, state.plateau)
        if ended and not state.stage_is_over:
            state.going_to = state.following

    def _switch(self) -> RunEnd | None:
        """End the present stage, and begin the next one or end the run, the generation, the process."""
        state = self._state
        self._evaluate()
        target = state.following
        if target >= len(state.schedule.stages):
            return self._finish()
        began, begin = time.time(), self._clock()
        before, after = self._trainee.stage, in_force(state.schedule.stages[target], self._incidents)
        kind = classify(before, after)
        if run_start.needs_new_pods(self._order, after, kind):
            kind = SwitchClass.RESCHEDULE
        self._trainee.grow(before, after)
        self._leave_safety(before)
        entered = state.enter(target, kind)
        if kind in (SwitchClass.RESTART, SwitchClass.RESCHEDULE):
            state.pending = PendingSwitch(kind=kind, began=began)
            problem = self._save()
            self._publish()
            if problem is not None:
                return self._failed(
                    "VolumeUnusable", f"no checkpoint for the switch to {after.name}: {problem}"
                )
            if kind is SwitchClass.RESTART:
                return RunEnd(EndKind.RESTART)
            return self._report(RunOutcome.SWITCH)
        self._trainee.put_in_force(after, kind)
        reset_peak_memory(self._ranks.device)
        entered.phases[SwitchPhase.APPLY] = self._clock() - begin
        self._observation.new_stage()
        self._publish()
        return None

    def _leave_safety(self, stage: StageOrder) -> None:
        if stage.name == self._incidents.safe_stage:
            self._record(safe_stage=None)

    def _consider(self, newest: DesiredState | None) -> RunEnd | None:
        """Look at a desired state, all together: apply it or refuse it."""
        found = agree(newest, self._state, self._task, self._ranks)
        if found is None:
            return None
        self._publish()
        if found.paused:
            return self._pause()
        if found.changed:
            self._save()  # what was applied stays applied, whatever happens to this process
        return None

    def _save(self) -> str | None:
        """Make a checkpoint; return why there is none, ``None``: it is committed."""
        self._check_health()
        self._ranks.settle(self._trainee.network)
        scaler = self._trainee.optimization.scaler_state()
        manifest = self._state.manifest(self._order, self._resuming.work, self._ranks.world, scaler)
        problem = self._checkpoints.save(manifest, self._trainee.state())
        if problem is not None:
            self._record(failed_checkpoints=self._incidents.failed_checkpoints + 1)
        self._record_progress()
        self._ranks.exchange(Signals())  # what was said of this checkpoint before it was made
        return problem

    def _recover(self) -> RunEnd | None:
        """Answer a loss that is not finite: back to the last checkpoint, or the end."""
        stage, step = self._state.stage, self._state.step
        self._record(non_finite=self._incidents.non_finite + 1, diverged_at=step)
        policy = self._order.divergence
        if policy.action is DivergenceAction.STOP or self._incidents.roll_backs >= policy.most_roll_backs:
            message = f"stage {stage.name}: loss must be finite, not so at step {step}"
            return self._failed(
                "Diverged", f"{message}, after {self._incidents.roll_backs} returns to a checkpoint"
            )
        log.warning(
            "stage %s: the loss is not finite at step %d: back to the last checkpoint", stage.name, step
        )
        self._record(roll_backs=self._incidents.roll_backs + 1, safe_stage=stage.name)
        self._take_up(self._resuming.roll_back(self._incidents))
        self._ranks.exchange(Signals())  # the loss that led here was told twice
        return None

    def _stopped(self, *, told: bool) -> RunEnd:
        log.warning("asked to end at step %d: saving", self._state.step)
        try:
            self._save()
        except (Diverged, Superseded) as error:
            log.warning("no checkpoint: %s", error or "the loss is not finite")
        return RunEnd(EndKind.STOPPED, told=told)

    def _pause(self) -> RunEnd:
        self._state.paused = True
        problem = self._save()
        if problem is not None:
            return self._failed("VolumeUnusable", f"no checkpoint for the pause: {problem}")
        return self._report(RunOutcome.PAUSED)

    def _finish(self) -> RunEnd:
        """Keep the result."""
        state = self._state
        self._save()
        try:
            path = run_end.exported(self._task, self._trainee, self._folder, self._ranks)
        except OSError as error:
            return self._failed("VolumeUnusable", f"the model can't be written: {error}")
        state.history.end(state.samples)
        finished = run_end.finished_run(self._order, state, self._resuming.work, self._folder, path)
        if self._ranks.rank == 0:
            self._folder.finish(finished)
        self._ranks.barrier()
        self._publish()
        return self._completed(finished)

    def _completed(self, finished: FinishedRun) -> RunEnd:
        report = run_end.completed(self._order, self._folder, finished, self._incidents, self._ranks.device)
        return RunEnd(EndKind.REPORTED, report)

    def _report(self, outcome: RunOutcome, reason: str | None = None, message: str | None = None) -> RunEnd:
        report = run_end.reported(
            self._order,
            self._state,
            self._incidents,
            outcome,
            self._ranks.device,
            reason=reason,
            message=message,
        )
        return RunEnd(EndKind.REPORTED, report)

    def _failed(self, reason: str, message: str) -> RunEnd:
        log.error("failed: %s: %s", reason, message)
        self._publish()
        return self._report(RunOutcome.FAILED, reason, message)

    def _shared(self, incidents: Incidents) -> Incidents:
        text = self._ranks.broadcast(incidents.to_json())
        return Incidents.model_validate_json(text) if text else incidents

    def _record(self, **changes: int | str | None) -> None:
        self._incidents = self._incidents.model_copy(update=changes)
        if self._ranks.rank == 0:
            self._folder.record_incidents(self._incidents)

    def _publish(self) -> None:
        self._observation.publish(self._state, self._trainee, self._checkpoints, self._incidents)

    def _record_progress(self) -> None:
        if self._ranks.rank == 0:
            committed = self._checkpoints.committed
            self._folder.record_progress(Progress(self._state.step, committed.samples if committed else 0))
