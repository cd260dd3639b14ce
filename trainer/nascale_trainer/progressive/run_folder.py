"""A run's folder on its volume: who owns it, which checkpoints it holds, what they are worth.

No torch: the launcher reads it too. The layout is that of docs/design/0004. Every file appears whole or not
at all, and a checkpoint is a folder that is renamed to its name when all of it is on the disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from nascale.contract.document import Document
from nascale.contract.run_order import RunOrder
from nascale_trainer.durable_file import synchronise_folder, write_atomically
from nascale_trainer.progressive.manifest import FinishedRun, Incidents, Manifest, RunRecord
from nascale_trainer.progressive.refusal import CannotTrain

log = logging.getLogger(__name__)

CHECKPOINTS: Final = "checkpoints"
MANIFEST: Final = "manifest.json"
RUN_RECORD: Final = "run.json"
INCIDENTS: Final = "incidents.json"
PROGRESS: Final = "progress"
RESULT: Final = "metrics.json"

_COMMITTED: Final = re.compile(r"^(?P<old>\.replaced-)?step-(?P<step>[0-9]{9,18})\.g(?P<generation>[0-9]+)$")
_DAMAGED: Final = ".damaged-"
_REPLACED: Final = ".replaced-"
_TEMPORARY: Final = ".tmp"
_CHUNK: Final = 1 << 20

D = TypeVar("D", bound=Document)


class DamagedCheckpoint(Exception):  # noqa: N818  # a finding
    """A checkpoint that is not what its manifest says."""


class Superseded(Exception):  # noqa: N818  # an end
    """A later generation of the run has written checkpoints: this one has no right to any more."""


@dataclass(frozen=True)
class Progress:
    """How far a process was: survives its sudden end.

    Attributes:
        step: Optimizer steps of the run.
        committed: Samples that the last committed checkpoint holds.
    """

    step: int
    committed: int


@dataclass(frozen=True, order=True)
class CheckpointName:
    """The name of a checkpoint; the greatest is the newest."""

    generation: int
    step: int
    current: bool = True

    def __str__(self) -> str:
        """Return the folder's name."""
        return f"{'' if self.current else _REPLACED}step-{self.step:09d}.g{self.generation}"


class RunFolder:
    """A run's folder. Only rank 0 writes into it, but for the tensors of its own that each rank writes."""

    def __init__(self, path: Path) -> None:
        """Take the folder; nothing is read or written yet."""
        self.path = path
        self.checkpoints = path / CHECKPOINTS
        self._progress: int | None = None

    def prepare(self) -> None:
        """Make the folder, and prove that it takes files.

        Raises:
            CannotTrain: the volume is missing, read-only or full.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / ".probe", b"\0" * 4096)
            (self.path / ".probe").unlink(missing_ok=True)
        except OSError as error:
            raise CannotTrain(
                "VolumeUnusable", f"volume: must be a folder that takes files, not {self.path}: {error}"
            ) from error

    def claim(self, record: RunRecord) -> RunRecord:
        """Make the folder this run's, or confirm that it is.

        Returns:
            The record as it was first written.

        Raises:
            CannotTrain: it is another run's, or holds checkpoints of another model, data set, seed or length.
        """
        found = self._read(RUN_RECORD, RunRecord)
        if found is None:
            if any(self.names()):
                raise CannotTrain(
                    "ForeignFolder",
                    f"volume: must be a folder of this run, but {self.path} holds checkpoints "
                    f"without {RUN_RECORD}",
                )
            try:
                write_atomically(self.path / RUN_RECORD, record.to_json().encode())
            except OSError as error:
                raise CannotTrain("VolumeUnusable", f"volume: {self.path} takes no files: {error}") from error
            return record
        if found.uid != record.uid:
            raise CannotTrain(
                "ForeignFolder",
                f"volume: must be a folder of run {record.uid}, but {self.path} belongs to {found.name} "
                f"({found.uid})",
            )
        if found.fingerprint != record.fingerprint:
            raise CannotTrain(
                "ForeignCheckpoint",
                f"volume: must hold checkpoints of this model, data, seed and length; those in {self.path} "
                "are of others",
            )
        return found

    def names(self) -> list[CheckpointName]:
        """Return all committed checkpoints, the newest first."""
        try:
            entries = [entry.name for entry in self.checkpoints.iterdir()]
        except OSError:
            return []
        found = [
            CheckpointName(int(match["generation"]), int(match["step"]), match["old"] is None)
            for name in entries
            if (match := _COMMITTED.match(name))
        ]
        return sorted(found, reverse=True)

    def check_generation(self, own: int) -> None:
        """Refuse to go on where a later generation has committed a checkpoint.

        Raises:
            Superseded: it has.
        """
        newest = max((name.generation for name in self.names()), default=0)
        if newest > own:
            raise Superseded(
                f"generation: must be at least {newest}, which has written checkpoints, not {own}"
            )

    def manifests(self, generation: int) -> Iterator[tuple[CheckpointName, Manifest | DamagedCheckpoint]]:
        """Go through the checkpoints of generations up to this one, the newest first; content is not read."""
        for name in self.names():
            if name.generation > generation:
                continue
            try:
                yield name, self.manifest(name)
            except DamagedCheckpoint as error:
                yield name, error

    def manifest(self, name: CheckpointName) -> Manifest:
        """Read a checkpoint's manifest.

        Raises:
            DamagedCheckpoint: it is absent or not one.
        """
        try:
            return Manifest.model_validate_json((self.checkpoints / str(name) / MANIFEST).read_bytes())
        except (OSError, ValidationError) as error:
            raise DamagedCheckpoint(f"{name}: {MANIFEST}: {error}") from error

    def verify(self, name: CheckpointName, manifest: Manifest) -> None:
        """Compare every file with its digest.

        Raises:
            DamagedCheckpoint: one is absent or differs.
        """
        folder = self.checkpoints / str(name)
        for file, stated in manifest.files.items():
            if Path(file).name != file:
                raise DamagedCheckpoint(f"{name}: files: must be names, not {file!r}")
            try:
                actual = digest_of(folder / file)
            except OSError as error:
                raise DamagedCheckpoint(f"{name}: {file}: {error}") from error
            if actual != stated:
                raise DamagedCheckpoint(f"{name}: {file}: its digest must be {stated}, not {actual}")

    def set_aside(self, name: CheckpointName) -> None:
        """Take a damaged checkpoint out of the way, so that it is counted once; the last such one stays."""
        target = self.checkpoints / f"{_DAMAGED}{name}"
        with suppress(OSError):
            for earlier in self.checkpoints.glob(f"{_DAMAGED}*"):
                shutil.rmtree(earlier, ignore_errors=True)
            (self.checkpoints / str(name)).rename(target)

    def begin_checkpoint(self, name: CheckpointName) -> Path:
        """Make the temporary folder that a checkpoint is written into.

        Raises:
            Superseded: a later generation has written checkpoints.
            OSError: the volume takes no files.
        """
        self.check_generation(name.generation)
        temporary = self.temporary(name)
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
        return temporary

    def temporary(self, name: CheckpointName) -> Path:
        """Return where a checkpoint is written before it has its name."""
        return self.checkpoints / f"{name}{_TEMPORARY}"

    def commit(self, name: CheckpointName, manifest: Manifest) -> Manifest:
        """Make what lies in the temporary folder durable and give it its name.

        Raises:
            Superseded: a later generation has written checkpoints.
            OSError: the volume is full or gone.
        """
        temporary = self.temporary(name)
        files = {}
        for file in sorted(temporary.iterdir()):
            files[file.name] = digest_of(file)
            _synchronise_file(file)
        manifest = manifest.model_copy(update={"files": files})
        write_atomically(temporary / MANIFEST, manifest.to_json().encode())
        self.check_generation(name.generation)
        target = self.checkpoints / str(name)
        replaced = self.checkpoints / f"{_REPLACED}{name}"
        if target.exists():
            # The very same step again, after a switch: until the new one has its name, readers take the old.
            target.rename(replaced)
        temporary.rename(target)
        synchronise_folder(self.checkpoints)
        shutil.rmtree(replaced, ignore_errors=True)
        return manifest

    def prune(self, keep: int, generation: int) -> None:
        """Drop all but the newest checkpoints, and what unfinished writers of generations so far left."""
        for name in self.names()[keep:]:
            shutil.rmtree(self.checkpoints / str(name), ignore_errors=True)
        with suppress(OSError):
            for entry in self.checkpoints.iterdir():
                match = _COMMITTED.match(entry.name.removesuffix(_TEMPORARY))
                if entry.name.endswith(_TEMPORARY) and match and int(match["generation"]) <= generation:
                    shutil.rmtree(entry, ignore_errors=True)

    def incidents(self) -> Incidents:
        """Return the counts so far."""
        return self._read(INCIDENTS, Incidents) or Incidents()

    def record_incidents(self, incidents: Incidents) -> None:
        """Keep the counts; a volume that takes no file is not worth an end."""
        try:
            write_atomically(self.path / INCIDENTS, incidents.to_json().encode())
        except OSError as error:
            log.warning("%s can't be written: %s", INCIDENTS, error)

    def progress(self) -> Progress | None:
        """Return how far the last process was; ``None``: not known."""
        with suppress(OSError, struct.error):
            step, committed = struct.unpack("<QQ", (self.path / PROGRESS).read_bytes())
            return Progress(step, committed)
        return None

    def record_progress(self, progress: Progress) -> None:
        """Remember how far this process is: one system call, no waiting for the disk.

        A process that is killed loses nothing of it; only a machine that loses power does.
        """
        with suppress(OSError):
            if self._progress is None:
                self._progress = os.open(self.path / PROGRESS, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.pwrite(self._progress, struct.pack("<QQ", progress.step, progress.committed), 0)

    def finished(self) -> FinishedRun | None:
        """Return the result of a run that has ended; ``None``: it has not."""
        return self._read(RESULT, FinishedRun)

    def finish(self, result: FinishedRun) -> None:
        """Write the result.

        Raises:
            OSError: the volume takes no file.
        """
        content = json.dumps(result.model_dump(mode="json", by_alias=True), indent=2) + "\n"
        write_atomically(self.path / RESULT, content.encode())

    def close(self) -> None:
        """Let go of the files."""
        if self._progress is not None:
            os.close(self._progress)
            self._progress = None

    def _read(self, name: str, model: type[D]) -> D | None:
        try:
            return model.model_validate_json((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            if model is RunRecord:
                raise CannotTrain(
                    "ForeignFolder", f"volume: {self.path / name} must be a run's record: {error}"
                ) from error
            log.warning("%s is ignored: %s", self.path / name, error)
            return None


def newest_manifest(folder: RunFolder, order: RunOrder) -> Manifest | None:
    """Return the manifest of the newest checkpoint that looks whole; ``None``: there is none of this run."""
    for _, found in folder.manifests(order.generation):
        if isinstance(found, Manifest) and found.uid == order.run.uid:
            return found
    return None


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()


def _synchronise_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
