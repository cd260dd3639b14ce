"""One container of a pod: its runs one after the other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nascale.local.node import shim
from nascale.local.node.clock import timestamp
from nascale.local.node.environment import Invocation
from nascale.local.node.errors import ConfigurationMissingError, StartRefusedError
from nascale.local.node.probes import ProbeResult, make_check, watch
from nascale.local.node.process import (
    ContainerKey,
    ContainerProcess,
    ExitRecord,
    kill_marked,
    read_exit_record,
)
from nascale.local.node.record import ContainerRecord, PodDirectory
from nascale.local.node.spawner import Spawner
from nascale.local.node.status import ContainerView, restarts, termination_reason
from nascale.local.node.termination import read_message

logger = logging.getLogger(__name__)

Json = dict[str, Any]

BACK_OFF_SECONDS: Final = (10.0, 300.0)
FORGIVEN_SECONDS: Final = 600.0
"""A run that lasted this long starts the back-off anew."""
KILLED_EXIT_CODE: Final = 137


@dataclass(frozen=True)
class PodFacts:
    """What a container needs of its pod."""

    pod: Mapping[str, Any]
    directory: PodDirectory
    spawner: Spawner
    address: Callable[[], str]
    invocation: Callable[[Mapping[str, Any], int], Awaitable[Invocation]]
    """From a container's spec and the number of its run to what is started."""
    probe_invocation: Callable[[Mapping[str, Any], Invocation, list[str]], Invocation]
    """What an exec probe's command runs as."""
    changed: Callable[[], None]
    """Something of the status changed."""
    save: Callable[[], None]
    """Something of the record changed."""
    warn: Callable[[str, str], None]
    """Records an event: reason, message."""
    message_limit: int


class ContainerRunner:
    """Runs one container until it will not start again."""

    def __init__(
        self,
        spec: Mapping[str, Any],
        record: ContainerRecord,
        facts: PodFacts,
        *,
        init: bool,
        waiting: str,
    ) -> None:
        """Start nothing yet; ``waiting`` is the reason until something starts."""
        self.spec = spec
        self.name: str = spec["name"]
        self.record = record
        self.init = init
        self.state: Json = {"waiting": {"reason": waiting}}
        self.ready = False
        self.started = False
        self.finished = False
        """It ended and will not start again."""
        self._facts = facts
        self._process: ContainerProcess | None = None
        self._killing: asyncio.TimerHandle | None = None
        self._stopped = False
        self._wake = asyncio.Event()
        self._probing: asyncio.Task[None] | None = None

    def view(self) -> ContainerView:
        """Return what the status says of this container."""
        return ContainerView(
            spec=self.spec,
            state=self.state,
            last=self.record.last,
            attempt=self.record.attempt,
            ready=self.ready,
            started=self.started,
            container_id=str(self._key()) if self.record.started is not None else "",
        )

    @property
    def active(self) -> bool:
        """Whether its processes run."""
        return self._process is not None

    @property
    def exit_code(self) -> int | None:
        """The exit code of the latest run, or None while it has none."""
        code = self.state.get("terminated", {}).get("exitCode")
        return None if code is None else int(code)

    async def run(self) -> None:
        """Run the container until it will not start again, or was stopped for good."""
        ended = await self._resume()
        while not self._stopped:
            if ended is None:
                ended = await self._run_once()
                if ended is None:
                    break  # stopped before it began
            if self.finished:
                break
            await self._back_off(ended)
            if self._stopped:
                break
            self.record.last = self.state.get("terminated", self.record.last)
            self.record.attempt += 1
            self.record.started = None
            ended = None
        if not self.finished:
            self._never_ran()

    def take_up(self) -> None:
        """Find the process that an earlier run of the node started, if it still runs."""
        if self.record.started is not None:
            self._process = ContainerProcess.adopt(self._key(), self._exit_file())

    def stop(self, grace_seconds: float) -> None:
        """End the container for good: SIGTERM now, SIGKILL after the grace period."""
        self._stopped = True
        self._wake.set()
        self._end_process(grace_seconds)

    def nudge(self) -> None:
        """Something that the container may be waiting for changed."""
        self._wake.set()

    def abandon(self) -> None:
        """Let go of a running container: the node stops, the container goes on."""
        if self._probing is not None:
            self._probing.cancel()
        if self._killing is not None:
            self._killing.cancel()
        if self._process is not None:
            self._process.close()

    async def _resume(self) -> ExitRecord | None:
        """See an earlier run of the node to its end; return how it ended, or None if it never began."""
        if self.record.started is None:
            return None
        if self._process is not None:
            return await self._watch_process(await self._resumed_invocation())
        ended = read_exit_record(self._exit_file())
        if ended is None and not self._facts.directory.log(self.name, self.record.attempt).exists():
            self.record.started = None  # the node died before anything had begun
            return None
        await self._finish(ended)
        return ended or self._lost()

    async def _resumed_invocation(self) -> Invocation:
        """Return what a running container was started with; its probes run the same way."""
        try:
            return await self._facts.invocation(self.spec, self.record.attempt)
        except (ConfigurationMissingError, StartRefusedError) as error:
            logger.warning("%s: its configuration is gone: %s", self._key(), error)
            return Invocation((), {}, "/")

    async def _run_once(self) -> ExitRecord | None:
        invocation = await self._configured()
        if invocation is None or self._stopped:
            return None
        self.record.started = time.time()
        self._facts.save()
        try:
            if isinstance(invocation, StartRefusedError):
                raise invocation
            self._process = ContainerProcess.start(
                self._facts.spawner,
                self._key(),
                invocation,
                log=self._facts.directory.log(self.name, self.record.attempt),
                record=self._exit_file(),
            )
        except StartRefusedError as error:
            shim.write_record(
                str(self._exit_file()).encode(), shim.NOT_STARTED, self.record.started, str(error)
            )
            self._facts.warn("Failed", f"Error: {error}")
            ended = read_exit_record(self._exit_file())
            await self._finish(ended)
            return ended
        return await self._watch_process(invocation)

    async def _configured(self) -> Invocation | StartRefusedError | None:
        """Wait until all that the container refers to is there; None where it was stopped meanwhile."""
        while not self._stopped:
            self._wake.clear()
            try:
                return await self._facts.invocation(self.spec, self.record.attempt)
            except StartRefusedError as error:
                return error
            except ConfigurationMissingError as error:
                self.state = {"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}}
                self._facts.changed()
                self._facts.warn("Failed", f"Error: {error}")
            await self._wake.wait()
        return None

    async def _watch_process(self, invocation: Invocation) -> ExitRecord:
        process = self._process
        if process is None:
            raise RuntimeError("there is no process to watch")
        self.state = {"running": {"startedAt": timestamp(self.record.started)}}
        self.started = "startupProbe" not in self.spec
        self.ready = self.started and "readinessProbe" not in self.spec
        self._facts.changed()
        if any(kind in self.spec for kind in ("startupProbe", "livenessProbe", "readinessProbe")):
            self._probing = asyncio.create_task(self._probe(invocation))
        ended = await process.wait()
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None
        if self._killing is not None:
            self._killing.cancel()
            self._killing = None
        await self._finish(ended)
        return ended or self._lost()

    async def _finish(self, ended: ExitRecord | None) -> None:
        """Kill what the container left behind and note how it ended."""
        key = str(self._key())
        await kill_marked(lambda value: value == key)
        outcome = ended or self._lost()
        if ended is None:
            reason = "ContainerStatusUnknown"
            message = "The container's processes were gone and had left no exit code"
        elif ended.error:
            reason, message = "StartError", ended.error
        else:
            reason = termination_reason(ended.exit_code)
            directory = self._facts.directory
            message = read_message(
                directory.termination_message(self.name, self.record.attempt),
                directory.log(self.name, self.record.attempt)
                if self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError" and ended.exit_code
                else None,
                self._facts.message_limit,
            )
        self._process = None
        terminated: Json = {
            "exitCode": outcome.exit_code,
            "reason": reason,
            "startedAt": timestamp(self.record.started),
            "finishedAt": timestamp(outcome.finished),
            "containerID": f"nascale-local://{key}",
        }
        if message:
            terminated["message"] = message
        self.state = {"terminated": terminated}
        self.started = False
        self.ready = self.init and outcome.exit_code == 0
        self.finished = self._stopped or not self._restarts(outcome)
        self._facts.changed()

    def _restarts(self, ended: ExitRecord) -> bool:
        policy = self._facts.pod["spec"].get("restartPolicy", "Always")
        return restarts(policy, ended.exit_code, init=self.init)

    async def _back_off(self, ended: ExitRecord) -> None:
        """Wait before the next run: not after the first end, then 10 s, doubling up to 300 s."""
        if ended.finished - ended.started >= FORGIVEN_SECONDS:
            self.record.crashes = 0
        crashes = self.record.crashes
        # Counted when the wait is over, so that a node that starts in the middle of it waits no longer.
        await self._wait_back_off(ended, crashes)
        self.record.crashes = crashes + 1

    async def _wait_back_off(self, ended: ExitRecord, crashes: int) -> None:
        if crashes == 0:
            return
        first, longest = BACK_OFF_SECONDS
        delay = min(longest, first * 2 ** (crashes - 1))
        until = ended.finished + delay
        metadata = self._facts.pod["metadata"]
        message = (
            f"back-off {delay:.0f}s restarting failed container={self.name} "
            f"pod={metadata['name']}_{metadata['namespace']}({metadata['uid']})"
        )
        self.record.last = self.state["terminated"]
        self.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        self._facts.changed()
        self._facts.warn(
            "BackOff", f"Back-off restarting failed container {self.name} in pod {metadata['name']}"
        )
        while not self._stopped and (remaining := until - time.time()) > 0:
            self._wake.clear()
            try:
                async with asyncio.timeout(remaining):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _probe(self, invocation: Invocation) -> None:
        async def run(kind: str, on_change: Callable[[ProbeResult], bool], *, initially: bool | None) -> None:
            probe = self.spec.get(kind)
            if probe is None:
                return
            command = list((probe.get("exec") or {}).get("command") or [])
            made = self._facts.probe_invocation(self.spec, invocation, command)
            check = make_check(probe, self.spec, self._facts.address(), made)
            await watch(probe, check, on_change, initially=initially)

        try:
            if "startupProbe" in self.spec:
                await self._start_up(run)
            await asyncio.gather(
                run("livenessProbe", self._on_liveness, initially=True),
                run("readinessProbe", self._on_readiness, initially=False),
            )
        except StartRefusedError as error:
            self._facts.warn("Unhealthy", str(error))
            self._end_process(self._grace({}))

    async def _start_up(self, run: Callable[..., Awaitable[None]]) -> None:
        outcome: list[bool] = []

        def on_change(result: ProbeResult) -> bool:
            outcome.append(result.healthy)
            return False

        # Neither answer holds before the first turn, so both count as one.
        await run("startupProbe", on_change, initially=None)
        if not outcome or not outcome[0]:
            self._facts.warn("Unhealthy", f"Container {self.name} failed startup probe, will be restarted")
            self._end_process(self._grace(self.spec["startupProbe"]))
            await asyncio.Event().wait()  # until the process has ended and this task is cancelled
        self.started = True
        self.ready = "readinessProbe" not in self.spec
        self._facts.changed()

    def _on_liveness(self, result: ProbeResult) -> bool:
        if result.healthy:
            return True
        self._facts.warn(
            "Unhealthy", f"Container {self.name} failed liveness probe, will be restarted: {result.message}"
        )
        self._end_process(self._grace(self.spec["livenessProbe"]))
        return False

    def _on_readiness(self, result: ProbeResult) -> bool:
        if not result.healthy:
            self._facts.warn("Unhealthy", f"Readiness probe failed: {result.message}")
        self.ready = result.healthy
        self._facts.changed()
        return True

    def _grace(self, probe: Mapping[str, Any]) -> float:
        seconds = probe.get("terminationGracePeriodSeconds")
        if seconds is None:
            seconds = self._facts.pod["spec"].get("terminationGracePeriodSeconds", 30)
        return float(seconds)

    def _end_process(self, grace_seconds: float) -> None:
        process = self._process
        if process is None:
            return
        loop = asyncio.get_running_loop()
        if self._killing is None:
            process.terminate()
        elif self._killing.when() <= loop.time() + grace_seconds:
            return  # it ends earlier than that already
        else:
            self._killing.cancel()
        self._killing = loop.call_later(grace_seconds, process.kill)

    def _key(self) -> ContainerKey:
        return ContainerKey(self._facts.pod["metadata"]["uid"], self.name, self.record.attempt)

    def _exit_file(self) -> Path:
        return self._facts.directory.exit_record(self.name, self.record.attempt)

    def _lost(self) -> ExitRecord:
        now = time.time()
        return ExitRecord(KILLED_EXIT_CODE, self.record.started or now, now)

    def _never_ran(self) -> None:
        """Note the end of a container that was stopped while it waited to run (again)."""
        self.finished = True
        if self.record.last is not None:
            self.state = {"terminated": self.record.last}
        self.ready = self.started = False
        self._facts.changed()
