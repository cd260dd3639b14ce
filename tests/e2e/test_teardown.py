"""A real node leaves nothing behind, even where the process that started it was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from benchmarks.real_node import CGROUPS, Place
from tests.e2e import machine

from nascale.local.binaries import ensure
from nascale.local.products import KUBELET

PLACE = Place("nascale-e2e-end", "nascale-e2e1", "10.222.0.1", "10.222.0.0/16", 11550, 11548)
STARTER = """
import json, sys, time
from pathlib import Path
from benchmarks.real_node import Place, real_node
kubelet, kubeconfig, folder, place = sys.argv[1:]
place = Place(**json.loads(place))
with real_node(Path(kubelet), Path(kubeconfig), Path(kubeconfig), Path(folder), "end", place=place):
    print("started", flush=True)
    time.sleep(600)
"""
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "none", "cluster": {"server": "https://127.0.0.1:1"}}],
    "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
    "users": [{"name": "none", "user": {"token": "none"}}],
    "current-context": "none",
}


def _left(folder: Path) -> list[str]:
    """Return what is left of the node on this machine."""
    left = [str(path) for path in CGROUPS.glob(f"*/{PLACE.name}")]
    left += [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    left += [str(path) for path in (folder, Path("/sys/class/net") / PLACE.bridge) if path.exists()]
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return left + [line for line in listed.splitlines() if str(folder) in line]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("real_machine")
def test_nothing_is_left_of_a_node_whose_process_was_killed(tmp_path: Path) -> None:
    folder, kubeconfig = tmp_path / "node", tmp_path / "kubeconfig"
    folder.mkdir()
    kubeconfig.write_text(json.dumps(KUBECONFIG))
    kubelet = ensure([KUBELET], report=print)["kubelet"]
    command = [
        sys.executable,
        "-c",
        STARTER,
        str(kubelet),
        str(kubeconfig),
        str(folder),
        json.dumps(asdict(PLACE)),
    ]
    with subprocess.Popen(command, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline().strip() == "started"
        assert len(_left(folder)) > 5
        starter.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 120
    while _left(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _left(folder) == []
