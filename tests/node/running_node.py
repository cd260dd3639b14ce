"""A node that tests may kill and start again, and pods on it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nascale.local import components as parts
from nascale.local.instance import LocalCluster
from nascale.local.node.process import marked_processes

Json = dict[str, Any]
T = TypeVar("T")

CAPACITY = "cpu=4,memory=8Gi,nvidia.com/gpu=2"
PATIENCE_SECONDS = 60.0


def wait_until(what: str, probe: Callable[[], T | None]) -> T:
    """Return the first true answer."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: did not happen within {PATIENCE_SECONDS:.0f} s")


class RunningNode:
    """A node process of a control plane."""

    def __init__(self, cluster: LocalCluster, directory: Path) -> None:
        self.name = f"nascale-{cluster.name}"
        self.state = directory / "state"
        self.claims = directory / "claims"
        self.log = directory / "node.log"
        self._kubeconfig = cluster.layout.component_kubeconfig(parts.NODE)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, capacity: str = CAPACITY) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "nascale.local.node"),
                    *("--kubeconfig", str(self._kubeconfig), "--name", self.name),
                    *("--state-dir", str(self.state), "--capacity", capacity, "--pod-cidr", "127.99.0.0/16"),
                    *("--claims-dir", str(self.claims)),
                ],
                stdout=log,
                stderr=log,
            )

    def end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(timeout=PATIENCE_SECONDS)

    def requests(self, cluster: LocalCluster) -> list[tuple[str, str]]:
        """Return verb and path of every request that nodes sent to the API server."""
        found = []
        for line in cluster.audit_log.read_text().splitlines():
            event = json.loads(line)
            if event.get("userAgent") == "nascale-node":
                found.append((event["verb"], event["requestURI"]))
        return found


class Pods:
    """Pods of one namespace."""

    def __init__(self, cluster: LocalCluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        return self.cluster.kubectl("-n", self.namespace, *arguments, stdin=stdin, check=check)

    def create(self, name: str, script: str, /, container: Json | None = None, **spec: Any) -> None:
        """Create a pod with one container that runs a shell script."""
        main = {"name": "main", "image": "none", "command": ["sh", "-c", script], **(container or {})}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, **spec.pop("metadata", {})},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "containers": [main],
                    **spec,
                },
            }
        )

    def apply(self, *objects: Json) -> None:
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("create", "-f", "-", stdin=json.dumps(document))

    def get(self, name: str, kind: str = "pod") -> Json:
        text = self.kubectl("get", kind, name, "--ignore-not-found", "-o", "json")
        return dict(json.loads(text)) if text.strip() else {}

    def phase(self, name: str) -> str:
        return str(self.get(name).get("status", {}).get("phase", ""))

    def await_phase(self, name: str, *phases: str) -> Json:
        def probe() -> Json | None:
            pod = self.get(name)
            return pod if pod.get("status", {}).get("phase") in phases else None

        return wait_until(f"pod {name} {'/'.join(phases)}", probe)

    def await_log(self, name: str, text: str) -> str:
        def probe() -> str | None:
            log = self.kubectl("logs", name, check=False)
            return log if text in log else None

        return wait_until(f"{text!r} in the log of {name}", probe)


def container_state(pod: Json, index: int = 0) -> Json:
    return dict(pod["status"]["containerStatuses"][index]["state"])


def processes_of(uid: str) -> list[int]:
    """Return the processes of a pod."""
    return [pid for pid, value in marked_processes() if value.startswith(f"{uid}/")]
