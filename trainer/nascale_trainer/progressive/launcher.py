"""The first process of a training's container: starts the pod's training processes and starts them anew.

It imports no torch, so it is there at once and holds little memory. It works as process 1: it takes over
orphans and hands on SIGTERM. It never kills what was asked to end: the grace period is the kubelet's, which
alone knows how long it is.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from nascale.contract import environment
from nascale.contract.profile_order import ProfileOrder
from nascale.contract.run_order import RunOrder
from nascale_trainer.progressive import processes
from nascale_trainer.progressive.processes import (
    EXIT_PEER_LOST,
    EXIT_RESTART,
    EXIT_TERMINATED,
    EXIT_UNUSABLE_ORDER,
)

_COMMITTED: Final = re.compile(r"^step-([0-9]{1,18})\.g[0-9]{1,9}$")
_WATCHED: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
_POLL_SECONDS: Final = 0.2
_MAX_LINE: Final = 1 << 16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How patient the launcher is.

    Attributes:
        crashes: Crashes in a row without a newly committed checkpoint, after which it gives up.
        meetings: The same for peers that were lost, for a pod in their place may take long to come, and for
            restarts.
        linger_seconds: How long the processes beside one that has crashed may take to notice.
        switch_seconds: How long the processes beside one that asks for new processes may take to do so.
        pause_seconds: Pause after the first crash; it doubles with each further one.
    """

    crashes: int = 3
    meetings: int = 20
    linger_seconds: float = 10.0
    switch_seconds: float = 60.0
    pause_seconds: float = 1.0


class Next(Enum):
    """What follows when a pod's processes have ended."""

    END = "end"
    """The container ends."""
    RESTART = "restart"
    """New processes: the next stage wants them."""
    MEET = "meet"
    """New processes: another pod's are gone."""
    CRASH = "crash"
    """New processes, if it has not crashed too often."""


@dataclass(frozen=True)
class Verdict:
    """What follows, and the exit code if the container ends with it."""

    next: Next
    code: int


def verdict(codes: Sequence[int], *, terminating: bool) -> Verdict:
    """Decide what follows from how a pod's processes have ended.

    Args:
        codes: Exit codes of those that ended by themselves, negative for signals.
        terminating: Whether the container was asked to end.
    """
    if EXIT_UNUSABLE_ORDER in codes:
        return Verdict(Next.END, EXIT_UNUSABLE_ORDER)
    if all(code == 0 for code in codes):
        return Verdict(Next.END, 0)
    if terminating or EXIT_TERMINATED in codes:
        # Also beside a 0: a pod in its place finds the generation ended and confirms it, whereas an index
        # of the Job that has succeeded is never run again.
        return Verdict(Next.END, EXIT_TERMINATED)
    crashed = [code for code in codes if code not in (0, EXIT_RESTART, EXIT_PEER_LOST)]
    if crashed:
        return Verdict(Next.CRASH, crashed[0] if crashed[0] > 0 else 128 - crashed[0])
    if EXIT_PEER_LOST in codes:
        return Verdict(Next.MEET, EXIT_PEER_LOST)
    return Verdict(Next.RESTART, EXIT_RESTART)


def committed_step(environ: Mapping[str, str]) -> int:
    """Return the step of the newest committed checkpoint in the run's folder, -1 where there is none."""
    folder = environ.get(environment.RUN_DIRECTORY)
    if not folder:
        return -1
    try:
        names = [entry.name for entry in (Path(folder) / "checkpoints").iterdir()]
    except OSError:
        return -1
    return max((int(found[1]) for name in names if (found := _COMMITTED.match(name))), default=-1)


def main(
    command: Sequence[str],
    order: RunOrder | ProfileOrder,
    environ: Mapping[str, str],
    *,
    limits: Limits | None = None,
) -> int:
    """Run a pod's processes to the end of a generation or profile; return the container's exit code.

    Args:
        command: Starts one training process, which exits with the codes of ``processes``.
        order: The run order, or the profile order.
        environ: The container's environment; the processes inherit it.
        limits: How patient to be.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        return _Launcher(command, order.processes_per_worker, environ, limits or Limits()).run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass
class _Process:
    pid: int
    channel: socket.socket
    received: bytes = b""
    code: int | None = None
    killed: bool = False

    def send(self, number: signal.Signals) -> None:
        if self.code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        if self.code is None:
            self.killed = True
            self.send(signal.SIGKILL)


@dataclass
class _Launcher:
    command: Sequence[str]
    count: int
    environ: Mapping[str, str]
    limits: Limits
    attempt: int = 0
    terminating: bool = False
    running: list[_Process] = field(default_factory=list)
    waiting: list[_Process] = field(default_factory=list)
    failures: int = 0
    meetings: int = 0
    reached: int = -1

    def run(self) -> int:
        self.reached = committed_step(self.environ)
        try:
            while True:
                self._start()
                found = self._watch()
                if found.next is not Next.END:
                    found = self._count(found)
                if self.terminating and found.next is not Next.END:
                    found = Verdict(Next.END, EXIT_TERMINATED)
                if found.next is Next.END:
                    return found.code
        finally:
            self._dismiss()

    def _start(self) -> None:
        """Let the waiting processes go, or start new ones; those that have died meanwhile are replaced."""
        self.attempt += 1
        ready, self.waiting = self.waiting, []
        self.running = []
        for place in range(self.count):
            process = ready[place] if place < len(ready) else None
            if process is None or not self._let_go(process):
                process = self._spawn(place, {})
            self.running.append(process)

    def _let_go(self, process: _Process) -> bool:
        if process.code is not None:
            return False
        try:
            process.channel.sendall(processes.start_message(self.attempt))
        except OSError:
            process.kill()
            return False
        return True

    def _spawn(self, place: int, extra: Mapping[str, str]) -> _Process:
        ours, theirs = socket.socketpair()
        variables = {
            **self.environ,
            processes.LOCAL_RANK: str(place),
            processes.ATTEMPT: str(self.attempt),
            processes.STARTED_AT: repr(time.time()),
            **extra,
        }
        program = shutil.which(self.command[0]) or self.command[0]
        with theirs:
            pid = os.posix_spawn(
                program,
                list(self.command),
                variables,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)],
                setsigmask=(),
                setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGCHLD),
            )
        ours.setblocking(False)
        return _Process(pid, ours)

    def _watch(self) -> Verdict:
        """Wait for the end of all running processes."""
        deadline: float | None = None
        while alive := [process for process in self.running if process.code is None]:
            if deadline is None and (patience := self._patience()) is not None:
                deadline = time.monotonic() + patience
            if deadline is not None and time.monotonic() >= deadline:
                log.warning("ended %d processes that outlived the others", len(alive))
                for process in alive:
                    process.kill()
                deadline = float("inf")
            self._wait(_POLL_SECONDS)
            self._listen()
        codes = [process.code for process in self.running if process.code is not None and not process.killed]
        for process in self.running:
            process.channel.close()
        found = verdict(codes, terminating=self.terminating)
        log.info("processes ended with %s: %s", codes, found.next.value)
        return found

    def _patience(self) -> float | None:
        """Return how long the others may go on after the first has ended; ``None``: as long as they like."""
        ended = [process.code for process in self.running if process.code is not None]
        if self.terminating or all(code == 0 for code in ended):
            # Who was asked to end has the kubelet's grace; beside a success, another may export the model.
            return None
        if all(code in (0, EXIT_RESTART) for code in ended):
            return self.limits.switch_seconds
        return self.limits.linger_seconds

    def _count(self, found: Verdict) -> Verdict:
        """Give up after too many crashes without progress; pause before the next try."""
        step = committed_step(self.environ)
        if step > self.reached:
            self.reached, self.failures, self.meetings = step, 0, 0
        pause = 0.0
        if found.next is Next.CRASH:
            self.failures += 1
            if self.failures >= self.limits.crashes:
                log.error("%d crashes without a new checkpoint: the container ends", self.failures)
                return Verdict(Next.END, found.code)
            pause = self.limits.pause_seconds * 2 ** (self.failures - 1)
        else:
            self.meetings += 1
            if self.meetings >= self.limits.meetings:
                log.error("%d starts without a new checkpoint: the container ends", self.meetings)
                return Verdict(Next.END, found.code)
        if found.next is not Next.RESTART:
            self._dismiss()
        end = time.monotonic() + pause
        while not self.terminating and (left := end - time.monotonic()) > 0:
            self._wait(left)
        return found

    def _listen(self) -> None:
        """Hear the first process announce a restart, and start the next processes early."""
        first = self.running[0]
        with suppress(BlockingIOError, ConnectionError):
            first.received += first.channel.recv(_MAX_LINE)
        line, newline, rest = first.received.partition(b"\n")
        if not newline:
            if len(line) > _MAX_LINE:
                first.received = b""
            return
        first.received = rest
        variables = processes.parse_announcement(line)
        if variables is None or self.terminating:
            return
        self._dismiss()  # announced twice: an edit has changed the next stage
        self.waiting = [
            self._spawn(place, {**variables, processes.STANDBY: "1"}) for place in range(self.count)
        ]

    def _dismiss(self) -> None:
        for process in self.waiting:
            process.kill()
            process.channel.close()
        self.waiting = []

    def _wait(self, seconds: float) -> None:
        """Wait for a signal or some time; hand SIGTERM on; learn who has ended, orphans included."""
        information = signal.sigtimedwait(_WATCHED, seconds)
        if information is not None and information.si_signo in (signal.SIGTERM, signal.SIGINT):
            self.terminating = True
            self._dismiss()
            for process in self.running:
                process.send(signal.SIGTERM)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for process in (*self.running, *self.waiting):
                if process.pid == pid:
                    process.code = os.waitstatus_to_exitcode(status)
