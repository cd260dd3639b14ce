"""The node's own object and its heartbeat."""

from __future__ import annotations

import asyncio
import logging
import platform
from typing import Any, Final

import aiohttp

from nascale.local.node.api import CONFLICT, NOT_FOUND, ApiClient, ApiError
from nascale.local.node.clock import micro_timestamp, timestamp
from nascale.local.node.settings import NodeSettings

logger = logging.getLogger(__name__)

Json = dict[str, Any]

LEASE_SECONDS: Final = 40
HEARTBEAT_SECONDS: Final = 10.0
"""A kubelet's: a quarter of the lease."""
STATUS_SECONDS: Final = 300.0
"""How often the status is written when nothing changed, as a kubelet does."""
RETRY_SECONDS: Final = 1.0
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def node_labels(name: str) -> dict[str, str]:
    """Return the labels that a node gives itself."""
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    system = platform.system().lower()
    return {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": system,
        "kubernetes.io/arch": architecture,
        "beta.kubernetes.io/os": system,
        "beta.kubernetes.io/arch": architecture,
    }


def node_status(settings: NodeSettings, port: int, *, since: str) -> Json:
    """Return the node's status: capacity, address, log server, conditions."""
    now = timestamp()
    labels = node_labels(settings.name)
    healthy = [("MemoryPressure", "KubeletHasSufficientMemory"), ("DiskPressure", "KubeletHasNoDiskPressure")]
    conditions = [
        {"type": kind, "status": "False", "reason": reason, "message": "not watched by this node"}
        for kind, reason in [*healthy, ("PIDPressure", "KubeletHasSufficientPID")]
    ]
    conditions.append(
        {"type": "Ready", "status": "True", "reason": "NodeReady", "message": "node takes pods"}
    )
    for condition in conditions:
        condition.update(lastHeartbeatTime=now, lastTransitionTime=since)
    return {
        "capacity": settings.capacity,
        "allocatable": settings.capacity,
        "addresses": [
            {"type": "InternalIP", "address": settings.address},
            {"type": "Hostname", "address": settings.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        "conditions": conditions,
        "nodeInfo": {
            "machineID": "",
            "systemUUID": "",
            "bootID": "",
            "kernelVersion": platform.release(),
            "osImage": "host processes",
            "containerRuntimeVersion": "nascale-local://1",
            "kubeletVersion": "nascale-node",
            "kubeProxyVersion": "",
            "operatingSystem": labels["kubernetes.io/os"],
            "architecture": labels["kubernetes.io/arch"],
        },
    }


class Registration:
    """Creates the node's object, and says every few seconds that the node lives."""

    def __init__(self, client: ApiClient, settings: NodeSettings, port: int) -> None:
        """Say nothing yet; ``port`` is the log server's."""
        self._client = client
        self._settings = settings
        self._port = port
        self._since = timestamp()
        self._lease: Json | None = None
        self._uid = ""

    async def register(self) -> None:
        """Make the node known, with the present capacity, however long the API server takes to answer."""
        while True:
            try:
                await self._register()
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
                logger.warning("registering node %s: %s", self._settings.name, error or type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def heartbeat(self) -> None:
        """Renew the lease and now and then the status, until cancelled."""
        loop = asyncio.get_running_loop()
        status_due = loop.time() + STATUS_SECONDS
        while True:
            delay = HEARTBEAT_SECONDS
            try:
                await self._renew()
                if loop.time() >= status_due:
                    await self._write_status(previous={})
                    status_due = loop.time() + STATUS_SECONDS
            except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
                logger.warning("heartbeat: %s", error or type(error).__name__)
                self._lease = None
                delay = RETRY_SECONDS
            await asyncio.sleep(delay)

    async def _register(self) -> None:
        status = node_status(self._settings, self._port, since=self._since)
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self._settings.name, "labels": node_labels(self._settings.name)},
            "spec": {},
            "status": status,
        }
        try:
            created = await self._client.post("/api/v1/nodes", body)
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            created = await self._client.get(f"/api/v1/nodes/{self._settings.name}")
            await self._write_status(previous=created.get("status") or {})
        self._uid = created["metadata"]["uid"]

    async def _write_status(self, previous: Json) -> None:
        status = node_status(self._settings, self._port, since=self._since)
        for field in ("capacity", "allocatable"):
            # A resource that the node no longer has is taken away by null.
            gone = set(previous.get(field) or {}) - set(self._settings.capacity)
            status[field] = {**self._settings.capacity, **dict.fromkeys(gone)}
        await self._client.patch(f"/api/v1/nodes/{self._settings.name}/status", {"status": status})

    async def _renew(self) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        name = self._settings.name
        if self._lease is None:
            try:
                self._lease = await self._client.get(f"{path}/{name}")
            except ApiError as error:
                if error.status != NOT_FOUND:
                    raise
                self._lease = await self._client.post(path, self._new_lease())
                return
        self._lease["spec"].update(
            holderIdentity=name, leaseDurationSeconds=LEASE_SECONDS, renewTime=micro_timestamp()
        )
        self._lease = await self._client.put(f"{path}/{name}", self._lease)

    def _new_lease(self) -> Json:
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self._settings.name,
                "namespace": "kube-node-lease",
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": self._settings.name, "uid": self._uid}
                ],
            },
            "spec": {
                "holderIdentity": self._settings.name,
                "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": micro_timestamp(),
            },
        }
