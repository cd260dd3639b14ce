"""Starting, watching and stopping the processes of one cluster, with the state file as their record."""

from __future__ import annotations

import datetime as dt
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nascale.local import components as parts
from nascale.local import processes
from nascale.local.components import Component
from nascale.local.errors import ClusterError
from nascale.local.go_builds import Report
from nascale.local.layout import ClusterState, Layout, ProcessRecord
from nascale.local.processes import Exit, ProcessState

START_SECONDS: Final = 90.0
"""How long one group of processes may take until it is ready; about 4 s on an idle machine."""
READY_POLL_SECONDS: Final = 0.05
LOG_TAIL_LINES: Final = 15
EXIT_RECORD_SECONDS: Final = 5.0
"""How long the watcher of a process that is gone may take to write down its exit code, on a busy machine."""
GRACE_SECONDS: Final = 10.0
STRAY_GRACE_SECONDS: Final = 2.0


@dataclass(frozen=True)
class ProcessStatus:
    """How one process is."""

    name: str
    state: ProcessState
    pid: int | None
    exit: Exit | None
    started: dt.datetime | None
    log: Path


class ClusterProcesses:
    """The processes of one cluster. The caller holds the cluster's lock for all that changes something."""

    def __init__(self, name: str, layout: Layout) -> None:
        """Refer to the processes, whether there are any or not."""
        self._name = name
        self._layout = layout

    def state(self) -> ClusterState:
        """Return the cluster's state.

        Raises:
            ClusterError: there is no such cluster.
        """
        state = self._layout.read_state()
        if state is None:
            raise ClusterError(f"there is no cluster {self._name!r} in {self._layout.directory.parent}")
        return state

    def launch(self, components: Sequence[Component], say: Report) -> None:
        """Start those that do not run as wanted, without waiting for them."""
        for component in components:
            record = self.state().processes.get(component.name)
            if record is not None and record.identity is not None and record.identity.is_alive():
                if record.revision == component.revision:
                    continue
                say(f"{component.name}: its settings changed; restarting it")
                processes.stop(record.identity, grace_seconds=component.grace_seconds)
            elif record is not None:
                say(f"{component.name}: not running; starting it again")
            self._spawn(component)

    def await_ready(self, components: Sequence[Component]) -> None:
        """Wait until all are ready.

        Raises:
            ClusterError: one ended, or was not ready in time; the message holds the end of its log.
        """
        deadline = time.monotonic() + START_SECONDS
        for component in components:
            self._wait_ready(component, deadline)

    def _spawn(self, component: Component) -> None:
        mark = (parts.DIRECTORY_VARIABLE, str(self._layout.directory))
        # An earlier "up" may have been killed between starting the process and writing the state.
        unknown = processes.recorded(self._layout.record(component.name), *mark)
        if unknown is not None:
            processes.stop(unknown, grace_seconds=component.grace_seconds)
        identity = processes.spawn(
            component.argv,
            environment={**parts.inherited_environment(self._layout), **component.environment},
            directory=self._layout.directory,
            log=self._layout.log(component.name),
            record=self._layout.record(component.name),
        )
        record = ProcessRecord(
            identity=identity, revision=component.revision, started=dt.datetime.now(dt.UTC)
        )
        state = self.state()
        self._layout.write_state(
            state.model_copy(update={"processes": {**state.processes, component.name: record}})
        )

    def _wait_ready(self, component: Component, deadline: float) -> None:
        while not component.ready():
            status = self.status(component.name)
            if status.state is not ProcessState.RUNNING:
                ended = self._awaited_exit(component.name)
                raise ClusterError(
                    f"{component.name} ended while it started ({ended or 'no exit code'}); "
                    f"the end of {status.log}:\n{_tail(status.log)}"
                )
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{component.name} was not ready within {START_SECONDS:.0f} s; "
                    f"the end of {status.log}:\n{_tail(status.log)}"
                )
            time.sleep(READY_POLL_SECONDS)

    def _awaited_exit(self, name: str) -> Exit | None:
        """Return how a process that is gone ended; its watcher writes that down right after."""
        deadline = time.monotonic() + EXIT_RECORD_SECONDS
        while (ended := processes.last_exit(self._layout.record(name))) is None:
            if time.monotonic() > deadline:
                return None
            time.sleep(READY_POLL_SECONDS)
        return ended

    def status(self, name: str) -> ProcessStatus:
        """Return how one process is."""
        record = self.state().processes.get(name)
        log = self._layout.log(name)
        if record is None:
            return ProcessStatus(name, ProcessState.STOPPED, None, None, None, log)
        if record.identity is not None and record.identity.is_alive():
            return ProcessStatus(name, ProcessState.RUNNING, record.identity.pid, None, record.started, log)
        ended = processes.last_exit(self._layout.record(name))
        return ProcessStatus(name, ProcessState.CRASHED, None, ended, record.started, log)

    def forget(self, names: Sequence[str]) -> None:
        """Stop processes and take them out of the state."""
        state = self.state()
        self.stop(names)
        kept = {name: record for name, record in state.processes.items() if name not in names}
        self._layout.write_state(state.model_copy(update={"processes": kept}))

    def stop(self, names: Sequence[str]) -> None:
        """Stop processes together: signal all, then wait for each."""
        known = self.state()
        identities = [
            record.identity
            for name in names
            if (record := known.processes.get(name)) is not None and record.identity is not None
        ]
        for identity in identities:
            identity.send(signal.SIGTERM)
        for identity in identities:
            processes.stop(identity, grace_seconds=GRACE_SECONDS)

    def stop_strays(self) -> None:
        """Stop what processes of the cluster left behind when they were killed."""
        mark = (parts.DIRECTORY_VARIABLE, str(self._layout.directory))
        strays = processes.processes_marked(*mark)
        for stray in strays:
            stray.send(signal.SIGTERM)
        for stray in strays:
            processes.stop(stray, grace_seconds=STRAY_GRACE_SECONDS)


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "(no output)"
    return "\n".join(lines[-LOG_TAIL_LINES:])
