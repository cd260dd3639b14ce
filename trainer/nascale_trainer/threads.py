"""How many processors this container may use, and whether the kernel held it back.

PyTorch starts a thread for each core of the node, whatever the container's quota: the threads then share
the quota, and the kernel stops all of them for the rest of each 100 ms period.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_OMP: Final = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class ControlGroup:
    """The folders that hold this process's processor limits.

    Attributes:
        unified: cgroup v2's folder, or ``None``.
        cpu: cgroup v1's folder of the cpu controller, or ``None``.
    """

    unified: Path | None
    cpu: Path | None

    @classmethod
    def of_this_process(cls, root: Path = Path("/")) -> ControlGroup:
        """Find the folders; in a container's own cgroup namespace they are the mount's roots."""
        mount = root / "sys/fs/cgroup"
        groups = _group_paths(root / "proc/self/cgroup")
        unified = _first_with(mount, groups.get("", "/"), "cpu.stat") if "" in groups else None
        cpu = None
        for name, path in groups.items():
            if "cpu" in name.split(","):
                cpu = _first_with(mount / name, path, "cpu.stat") or _first_with(
                    mount / "cpu", path, "cpu.stat"
                )
        return cls(unified=unified, cpu=cpu)

    def quota(self) -> float | None:
        """Return the limit in processors, ``None`` where there is none."""
        if self.unified:
            limit, _, period = _read(self.unified / "cpu.max").partition(" ")
            return _ratio(limit, period)
        if self.cpu:
            return _ratio(_read(self.cpu / "cpu.cfs_quota_us"), _read(self.cpu / "cpu.cfs_period_us"))
        return None

    def throttled(self) -> int | None:
        """Return how often the kernel has stopped this group for its quota; ``None`` where unknown."""
        folder = self.unified or self.cpu
        if folder is None:
            return None
        for line in _read(folder / "cpu.stat").splitlines():
            name, _, value = line.partition(" ")
            if name == "nr_throttled" and value.strip().isdecimal():
                return int(value)
        return None


def available_threads(
    maximum: int | None = None,
    environ: Mapping[str, str] | None = None,
    group: ControlGroup | None = None,
    affinity: int | None = None,
) -> int:
    """Return how many threads to compute with: the smallest of all limits, at least 1.

    Args:
        maximum: The work order's own limit.
        environ: Where ``OMP_NUM_THREADS`` may stand.
        group: The control group; ``None`` means that of this process.
        affinity: Processors of the process's mask (a cpuset shows in it); ``None`` asks the kernel.
    """
    limits = [affinity if affinity is not None else len(os.sched_getaffinity(0))]
    quota = (group or ControlGroup.of_this_process()).quota()
    if quota is not None:
        # Half a processor is one slow thread; two and a half are two that run undisturbed.
        limits.append(max(1, math.floor(quota)))
    # OMP_NUM_THREADS may be a list, one number per level of nesting: the first one counts.
    omp = (os.environ if environ is None else environ).get(_OMP, "").partition(",")[0].strip()
    if omp.isdecimal():
        limits.append(int(omp))
    if maximum is not None:
        limits.append(maximum)
    return max(1, min(limits))


def _group_paths(file: Path) -> dict[str, str]:
    """Read /proc/self/cgroup: controllers ("" for v2) to the path within the hierarchy."""
    paths = {}
    for line in _read(file).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths[controllers] = path
    return paths


def _first_with(mount: Path, path: str, file: str) -> Path | None:
    """Return the process's own group, else the nearest one above it that has the file."""
    for relative in (path.strip("/"), ""):
        folder = mount / relative
        if (folder / file).is_file():
            return folder
    return None


def _ratio(limit: str, period: str) -> float | None:
    try:
        value = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max", or no such file
    return value if value > 0 else None  # v1 says -1 for no limit


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
