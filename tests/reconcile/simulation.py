"""A cluster in memory: an API server, a Job controller, a kubelet and Prometheus, all of a few lines.

It follows the real ones where it matters to plans: optimistic locking, uid preconditions, AlreadyExists,
suspended Jobs, pods that are replaced after a disruption, a Job's end that is seen after its pod's. The
clock moves only by ``tick``.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from nascale.reconcile.actions import (
    Action,
    CreateJob,
    CreateTrial,
    DeleteJob,
    DeleteOwner,
    PatchTrialStatus,
    Plan,
    Reading,
    ReadMetrics,
    SuspendJob,
)
from nascale.reconcile.architecture_search import plan
from nascale.reconcile.observed import Observed, OperatorSettings, Related

Document = dict[str, Any]
KINDS = ("trials", "jobs", "pods")
_UIDS = count()
START = datetime(2026, 1, 1, tzinfo=UTC)


class OperatorCrashError(Exception):
    """The operator died: what it has written stays, what it meant to write is lost."""


class ConflictError(Exception):
    """The object has changed since it was read, or is another one."""


@dataclass(frozen=True)
class Fate:
    """What becomes of one pod.

    Attributes:
        end: How its container ends; see ``SimulatedCluster._end_pod``.
        seconds: How long it runs.
        report: The whole termination message, where it is not an honest report.
    """

    end: str = "report"
    seconds: int = 2
    report: str | None = None


Measure = Callable[[Document], dict[str, float]]
"""From a candidate of a work order to its metrics."""


def honest_values(candidate: Document) -> dict[str, float]:
    """Values that follow from the parameters alone."""
    text = json.dumps(candidate["parameters"], sort_keys=True)
    spread = sum(ord(letter) * (place + 7) for place, letter in enumerate(text)) % 1009 / 1009
    return {"accuracy": round(0.5 + 0.49 * spread, 6), "latency_p50_seconds": round(0.001 + 0.01 * spread, 6)}


@dataclass
class SimulatedCluster:
    """The state of a cluster that holds one search or sweep.

    Attributes:
        owner: The search or sweep.
        fate: What becomes of the pod with this ordinal of this Job.
        measure: What a trial measures.
        prometheus: What Prometheus says about a trial's metric.
        settings: The installation's settings.
        admits: Whether the queue admits Jobs.
        quota: Whether pods may be created.
        crash_at: The operator dies instead of its write number so and so.
        related: What a sweep names.
    """

    owner: Document
    fate: Callable[[Document, int], Fate] = lambda _job, _ordinal: Fate()
    measure: Measure = honest_values
    prometheus: Callable[[str, str], Reading] | None = None
    settings: OperatorSettings = field(default_factory=lambda: OperatorSettings(prometheus=True))
    admits: bool = True
    quota: bool = True
    crash_at: int | None = None
    related: Related = field(default_factory=Related)

    now: datetime = START
    trials: dict[str, Document] = field(default_factory=dict)
    jobs: dict[str, Document] = field(default_factory=dict)
    pods: dict[str, Document] = field(default_factory=dict)
    readings: dict[str, dict[str, Reading]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    outcomes_written: Counter[str] = field(default_factory=Counter)
    owner_deleted: bool = False
    _version: int = 0
    _copies: dict[tuple[str, str], Document] = field(default_factory=dict)
    _pods_made: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        metadata = self.owner["metadata"]
        metadata.setdefault("uid", "owner-uid")
        metadata.setdefault("namespace", "default")
        metadata.setdefault("generation", 1)
        metadata.setdefault("creationTimestamp", stamp(self.now))
        self._touch(self.owner)

    # --- the API server -------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Copy everything that the operator watches."""
        return {
            "owner": self._copied(self.owner),
            **{
                kind: {name: self._copied(document) for name, document in getattr(self, kind).items()}
                for kind in KINDS
            },
        }

    def _copied(self, document: Document) -> Document:
        metadata = document["metadata"]
        key = (metadata["uid"], metadata["resourceVersion"])
        if key not in self._copies:
            self._copies[key] = copy.deepcopy(document)
        return self._copies[key]

    def observe(self, *seen: dict[str, Any]) -> Observed:
        """Return what the operator sees; each kind may come from a snapshot of its own."""
        newest = self.snapshot()
        views = {key: newest[key] for key in ("owner", *KINDS)}
        for view in seen:
            views.update(view)
        uids = {job["metadata"]["uid"] for job in views["jobs"].values()}
        pods = [pod for pod in views["pods"].values() if pod["metadata"]["ownerReferences"][0]["uid"] in uids]
        problems = {name: "exceeded quota: pods" for name in views["jobs"] if not self.quota}
        return Observed(
            owner=views["owner"],
            trials=tuple(views["trials"].values()),
            jobs=tuple(views["jobs"].values()),
            pods=tuple(pods),
            now=self.now,
            readings=copy.deepcopy(self.readings),
            job_problems=problems,
            settings=self.settings,
            related=copy.deepcopy(self.related),
        )

    def edit(self, change: Callable[[Document], None]) -> None:
        """Let a person edit the spec."""
        change(self.owner["spec"])
        self.owner["metadata"]["generation"] += 1
        self._touch(self.owner)

    def apply(self, action: Action) -> None:
        """Carry out one action of the operator."""
        if isinstance(action, ReadMetrics):
            self._read_metrics(action)
            return
        self._about_to_write(type(action).__name__)
        match action:
            case CreateTrial(manifest):
                self._create(self.trials, manifest)
            case CreateJob(manifest):
                self._create(self.jobs, manifest)
            case PatchTrialStatus(name, uid, status, version):
                self._patch_trial(name, uid, dict(status), version)
            case SuspendJob(name, uid, suspend):
                if self._is(self.jobs, name, uid):
                    self.jobs[name]["spec"]["suspend"] = suspend
                    self._touch(self.jobs[name])
            case DeleteJob(name, uid):
                if self._is(self.jobs, name, uid):
                    self._delete_job(name)
            case DeleteOwner(uid):
                assert uid == self.owner["metadata"]["uid"]
                self.owner_deleted = True

    def write_status(self, version: str, status: Document) -> None:
        """Replace the owner's status."""
        self._about_to_write("Status")
        if version != self.owner["metadata"]["resourceVersion"]:
            raise ConflictError(self.owner["kind"])
        assert not contains_none(status)
        self.owner["status"] = copy.deepcopy(status)
        self._touch(self.owner)

    def _about_to_write(self, what: str) -> None:
        self.writes.append(what)
        if self.crash_at is not None and len(self.writes) == self.crash_at:
            raise OperatorCrashError(what)

    def _create(self, store: dict[str, Document], manifest: Any) -> None:
        name = manifest["metadata"]["name"]
        if name in store:
            return
        document = json.loads(json.dumps(manifest))
        document["metadata"] |= {"uid": new_uid(), "creationTimestamp": stamp(self.now)}
        store[name] = document
        self._touch(document)

    def _patch_trial(self, name: str, uid: str, patch: Document, version: str) -> None:
        if not self._is(self.trials, name, uid):
            return
        trial = self.trials[name]
        if version and trial["metadata"]["resourceVersion"] != version:
            raise ConflictError(name)
        status = trial.setdefault("status", {})
        if "outcome" in patch:
            assert "outcome" not in status, f"{name} ends a second time"
            self.outcomes_written[name] += 1
        for key, value in patch.items():
            if value is None:
                status.pop(key, None)
            else:
                status[key] = json.loads(json.dumps(value))
        self._touch(trial)

    def _delete_job(self, name: str) -> None:
        job = self.jobs.pop(name)
        for pod in self.pods_of(job):
            del self.pods[pod["metadata"]["name"]]

    def _read_metrics(self, request: ReadMetrics) -> None:
        if self.prometheus is None:
            raise AssertionError("nobody said what Prometheus answers")
        answers = {metric: self.prometheus(request.trial, metric) for metric in request.queries}
        self.readings[request.trial] = answers

    def _is(self, store: dict[str, Document], name: str, uid: str) -> bool:
        return name in store and store[name]["metadata"]["uid"] == uid

    def _touch(self, document: Document) -> None:
        self._version += 1
        document["metadata"]["resourceVersion"] = str(self._version)

    # --- controllers ----------------------------------------------------------------------------------

    def tick(self, seconds: int = 1) -> None:
        """Let time pass, and the cluster do its work."""
        self.now += timedelta(seconds=seconds)
        for job in list(self.jobs.values()):
            self._run_queue(job)
            self._run_kubelet(job)
            self._run_job_controller(job)

    def pods_of(self, job: Document) -> list[Document]:
        """Pods of a Job, oldest first."""
        uid = job["metadata"]["uid"]
        return [pod for pod in self.pods.values() if pod["metadata"]["ownerReferences"][0]["uid"] == uid]

    def _run_queue(self, job: Document) -> None:
        queue = "kueue.x-k8s.io/queue-name" in job["metadata"]["labels"]
        if queue and self.admits and job["spec"].get("suspend"):
            job["spec"]["suspend"] = False
            self._touch(job)

    def _run_job_controller(self, job: Document) -> None:
        status = job.setdefault("status", {})
        if status.get("conditions"):
            return
        live = [pod for pod in self.pods_of(job) if not is_over(pod)]
        if job["spec"].get("suspend"):
            if status.pop("startTime", None):
                self._touch(job)
            for pod in live:
                self._interrupt(pod, deleted=True)
            return
        if "startTime" not in status:
            status["startTime"] = stamp(self.now)
            self._touch(job)
        self._advance(job, live)

    def _advance(self, job: Document, live: list[Document]) -> None:
        pods = self.pods_of(job)
        longest = timedelta(seconds=job["spec"]["activeDeadlineSeconds"])
        if any(pod["status"]["phase"] == "Succeeded" for pod in pods):
            self._conclude(job, "Complete", "CompletionsReached")
        elif self.now >= datetime.fromisoformat(job["status"]["startTime"]) + longest:
            for pod in live:
                self._interrupt(pod, deleted=True)
            self._conclude(job, "Failed", "DeadlineExceeded")
        elif any(is_over(pod) and not is_ignored(pod) for pod in pods):
            self._conclude(job, "Failed", "BackoffLimitExceeded")
        elif not live and self.quota:
            self._make_pod(job)

    def _conclude(self, job: Document, kind: str, reason: str) -> None:
        condition = {
            "type": kind,
            "status": "True",
            "reason": reason,
            "lastTransitionTime": stamp(self.now),
        }
        job["status"]["conditions"] = [condition]
        self._touch(job)

    def _make_pod(self, job: Document) -> None:
        name = job["metadata"]["name"]
        ordinal = self._pods_made[name]
        self._pods_made[name] += 1
        pod = {
            "metadata": {
                "name": f"{name}-p{ordinal}",
                "uid": new_uid(),
                "creationTimestamp": stamp(self.now),
                "ownerReferences": [{"uid": job["metadata"]["uid"], "controller": True}],
            },
            "spec": {"nodeName": "node-1"},
            "status": {"phase": "Pending"},
        }
        self.pods[pod["metadata"]["name"]] = pod
        self._touch(pod)

    def _run_kubelet(self, job: Document) -> None:
        for pod in self.pods_of(job):
            if is_over(pod):
                continue
            ordinal = int(pod["metadata"]["name"].rpartition("-p")[2])
            fate = self.fate(job, ordinal)
            status = pod["status"]
            if status["phase"] == "Pending":
                if fate.end == "image":
                    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
                    status["containerStatuses"] = [{"name": "trial", "state": {"waiting": waiting}}]
                else:
                    state = {"running": {"startedAt": stamp(self.now)}}
                    status |= {
                        "phase": "Running",
                        "containerStatuses": [{"name": "trial", "state": state}],
                    }
                self._touch(pod)
            elif self.now >= started_at(pod) + timedelta(seconds=fate.seconds):
                self._end_pod(job, pod, fate)

    def _end_pod(self, job: Document, pod: Document, fate: Fate) -> None:
        match fate.end:
            case "report":
                ordered = "annotations" in job["metadata"]
                honest = self.report(job) if ordered else ""
                message = fate.report if fate.report is not None else honest
                self._terminate(pod, 0, message)
            case "crash":
                self._terminate(pod, 1, fate.report or "Traceback: no luck")
            case "oom":
                self._terminate(pod, 137, "", reason="OOMKilled")
            case "evict":
                self._interrupt(pod, deleted=False)
            case "delete":
                self._interrupt(pod, deleted=True)
            case "vanish":
                # Somebody deleted the pod and the kubelet was quick: nothing of it is left.
                del self.pods[pod["metadata"]["name"]]
                self._conclude(job, "Failed", "BackoffLimitExceeded")
            case "hang":
                pass
            case _:
                raise AssertionError(fate.end)

    def report(self, job: Document) -> str:
        """Return the report that a well-behaved trainer writes for a Job's work order."""
        order = work_order_of(job)
        results = []
        for candidate in order["candidates"]:
            values = self.measure(candidate)
            outcome = "Infeasible" if values.get("infeasible") else "Succeeded"
            metrics = {name: value for name, value in values.items() if name != "infeasible"}
            if order["run"]["kind"] == "ScalingSweep":
                # What measures trains nothing, and what trains measures no latency.
                metrics = {name: value for name, value in metrics.items() if name in order["metrics"]}
            results.append({"trial": candidate["trial"], "outcome": outcome, "metrics": metrics})
        return json.dumps({"version": "nascale.io/report/v1", "results": results})

    def _terminate(self, pod: Document, code: int, message: str, reason: str | None = None) -> None:
        ended = {
            "exitCode": code,
            "reason": reason or ("Error" if code else "Completed"),
            "message": message,
            "startedAt": stamp(started_at(pod)),
            "finishedAt": stamp(self.now),
        }
        pod["status"] |= {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": "trial", "state": {"terminated": ended}}],
        }
        self._touch(pod)

    def _interrupt(self, pod: Document, *, deleted: bool) -> None:
        if pod["status"]["phase"] == "Running":
            self._terminate(pod, 143, "")
        pod["status"]["phase"] = "Failed"
        if deleted:
            pod["metadata"]["deletionTimestamp"] = stamp(self.now)
            by_us = pod["metadata"]["ownerReferences"][0]["uid"] in {
                job["metadata"]["uid"] for job in self.jobs.values() if job["spec"].get("suspend")
            }
            pod["metadata"]["annotations"] = {"suspended": "yes"} if by_us else {}
        else:
            pod["status"]["conditions"] = [
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "TerminationByKubelet",
                    "message": "The node was low on resource: memory.",
                }
            ]
        self._touch(pod)


def new_uid() -> str:
    """Return a uid that no other object has ever had, in any cluster."""
    return f"uid-{next(_UIDS)}"


def stamp(moment: datetime) -> str:
    """Write a time as the API server does."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def is_over(pod: Document) -> bool:
    """Say whether a pod has ended."""
    return pod["status"]["phase"] in ("Succeeded", "Failed")


def is_ignored(pod: Document) -> bool:
    """Say whether the Job replaces a failed pod: it was disrupted, or went with a suspension."""
    disrupted = any(entry["type"] == "DisruptionTarget" for entry in pod["status"].get("conditions", ()))
    return disrupted or pod["metadata"].get("annotations", {}).get("suspended") == "yes"


def started_at(pod: Document) -> datetime:
    """Return when a pod's container started."""
    (container,) = pod["status"]["containerStatuses"]
    state = container["state"].get("running") or container["state"]["terminated"]
    return datetime.fromisoformat(state["startedAt"])


def work_order_of(job: Document) -> Document:
    """Return the work order that a Job's pod is given."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    text = next(entry["value"] for entry in container["env"] if entry["name"] == "NASCALE_WORK_ORDER")
    order: Document = json.loads(text.replace("$$(", "$("))
    return order


def contains_none(value: Any) -> bool:
    """Say whether a document holds a null anywhere."""
    if isinstance(value, dict):
        return any(contains_none(entry) for entry in value.values())
    if isinstance(value, list | tuple):
        return any(contains_none(entry) for entry in value)
    return value is None


@dataclass
class SimulatedOperator:
    """Looks, plans and writes, as the real edge does.

    Attributes:
        cluster: What it works on.
        lag: Chooses, at each look, old snapshots to see instead of the newest state.
    """

    cluster: SimulatedCluster
    lag: Callable[[list[dict[str, Any]]], Iterable[dict[str, Any]]] | None = None
    planner: Callable[[Observed], Plan] = plan
    last: Plan = field(default_factory=Plan)
    _history: list[dict[str, Any]] = field(default_factory=list)

    def look(self) -> bool:
        """Look once; say whether anything was written."""
        self._history.append(self.cluster.snapshot())
        seen = () if self.lag is None else self.lag(self._history)
        observed = self.cluster.observe(*seen)
        before = len(self.cluster.writes)
        self.last = self.planner(observed)
        try:
            self._carry_out(observed, self.last)
        except ConflictError:
            return True
        except OperatorCrashError:
            self.cluster.readings.clear()
            return True
        return len(self.cluster.writes) > before

    def settle(self, most: int = 50) -> None:
        """Look until nothing is left to do at this moment."""
        for _ in range(most):
            asked = len(self.cluster.readings)
            if not self.look() and len(self.cluster.readings) == asked:
                return
        raise AssertionError(f"no rest after {most} looks: {self.cluster.writes[-10:]}")

    def run(self, ticks: int = 2000) -> None:
        """Work until the search has ended and the cluster is at rest.

        The back-offs of one unlucky trial alone take 900 s.
        """
        for _ in range(ticks):
            self.settle()
            if "completionTime" in self.cluster.owner.get("status", {}):
                return
            self.cluster.tick()
        raise AssertionError(f"the search has not ended: {self.cluster.owner.get('status')}")

    def _carry_out(self, observed: Observed, made: Plan) -> None:
        for action in made.actions:
            self.cluster.apply(action)
        if made.status is not None:
            version = observed.owner["metadata"]["resourceVersion"]
            self.cluster.write_status(version, json.loads(json.dumps(made.status)))
        for event in made.events:
            self.cluster.events.append((event.reason, event.message))
        for counted in made.counted:
            label = next(iter(counted.labels.values()), "")
            self.cluster.counted[counted.name, label] += 1
