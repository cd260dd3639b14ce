"""What the end-to-end test needs of a machine, and what of it the test takes for itself."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from benchmarks.real_node import Place

from benchmarks import real_node

SWITCH: Final = "NASCALE_E2E"
"""Set by ``make e2e``: the test takes too long for ``make test``."""
BASE_VARIABLE: Final = "NASCALE_E2E_BASE"
"""Base image of the builds; unset: a minimal Debian, made here by debootstrap."""
DEBIAN_PYTHON: Final = (3, 11)
"""Of Debian bookworm. Images and checkout share compiled packages, so that both need the same Python."""
PLACE: Final = Place("nascale-e2e", "nascale-e2e0", "10.221.0.1", "10.221.0.0/16", 11450, 11448)
SECOND_PLACE: Final = Place("nascale-e2e-2", "nascale-e2e2", "10.223.0.1", "10.223.0.0/16", 11470, 11468)
GPUS: Final = "2"
DEVICES: Final = (
    {"nvidia.com/gpu": GPUS, "nvidia.com/mig-1g.5gb": "2"},
    {"nvidia.com/mig-3g.20gb": "2"},
)
"""What the two nodes pretend to have."""
SHARES: Final = {"nvidia.com/gpu.replicas": GPUS, "nvidia.com/gpu.sharing-strategy": "time-slicing"}
"""Labels of the first node, as GPU feature discovery sets them."""
KUBERNETES_SERVICE: Final = ("10.96.0.1", 443)
"""Where pods look for the API server: the first address of the embedded cluster's Services."""
ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = Path(next(path for path in sys.path if (Path(path) / "torch").is_dir()))
"""The folder of the checkout's packages: torch is read from there, since in an image it would take 5 GB."""


def reason_to_skip() -> str:
    """Say why the test can't run here; an empty string means that it can."""
    if os.environ.get(SWITCH) != "1":
        return "the end-to-end test runs by make e2e"
    lacks = real_node.missing()
    tools = ("buildah",) if BASE_VARIABLE in os.environ else ("buildah", "debootstrap")
    lacks += [tool for tool in tools if shutil.which(tool) is None]
    if BASE_VARIABLE not in os.environ and sys.version_info[:2] != DEBIAN_PYTHON:
        lacks.append(
            f"Python {'.'.join(map(str, DEBIAN_PYTHON))} (or {BASE_VARIABLE} with an image of this one)"
        )
    if os.environ.get("KUBERNETES_SERVICE_HOST") == KUBERNETES_SERVICE[0]:
        lacks.append(f"an address {KUBERNETES_SERVICE[0]} that is not a cluster's that it is part of")
    if lacks:
        return f"the end-to-end test needs a real kubelet, and this machine lacks {', '.join(lacks)}"
    return ""
