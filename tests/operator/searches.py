"""Searches on a real cluster: what tests apply, look at and wait for."""

from __future__ import annotations

import http.client
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from nascale.local.instance import LocalCluster

OPERATOR_NAMESPACE = "nascale-system"
OPERATOR_USER = f"system:serviceaccount:{OPERATOR_NAMESPACE}:nascale-operator"
CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "checkpoints"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})

SHELL_TRIAL = r"""
# Reads two fields of the work order, writes the report.
field() { printf '%s' "$NASCALE_WORK_ORDER" | sed -n "s/.*\"$1\": *\"\{0,1\}\([^,\"}]*\).*/\1/p"; }
x=$(field x)
error=$(awk -v x="$x" 'BEGIN { printf "%.6f", (x - 37) * (x - 37) / 100 }')
sleep "${SECONDS_TO_SLEEP:-0}"
metrics=$(printf '{"error":%s,"cost":%s}' "$error" "$x")
result=$(printf '{"trial":"%s","outcome":"Succeeded","metrics":%s}' "$(field trial)" "$metrics")
printf '{"version":"nascale.io/report/v1","attempt":%s,"results":[%s]}' "$(field attempt)" "$result" \
  > "$NASCALE_TERMINATION_LOG"
"""

SCRAPED_TRIAL = """
import time
from nascale_trainer import Metrics, load_work_order, report
order = load_work_order()
(candidate,) = order.candidates
x = float(candidate.parameters["x"])
exact = 0.001 / 3 + x
metrics = Metrics()
metrics.set(candidate.trial, "latency_p50_seconds", exact)
time.sleep(0.1)
report(order, {candidate.trial: {"error": 1.0 / (1.0 + x), "latency_p50_seconds": exact + 1000.0}})
metrics.close(order.exporter.wait_for, order.exporter.max_linger_seconds)
"""
"""What it exports and what it reports differ by 1,000, so that a value tells where it was read."""


def shell_search(
    name: str, *, trials: int, parallel: int = 1, sleep: str = "0", **spec: Any
) -> dict[str, Any]:
    """Return a search whose trials are a few lines of shell."""
    budget = {"maxTrials": trials, "parallelTrials": parallel, **spec.pop("budget", {})}
    return {
        "apiVersion": "nascale.io/v1alpha1",
        "kind": "ArchitectureSearch",
        "metadata": {"name": name},
        "spec": {
            "space": {"parameters": [{"name": "x", "integer": {"min": 1, "max": 1000}}]},
            "objectives": [
                {"metric": "error", "direction": "Minimize"},
                {"metric": "cost", "direction": "Minimize"},
            ],
            "algorithm": {"name": "Adaptive", "seed": 11},
            "budget": budget,
            "trialTemplate": {
                "image": "busybox:1.37",
                "command": ["/bin/sh", "-euc"],
                "args": [SHELL_TRIAL],
                "env": [{"name": "SECONDS_TO_SLEEP", "value": sleep}],
                "terminationGracePeriodSeconds": 1,
            },
            **spec,
        },
    }


def scraped_search(name: str, *, trials: int, **spec: Any) -> dict[str, Any]:
    """Return a search that reads one objective from Prometheus."""
    search = shell_search(name, trials=trials, **spec)
    search["spec"]["objectives"] = [
        {"metric": "error", "direction": "Minimize"},
        {"metric": "latency_p50_seconds", "direction": "Minimize", "source": "Prometheus"},
    ]
    search["spec"]["trialTemplate"] |= {"command": ["python", "-c"], "args": [SCRAPED_TRIAL]}
    return search


def wait_until(condition: Callable[[], Any], *, seconds: float = 60.0, what: str = "it") -> Any:
    """Wait until a condition gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} has not happened within {seconds:g} s"
        time.sleep(0.1)


@dataclass(frozen=True)
class AuditEntry:
    """One request to the API server."""

    user: str
    agent: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int


class AuditTrail:
    """Requests since this object was made (or last emptied), from the API server's audit log."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._position = log.stat().st_size

    def entries(self) -> list[AuditEntry]:
        """Return the complete requests so far."""
        with self._log.open("rb") as log:
            log.seek(self._position)
            lines = log.read().split(b"\n")
        return list(_parse(lines[:-1]))

    def by_operator(self) -> list[AuditEntry]:
        """Return the operator's own requests."""
        return [entry for entry in self.entries() if entry.user == OPERATOR_USER]

    def refusals_of_operator(self, namespace: str) -> list[AuditEntry]:
        """Return the operator's requests that it should not have made.

        Another test's namespace may be going meanwhile: nothing can be created in there any more (403).
        """
        return [
            entry
            for entry in self.by_operator()
            if entry.code in {401, 422} or (entry.code == 403 and entry.namespace in {"", namespace})
        ]

    def writes_by_operator(self, namespaces: Collection[str]) -> list[AuditEntry]:
        """Return the operator's own writes in these namespaces, and those that are in none.

        What another test has left, and its namespace's removal, goes on meanwhile: that is not idleness.
        """
        return [
            entry
            for entry in self.by_operator()
            if entry.verb in WRITES and (not entry.namespace or entry.namespace in namespaces)
        ]


def _parse(lines: list[bytes]) -> Iterator[AuditEntry]:
    for line in lines:
        entry = json.loads(line)
        about = entry.get("objectRef") or {}
        subresource = f"/{about['subresource']}" if "subresource" in about else ""
        yield AuditEntry(
            user=entry["user"]["username"],
            agent=entry.get("userAgent", ""),
            verb=entry["verb"],
            resource=f"{about.get('resource', '')}{subresource}",
            namespace=about.get("namespace", ""),
            name=about.get("name", ""),
            code=(entry.get("responseStatus") or {}).get("code", 0),
        )


class Namespace:
    """One namespace of a cluster, seen by its administrator."""

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl in the namespace."""
        return self.cluster.kubectl(f"--namespace={self.name}", *arguments, stdin=stdin, check=check)

    def apply(self, manifest: Mapping[str, Any]) -> None:
        """Apply a manifest."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(dict(manifest)))

    def items(self, kind: str) -> list[dict[str, Any]]:
        """Return all objects of a kind."""
        return list(json.loads(self.kubectl("get", kind, "-o", "json"))["items"])

    def search(self, name: str) -> dict[str, Any]:
        """Return a search."""
        return dict(json.loads(self.kubectl("get", "architecturesearches", name, "-o", "json")))

    def patch_search(self, name: str, spec: Mapping[str, Any]) -> None:
        """Change a search's spec."""
        self.kubectl("patch", "nas", name, "--type=merge", "-p", json.dumps({"spec": dict(spec)}))

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """Return a condition of a search; empty where it is not there."""
        conditions = self.search(name).get("status", {}).get("conditions", [])
        return next((found for found in conditions if found["type"] == kind), {})

    def wait_for(
        self, name: str, kind: str, *, status: str = "True", seconds: float = 120.0
    ) -> dict[str, Any]:
        """Wait for a condition of a search."""
        return wait_until(
            lambda: (found := self.condition(name, kind)).get("status") == status and found,
            seconds=seconds,
            what=f"{kind}={status} of {name}",
        )

    def trials(self) -> list[dict[str, Any]]:
        """Return all trials by index."""
        return sorted(self.items("trials"), key=lambda trial: trial["spec"]["index"])

    def candidates(self) -> list[Any]:
        """Return the parameters of all trials by index."""
        return [trial["spec"]["parameters"] for trial in self.trials()]

    def events(self, reason: str) -> list[dict[str, Any]]:
        """Return the events of one reason."""
        return [event for event in self.items("events") if event["reason"] == reason]


def volume_of(namespace: Namespace) -> Path:
    """Return the folder of the claim's volume on this machine."""
    name = wait_until(
        lambda: namespace.items("persistentvolumeclaims")[0]["spec"].get("volumeName"), what="a volume"
    )
    volume = json.loads(namespace.kubectl("get", "persistentvolume", name, "-o", "json"))
    return Path(volume["spec"]["hostPath"]["path"])


def operator_samples(cluster: LocalCluster) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Scrape the operator's own metrics."""
    address = cluster.operator_url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(cluster: LocalCluster, metric: str, **labels: str) -> float:
    """Sum a metric of the operator over all series with these labels."""
    wanted = set(labels.items())
    return sum(
        value for (name, own), value in operator_samples(cluster).items() if name == metric and wanted <= own
    )


def operator_pid(cluster: LocalCluster) -> int:
    """Process of the operator."""
    (pid,) = [process.pid for process in cluster.status() if process.name == "operator"]
    assert pid is not None
    return pid


def kill_operator(cluster: LocalCluster) -> None:
    """End the operator's process without a chance to tidy up."""
    os.kill(operator_pid(cluster), signal.SIGKILL)


def requests_per_trial(trail: AuditTrail, trials: int) -> tuple[float, Counter[tuple[str, str]]]:
    """Return the operator's requests per trial, watches and all, and what they were."""
    kinds = Counter((entry.verb, entry.resource) for entry in trail.by_operator())
    return kinds.total() / trials, kinds
