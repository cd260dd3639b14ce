"""Volumes for claims of the storage class ``nascale-local``: folders of this machine.

They outlive pods, so an evicted trial goes on from its checkpoint. A claim's folder goes with the claim.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp

from nascale.local.node.api import CONFLICT, NOT_FOUND, ApiClient, ApiError, Collection, follow
from nascale.local.node.record import MAX_NAME

logger = logging.getLogger(__name__)

Json = dict[str, Any]

Handler = Callable[[Json], Awaitable[None]]

STORAGE_CLASS: Final = "nascale-local"
PROVISIONER: Final = "nascale.io/local"
PROVISIONED_BY: Final = "pv.kubernetes.io/provisioned-by"
"""Kubernetes' own annotation: it leaves the deletion of such a volume to who made it."""
ROLE: Final = "nascale-local-provisioner"
RETRY_SECONDS: Final = (0.5, 30.0)


def manifests(node_name: str) -> list[Json]:
    """Return the storage class, and the rights that a node needs beyond a kubelet's to serve it."""
    labels = {"app.kubernetes.io/part-of": "nascale-local"}
    group = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": STORAGE_CLASS,
                "labels": labels,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": PROVISIONER,
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "Immediate",
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": ROLE, "labels": labels},
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["persistentvolumes"],
                    "verbs": ["list", "watch", "create", "delete"],
                },
                {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["list", "watch"]},
            ],
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": ROLE, "labels": labels},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": ROLE},
            "subjects": [{"apiGroup": group, "kind": "User", "name": f"system:node:{node_name}"}],
        },
    ]


class Provisioner:
    """Makes a folder for each claim and removes it after the claim."""

    def __init__(self, client: ApiClient, directory: Path) -> None:
        """Do nothing yet; the folders will lie in ``directory``."""
        self._client = client
        self._directory = directory

    async def run(self) -> None:
        """Follow claims and volumes until cancelled."""
        claims = Collection("/api/v1/persistentvolumeclaims")
        volumes = Collection("/api/v1/persistentvolumes")
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(claims, self._provide))
            group.create_task(self._follow(volumes, self._reclaim))

    async def _follow(self, collection: Collection, handle: Handler) -> None:
        async def on_list(objects: list[Json]) -> None:
            for found in objects:
                await self._guarded(handle, found)

        async def on_event(kind: str, found: Json) -> None:
            if kind != "DELETED":
                await self._guarded(handle, found)

        await follow(self._client, collection, on_list, on_event, retry=RETRY_SECONDS)

    async def _guarded(self, handle: Handler, found: Json) -> None:
        """Try until it works or the API server says that it never will."""
        delay, longest = RETRY_SECONDS
        while True:
            try:
                await handle(found)
            except ApiError as error:
                logger.warning("volume for %s: %s", found["metadata"]["name"], error)
                return
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                logger.warning("volume for %s: %s", found["metadata"]["name"], error or type(error).__name__)
            else:
                return
            await asyncio.sleep(delay)
            delay = min(2 * delay, longest)

    async def _provide(self, claim: Json) -> None:
        metadata, spec = claim["metadata"], claim["spec"]
        if spec.get("storageClassName") != STORAGE_CLASS or spec.get("volumeName"):
            return
        if metadata.get("deletionTimestamp"):
            return
        name = f"{metadata['namespace']}_{metadata['name']}"[:MAX_NAME]
        folder = self._directory / f"{name}_{metadata['uid']}"
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True, mode=0o700)
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"pvc-{metadata['uid']}", "annotations": {PROVISIONED_BY: PROVISIONER}},
            "spec": {
                "capacity": {"storage": spec["resources"]["requests"]["storage"]},
                "accessModes": spec["accessModes"],
                "storageClassName": STORAGE_CLASS,
                "persistentVolumeReclaimPolicy": "Delete",
                "hostPath": {"path": str(folder), "type": "DirectoryOrCreate"},
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": metadata["namespace"],
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                },
            },
        }
        try:
            await self._client.post("/api/v1/persistentvolumes", volume)
        except ApiError as error:
            if error.status != CONFLICT:  # made before, not bound yet
                raise

    async def _reclaim(self, volume: Json) -> None:
        metadata, spec = volume["metadata"], volume["spec"]
        ours = (metadata.get("annotations") or {}).get(PROVISIONED_BY) == PROVISIONER
        released = (volume.get("status") or {}).get("phase") == "Released"
        if not ours or not released or spec.get("persistentVolumeReclaimPolicy") != "Delete":
            return
        if metadata.get("deletionTimestamp"):
            return
        folder = Path((spec.get("hostPath") or {}).get("path", ""))
        # Whoever may edit volumes must not be able to make us delete other folders.
        if folder.parent == self._directory:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": metadata["uid"]},
        }
        try:
            await self._client.delete(f"/api/v1/persistentvolumes/{metadata['name']}", options)
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise
