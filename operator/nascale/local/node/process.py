"""Starting, watching and ending a container's processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nascale.local.node import shim
from nascale.local.node.environment import Invocation
from nascale.local.node.errors import StartRefusedError
from nascale.local.node.spawner import Spawner, cluster_mark

CONTAINER_MARK: Final = "NASCALE_NODE_CONTAINER"
"""In the environment of every process of a container, so that those that leave its session are found too."""
KILL_ROUNDS: Final = 100
KILL_PAUSE_SECONDS: Final = 0.01


@dataclass(frozen=True)
class ContainerKey:
    """One run of one container."""

    pod_uid: str
    container: str
    attempt: int

    def __str__(self) -> str:
        """Return the mark's value."""
        return f"{self.pod_uid}/{self.container}/{self.attempt}"


@dataclass(frozen=True)
class ExitRecord:
    """How a run of a container ended. Times in seconds since 1970."""

    exit_code: int
    started: float
    finished: float
    error: str = ""
    """Why it could not be started; empty where it ran."""


def read_exit_record(path: Path) -> ExitRecord | None:
    """Return what the shim wrote, or None before it has."""
    try:
        code, started, finished, *error = path.read_text().split("\n")
    except FileNotFoundError:
        return None
    return ExitRecord(int(code), float(started), float(finished), "\n".join(error).strip())


def find_executable(invocation: Invocation) -> str:
    """Return the path of the program that is to be started.

    Raises:
        StartRefusedError: there is no such program.
    """
    name = invocation.arguments[0]
    directory = Path(invocation.working_directory)
    if not directory.is_dir():
        raise StartRefusedError(
            f"workingDir: must be an existing folder, not {invocation.working_directory!r}"
        )
    found = (
        shutil.which(str(directory / name))
        if "/" in name
        else shutil.which(name, path=invocation.environment.get("PATH", ""))
    )
    if found is None:
        raise StartRefusedError(f'exec: "{name}": executable file not found in $PATH')
    return found


class ContainerProcess:
    """A running container, held by its shim."""

    def __init__(self, key: ContainerKey, pid: int, record: Path) -> None:
        """Watch the shim ``pid``, started by this run of the node or by an earlier one."""
        self.key = key
        self.pid = pid
        self._record = record
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._descriptor = -1
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._ended.set_result(None)
        else:
            loop.add_reader(self._descriptor, self._on_end)

    @classmethod
    def start(
        cls, spawner: Spawner, key: ContainerKey, invocation: Invocation, *, log: Path, record: Path
    ) -> ContainerProcess:
        """Start the container's main process under a new shim.

        Raises:
            StartRefusedError: the program does not exist.
            OSError: no shim could be started.
        """
        executable = find_executable(invocation)
        environment = {**invocation.environment, **cluster_mark(), CONTAINER_MARK: str(key)}
        fields = [
            executable,
            invocation.working_directory,
            str(log),
            str(record),
            str(len(invocation.arguments)),
            *invocation.arguments,
            *(f"{name}={value}" for name, value in environment.items()),
        ]
        run_file = record.with_suffix(".run")
        # Only the owner reads it: the environment may hold secrets.
        descriptor = os.open(run_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write("\0".join(fields).encode(errors="surrogateescape"))
        return cls(key, spawner.spawn(run_file), record)

    @classmethod
    def adopt(cls, key: ContainerKey, record: Path) -> ContainerProcess | None:
        """Take over a container that an earlier run of the node started, if it still runs."""
        try:
            pid, ticks, boot = Path(os.fsdecode(shim.shim_file(os.fsencode(record)))).read_text().split()
            alive = boot == shim.boot() and shim.start_ticks(int(pid)) == int(ticks)
        except OSError:
            return None
        return cls(key, int(pid), record) if alive else None

    async def wait(self) -> ExitRecord | None:
        """Wait for the end; None where the shim left no record, because it was itself killed."""
        await asyncio.shield(self._ended)
        return read_exit_record(self._record)

    def terminate(self) -> None:
        """Send SIGTERM to the main process."""
        if self._descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to every process of the container; its shim stays to write the record."""
        kill_round(lambda value: value == str(self.key))

    def close(self) -> None:
        """Stop watching; the container goes on."""
        if self._descriptor >= 0:
            self._let_go()
            self._ended.cancel()

    def _on_end(self) -> None:
        self._let_go()
        if not self._ended.done():
            self._ended.set_result(None)

    def _let_go(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1


def marked_processes(mark: str = CONTAINER_MARK) -> Iterator[tuple[int, str]]:
    """Return pid and the mark's value of every marked process that this user may look into."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            with open(f"/proc/{entry.name}/environ", "rb") as stream:  # noqa: PTH123  a hot loop
                content = stream.read()
        except OSError:
            continue  # gone, or another user's
        start = content.find(f"{mark}=".encode())
        # A mark is a variable of its own, not the end of another's value.
        if start == 0 or (start > 0 and content[start - 1] == 0):
            yield (
                int(entry.name),
                content[start + len(mark) + 1 :].split(b"\0", 1)[0].decode(errors="replace"),
            )


async def kill_marked(belongs: Callable[[str], bool]) -> None:
    """Kill every process of a container whose mark's value ``belongs``, until none is left."""
    for _ in range(KILL_ROUNDS):
        if not kill_round(belongs):
            return
        await asyncio.sleep(KILL_PAUSE_SECONDS)


def kill_round(belongs: Callable[[str], bool], mark: str = CONTAINER_MARK) -> bool:
    """Kill every process whose mark's value ``belongs``; return whether there was any."""
    found = [pid for pid, value in marked_processes(mark) if belongs(value)]
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)
