"""The kinds of object that the operator reads or writes, and where the API server keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nascale.api import names


@dataclass(frozen=True)
class Resource:
    """One kind of object.

    Attributes:
        group: API group; empty for the core one.
        version: Version of the group.
        plural: Name in URLs and in RBAC rules.
        kind: Name in manifests.
        label_selector: What restricts listing and watching to our own objects; empty: nothing does.
    """

    group: str
    version: str
    plural: str
    kind: str
    label_selector: str = ""

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of manifests."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of the collection or of one object; ``None`` as namespace: all of them."""
        parts = ["", "apis", self.group, self.version] if self.group else ["", "api", self.version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part is not None]
        return "/".join(parts)


SEARCHES: Final = Resource(names.GROUP, names.VERSION, "architecturesearches", "ArchitectureSearch")
SWEEPS: Final = Resource(names.GROUP, names.VERSION, "scalingsweeps", "ScalingSweep")
TRAININGS: Final = Resource(names.GROUP, names.VERSION, "progressivetrainings", "ProgressiveTraining")
TRIALS: Final = Resource(names.GROUP, names.VERSION, "trials", "Trial")
JOBS: Final = Resource("batch", "v1", "jobs", "Job", label_selector=names.LABEL_OWNER_UID)
PODS: Final = Resource("", "v1", "pods", "Pod", label_selector=names.LABEL_OWNER_UID)
EVENTS: Final = Resource("", "v1", "events", "Event")
NODES: Final = Resource("", "v1", "nodes", "Node")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")

OWNERS: Final = (SEARCHES, SWEEPS, TRAININGS)
"""What people write, and what trials and Jobs belong to."""
WATCHED: Final = (*OWNERS, TRIALS, JOBS, PODS)
"""What the cache holds, owners before children."""
