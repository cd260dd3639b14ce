"""Checkpoints of a run: written by all processes together, committed by one, read by any number."""

from __future__ import annotations

import logging
import pickle
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from nascale.contract.run_order import CheckpointOrder
from nascale_trainer.progressive.manifest import Manifest
from nascale_trainer.progressive.ranks import Ranks
from nascale_trainer.progressive.run_folder import (
    CheckpointName,
    DamagedCheckpoint,
    RunFolder,
    Superseded,
)
from nascale_trainer.progressive.sharded_format import ShardedFormat
from nascale_trainer.progressive.tensors import whole

log = logging.getLogger(__name__)

State = dict[str, Any]
"""Tensors in nested dictionaries: ``network`` and ``average`` by parameters' names, ``optimizer`` by
parameters' names and the optimizer's own."""

STATE_FILE: Final = "state.pt"
_UNREADABLE: Final = (
    *(OSError, EOFError, ValueError, TypeError, LookupError),
    *(RuntimeError, pickle.UnpicklingError),  # torch refuses the content
)
_SUPERSEDED: Final = "Superseded"


class CheckpointFormat(Protocol):
    """How a state's tensors lie in files."""

    name: str
    """Names the format in manifests."""

    def save(self, folder: Path, state: State, ranks: Ranks) -> None:
        """Write the state; all processes call it alike, in one folder.

        Raises:
            OSError: the volume takes no files.
        """

    def load(self, folder: Path, template: State, ranks: Ranks) -> State:
        """Return the state; all processes call it alike.

        Args:
            folder: The checkpoint.
            template: A state of the network as it is now, without the optimizer's: how tensors are spread.
            ranks: All processes.

        Raises:
            DamagedCheckpoint: the files can't be read.
        """


class PlainFormat:
    """One file with the whole tensors, written by rank 0."""

    name = "plain"

    def save(self, folder: Path, state: State, ranks: Ranks) -> None:
        """Write the file."""
        complete = _mapped(state, whole)
        if ranks.rank == 0:
            with (folder / STATE_FILE).open("wb") as file:
                torch.save(complete, file)

    def load(self, folder: Path, template: State, ranks: Ranks) -> State:  # noqa: ARG002  # whole tensors
        """Read the file; nothing in it is run."""
        try:
            state: State = torch.load(folder / STATE_FILE, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            raise DamagedCheckpoint(f"{folder.name}: {STATE_FILE}: {error}") from error
        return state


def formats() -> dict[str, CheckpointFormat]:
    """Return the formats that can be read, by name."""
    return {PlainFormat.name: PlainFormat(), ShardedFormat.name: ShardedFormat()}


class Checkpoints:
    """Makes a run's checkpoints, and finds the one to go on from."""

    def __init__(
        self,
        folder: RunFolder,
        ranks: Ranks,
        generation: int,
        order: CheckpointOrder,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            folder: The run's.
            ranks: All processes.
            generation: This process's.
            order: When checkpoints are made, and how many stay.
            clock: Seconds.
        """
        self._folder, self._ranks, self._generation = folder, ranks, generation
        self._order, self._clock = order, clock
        self._formats = formats()
        self._last_try = clock()
        self._last_step = 0
        self.damaged = 0
        """Checkpoints that this process has set aside because they were damaged."""
        self.seconds: float | None = None
        """Duration of the last one."""
        self.timestamp: float | None = None
        """When it was committed, seconds since the epoch."""
        self.committed: Manifest | None = None
        """The last committed one of this process, or the one that it began with."""

    def due_by_clock(self) -> bool:
        """Say whether one is due by this process's clock."""
        return self._clock() - self._last_try >= self._order.every_seconds

    def due(self, step: int, *, by_clock: bool) -> bool:
        """Say whether one is due after so many steps of the run: all processes find the same."""
        if step <= self._last_step:
            return False
        every = self._order.every_steps
        return by_clock or (every is not None and step - self._last_step >= every)

    def note_position(self, step: int) -> None:
        """Count steps and seconds from here."""
        self._last_step, self._last_try = step, self._clock()

    def save(self, manifest: Manifest, state: State) -> str | None:
        """Write and commit a checkpoint; all processes call it alike, between two steps.

        Returns:
            Why there is none; ``None``: it is committed.

        Raises:
            Superseded: a later generation has written checkpoints.
        """
        begin = self._clock()
        self.note_position(manifest.step)
        name = CheckpointName(self._generation, manifest.step)
        form = self._writer()
        manifest = manifest.model_copy(update={"format": form.name, "committed": time.time()})
        problem = (
            self._together(lambda: self._begin(name))
            or self._together(lambda: form.save(self._folder.temporary(name), state, self._ranks))
            or self._together(lambda: self._commit(name, manifest))
        )
        if problem is None:
            self.seconds = self._clock() - begin
            self.timestamp = time.time()
            self.committed = manifest
        else:
            log.warning("no checkpoint at step %d: %s", manifest.step, problem)
        return problem

    def _writer(self) -> CheckpointFormat:
        sharded = self._formats.get("sharded")
        return sharded if sharded is not None and self._ranks.world > 1 else self._formats[PlainFormat.name]

    def _begin(self, name: CheckpointName) -> None:
        if self._ranks.rank == 0:
            self._folder.begin_checkpoint(name)

    def _commit(self, name: CheckpointName, manifest: Manifest) -> None:
        if self._ranks.rank == 0:
            self._folder.commit(name, manifest)
            self._folder.prune(self._order.keep, self._generation)

    def _together(self, part: Callable[[], None]) -> str | None:
        """Do a part of the work; return what any process could not do."""
        mine = None
        try:
            part()
        except Superseded as error:
            mine = f"{_SUPERSEDED} {error}"
        except (OSError, RuntimeError) as error:  # torch's writers raise the latter on a full volume
            mine = str(error) or type(error).__name__
        found = self._ranks.objections(mine)
        for problem in found:
            if problem.startswith(_SUPERSEDED):
                raise Superseded(problem.removeprefix(_SUPERSEDED).strip())
        return found[0] if found else None

    def newest(self, *, uid: str, fingerprint: str) -> tuple[CheckpointName, Manifest] | None:
        """Find the newest whole checkpoint of this run, and set damaged ones aside; rank 0 alone calls it.

        Returns:
            Its name and manifest; ``None``: there is none.
        """
        for name, found in self._folder.manifests(self._generation):
            try:
                if isinstance(found, DamagedCheckpoint):
                    raise found
                if (found.uid, found.fingerprint) != (uid, fingerprint):
                    log.warning("checkpoint %s is of another run and skipped", name)
                    continue
                self._folder.verify(name, found)
            except DamagedCheckpoint as error:
                log.warning("a damaged checkpoint is skipped: %s", error)
                self._folder.set_aside(name)
                self.damaged += 1
                continue
            return name, found
        return None

    def load(self, name: CheckpointName, manifest: Manifest, template: State) -> State:
        """Read a checkpoint's tensors; all processes call it alike.

        Raises:
            DamagedCheckpoint: they can't be read.
        """
        form = self._formats.get(manifest.format)
        if form is None:
            raise DamagedCheckpoint(
                f"{name}: format: must be one of {sorted(self._formats)}, not {manifest.format!r}"
            )
        return form.load(self._folder.checkpoints / str(name), template, self._ranks)


def _mapped(state: Mapping[str, Any], change: Callable[[Any], Any]) -> State:
    return {
        name: _mapped(value, change) if isinstance(value, Mapping) else change(value)
        for name, value in state.items()
    }
