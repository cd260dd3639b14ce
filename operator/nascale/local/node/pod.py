"""One pod on the node, from its arrival to its removal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from nascale.local.node.api import CONFLICT, NOT_FOUND, ApiClient, ApiError
from nascale.local.node.clock import parse_timestamp, timestamp
from nascale.local.node.container import ContainerRunner, PodFacts
from nascale.local.node.environment import Invocation
from nascale.local.node.errors import ConfigurationMissingError, MountPendingError, StartRefusedError
from nascale.local.node.events import EventRecorder
from nascale.local.node.fields import Placement
from nascale.local.node.pod_environment import ContainerEnvironment, Host, temporary_directory
from nascale.local.node.process import kill_marked
from nascale.local.node.publisher import StatusPublisher
from nascale.local.node.record import ContainerRecord, PodDirectory, PodRecord
from nascale.local.node.references import References
from nascale.local.node.spawner import Spawner
from nascale.local.node.status import PodView, build_status
from nascale.local.node.termination import message_limit
from nascale.local.node.volumes import PodVolumes

logger = logging.getLogger(__name__)

Json = dict[str, Any]

CREATING_SECONDS: Final = 0.3
"""A pod that takes longer than this to start says so; a quicker one saves the request."""
MOUNT_RETRY_SECONDS: Final = (0.2, 5.0)
REFRESH_RETRY_SECONDS: Final = 5.0
DELETE_RETRY_SECONDS: Final = 1.0
DEFAULT_GRACE_SECONDS: Final = 30.0
LEAST_GRACE_SECONDS: Final = 1.0
"""As the kubelet: even a pod that is deleted by force may say goodbye."""
TERMINAL_PHASES: Final = ("Succeeded", "Failed")
DEADLINE: Final = {
    "reason": "DeadlineExceeded",
    "message": "Pod was active on the node longer than the specified deadline",
}


@dataclass(frozen=True)
class NodeServices:
    """What all pods of the node share."""

    client: ApiClient
    references: References
    spawner: Spawner
    events: EventRecorder
    host: Host
    node_name: str
    host_address: str
    allocatable: Mapping[str, str]


class PodWorker:
    """Runs one pod."""

    def __init__(
        self, services: NodeServices, pod: Mapping[str, Any], record: PodRecord, directory: PodDirectory
    ) -> None:
        """Start nothing yet."""
        self.pod = pod
        self.record = record
        self.directory = directory
        self._services = services
        self._over = (pod.get("status") or {}).get("phase") in TERMINAL_PHASES
        """It ended, and was published, before this run of the node: there is nothing left to do but to go."""
        self._stopping = False
        self._prepared = False
        self._refusal: StartRefusedError | None = None
        self._folders: dict[str, Path] | None = None
        self._content_changed = asyncio.Event()
        self._deletion = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None
        self._volumes = PodVolumes(
            services.client, services.references, directory, pod, self._on_content_change
        )
        self._environment = ContainerEnvironment(services.host, directory, self._volumes)
        self._publisher = StatusPublisher(services.client, pod, self._build_status)
        spec = pod["spec"]
        init = spec.get("initContainers") or []
        facts = PodFacts(
            pod=pod,
            directory=directory,
            spawner=services.spawner,
            address=lambda: self.record.address,
            invocation=self._invocation,
            probe_invocation=self._environment.probe_invocation,
            changed=lambda: self._publisher.changed(urgent=self.ended),
            save=self._save,
            warn=lambda reason, message: services.events.warn(self.pod, reason, message),
            message_limit=message_limit(len(spec["containers"]) + len(init)),
        )
        waiting = "PodInitializing" if init else "ContainerCreating"
        self.init = [
            ContainerRunner(c, self._container_record(c), facts, init=True, waiting=waiting) for c in init
        ]
        self.containers = [
            ContainerRunner(c, self._container_record(c), facts, init=False, waiting=waiting)
            for c in spec["containers"]
        ]

    @property
    def uid(self) -> str:
        """The pod's uid."""
        return self.record.uid

    @property
    def ended(self) -> bool:
        """Whether nothing of the pod runs or will run."""
        if self._over:
            return True
        everything = [*self.init, *self.containers]
        if any(container.active for container in everything):
            return False
        return (
            self._stopping
            or any(container.finished and container.exit_code != 0 for container in self.init)
            or all(container.finished for container in self.containers)
        )

    def update(self, pod: Mapping[str, Any]) -> None:
        """Take a newer version of the pod's object."""
        old, self.pod = self.pod, pod
        if any(old["metadata"].get(key) != pod["metadata"].get(key) for key in ("labels", "annotations")):
            self._on_content_change()
        if old["spec"].get("activeDeadlineSeconds") != pod["spec"].get("activeDeadlineSeconds"):
            self._arm_deadline()
        if pod["metadata"].get("deletionTimestamp"):
            self._stop(grace_seconds(pod))
            self._deletion.set()

    def abandon(self) -> None:
        """Let go of the pod's processes: the node stops, they go on."""
        for container in [*self.init, *self.containers]:
            container.abandon()

    async def run(self) -> None:
        """Run the pod to its end, publish how it went, and delete its object once that is asked for."""
        async with _background(self._publisher.run()):
            if not self._over:
                async with _background(self._announce()):
                    await self._live_guarded()
                await self._wind_up()
            if self.pod["metadata"].get("deletionTimestamp"):
                self._deletion.set()
            await self._deletion.wait()
            await self._publisher.settle()
            # Without a grace period, as for a pod that had ended, the API server removes the object itself.
            if self.pod["metadata"].get("deletionGracePeriodSeconds") != 0:
                await self._delete()

    async def remove(self, run: asyncio.Task[None]) -> None:
        """The object is gone: end what still runs, then forget everything."""
        self._stop(grace_seconds(self.pod))
        await self._until_ended()
        run.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await run
        await self._clear()
        self.directory.remove()

    async def _live_guarded(self) -> None:
        for container in [*self.init, *self.containers]:
            container.take_up()
        if self.record.failure or self.pod["metadata"].get("deletionTimestamp"):
            self._stop(grace_seconds(self.pod))
        self._arm_deadline()
        try:
            await self._live()
        except Exception as error:
            # One pod's trouble must not end the node, nor leave the pod without an end.
            logger.exception("pod %s/%s", self.record.namespace, self.record.name)
            self.record.failure = {"reason": "NodeError", "message": f"{type(error).__name__}: {error}"}
            self._save()
            self._stop(0.0)
            await self._until_ended()

    async def _live(self) -> None:
        if not self._stopping or self._has_started():
            await self._prepare()
        async with _background(self._refresh()):
            for container in self.init:
                if self._stopping and not self._may_run(container):
                    return
                await container.run()
                if container.exit_code != 0:
                    return
            runs = [c.run() for c in self.containers if not self._stopping or self._may_run(c)]
            await asyncio.gather(*runs)

    async def _prepare(self) -> None:
        """Set up the volumes, however long that takes; a pod that runs already is not kept waiting."""
        delay = MOUNT_RETRY_SECONDS[0]
        while not self._prepared:
            self._content_changed.clear()
            try:
                self._folders = await self._volumes.sync(self.pod, self._placement())
                self._prepared = True
            except StartRefusedError as error:
                self._refusal = error
                self._prepared = True
            except MountPendingError as error:
                self._services.events.warn(self.pod, "FailedMount", str(error))
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
                self._services.events.warn(self.pod, "FailedMount", f"{type(error).__name__}: {error}")
            if self._has_started():
                self._prepared = True
                self._content_changed.set()  # _refresh goes on trying
            if self._prepared or self._stopping:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._content_changed.wait()
            delay = min(2 * delay, MOUNT_RETRY_SECONDS[1])

    async def _refresh(self) -> None:
        """Keep files of ConfigMaps, labels, annotations and tokens up to date."""
        while True:
            renewal = self._volumes.tokens.next_renewal()
            wait = None if renewal is None else max(0.0, renewal - time.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._content_changed.wait()
            self._content_changed.clear()
            try:
                self._folders = await self._volumes.sync(self.pod, self._placement())
                for container in [*self.init, *self.containers]:
                    container.nudge()
            except (
                MountPendingError,
                StartRefusedError,
                ApiError,
                aiohttp.ClientError,
                TimeoutError,
                OSError,
            ) as error:
                logger.warning("volumes of pod %s/%s: %s", self.record.namespace, self.record.name, error)
                await asyncio.sleep(REFRESH_RETRY_SECONDS)
                self._content_changed.set()

    async def _announce(self) -> None:
        await asyncio.sleep(CREATING_SECONDS)
        self._publisher.changed()

    async def _wind_up(self) -> None:
        """Nothing of the pod will start any more: publish its end and free what it used."""
        self._stopping = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._publisher.changed(urgent=True)
        await self._publisher.settle()
        await self._clear()

    async def _clear(self) -> None:
        self._services.references.release(self.uid)
        prefix = f"{self.uid}/"
        await kill_marked(lambda value: value.startswith(prefix))
        for folder in (
            self.directory.path / "volumes",
            self.directory.path / "work",
            temporary_directory(self._services.host.state_directory, self.uid),
        ):
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _delete(self) -> None:
        """Delete the pod's object for good: its processes are gone."""
        path = f"/api/v1/namespaces/{self.record.namespace}/pods/{self.record.name}"
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": self.uid},
        }
        while True:
            try:
                await self._services.client.delete(path, options)
            except ApiError as error:
                if error.status in (NOT_FOUND, CONFLICT):
                    return
                logger.warning("deleting pod %s: %s", path, error)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                logger.warning("deleting pod %s: %s", path, error or type(error).__name__)
            else:
                return
            await asyncio.sleep(DELETE_RETRY_SECONDS)

    async def _until_ended(self) -> None:
        # Rare (a deletion by force), and "ended" is computed: there is no event to wait on.
        while not self.ended:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def _invocation(self, container: Mapping[str, Any], attempt: int) -> Invocation:
        if self._refusal is not None:
            raise self._refusal
        if self._folders is None:
            raise ConfigurationMissingError("the pod's volumes are not set up yet")
        return await self._environment.invocation(
            self.pod,
            container,
            attempt,
            folders=self._folders,
            placement=self._placement(),
            devices=self.record.devices,
        )

    def _stop(self, grace: float) -> None:
        self._stopping = True
        self._on_content_change()
        for container in [*self.init, *self.containers]:
            container.stop(grace)

    def _on_deadline(self) -> None:
        if not self.ended:
            self.record.failure = dict(DEADLINE)
            self._save()
            grace = self.pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
            self._stop(float(grace))

    def _arm_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        seconds = self.pod["spec"].get("activeDeadlineSeconds")
        if seconds is not None and not self.ended:
            remaining = parse_timestamp(self.record.start_time) + float(seconds) - time.time()
            self._deadline = asyncio.get_running_loop().call_later(max(0.0, remaining), self._on_deadline)

    def _on_content_change(self) -> None:
        self._content_changed.set()

    def _has_started(self) -> bool:
        return any(record.started is not None for record in self.record.containers.values())

    def _may_run(self, container: ContainerRunner) -> bool:
        """Whether a container of a pod that is to stop must still be looked after: it may be running."""
        return container.record.started is not None

    def _container_record(self, container: Mapping[str, Any]) -> ContainerRecord:
        return self.record.containers.setdefault(container["name"], ContainerRecord())

    def _placement(self) -> Placement:
        return Placement(
            node_name=self._services.node_name,
            host_address=self._services.host_address,
            pod_address=self.record.address,
            allocatable=self._services.allocatable,
        )

    def _save(self) -> None:
        if self.directory.path.is_dir():
            self.directory.save(self.record)

    def _build_status(self, previous: list[Json]) -> Json:
        return build_status(
            PodView(
                pod=self.pod,
                host_address=self._services.host_address,
                address=self.record.address,
                start_time=self.record.start_time,
                init=[container.view() for container in self.init],
                containers=[container.view() for container in self.containers],
                failure=self.record.failure,
                ended=self.ended,
                prepared=self._prepared,
                previous=previous,
                now=timestamp(),
            )
        )


def grace_seconds(pod: Mapping[str, Any]) -> float:
    """Return how long the pod's processes may take to end."""
    seconds = pod["metadata"].get("deletionGracePeriodSeconds")
    if seconds is None:
        seconds = pod["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS)
    return max(LEAST_GRACE_SECONDS, float(seconds))


class _background:  # noqa: N801  used like a function in "async with"
    """Runs coroutines beside a block and cancels them at its end."""

    def __init__(self, *coroutines: Coroutine[Any, Any, None]) -> None:
        self._coroutines = coroutines
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        self._tasks = [asyncio.create_task(coroutine) for coroutine in self._coroutines]

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
