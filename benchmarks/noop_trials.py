"""Trials that do nothing but sleep, and the same number of plain Jobs: the floor of any system of Jobs."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubernetes import client, config, watch

NAMESPACE = "benchmark"
METRICS = ("quality", "cost")
TRIAL_SCRIPT = """
sleep {seconds}
names=$(printf '%s' "$NASCALE_WORK_ORDER" | sed 's/"trial":"/\\n/g' | sed -n '2,$s/".*//p')
results=""
for name in $names; do
  results="$results${{results:+,}}{{\\"trial\\":\\"$name\\",\\"outcome\\":\\"Succeeded\\",\\"metrics\\":{{\\"quality\\":0.5,\\"cost\\":1}}}}"
done
attempt=$(printf '%s' "$NASCALE_WORK_ORDER" | sed -n 's/.*"attempt":\\([0-9]*\\).*/\\1/p')
printf '{{"version":"nascale.io/report/v1","attempt":%s,"results":[%s]}}' "$attempt" "$results" \\
  > "$NASCALE_TERMINATION_LOG"
"""


@dataclass(frozen=True)
class Workload:
    """What each trial or Job runs.

    Attributes:
        sleep_seconds: How long it sleeps; "0" does nothing.
        image: Container image; on the embedded cluster it is only a name.
        pull_policy: When to pull the image.
    """

    sleep_seconds: str = "1"
    image: str = "localhost/nascale-busybox:1"
    pull_policy: str = "Never"

    def script(self) -> str:
        """Return the shell script of a trial."""
        return TRIAL_SCRIPT.format(seconds=self.sleep_seconds)


@dataclass
class Api:
    """The clients that a benchmark needs, as the cluster's administrator."""

    kubeconfig: str
    core: client.CoreV1Api = field(init=False)
    batch: client.BatchV1Api = field(init=False)
    custom: client.CustomObjectsApi = field(init=False)

    def __post_init__(self) -> None:
        """Connect."""
        api = config.new_client_from_config(self.kubeconfig)
        self.core, self.batch, self.custom = (
            client.CoreV1Api(api),
            client.BatchV1Api(api),
            client.CustomObjectsApi(api),
        )

    def ensure_namespace(self) -> None:
        """Make the benchmark's namespace."""
        try:
            self.core.create_namespace({"metadata": {"name": NAMESPACE}})
        except client.ApiException as error:
            if error.status != 409:
                raise


def plain_job(name: str, workload: Workload) -> dict[str, Any]:
    """Return a Job that runs the workload's sleep and nothing else."""
    container = {
        "name": "job",
        "image": workload.image,
        "imagePullPolicy": workload.pull_policy,
        "command": ["sh", "-c", f"sleep {workload.sleep_seconds}"],
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532},
        "containers": [container],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"benchmark": "floor"}},
        "spec": {"backoffLimit": 0, "ttlSecondsAfterFinished": 600, "template": {"spec": pod}},
    }


def search(name: str, trials: int, parallel: int, workload: Workload, per_pod: int = 1) -> dict[str, Any]:
    """Return a random search whose trials run the workload's script."""
    return {
        "apiVersion": "nascale.io/v1alpha1",
        "kind": "ArchitectureSearch",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "space": {"parameters": [{"name": "x", "decimal": {"min": "0", "max": "1"}}]},
            "objectives": [
                {"metric": "quality", "direction": "Maximize"},
                {"metric": "cost", "direction": "Minimize"},
            ],
            "algorithm": {"name": "Random"},
            "budget": {"maxTrials": trials, "parallelTrials": parallel, "trialsPerPod": per_pod},
            "trialTemplate": {
                "image": workload.image,
                "imagePullPolicy": workload.pull_policy,
                "command": ["sh", "-c", workload.script()],
            },
        },
    }


def run_plain_jobs(api: Api, prefix: str, count: int, parallel: int, workload: Workload) -> float:
    """Run Jobs, ``parallel`` at a time, the next when one is complete; return the seconds that all took."""
    names = (f"{prefix}-{number}" for number in range(count))
    listed = api.batch.list_namespaced_job(NAMESPACE, limit=1)
    started = time.monotonic()
    running = {_create(api, name, workload) for name in itertools.islice(names, parallel)}
    stream = watch.Watch()
    for event in stream.stream(
        api.batch.list_namespaced_job,
        NAMESPACE,
        label_selector="benchmark=floor",
        resource_version=listed.metadata.resource_version,
    ):
        job = event["object"]
        if job.metadata.name not in running or not job.status.succeeded or not _complete(job):
            continue
        running.discard(job.metadata.name)
        following = next(names, None)
        if following is not None:
            running.add(_create(api, following, workload))
        if not running:
            stream.stop()
    return time.monotonic() - started


def _create(api: Api, name: str, workload: Workload) -> str:
    api.batch.create_namespaced_job(NAMESPACE, plain_job(name, workload))
    return name


def _complete(job: client.V1Job) -> bool:
    return any(entry.type == "Complete" and entry.status == "True" for entry in job.status.conditions or ())


@dataclass(frozen=True)
class SearchTiming:
    """How long a search of no-op trials took.

    Attributes:
        first_job_seconds: From the search's creation to its first Job, as this process saw them.
        total_seconds: From the search's first Job to its Succeeded condition.
    """

    first_job_seconds: float
    total_seconds: float


def run_search(api: Api, manifest: Mapping[str, Any]) -> SearchTiming:
    """Run a search to its end.

    Raises:
        RuntimeError: it failed, or some of its trials did not succeed.
    """
    name = manifest["metadata"]["name"]
    listed = api.batch.list_namespaced_job(NAMESPACE, limit=1)
    created = time.monotonic()
    api.custom.create_namespaced_custom_object(
        "nascale.io", "v1alpha1", NAMESPACE, "architecturesearches", manifest
    )
    first_job = next(_first_job(api, name, listed.metadata.resource_version))
    done = _wait_until_ended(api, name)
    status = done["status"]
    if status.get("trials", {}).get("succeeded") != manifest["spec"]["budget"]["maxTrials"]:
        raise RuntimeError(f"search {name}: every trial must succeed, not {json.dumps(status)[:1000]}")
    return SearchTiming(first_job - created, time.monotonic() - first_job)


def _first_job(api: Api, name: str, version: str) -> Iterator[float]:
    stream = watch.Watch()
    for _ in stream.stream(
        api.batch.list_namespaced_job,
        NAMESPACE,
        label_selector=f"nascale.io/search={name}",
        resource_version=version,
        timeout_seconds=60,
    ):
        yield time.monotonic()


def _wait_until_ended(api: Api, name: str) -> dict[str, Any]:
    stream = watch.Watch()
    for event in stream.stream(
        api.custom.list_namespaced_custom_object,
        "nascale.io",
        "v1alpha1",
        NAMESPACE,
        "architecturesearches",
        field_selector=f"metadata.name={name}",
    ):
        found: dict[str, Any] = event["object"]
        for entry in found.get("status", {}).get("conditions", ()):
            if entry["type"] in {"Succeeded", "Failed"} and entry["status"] == "True":
                return found
    raise RuntimeError(f"search {name}: the watch ended before the search")
