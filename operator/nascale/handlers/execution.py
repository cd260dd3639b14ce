"""Carry out a plan's actions: at the same time where they are independent, in order where they are not."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from nascale.api import names
from nascale.cluster.cache import ObjectCache
from nascale.cluster.client import ClusterClient
from nascale.cluster.errors import ClusterError, ConflictError, NotFoundError
from nascale.cluster.merge_patch import narrow
from nascale.cluster.resources import JOBS, PODS, TRIALS, Resource
from nascale.reconcile.actions import (
    Action,
    AnnotatePod,
    CreateJob,
    CreateTrial,
    DeleteJob,
    DeleteOwner,
    Manifest,
    PatchTrialStatus,
    SuspendJob,
)

logger = logging.getLogger(__name__)


class ActionExecutor:
    """Writes to the cluster, and puts the answers into the cache at once."""

    def __init__(self, client: ClusterClient, cache: ObjectCache) -> None:
        self._client = client
        self._cache = cache

    async def execute(self, owner: Manifest, actions: Sequence[Action]) -> None:
        """Carry out actions; each one is tried, whatever becomes of those that don't concern it.

        Args:
            owner: The custom resource.
            actions: In the plan's order; ``ReadMetrics`` and ``FollowSeries`` are not among them.

        Raises:
            ClusterError: the first one that failed; the others have been carried out or failed as well.
        """
        last = [action for action in actions if isinstance(action, DeleteOwner)]
        chains = independent_chains([action for action in actions if not isinstance(action, DeleteOwner)])
        outcomes = await asyncio.gather(
            *(self._execute_chain(owner, chain) for chain in chains), return_exceptions=True
        )
        _raise_first(outcomes)
        if last:
            await self._delete_owner(owner, last[0].uid)

    async def _delete_owner(self, owner: Manifest, uid: str) -> None:
        found = self._cache.owner(uid)
        if found is None:
            return
        resource, metadata = found[0], owner["metadata"]
        await self._client.delete(resource, metadata["namespace"], metadata["name"], uid)
        self._cache.remove(resource, uid)

    async def _execute_chain(self, owner: Manifest, chain: Sequence[Action]) -> None:
        namespace = owner["metadata"]["namespace"]
        for action in chain:
            match action:
                case CreateTrial(manifest):
                    self._cache.wrote(TRIALS, await self._client.create_owned(TRIALS, manifest))
                case CreateJob(manifest):
                    self._cache.wrote(JOBS, await self._client.create_owned(JOBS, manifest))
                case PatchTrialStatus():
                    await self._patch_trial(namespace, action)
                case SuspendJob(name, uid, suspend):
                    patching = self._client.patch(JOBS, namespace, name, uid, {"spec": {"suspend": suspend}})
                    await self._patched(JOBS, uid, patching)
                case AnnotatePod(name, uid, annotations):
                    body = {"metadata": {"annotations": dict(annotations)}}
                    await self._patched(PODS, uid, self._client.patch(PODS, namespace, name, uid, body))
                case DeleteJob(name, uid):
                    await self._delete_job(namespace, name, uid)
                case _:
                    raise TypeError(f"no way to carry out {type(action).__name__}")

    async def _patch_trial(self, namespace: str, action: PatchTrialStatus) -> None:
        uid = action.uid or self._uid_of_created(namespace, action.name)
        known = self._cache.get(TRIALS, uid)
        changed = dict(action.status)
        if known is not None:
            changed = narrow(known.get("status") or {}, changed)
        if not changed:
            return
        patching = self._client.patch_status(
            TRIALS, namespace, action.name, uid, changed, resource_version=action.resource_version
        )
        try:
            await self._patched(TRIALS, uid, patching)
        except ConflictError:
            # Decided on an old version. Read the present one now: the next plan must not wait for the watch.
            await self._patched(TRIALS, uid, self._client.get(TRIALS, namespace, action.name))
            raise

    def _uid_of_created(self, namespace: str, name: str) -> str:
        """Find the uid of a Trial that an earlier action of the same plan has created."""
        for trial in self._cache.all(TRIALS):
            metadata = trial["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name):
                return str(metadata["uid"])
        raise NotFoundError(f"Trial {namespace}/{name}: there is none to write the status of")

    async def _patched(
        self, resource: Resource, uid: str, request: Coroutine[Any, Any, dict[str, Any]]
    ) -> None:
        """Take the answer to a patch; an object that is gone leaves nothing to do."""
        try:
            self._cache.wrote(resource, await request)
        except NotFoundError:
            self._cache.remove(resource, uid)

    async def _delete_job(self, namespace: str, name: str, uid: str) -> None:
        remaining = await self._client.delete(JOBS, namespace, name, uid)
        if remaining is None:
            self._cache.remove(JOBS, uid)
        else:
            self._cache.wrote(JOBS, remaining)


def independent_chains(actions: Sequence[Action]) -> list[list[Action]]:
    """Split actions into chains that concern different trials and Jobs, each in the given order.

    A Job concerns the trials that it carries; so a Trial is created before its Job, and all Trials of a
    shared pod before their one Job.
    """
    chains: dict[int, list[tuple[int, Action]]] = {}
    chain_of: dict[str, int] = {}
    for position, action in enumerate(actions):
        subjects = _subjects(action)
        joined = {chain_of[subject] for subject in subjects if subject in chain_of}
        members = [member for chain in joined for member in chains.pop(chain)]
        members.append((position, action))
        chains[position] = members
        for subject in subjects:
            chain_of[subject] = position
        for subject, chain in chain_of.items():
            if chain in joined:
                chain_of[subject] = position
    ordered = (sorted(members, key=lambda member: member[0]) for members in chains.values())
    return [[action for _, action in members] for members in ordered]


def _subjects(action: Action) -> set[str]:
    """Name what an action concerns, so that two that share a subject stay in order."""
    match action:
        case CreateTrial(manifest):
            return {f"trial/{manifest['metadata']['name']}"}
        case CreateJob(manifest):
            metadata = manifest["metadata"]
            carried = (metadata.get("annotations") or {}).get(names.ANNOTATION_TRIALS, "")
            trials = {f"trial/{trial}" for trial in carried.split(",") if trial}
            return {f"job/{metadata['name']}"} | trials
        case PatchTrialStatus(name=name):
            return {f"trial/{name}"}
        case SuspendJob(name, _, _) | DeleteJob(name, _):
            return {f"job/{name}"}
        case AnnotatePod(name=name):
            return {f"pod/{name}"}
        case _:
            raise TypeError(f"no subject known for {type(action).__name__}")


def _raise_first(outcomes: Sequence[BaseException | None]) -> None:
    failures = [outcome for outcome in outcomes if outcome is not None]
    for failure in failures[1:]:
        logger.warning("another action failed as well: %s", failure)
    # What is not the API server's doing is a bug, and must not hide behind an outage.
    for failure in sorted(failures, key=lambda failure: isinstance(failure, ClusterError)):
        raise failure
