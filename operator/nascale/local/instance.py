"""One embedded cluster: bring it up or repair it, say how it is, take it down."""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from nascale.local import access, monitoring, operator_process, owner_watch, ports, processes
from nascale.local import binaries as programs
from nascale.local import components as parts
from nascale.local.api_server import ApiServer
from nascale.local.certificates import LOOPBACK
from nascale.local.components import Component, Components, Credentials
from nascale.local.errors import ClusterError
from nascale.local.go_builds import Report
from nascale.local.layout import ClusterOptions, ClusterState, Layout
from nascale.local.locks import exclusive
from nascale.local.node import provisioner
from nascale.local.node.teardown import remove_everything
from nascale.local.places import DEFAULT_NAME, cluster_directory
from nascale.local.products import KUBECTL
from nascale.local.supervision import ClusterProcesses, ProcessStatus

STOP_TIERS: Final = (
    (parts.OPERATOR,),
    (parts.NODE,),
    (parts.PROMETHEUS, parts.SCHEDULER, parts.CONTROLLER_MANAGER),
    (parts.API_SERVER,),
    (parts.ETCD,),
)
"""What stops together. The API server is still there for those that say goodbye to it."""
POD_RANGE_FIRST: Final = 16
POD_RANGE_LAST: Final = 254


class LocalCluster:
    """An embedded cluster, by name. Making this object starts nothing."""

    def __init__(self, name: str = DEFAULT_NAME, *, root: Path | None = None) -> None:
        """Refer to the cluster ``name``, whether it exists or not.

        Args:
            name: The cluster's name, a DNS label of at most 32 characters.
            root: The folder that holds its folder; None: ``clusters_root()``.

        Raises:
            ValueError: the name is none.
        """
        self.name = name
        self.layout = Layout(cluster_directory(name, root))
        self._processes = ClusterProcesses(name, self.layout)

    @property
    def directory(self) -> Path:
        """The folder of everything that belongs to the cluster."""
        return self.layout.directory

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.layout.kubeconfig

    @property
    def audit_log(self) -> Path:
        """The API server's audit log: one JSON document per line and request."""
        return self.layout.audit_log

    @property
    def prometheus_url(self) -> str:
        """Where Prometheus is reached."""
        return f"http://{LOOPBACK}:{self.port(parts.PROMETHEUS)}"

    @property
    def operator_url(self) -> str:
        """Where the operator's own ``/metrics`` and ``/healthz`` are reached."""
        return f"http://{LOOPBACK}:{self.port(parts.OPERATOR_METRICS)}"

    def port(self, name: str) -> int:
        """Return one of the ports on the loopback address that were chosen at the first ``up``."""
        return self._processes.state().ports[name]

    def exists(self) -> bool:
        """Whether the cluster has been brought up and not taken down since."""
        return self.layout.state_file.exists()

    def options(self) -> ClusterOptions:
        """What the cluster is asked to be."""
        return self._processes.state().options

    def up(
        self,
        changes: dict[str, Any] | None = None,
        *,
        owner: int | None = None,
        report: Report | None = None,
    ) -> ClusterState:
        """Start what does not run, with the data and ports that it had, and wait until all is ready.

        Args:
            changes: Fields of ``ClusterOptions`` that differ from now on; the rest stays as it was.
            owner: The pid of a process that the cluster belongs to from its start on; see ``end_with``.
            report: Takes a line about each step that takes time.

        Raises:
            ClusterError: a process ended, or was not ready in time; the message holds the end of its log.
            BuildError: a program could not be built.
            pydantic.ValidationError: an option is out of its range.
        """
        say = report if report is not None else _silent
        found = programs.ensure(report=say)
        with self._lock(say):
            state = self._prepare(changes or {})
            if owner is not None:
                self.end_with(owner)
            builder = Components(self.layout, state, found, Credentials(self.layout, state))
            self._stop_unwanted(state.options)
            foundation = [builder.etcd(), builder.api_server()]
            self._processes.launch(foundation, say)
            self._processes.await_ready(foundation)
            # The others only need the API, so all start at once.
            rest = [builder.controller_manager(), builder.scheduler()]
            if state.options.node:
                storage = provisioner.manifests(parts.node_name(state))
                access.apply_all(builder.admin, [_kubelet_client_binding(), *storage])
                rest.append(builder.node(state.options.capacity or machine_capacity()))
            self._processes.launch(rest, say)
            if state.options.prometheus:
                rest.append(self._prometheus(builder, state))
                self._processes.launch(rest[-1:], say)
            if state.options.operator:
                operator_process.install(builder.admin, self.layout, state)
                rest.append(builder.operator())
                self._processes.launch(rest[-1:], say)
            self._processes.await_ready(rest)
            return self._processes.state()

    def stop(self, component: str) -> None:
        """Stop one process, until the next ``up``.

        Raises:
            ClusterError: there is no such cluster.
        """
        with self._lock(_silent):
            self._processes.forget([component])

    def end_with(self, pid: int) -> None:
        """Take the cluster down, with all its data, when the process ``pid`` ends, however it ends.

        Raises:
            ClusterError: there is no such process.
        """
        owner = processes.identify(pid)
        if owner is None:
            raise ClusterError(f"there is no process {pid} to end cluster {self.name} with")
        processes.spawn(
            owner_watch.command(self.name, self.directory.parent, owner),
            environment=parts.inherited_environment(self.layout),
            directory=self.directory.parent,
            log=self.layout.log("owner-watch"),
            record=self.layout.record("owner-watch"),
        )

    def status(self) -> tuple[ProcessStatus, ...]:
        """Return how each process of the cluster is, in the order of starting.

        Raises:
            ClusterError: there is no such cluster.
        """
        state = self._processes.state()
        wanted = [name for name in parts.ALL if name in state.processes or getattr(state.options, name, True)]
        return tuple(self._processes.status(name) for name in wanted)

    def down(self, *, keep_data: bool = False, report: Report | None = None) -> None:
        """Stop everything, and remove the cluster's folder unless its data shall stay for a later ``up``.

        Does nothing where there is no such cluster.
        """
        if not self.directory.exists():
            return
        say = report if report is not None else _silent
        with self._lock(say):
            state = self.layout.read_state()
            if state is not None:
                for tier in STOP_TIERS:
                    self._processes.stop(tier)
                    if parts.NODE in tier:
                        # Containers outlive the node's process, whether it was stopped or crashed.
                        remove_everything(self.layout.data(parts.NODE))
            self._processes.stop_strays()
            if keep_data and state is not None:
                self.layout.write_state(state.model_copy(update={"processes": {}}))
            else:
                shutil.rmtree(self.directory)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as the cluster's administrator and return what it prints.

        Raises:
            ClusterError: kubectl failed, and ``check`` is set; the message holds what it says.
        """
        result = subprocess.run(
            [str(self._kubectl), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and result.returncode != 0:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def api(self) -> ApiServer:
        """Return plain requests to the API server as the cluster's administrator."""
        state = self._processes.state()
        credentials = Credentials(self.layout, state)
        return ApiServer(state.ports[parts.API_SERVER], credentials.authority, pair=credentials.admin)

    @functools.cached_property
    def _kubectl(self) -> Path:
        return programs.ensure([KUBECTL])["kubectl"]

    def _lock(self, say: Report) -> Any:
        # Beside the folder, because the folder goes while the lock is held.
        path = self.directory.with_name(f".{self.name}.lock")
        return exclusive(path, waiting=lambda: say(f"another command works on cluster {self.name}; waiting"))

    def _prepare(self, changes: dict[str, Any]) -> ClusterState:
        state = self.layout.read_state()
        before = state.options if state is not None else ClusterOptions()
        options = ClusterOptions.model_validate({**before.model_dump(), **changes})
        if state is None:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            state = _new_state(self.name, self.layout, options)
        else:
            state = state.model_copy(update={"options": options})
        self.layout.write_state(state)
        return state

    def _prometheus(self, builder: Components, state: ClusterState) -> Component:
        api_port = state.ports[parts.API_SERVER]
        monitoring.grant_access(builder.admin, self.layout)
        monitoring.write_configuration(
            self.layout,
            api_port=api_port,
            own_port=state.ports[parts.PROMETHEUS],
            operator_port=state.ports[parts.OPERATOR_METRICS] if state.options.operator else None,
            scrape_seconds=state.options.scrape_seconds,
        )
        return builder.prometheus()

    def _stop_unwanted(self, options: ClusterOptions) -> None:
        optional = (parts.OPERATOR, parts.NODE, parts.PROMETHEUS)
        self._processes.forget([name for name in optional if not getattr(options, name)])


def machine_capacity() -> str:
    """Return the node's default resources: the processors that we may use, the memory, the NVIDIA GPUs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    devices = [path for path in Path("/dev").glob("nvidia[0-9]*") if path.name[len("nvidia") :].isdigit()]
    processors = len(os.sched_getaffinity(0))
    return f"cpu={processors},memory={memory // 2**20}Mi,nvidia.com/gpu={len(devices)}"


def _new_state(name: str, layout: Layout, options: ClusterOptions) -> ClusterState:
    """Choose ports and a range of pod addresses that no other cluster beside this one has."""
    with exclusive(layout.directory.parent / ".ports.lock"):
        others = [
            state
            for other in Layout.all_below(layout.directory.parent)
            if (state := other.read_state()) is not None
        ]
        reserved = {port for other in others for port in other.ports.values()}
        chosen = ports.choose(parts.PORT_NAMES, reserved=reserved)
        ranges = [f"127.{second}.0.0/16" for second in range(POD_RANGE_FIRST, POD_RANGE_LAST + 1)]
        free = sorted(set(ranges) - {other.pod_range for other in others})
        if not free:
            raise ClusterError(f"all {len(ranges)} ranges of pod addresses in 127.0.0.0/8 are taken")
        # Random, because clusters of other users of this machine can't be seen.
        pod_range = random.SystemRandom().choice(free)
        state = ClusterState(name=name, ports=chosen, pod_range=pod_range, options=options)
        layout.write_state(state)
    return state


def _kubelet_client_binding() -> access.Manifest:
    """Let the API server ask the node for logs: the node checks who asks."""
    return access.binding(
        "nascale-local-kubelet-client",
        role="system:kubelet-api-admin",
        subject=access.user(parts.KUBELET_CLIENT),
        labels={"app.kubernetes.io/part-of": "nascale-local"},
    )


def _silent(_line: str) -> None:
    """Report nothing."""
