"""Detached processes that are known again later by pid and start time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

POLL_SECONDS: Final = 0.02
SPAWN_SECONDS: Final = 20.0
"""How long the launcher may take to write down its child's pid, on a machine that is very busy."""

# Two shells: the outer one ends at once, so that the inner one belongs to init and never becomes a zombie
# of whoever started the cluster. The inner one waits for the program and writes down how it ended.
_LAUNCHER: Final = 'sh -c "$0" launcher "$@" &'
_WATCHER: Final = """
record=$1; shift
"$@" &
child=$!
echo "$child" > "$record.pid.partial" && mv "$record.pid.partial" "$record.pid"
wait "$child"
echo "$?" > "$record.exit.partial" && mv "$record.exit.partial" "$record.exit"
"""


class ProcessIdentity(BaseModel):
    """One process of this boot: a pid alone may be another program's by now."""

    model_config = ConfigDict(frozen=True)

    pid: int
    start_ticks: int
    """Clock ticks between the machine's start and the process's (``/proc/PID/stat``, field 22)."""
    boot: str
    """The boot that the ticks count from."""

    def is_alive(self) -> bool:
        """Whether this very process runs (a zombie does not)."""
        return identify(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class ProcessState(StrEnum):
    """What became of a process that was started."""

    RUNNING = "running"
    CRASHED = "crashed"
    """It ended although nobody stopped it."""
    STOPPED = "stopped"
    """It was never started, or was stopped on purpose."""


@dataclass(frozen=True)
class Exit:
    """How a process ended."""

    code: int
    """As a shell counts: 128 and more is a signal."""

    def __str__(self) -> str:
        """Describe the code, with the signal's name where there is one."""
        number = self.code - 128
        if number > 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(number).name}"
        return f"exit code {self.code}"


def boot_id() -> str:
    """Return the id of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of the process that has ``pid`` now; None if there is none, or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The program's name stands in parentheses and may hold spaces and parentheses itself.
    fields = stat.rpartition(")")[2].split()
    state, start_ticks = fields[0], int(fields[19])
    if state in "ZX":
        return None
    return ProcessIdentity(pid=pid, start_ticks=start_ticks, boot=boot_id())


def spawn(
    argv: Sequence[str], *, environment: Mapping[str, str], directory: Path, log: Path, record: Path
) -> ProcessIdentity | None:
    """Start a program in a session of its own, with its output appended to ``log``.

    Args:
        argv: The program and its arguments.
        environment: Its whole environment.
        directory: Its working folder.
        log: The file for standard output and standard error.
        record: Stem of two files: ``.pid`` with its pid, ``.exit`` with its exit code once it has ended.

    Returns:
        The process, or None if it has ended already (see ``last_exit``).
    """
    pid_file, exit_file = _record_file(record, "pid"), _record_file(record, "exit")
    log.parent.mkdir(parents=True, exist_ok=True)
    record.parent.mkdir(parents=True, exist_ok=True)
    pid_file.unlink(missing_ok=True)
    exit_file.unlink(missing_ok=True)
    with log.open("ab") as stream:
        subprocess.run(
            ["/bin/sh", "-c", _LAUNCHER, _WATCHER, str(record), *argv],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
            check=True,
        )
    deadline = time.monotonic() + SPAWN_SECONDS
    while not pid_file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{argv[0]} was not started within {SPAWN_SECONDS:.0f} s; see {log}")
        time.sleep(POLL_SECONDS / 4)
    return identify(int(pid_file.read_text()))


def last_exit(record: Path) -> Exit | None:
    """Return how the process of ``record`` ended; None if it runs, or if its watcher was killed too."""
    try:
        return Exit(int(_record_file(record, "exit").read_text()))
    except FileNotFoundError:
        return None


def recorded(record: Path, variable: str, value: str) -> ProcessIdentity | None:
    """Return the process of ``record`` if it runs and its environment has ``variable=value``.

    The launcher writes the record, so this also finds a process whose starter was killed right after.
    """
    try:
        pid = int(_record_file(record, "pid").read_text())
    except FileNotFoundError:
        return None
    return identify(pid) if _has_mark(pid, variable, value) else None


def stop(identity: ProcessIdentity, *, grace_seconds: float) -> bool:
    """End a process: SIGTERM, then after the grace period SIGKILL. True if it ended by itself in time."""
    identity.send(signal.SIGTERM)
    if _wait_gone(identity, grace_seconds):
        return True
    identity.send(signal.SIGKILL)
    if not _wait_gone(identity, SPAWN_SECONDS):
        raise TimeoutError(f"process {identity.pid} is still there {SPAWN_SECONDS:.0f} s after SIGKILL")
    return False


def processes_marked(variable: str, value: str) -> list[ProcessIdentity]:
    """Return this user's other processes whose environment at their start had ``variable=value``."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    marked = [pid for pid in pids if pid != os.getpid() and _has_mark(pid, variable, value)]
    return [identity for pid in marked if (identity := identify(pid)) is not None]


def _has_mark(pid: int, variable: str, value: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # another user's, or gone since
        return False
    return f"{variable}={value}".encode() in environment.split(b"\0")


def _wait_gone(identity: ProcessIdentity, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while identity.is_alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _record_file(record: Path, suffix: str) -> Path:
    return record.with_name(f"{record.name}.{suffix}")
