"""The node: takes the pods that the scheduler gives it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Mapping
from typing import Any, Final

from nascale.api.quantity import parse_quantity
from nascale.local.node.addresses import AddressPool
from nascale.local.node.admission import check_fit
from nascale.local.node.api import ApiClient, Collection, follow
from nascale.local.node.clock import parse_timestamp, timestamp
from nascale.local.node.credentials import Credentials, load_credentials
from nascale.local.node.devices import assign_devices
from nascale.local.node.environment import GPU_RESOURCE
from nascale.local.node.events import EventRecorder
from nascale.local.node.log_server import LogServer
from nascale.local.node.pod import TERMINAL_PHASES, NodeServices, PodWorker
from nascale.local.node.pod_environment import Host
from nascale.local.node.process import kill_marked
from nascale.local.node.provisioner import Provisioner
from nascale.local.node.record import ContainerRecord, PodDirectory, PodRecord, stored_uids
from nascale.local.node.references import References
from nascale.local.node.registration import Registration
from nascale.local.node.settings import NodeSettings
from nascale.local.node.spawner import Spawner

logger = logging.getLogger(__name__)

Json = dict[str, Any]

USER_AGENT: Final = "nascale-node"


class NodeAgent:
    """Runs the pods that are bound to one node."""

    def __init__(self, settings: NodeSettings, credentials: Credentials, client: ApiClient) -> None:
        """Do nothing yet."""
        self._settings = settings
        self._client = client
        self._pods_directory = settings.state_directory / "pods"
        self._addresses = AddressPool(settings.pod_range)
        gpus = settings.capacity.get(GPU_RESOURCE)
        self._gpus = int(parse_quantity(gpus or "0"))
        self._credentials = credentials
        self._references = References(client)
        self._spawner = Spawner(settings.state_directory)
        self._services = NodeServices(
            client=client,
            references=self._references,
            spawner=self._spawner,
            events=EventRecorder(client, settings.name),
            host=Host(
                credentials.host, credentials.port, settings.state_directory, gives_devices=gpus is not None
            ),
            node_name=settings.name,
            host_address=settings.address,
            allocatable=settings.capacity,
        )
        self._workers: dict[str, PodWorker] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}
        self._removals: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take pods until cancelled. Containers go on when the node ends."""
        self._pods_directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._spawner.start()
        pods = Collection("/api/v1/pods", {"fieldSelector": f"spec.nodeName={self._settings.name}"})
        async with LogServer(self._settings, self._credentials, self._client, self.find_logs) as server:
            registration = Registration(self._client, self._settings, server.port)
            await registration.register()
            logger.info("node %s takes pods; logs on port %d", self._settings.name, server.port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(registration.heartbeat())
                    group.create_task(follow(self._client, pods, self._on_list, self._on_event))
                    if self._settings.claims_directory is not None:
                        group.create_task(Provisioner(self._client, self._settings.claims_directory).run())
            finally:
                await self._let_go()

    def find_logs(self, namespace: str, pod: str) -> PodWorker | None:
        """Return the newest pod of that name that the node knows."""
        found = [
            worker
            for worker in self._workers.values()
            if (worker.record.namespace, worker.record.name) == (namespace, pod)
        ]
        return found[-1] if found else None

    async def _on_list(self, pods: list[Json]) -> None:
        present = {pod["metadata"]["uid"] for pod in pods}
        for uid in [uid for uid in self._workers if uid not in present]:
            self._remove(uid)
        await self._sweep({pod["metadata"]["uid"]: pod for pod in pods})
        # Pods that an earlier run of the node has taken come first: they need no admission.
        known = stored_uids(self._pods_directory)
        pods.sort(key=lambda pod: (pod["metadata"]["uid"] not in known, pod["metadata"]["creationTimestamp"]))
        for pod in pods:
            self._take(pod)

    async def _on_event(self, kind: str, pod: Json) -> None:
        if kind == "DELETED":
            worker = self._workers.get(pod["metadata"]["uid"])
            if worker is not None:
                worker.pod = pod
                self._remove(worker.uid)
        else:
            self._take(pod)

    async def _sweep(self, present: Mapping[str, Json]) -> None:
        """Remove what pods left behind that were deleted, or ended, while the node was down."""
        known = stored_uids(self._pods_directory)
        gone = {uid for uid in known if uid not in present and uid not in self._workers}
        over = {
            uid for uid, pod in present.items() if (pod.get("status") or {}).get("phase") in TERMINAL_PHASES
        }
        doomed = {uid for uid in gone | over if uid not in self._workers}
        if doomed:
            await kill_marked(lambda value: value.split("/", 1)[0] in doomed)
        for uid in gone:
            await asyncio.to_thread(shutil.rmtree, known[uid], ignore_errors=True)

    def _take(self, pod: Json) -> None:
        """Run a pod that is new, or hand a newer version to the worker that runs it."""
        try:
            self._take_or_raise(pod)
        except Exception:
            # One pod that can't be dealt with must not end the node, and with it the care for all others.
            logger.exception("pod %s/%s", pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _take_or_raise(self, pod: Json) -> None:
        metadata = pod["metadata"]
        uid = metadata["uid"]
        if uid in self._workers:
            self._workers[uid].update(pod)
            return
        directory = PodDirectory(self._pods_directory, metadata["namespace"], metadata["name"], uid)
        directory.create()
        record = directory.load()
        if record is None:
            record = self._admit(pod)
            directory.save(record)
        elif record.address not in ("", self._settings.address):
            self._addresses.claim(record.address)
        worker = self._workers[uid] = PodWorker(self._services, pod, record, directory)
        run = self._runs[uid] = asyncio.create_task(worker.run(), name=f"pod {metadata['name']}")
        run.add_done_callback(_report)

    def _admit(self, pod: Json) -> PodRecord:
        """Give a new pod an address and devices, or note why it can't run here."""
        metadata = pod["metadata"]
        record = PodRecord(
            uid=metadata["uid"],
            namespace=metadata["namespace"],
            name=metadata["name"],
            start_time=timestamp(),
            address="",
        )
        if (pod.get("status") or {}).get("phase") in TERMINAL_PHASES:
            return record
        others = [worker for worker in self._workers.values() if not worker.ended]
        refusal = check_fit(pod, [worker.pod for worker in others], self._settings.capacity)
        if refusal is not None:
            record.failure = {"reason": refusal.reason, "message": refusal.message}
            return record
        try:
            own = not pod["spec"].get("hostNetwork")
            record.address = self._addresses.take() if own else self._settings.address
        except RuntimeError as error:
            record.failure = {"reason": "OutOfpodIPs", "message": str(error)}
            return record
        self._note_lost_runs(pod, record)
        record.devices = assign_devices(
            pod["spec"]["containers"], [worker.record.devices for worker in others], self._gpus
        )
        return record

    def _note_lost_runs(self, pod: Json, record: PodRecord) -> None:
        """Note containers that ran here by the pod's status, of which the node's folder knows nothing.

        The folder was removed: their processes are gone, and they must not look as if they had never run.
        """
        status = pod.get("status") or {}
        directory = PodDirectory(self._pods_directory, record.namespace, record.name, record.uid)
        for known in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
            state = known.get("state") or {}
            since = (state.get("running") or state.get("terminated") or {}).get("startedAt")
            if since:
                attempt = known["restartCount"]
                record.containers[known["name"]] = ContainerRecord(attempt, parse_timestamp(since))
                directory.log(known["name"], attempt).touch()

    def _remove(self, uid: str) -> None:
        worker = self._workers[uid]
        removal = asyncio.create_task(self._remove_worker(worker))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)
        removal.add_done_callback(_report)

    async def _remove_worker(self, worker: PodWorker) -> None:
        run = self._runs.pop(worker.uid, None)
        if run is None:
            return  # being removed already
        await worker.remove(run)
        self._addresses.release(worker.record.address)
        del self._workers[worker.uid]

    async def _let_go(self) -> None:
        self._references.close()
        self._spawner.close()
        for worker in self._workers.values():
            worker.abandon()
        for task in [*self._runs.values(), *self._removals]:
            task.cancel()
        await asyncio.gather(*self._runs.values(), *self._removals, return_exceptions=True)


async def run_node(settings: NodeSettings) -> None:
    """Run a node until cancelled."""
    credentials = load_credentials(settings.kubeconfig)
    async with ApiClient(credentials, USER_AGENT) as client:
        with contextlib.suppress(asyncio.CancelledError):
            await NodeAgent(settings, credentials, client).run()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.error("%s ended", task.get_name(), exc_info=task.exception())
