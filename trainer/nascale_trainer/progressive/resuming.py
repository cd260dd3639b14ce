"""Goes on from the newest whole checkpoint, or begins: at a process's start and after a divergence."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass

from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.run_report import RunOutcome, SwitchPhase
from nascale.contract.switch_class import SwitchClass
from nascale_trainer.device import reset_peak_memory
from nascale_trainer.progressive import run_start
from nascale_trainer.progressive.generation_end import SUPERSEDED
from nascale_trainer.progressive.manifest import Incidents, Manifest
from nascale_trainer.progressive.numerics import quality_safe
from nascale_trainer.progressive.proposals import Schedule
from nascale_trainer.progressive.ranks import Ranks
from nascale_trainer.progressive.refusal import CannotTrain
from nascale_trainer.progressive.run_checkpoint import Checkpoints
from nascale_trainer.progressive.run_folder import (
    CheckpointName,
    DamagedCheckpoint,
    RunFolder,
    Superseded,
)
from nascale_trainer.progressive.run_state import RunState
from nascale_trainer.progressive.task import TrainingTask
from nascale_trainer.progressive.trainee import Trainee

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resumed:
    """A run that is ready for its next step."""

    state: RunState
    trainee: Trainee
    incidents: Incidents


class EndPending(Exception):  # noqa: N818  # an end
    """The generation had saved for its end, and was killed before it could report so."""

    def __init__(self, state: RunState, outcome: RunOutcome) -> None:
        """Take the state that was saved, and what the report was to say."""
        super().__init__(f"the generation had ended: {outcome}")
        self.state, self.outcome = state, outcome


@dataclass(frozen=True)
class _Read:
    name: CheckpointName
    manifest: Manifest


class Resuming:
    """Finds where to go on, and rebuilds the network there."""

    def __init__(
        self,
        order: RunOrder,
        task: TrainingTask,
        ranks: Ranks,
        folder: RunFolder,
        *,
        checkpoints: Checkpoints,
        work: str,
        schedule: Schedule,
    ) -> None:
        """Prepare.

        Args:
            order: The run order.
            task: Model, data and loss.
            ranks: All processes.
            folder: The run's folder, claimed.
            checkpoints: The run's checkpoints.
            work: Fingerprint of the run.
            schedule: The order's.
        """
        self._order, self._task, self._ranks, self._folder = order, task, ranks, folder
        self._checkpoints, self.work, self._schedule = checkpoints, work, schedule

    def start(self, incidents: Incidents, started_at: float | None) -> Resumed:
        """Begin the run, or go on with it.

        Args:
            incidents: Counts so far.
            started_at: When this process was started, seconds since the epoch.

        Raises:
            CannotTrain: the run can't be carried out here.
        """
        ready = time.time()
        progress = self._folder.progress()
        resumed, seconds = self._resume(incidents, checked=False)
        state, incidents = resumed.state, resumed.incidents
        if progress is not None:
            lost = max(progress.step - state.step, 0)
            repeated = max(progress.committed - state.samples, 0)
            if lost or repeated:
                log.warning("%d steps after the last checkpoint are done again", lost)
                incidents = incidents.model_copy(
                    update={
                        "lost_steps": incidents.lost_steps + lost,
                        "repeated_samples": incidents.repeated_samples + repeated,
                    }
                )
                self._record(incidents)
        if state.pending is not None:
            committed = self._checkpoints.committed
            untouched = progress is None or progress.step == state.step
            if committed is not None and untouched:
                _note_phases(state, committed, started_at or ready, ready, seconds)
            state.pending = None
        return Resumed(state, resumed.trainee, incidents)

    def roll_back(self, incidents: Incidents) -> Resumed:
        """Return to the last checkpoint.

        Args:
            incidents: Counts so far, with the stage to train safely.
        """
        resumed, _ = self._resume(incidents, checked=True)
        resumed.state.pending = None
        return resumed

    def _resume(self, incidents: Incidents, *, checked: bool) -> tuple[Resumed, dict[SwitchPhase, float]]:
        """Read the newest checkpoint that can be read, else begin; return also what that took."""
        begin = time.perf_counter()
        known = self._checkpoints.damaged
        while True:
            found = self._locate()
            state = self._state(found)
            if not checked:
                self._check_end(found, state)
                run_start.check_stages(self._order, state.schedule, state.place, self._task, self._ranks)
            built = time.perf_counter()
            trainee = Trainee(self._task, self._order, self._ranks, in_force(state.stage, incidents))
            apply_seconds = time.perf_counter() - built
            if found is None or self._load(found, trainee):
                break
        reset_peak_memory(self._ranks.device)
        self._checkpoints.note_position(state.step)
        self._checkpoints.committed = found.manifest if found else None
        # A manifest of an older version does not say when it was committed: 0.
        self._checkpoints.timestamp = (found.manifest.committed or None) if found else None
        if self._checkpoints.damaged > known:
            damaged = incidents.damaged_checkpoints + self._checkpoints.damaged - known
            incidents = incidents.model_copy(update={"damaged_checkpoints": damaged})
            self._record(incidents)
        total = time.perf_counter() - begin
        seconds = {SwitchPhase.RESTORE: total - apply_seconds, SwitchPhase.APPLY: apply_seconds}
        return Resumed(state, trainee, incidents), seconds

    def _check_end(self, found: _Read | None, state: RunState) -> None:
        manifest = found.manifest if found else None
        if manifest is None or manifest.generation != self._order.generation:
            return
        if manifest.pending is not None and manifest.pending.kind is SwitchClass.RESCHEDULE:
            raise EndPending(state, RunOutcome.SWITCH)
        if manifest.paused:
            raise EndPending(state, RunOutcome.PAUSED)

    def _locate(self) -> _Read | None:
        """Let rank 0 choose a checkpoint; all processes call it alike."""
        text = run_start.together(self._ranks, self._choose)
        text = self._ranks.broadcast(text)
        if text is None:
            return None
        chosen = json.loads(text)
        name = CheckpointName(**chosen["name"])
        return _Read(name, Manifest.model_validate(chosen["manifest"]))

    def _choose(self) -> str | None:
        if self._ranks.rank != 0:
            return None
        try:
            self._folder.check_generation(self._order.generation)
        except Superseded as error:
            raise CannotTrain(SUPERSEDED, str(error)) from error
        found = self._checkpoints.newest(uid=self._order.run.uid, fingerprint=self.work)
        if found is None:
            return None
        name, manifest = found
        return json.dumps({"name": asdict(name), "manifest": manifest.model_dump(mode="json")})

    def _state(self, found: _Read | None) -> RunState:
        manifest = found.manifest if found else None
        schedule, revision = run_start.scheduled(self._order, self._schedule, manifest)
        if manifest is None:
            return RunState.begin(schedule, revision)
        return RunState.of(manifest, schedule, revision)

    def _load(self, found: _Read, trainee: Trainee) -> bool:
        """Read the tensors; return whether all processes could."""
        mine = None
        try:
            state = self._checkpoints.load(found.name, found.manifest, trainee.template())
        except DamagedCheckpoint as error:
            mine = str(error)
        objections = self._ranks.objections(mine)
        if objections:
            log.warning("a damaged checkpoint is skipped: %s", objections[0])
            if self._ranks.rank == 0:
                self._folder.set_aside(found.name)
            self._checkpoints.damaged += 1
            self._ranks.barrier()
            return False
        trainee.load(state, found.manifest.scaler)
        return True

    def _record(self, incidents: Incidents) -> None:
        if self._ranks.rank == 0:
            self._folder.record_incidents(incidents)


def in_force(stage: StageOrder, incidents: Incidents) -> StageOrder:
    """Return a stage as it is trained: with quality-safe hardware settings where its loss has diverged."""
    return quality_safe(stage) if stage.name == incidents.safe_stage else stage


def _note_phases(
    state: RunState, committed: Manifest, started: float, ready: float, seconds: dict[SwitchPhase, float]
) -> None:
    """Keep what a switch over two processes has cost; clocks of two machines may differ a little."""
    pending = committed.pending
    if pending is None:
        return
    state.history.present.phases.update(
        {
            SwitchPhase.SAVE: max(committed.committed - pending.began, 0.0),
            SwitchPhase.GAP: max(started - committed.committed, 0.0),
            SwitchPhase.START: max(ready - started, 0.0),
            **seconds,
        }
    )
