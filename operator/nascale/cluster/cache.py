"""What we know of the cluster: our objects by uid, children by their controller.

Three sources write into it: watch events, our own writes (so that a reconcile sees at once what the last
one did), and a listing now and then that finds what a watch has missed. Whatever comes late is recognised
by its ``resourceVersion``, whatever is gone by a tombstone: a uid never comes back. Versions of one kind
are whole numbers that only grow, which Kubernetes promises since 1.35 and has always kept.

Documents are shared, not copied: whoever reads them must not change them.
"""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nascale.api import names
from nascale.cluster.client import controller_uid
from nascale.cluster.resources import JOBS, OWNERS, PODS, SEARCHES, SWEEPS, TRAININGS, TRIALS, Resource
from nascale.reconcile.actions import Manifest

MOST_TOMBSTONES: Final = 20_000
"""Late events come within seconds; this many deletions later none can be on its way any more."""


@dataclass(frozen=True)
class Family:
    """An owner's children, each group sorted by name."""

    trials: tuple[Manifest, ...]
    jobs: tuple[Manifest, ...]
    pods: tuple[Manifest, ...]


@dataclass
class _Entry:
    document: Manifest
    version: int
    unconfirmed_since: float | None
    """When we wrote this version, as long as no watch or listing has shown it."""


class ObjectCache:
    """Objects by kind and uid.

    Args:
        clock: Seconds that only grow, for the age of unconfirmed writes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: defaultdict[str, dict[str, _Entry]] = defaultdict(dict)
        self._children: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._tombstones: OrderedDict[str, None] = OrderedDict()

    def observe(self, resource: Resource, document: Mapping[str, Any]) -> bool:
        """Take what a watch or a listing showed; say whether it is news."""
        return self._store(resource, document, unconfirmed_since=None)

    def wrote(self, resource: Resource, document: Mapping[str, Any]) -> bool:
        """Take the API server's answer to our own write; say whether it is news."""
        return self._store(resource, document, unconfirmed_since=self._clock())

    def remove(self, resource: Resource, uid: str) -> bool:
        """Take a deletion; say whether it is news."""
        self._tombstones[uid] = None
        self._tombstones.move_to_end(uid)
        while len(self._tombstones) > MOST_TOMBSTONES:
            self._tombstones.popitem(last=False)
        entry = self._entries[resource.plural].pop(uid, None)
        if entry is None:
            return False
        parent = parent_uid(resource, entry.document)
        if parent is not None:
            siblings = self._children[resource.plural, parent]
            siblings.discard(uid)
            if not siblings:
                del self._children[resource.plural, parent]
        return True

    def retain(
        self, resource: Resource, namespace: str | None, versions: Mapping[str, int], list_version: int
    ) -> list[Manifest]:
        """Drop what a consistent listing no longer shows.

        Args:
            resource: What was listed.
            namespace: Where; ``None``: everywhere.
            versions: The listed objects' versions by uid.
            list_version: The collection's version; what we wrote after it stays.

        Returns:
            The documents that were dropped: deletions that no watch has told us.
        """
        gone = [
            entry.document
            for uid, entry in self._entries[resource.plural].items()
            if uid not in versions
            and entry.version <= list_version
            and namespace in (None, entry.document["metadata"]["namespace"])
        ]
        for document in gone:
            self.remove(resource, document["metadata"]["uid"])
        return gone

    def lags(self, resource: Resource, versions: Mapping[str, int]) -> bool:
        """Say whether a listing knows objects, or versions of them, that we don't."""
        known = self._entries[resource.plural]
        return any(
            uid not in self._tombstones and (uid not in known or known[uid].version < version)
            for uid, version in versions.items()
        )

    def get(self, resource: Resource, uid: str) -> Manifest | None:
        """Return one object; ``None`` where we don't know it."""
        entry = self._entries[resource.plural].get(uid)
        return None if entry is None else entry.document

    def owner(self, uid: str) -> tuple[Resource, Manifest] | None:
        """Return the search or sweep with this uid, and its resource; ``None`` where we don't know it."""
        for resource in OWNERS:
            document = self.get(resource, uid)
            if document is not None:
                return resource, document
        return None

    def all(self, resource: Resource) -> tuple[Manifest, ...]:
        """Return all objects of a kind."""
        return tuple(entry.document for entry in self._entries[resource.plural].values())

    def family(self, owner_uid: str) -> Family:
        """Return the children that an owner controls, and the pods that its Jobs control."""
        jobs = self._controlled(JOBS, (owner_uid,))
        return Family(
            trials=self._controlled(TRIALS, (owner_uid,)),
            jobs=jobs,
            pods=self._controlled(PODS, [job["metadata"]["uid"] for job in jobs]),
        )

    def owner_of(self, resource: Resource, document: Manifest) -> str | None:
        """Uid of the search or sweep that an object belongs to; ``None`` where that can't be said."""
        if resource in OWNERS:
            return str(document["metadata"]["uid"])
        if resource is not PODS:
            return controller_uid(document)
        job = self.get(JOBS, controller_uid(document) or "")
        if job is not None:
            return controller_uid(job)
        # The pod's event overtook its Job's. Only a wake-up: the pod counts once its Job is known.
        label = (document["metadata"].get("labels") or {}).get(names.LABEL_OWNER_UID)
        return None if label is None else str(label)

    def named(self, resource: Resource, namespace: str, name: str) -> Manifest | None:
        """Return the object of that name; ``None`` where we don't know it."""
        for entry in self._entries[resource.plural].values():
            metadata = entry.document["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name):
                return entry.document
        return None

    def dependents(self, resource: Resource, document: Manifest) -> list[str]:
        """Uids of those that look at an owner.

        Sweeps look at their base's search and at the sweep whose trials they reuse, trainings at where their
        model comes from and at the training whose profile they reuse.
        """
        if resource not in OWNERS:
            return []
        metadata = document["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        return [
            uid
            for looking in (SWEEPS, TRAININGS)
            for uid, entry in self._entries[looking.plural].items()
            if entry.document["metadata"]["namespace"] == namespace
            and name == looked_at(looking, entry.document, resource)
        ]

    def oldest_unconfirmed_write(self) -> float | None:
        """Age in seconds of the oldest write of ours that no watch has shown yet; ``None``: all were."""
        since = [
            entry.unconfirmed_since
            for entries in self._entries.values()
            for entry in entries.values()
            if entry.unconfirmed_since is not None
        ]
        return self._clock() - min(since) if since else None

    def _store(
        self, resource: Resource, document: Mapping[str, Any], unconfirmed_since: float | None
    ) -> bool:
        metadata = document["metadata"]
        uid, version = str(metadata["uid"]), int(metadata["resourceVersion"])
        if uid in self._tombstones:
            return False
        known = self._entries[resource.plural].get(uid)
        if known is not None and version <= known.version:
            if version == known.version and unconfirmed_since is None:
                known.unconfirmed_since = None
            return False
        self._entries[resource.plural][uid] = _Entry(_slim(document), version, unconfirmed_since)
        parent = parent_uid(resource, document)
        if parent is not None:
            self._children[resource.plural, parent].add(uid)
        return True

    def _controlled(self, resource: Resource, parents: Iterable[str]) -> tuple[Manifest, ...]:
        entries = self._entries[resource.plural]
        found = [
            entries[uid].document
            for parent in parents
            for uid in self._children.get((resource.plural, parent), ())
        ]
        return tuple(sorted(found, key=lambda document: str(document["metadata"]["name"])))


def looked_at(looking: Resource, owner: Manifest, resource: Resource) -> str | None:
    """Name of what a sweep or training looks at; ``None``: at none of that kind."""
    spec = owner.get("spec") or {}
    if looking == SWEEPS:
        base = spec.get("base") or {}
        found = base.get("searchName") if resource == SEARCHES else spec.get("reuseTrialsFrom")
        return found if resource in (SEARCHES, SWEEPS) else None
    model = spec.get("model") or {}
    if looking == TRAININGS and resource == TRAININGS:
        generate = (spec.get("schedule") or {}).get("generate") or {}
        return generate.get("reuseProfileFrom")
    if looking != TRAININGS or resource not in (SEARCHES, SWEEPS):
        return None
    return model.get("searchName") if resource == SEARCHES else (model.get("member") or {}).get("sweepName")


def parent_uid(resource: Resource, document: Manifest) -> str | None:
    """Uid of the controller that an object is indexed by; owners have none."""
    return None if resource in OWNERS else controller_uid(document)


def _slim(document: Mapping[str, Any]) -> Manifest:
    """Leave out what nobody reads and what is large: managed fields."""
    metadata = {key: value for key, value in document["metadata"].items() if key != "managedFields"}
    return {**document, "metadata": metadata}
