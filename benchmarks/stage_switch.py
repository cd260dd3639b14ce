"""What it takes to change a running training: delays of edits, stalls and downtimes of switches.

On the embedded cluster (real control plane, our node), with the built-in trainer on digits, one processor for
each pod.

*Edits*: the object's last stage is edited again and again while the first one trains. For each edit the
moments are taken when the patch is sent, when a watch shows the pods' annotation, when the file in the
container has the new revision, and when the trainer's own metrics say that it is applied. Files and metrics
are polled, the file every two milliseconds, the metrics every five.

*Switches*: trainings go through stages whose changes are Live, Recompile (memory format), Restart (threads)
and Reschedule (1 to 2 workers and back). Phases are those of the status. "Stall" is a switch's time in
ordinary steps of its stage. The time that two fresh processes need to import torch at the same time is
measured in the same run: no switch that needs two new processes can be faster.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import numpy as np
from kubernetes import client, watch

import clusters
from nascale.local.instance import LocalCluster
from noop_trials import NAMESPACE, Api
from rows import Aim, Row, environment, measured, publish

NAME = "stage-switch"
COMMAND: Final = "python benchmarks/stage_switch.py"
EDITS: Final = 120
TRAININGS: Final = 5
IMPORTS: Final = 5
EDIT_TO_FILE_SECONDS: Final = 2.0
RESCHEDULE_MARGIN_SECONDS: Final = 3.0
PATIENCE_SECONDS: Final = 300.0
GROUP: Final = ("nascale.io", "v1alpha1", NAMESPACE, "progressivetrainings")
ANNOTATION: Final = "nascale.io/desired-state"
ARCHITECTURE: Final[Mapping[str, Any]] = {
    "stem": {"type": "Conv", "channels": 16, "stride": 1, "activation": "SiLU"},
    "stages": [
        {"block": "MBConv", "kernel": 3, "stride": 1, "expansion": 4, "channels": 16, "depth": 2},
        {"block": "MBConv", "kernel": 3, "stride": 2, "expansion": 4, "channels": 32, "depth": 2},
    ],
    "head": {"channels": 96, "activation": "SiLU"},
    "resolution": 8,
}


def training(name: str, stages: list[dict[str, Any]], length: str) -> dict[str, Any]:
    """Return a training of digits with these stages."""
    return {
        "apiVersion": "nascale.io/v1alpha1",
        "kind": "ProgressiveTraining",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "model": {"architecture": ARCHITECTURE},
            "trainingData": {"embedded": "Digits"},
            "length": length,
            "defaults": {"model": {"globalBatch": 64}, "hardware": {"threads": 1}},
            "stages": stages,
            "volume": {"claimName": "stage-switch"},
            "placement": {"resources": {"requests": {"cpu": "1"}}},
        },
    }


def switching_stages() -> tuple[list[dict[str, Any]], list[str]]:
    """Return stages, and the class of the switch into each but the first."""
    last: dict[str, Any] = {"memoryFormat": "ChannelsLast"}
    steps: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("", {}, {}),
        ("Live", {"dropout": "0.1"}, {}),
        ("Recompile", {"dropout": "0.1"}, last),
        ("Live", {"dropout": "0.2"}, last),
        ("Restart", {"dropout": "0.2"}, {**last, "threads": 2}),
        ("Restart", {"dropout": "0.2"}, last),
        ("Reschedule", {"dropout": "0.2"}, {**last, "workers": 2}),
        ("Reschedule", {"dropout": "0.2"}, last),
    ]
    stages = [
        {"name": f"s{number}", "length": "40ba", "model": model, "hardware": hardware}
        for number, (_, model, hardware) in enumerate(steps)
    ]
    return stages, [kind for kind, _, _ in steps[1:]]


@dataclass
class Moments:
    """When each revision was seen, seconds since the epoch, by what shows it."""

    annotation: dict[int, float] = field(default_factory=dict)
    file: dict[int, float] = field(default_factory=dict)
    applied: dict[int, float] = field(default_factory=dict)


class Observer:
    """Watches a running training from outside: its pod's annotation, the file, the metrics."""

    def __init__(self, api: Api, cluster: LocalCluster, name: str) -> None:
        """Find the pod, and begin to look."""
        self.moments = Moments()
        self._api = api
        self._pod = _running_pod(api, name)
        self._files = list(
            cluster.directory.rglob(f"*{self._pod.metadata.uid}*/volumes/*/desired-state.json")
        )
        if len(self._files) != 1:
            raise RuntimeError(f"the node must hold one file of the desired state, not {self._files}")
        self._url = f"http://{self._pod.status.pod_ip}:9464/metrics"
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True)
            for work in (self._watch_annotation, self._poll_file, self._poll_metrics)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        for thread in self._threads[1:]:
            thread.join()

    def _watch_annotation(self) -> None:
        with contextlib.suppress(client.ApiException, OSError):
            for event in watch.Watch().stream(
                self._api.core.list_namespaced_pod,
                NAMESPACE,
                field_selector=f"metadata.name={self._pod.metadata.name}",
            ):
                self._note(
                    self.moments.annotation, (event["object"].metadata.annotations or {}).get(ANNOTATION)
                )

    def _poll_file(self) -> None:
        while not self._over.wait(0.002):
            with contextlib.suppress(OSError):
                self._note(self.moments.file, self._files[0].read_text())

    def _poll_metrics(self) -> None:
        wanted = re.compile(rb"^nascale_training_applied_revision(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)
        while not self._over.wait(0.005):
            with contextlib.suppress(OSError), urllib.request.urlopen(self._url, timeout=5) as answer:  # noqa: S310  # of this machine
                found = wanted.search(answer.read())
                if found:
                    self.moments.applied.setdefault(int(float(found[1])), time.time())

    @staticmethod
    def _note(seen: dict[int, float], text: str | None) -> None:
        with contextlib.suppress(ValueError):
            if text:
                seen.setdefault(int(json.loads(text)["revision"]), time.time())


def _running_pod(api: Api, name: str) -> Any:
    def found() -> Any:
        pods = api.core.list_namespaced_pod(NAMESPACE, label_selector=f"nascale.io/training={name}").items
        return next((pod for pod in pods if pod.status.phase == "Running"), None)

    return wait_for(found, f"a running pod of {name}")


def wait_for(look: Any, what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Look until something is there.

    Raises:
        RuntimeError: it is not there in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise RuntimeError(f"{what}: not seen within {seconds:.0f} s")


def status_of(api: Api, name: str) -> dict[str, Any]:
    """Return a training's status."""
    found: dict[str, Any] = api.custom.get_namespaced_custom_object(*GROUP, name)
    return found.get("status", {})


def ended(api: Api, name: str) -> dict[str, Any] | None:
    """Return the status of a training that has ended; raises where it has failed."""
    status = status_of(api, name)
    said = {entry["type"]: entry for entry in status.get("conditions", ())}
    if said.get("Failed", {}).get("status") == "True":
        raise RuntimeError(f"training {name}: {said['Failed']}")
    return status if said.get("Succeeded", {}).get("status") == "True" else None


def measure_edits(api: Api, cluster: LocalCluster) -> Iterator[Row]:
    """Edit a running training again and again."""
    name = "edited"
    stages = [{"name": "now", "length": "0.9dur"}, {"name": "later", "model": {"dropout": "0.1"}}]
    api.custom.create_namespaced_custom_object(*GROUP, training(name, stages, "1000000ba"))
    wait_for(lambda: status_of(api, name).get("step"), "the first steps")
    observer = Observer(api, cluster, name)
    moments = observer.moments
    delays: list[tuple[float, float, float]] = []
    for number in range(EDITS):
        revision = 1 + number
        stages[1]["model"] = {"dropout": f"0.{2 + number % 7}"}
        sent = time.time()
        api.custom.patch_namespaced_custom_object(*GROUP, name, {"spec": {"stages": stages}})
        wait_for(lambda revision=revision: revision in moments.applied, f"revision {revision}", 60)
        wait_for(lambda revision=revision: revision in moments.annotation, f"annotation {revision}", 60)
        delays.append(
            (
                moments.annotation[revision] - sent,
                moments.file[revision] - sent,
                moments.applied[revision] - moments.file[revision],
            )
        )
        time.sleep(0.2)
    observer.stop()
    step = float(
        wait_for(lambda: status_of(api, name).get("stepP50Seconds"), "the median step of the edited training")
    )
    api.custom.delete_namespaced_custom_object(*GROUP, name)
    where = environment("torch", "kopf", "kubernetes", extra="embedded node")
    shared = {"command": COMMAND, "environment": where}
    annotation, file, applied = (list(each) for each in zip(*delays, strict=True))
    for what, values in (
        ("an edit to the pod's annotation", annotation),
        ("an edit to the file in the container", file),
        ("the file to the applied step", applied),
    ):
        yield measured(f"seconds from {what}, median", median(values), unit="s", **shared)
    yield measured(
        f"seconds from an edit to the file in the container, 99th percentile of {EDITS}",
        float(np.quantile(file, 0.99)),
        unit="s",
        aim=Aim("at most", EDIT_TO_FILE_SECONDS),
        **shared,
    )
    yield measured("an ordinary step while edits are made, median", step, unit="s", **shared)
    yield measured(
        "steps from the file to the applied step, median", median(applied) / step, unit="1", **shared
    )


def measure_switches(api: Api) -> Iterator[Row]:
    """Run trainings through all classes of switches."""
    stages, kinds = switching_stages()
    seen: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    lost = 0
    for number in range(TRAININGS):
        name = f"switched-{number}"
        api.custom.create_namespaced_custom_object(*GROUP, training(name, stages, f"{40 * len(stages)}ba"))
        status = wait_for(lambda name=name: ended(api, name), f"the end of {name}")
        lost += status.get("lostSteps", 0)
        for kind, state in zip(kinds, status["stages"][1:], strict=True):
            if state["switchClass"] != kind:
                raise RuntimeError(f"{name}: the switch into {state['name']} must be {kind}, not {state}")
            seen[kind].append(state)
            clusters.say(f"{name}: {kind}: {state['switchPhases']}")
    where = environment("torch", "kopf", "kubernetes", extra="embedded node")
    shared = {"command": COMMAND, "environment": where}
    for kind in ("Live", "Recompile"):
        stalls = [
            float(state["switchSeconds"]) / float(state["stepP50Seconds"])
            for state in seen[kind]
            if float(state["stepP50Seconds"]) > 0
        ]
        aim = Aim("at most", 1.0) if kind == "Live" else None
        yield measured(f"stall of a {kind} switch, in ordinary steps", stalls, unit="1", aim=aim, **shared)
    imports = [import_twice() for _ in range(IMPORTS)]
    yield measured("two fresh processes import torch at the same time", imports, unit="s", **shared)
    for kind in ("Restart", "Reschedule"):
        downtimes = [float(state["switchSeconds"]) for state in seen[kind]]
        bound = median(imports) + RESCHEDULE_MARGIN_SECONDS
        aim = Aim("at most", round(bound, 2)) if kind == "Reschedule" else None
        yield measured(f"downtime of a {kind} switch", downtimes, unit="s", aim=aim, **shared)
        for phase in ("save", "gap", "start", "restore", "apply", "firstStep"):
            values = [
                float(entry["seconds"])
                for state in seen[kind]
                for entry in state["switchPhases"]
                if entry["name"] == phase
            ]
            if values:
                yield measured(f"downtime of a {kind} switch, phase {phase}", values, unit="s", **shared)
    yield measured(
        f"steps lost over {len(kinds) * TRAININGS} switches", lost, unit="1", aim=Aim("at most", 0), **shared
    )


def import_twice() -> float:
    """Return how long two fresh processes take to import torch at the same time, seconds."""
    begun = time.perf_counter()
    processes = [subprocess.Popen([sys.executable, "-c", "import torch"]) for _ in range(2)]
    for process in processes:
        process.wait()
    return time.perf_counter() - begun


def main() -> None:
    """Measure, write the rows."""
    claim = {
        "metadata": {"name": "stage-switch"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    with clusters.embedded(prometheus=True) as cluster:
        api = Api(str(cluster.kubeconfig))
        api.ensure_namespace()
        api.core.create_namespaced_persistent_volume_claim(NAMESPACE, claim)
        rows = [*measure_switches(api), *measure_edits(api, cluster)]
    publish(NAME, rows)


if __name__ == "__main__":
    main()
