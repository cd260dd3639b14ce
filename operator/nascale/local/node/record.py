"""What the node keeps on disk about a pod, so that its own crash loses nothing.

Exit codes and times are written by each container's shim. This record holds the rest: the pod's address,
which run of each container is the latest, and how the run before it ended.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

FILE_NAME: Final = "pod.json"
MAX_NAME: Final = 180
"""A folder's name has at most 255 bytes; a pod's name may have 253 alone."""


@dataclass
class ContainerRecord:
    """The latest run of a container."""

    attempt: int = 0
    """Counts from 0; the container's restart count."""
    started: float | None = None
    """When the latest run began, in seconds since 1970; None before the first."""
    last: dict[str, Any] | None = None
    """The ``terminated`` state of the run before."""
    crashes: int = 0
    """Ends in a row, for the back-off."""


@dataclass
class PodRecord:
    """One pod."""

    uid: str
    namespace: str
    name: str
    start_time: str
    address: str
    devices: dict[str, list[int]] = field(default_factory=dict)
    """GPU indexes by container."""
    containers: dict[str, ContainerRecord] = field(default_factory=dict)
    failure: dict[str, str] | None = None
    """``reason`` and ``message`` of a pod that failed as a whole."""


class PodDirectory:
    """A pod's folder: its record, logs, volumes and scratch space."""

    def __init__(self, pods: Path, namespace: str, name: str, uid: str) -> None:
        """Name the folder; :meth:`create` makes it."""
        self.path = pods / f"{f'{namespace}_{name}'[:MAX_NAME]}_{uid}"

    def create(self) -> None:
        """Make the folder, readable by its owner alone: it may hold secrets."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def remove(self) -> None:
        """Delete the folder with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def container(self, name: str) -> Path:
        """Return a container's folder, made if need be."""
        path = self.path / "containers" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, container: str, attempt: int) -> Path:
        """Return the path of one run's output."""
        return self.container(container) / f"{attempt}.log"

    def exit_record(self, container: str, attempt: int) -> Path:
        """Return the path of what the shim writes at a run's end."""
        return self.container(container) / f"{attempt}.exit"

    def termination_message(self, container: str, attempt: int) -> Path:
        """Return the path of one run's termination message."""
        return self.container(container) / f"{attempt}.message"

    def volume(self, name: str) -> Path:
        """Return a volume's folder."""
        return self.path / "volumes" / name

    def scratch(self, name: str) -> Path:
        """Return a folder for the pod's own use, made if need be."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def save(self, record: PodRecord) -> None:
        """Write the record in one step."""
        partial = self.path / f".{FILE_NAME}"
        partial.write_text(json.dumps(asdict(record)))
        partial.replace(self.path / FILE_NAME)

    def load(self) -> PodRecord | None:
        """Read the record, or return None where there is none."""
        try:
            raw = json.loads((self.path / FILE_NAME).read_text())
        except FileNotFoundError:
            return None
        containers = {name: ContainerRecord(**value) for name, value in raw.pop("containers").items()}
        return PodRecord(**raw, containers=containers)


def stored_uids(pods: Path) -> dict[str, Path]:
    """Return the folder of every pod that the node keeps, by the pod's uid."""
    found = {}
    for path in pods.iterdir() if pods.is_dir() else ():
        match = re.search(r"_([0-9a-f-]{36})$", path.name)
        if match:
            found[match[1]] = path
    return found
