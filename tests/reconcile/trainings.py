"""A training in memory: Indexed Jobs, and a trainer of a few lines with stages, edits and checkpoints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.reconcile.simulation import (
    Document,
    Fate,
    SimulatedCluster,
    SimulatedOperator,
    is_over,
    new_uid,
    stamp,
    started_at,
)

from nascale.contract.run_order import RunOrder, StageOrder, parse_desired_state, parse_run_order
from nascale.contract.spans import samples_of
from nascale.reconcile.actions import (
    AnnotatePod,
    FollowSeries,
    Question,
    Reading,
    ReadingProblem,
    Sample,
    SeriesReading,
)
from nascale.reconcile.observed import Observed
from nascale.reconcile.progressive_training import plan

INDEX = "batch.kubernetes.io/job-completion-index"
STATE = "nascale.io/desired-state"
BATCH = 10


def stage(name: str, samples: int, **settings: Any) -> Document:
    """Return a stage; keywords of hardware settings, ``model`` is a mapping of its own."""
    model = {"globalBatch": BATCH, **settings.pop("model", {})}
    found: Document = {"name": name, "length": f"{samples}sp", "model": model}
    return {**found, "hardware": settings} if settings else found


def training(*stages: Document, labels: dict[str, str] | None = None, **spec: Any) -> Document:
    """Return a training of the user's own model, by default of three stages, the last with 2 workers."""
    chosen = list(stages) or [stage("a", 100), stage("b", 100, precision="BF16"), stage("c", 100, workers=2)]
    whole = sum(int(entry["length"].removesuffix("sp")) for entry in chosen)
    return {
        "apiVersion": "nascale.io/v1alpha1",
        "kind": "ProgressiveTraining",
        "metadata": {"name": "t", "namespace": "default", "generation": 1, "labels": labels or {}},
        "spec": {
            "model": {"parameters": [{"name": "width", "value": "64"}]},
            "length": f"{whole}sp",
            "stages": chosen,
            "volume": {"claimName": "runs"},
            "podTemplate": {"image": "example.com/train:1", "terminationGracePeriodSeconds": 5},
            **spec,
        },
    }


@dataclass
class Run:
    """What the trainer has in memory and on its volume.

    Attributes:
        samples: Of the run so far.
        place: Of the present stage.
        began: Where each stage began.
        applied: Revision that was applied last.
        refused: Revision that was refused last.
        stages: The schedule.
    """

    samples: int = 0
    place: int = 0
    began: list[int] = field(default_factory=lambda: [0])
    applied: int = 0
    refused: int = 0
    stages: tuple[StageOrder, ...] = ()

    def copy(self) -> Run:
        return Run(self.samples, self.place, list(self.began), self.applied, self.refused, self.stages)


@dataclass
class SimulatedTraining(SimulatedCluster):
    """A cluster with one training.

    Attributes:
        away: Whether Prometheus does not answer.
        checkpoint_every: Ticks between two checkpoints.
        refuses: Says why a schedule is refused; empty: it is not.
        saves: Whether SIGTERM leads to a checkpoint.
        extra: Further samples that Prometheus has.
        answers: What Prometheus says to a further query about a pod.
        questions: The further query about each pod.
        stuck: Whether the trainer neither steps nor looks.
        trained: Samples of each committed step, in order: what a run has really learnt from.
    """

    away: bool = False
    checkpoint_every: int = 4
    refuses: Callable[[tuple[StageOrder, ...]], str] = lambda _stages: ""
    saves: bool = True
    stuck: bool = False
    extra: list[Sample] = field(default_factory=list)
    answers: Callable[[Question], Reading] = lambda _question: Reading()
    questions: dict[str, Question | None] = field(default_factory=dict)
    trained: list[tuple[int, int]] = field(default_factory=list)
    committed: Run = field(default_factory=Run)
    committed_by: int = 0
    lost: int = 0
    moved: dict[str, datetime] = field(default_factory=dict)
    followed: set[str] = field(default_factory=set)
    _memory: dict[str, tuple[frozenset[str], Run]] = field(default_factory=dict)
    _ordinals: Counter[tuple[str, int]] = field(default_factory=Counter)
    _since: Counter[str] = field(default_factory=Counter)

    # --- the API server ------------------------------------------------------------------------------------

    def apply(self, action: Any) -> None:
        """Carry out one action of the operator."""
        match action:
            case FollowSeries(pod=pod, question=question):
                self.followed.add(pod)
                self.questions[pod] = question
            case AnnotatePod(name, uid, annotations):
                self._about_to_write("AnnotatePod")
                if self._is(self.pods, name, uid):
                    self.pods[name]["metadata"]["annotations"] |= dict(annotations)
                    self._touch(self.pods[name])
            case _:
                super().apply(action)

    def observe(self, *seen: dict[str, Any]) -> Observed:
        """Return what the operator sees, Prometheus included."""
        observed = super().observe(*seen)
        series = {name: self._reading(name) for name in self.followed if name in self.pods}
        return Observed(**{**observed.__dict__, "series": series})

    def _reading(self, name: str) -> SeriesReading:
        if self.away:
            return SeriesReading(problem=ReadingProblem.UNREACHABLE, message="connection refused")
        job = next((job for job in self.jobs.values() if self.pods[name] in self.pods_of(job)), None)
        known = None if job is None else self._memory.get(job["metadata"]["uid"])
        if job is None or known is None:
            return SeriesReading(problem=ReadingProblem.NO_SERIES, message="the query yields no series")
        run, order = known[1], order_of(job)
        moved = self.moved.get(job["metadata"]["uid"])
        asked = self.questions.get(name)
        return SeriesReading(
            tuple(self._samples(run, order, stepped=moved is not None)),
            still_since=moved,
            question=asked,
            answer=None if asked is None else self.answers(asked),
        )

    def _samples(self, run: Run, order: RunOrder, *, stepped: bool) -> list[Sample]:
        prefix = "nascale_training_"
        whole = samples_of(order.length, samples_per_epoch=1, batch=BATCH, whole=None)
        found = [
            Sample(f"{prefix}steps_total", run.samples / BATCH),
            Sample(f"{prefix}samples_total", float(run.samples)),
            Sample(f"{prefix}length_samples", float(whole)),
            Sample(f"{prefix}stage", float(run.place)),
            Sample(f"{prefix}applied_generation", float(order.generation)),
            Sample(f"{prefix}applied_revision", float(run.applied)),
            Sample(f"{prefix}setting", float(BATCH), {"setting": "global_batch"}),
        ]
        if run.refused:
            found.append(Sample(f"{prefix}refused_revision", float(run.refused), {"reason": "Unable"}))
        if stepped:
            found.append(Sample(f"{prefix}samples_per_second", float(BATCH)))
        for place, begin in enumerate(run.began):
            end = run.began[place + 1] if place < run.place else run.samples
            steps = (end - begin) // BATCH
            stage = run.stages[place]
            values = {
                "begin_samples": begin,
                "steps": steps,
                "seconds": self._in_steps(stage, place, steps),
                "p50_seconds": self._median(stage),
            }
            if place < run.place:
                values["end_samples"] = run.began[place + 1]
            found += [
                Sample(f"{prefix}stage_value", float(value), {"stage": str(place), "value": name})
                for name, value in values.items()
            ]
        return [*found, *self.extra]

    def _median(self, _stage: StageOrder) -> float:
        """Return the median step of a stage, seconds."""
        return 1.0

    def _in_steps(self, stage: StageOrder, place: int, steps: int) -> float:  # noqa: ARG002  # for others
        """Return the time in a stage's steps, seconds."""
        return steps * self._median(stage)

    def _delete_job(self, name: str) -> None:
        job = self.jobs[name]
        self._save_on_sigterm(job)
        super()._delete_job(name)

    # --- the Job controller --------------------------------------------------------------------------------

    def _run_job_controller(self, job: Document) -> None:
        if job["spec"].get("suspend"):
            self._save_on_sigterm(job)
        super()._run_job_controller(job)

    def _advance(self, job: Document, live: list[Document]) -> None:
        pods, wanted = self.pods_of(job), job["spec"]["completions"]
        done = {index_of(pod) for pod in pods if pod["status"]["phase"] == "Succeeded"}
        failures = [pod for pod in pods if is_over(pod) and pod["status"]["phase"] == "Failed"]
        own = [pod for pod in failures if not ignored(pod)]
        if len(done) == wanted:
            self._conclude(job, "Complete", "CompletionsReached")
        elif any(exit_code(pod) == 2 for pod in own):
            self._conclude(job, "Failed", "PodFailurePolicy")
            self._end_all(live)
        elif len(own) > job["spec"]["backoffLimit"]:
            self._conclude(job, "Failed", "BackoffLimitExceeded")
            self._end_all(live)
        elif self.quota:
            present = done | {index_of(pod) for pod in live}
            for index in range(wanted):
                if index not in present:
                    self._make_indexed_pod(job, index)

    def _end_all(self, pods: list[Document]) -> None:
        for pod in pods:
            self._interrupt(pod, deleted=True)

    def _make_indexed_pod(self, job: Document, index: int) -> None:
        name = job["metadata"]["name"]
        ordinal = self._ordinals[name, index]
        self._ordinals[name, index] += 1
        template = job["spec"]["template"]["metadata"]
        pod = {
            "metadata": {
                "name": f"{name}-{index}-p{ordinal}",
                "uid": new_uid(),
                "creationTimestamp": stamp(self.now),
                "annotations": {**template["annotations"], INDEX: str(index)},
                "ownerReferences": [{"uid": job["metadata"]["uid"], "controller": True}],
            },
            "spec": {"nodeName": "node-1"},
            "status": {"phase": "Pending"},
        }
        self.pods[pod["metadata"]["name"]] = pod
        self._touch(pod)

    def _interrupt(self, pod: Document, *, deleted: bool) -> None:
        annotations = dict(pod["metadata"].get("annotations", {}))
        super()._interrupt(pod, deleted=deleted)
        marked = pod["metadata"].get("annotations", {})
        pod["metadata"]["annotations"] = annotations | marked
        for status in pod["status"].get("containerStatuses", ()):
            status["name"] = "trainer"

    def _terminate(self, pod: Document, code: int, message: str, reason: str | None = None) -> None:
        super()._terminate(pod, code, message, reason)
        pod["status"]["containerStatuses"][0]["name"] = "trainer"

    # --- the kubelet and the trainer -----------------------------------------------------------------------

    def _run_kubelet(self, job: Document) -> None:
        for pod in self.pods_of(job):
            if is_over(pod):
                continue
            fate = self.fate(job, index_of(pod) * 100 + int(pod["metadata"]["name"].rpartition("-p")[2]))
            if pod["status"]["phase"] == "Pending":
                self._start(pod, fate)
            elif fate.end != "report" and self.now >= started_at(pod) + timedelta(seconds=fate.seconds):
                self._end_pod(job, pod, fate)
        running = [pod for pod in self.pods_of(job) if pod["status"]["phase"] == "Running"]
        if len(running) == job["spec"]["completions"] and not job["spec"].get("suspend") and not self.stuck:
            self._train(job, sorted(running, key=index_of))

    def _start(self, pod: Document, fate: Fate) -> None:
        if fate.end == "image":
            state: Document = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
        else:
            state = {"running": {"startedAt": stamp(self.now)}}
            pod["status"]["phase"] = "Running"
        pod["status"]["containerStatuses"] = [{"name": "trainer", "state": state}]
        self._touch(pod)

    def _train(self, job: Document, pods: list[Document]) -> None:
        uid, order = job["metadata"]["uid"], order_of(job)
        members = frozenset(pod["metadata"]["uid"] for pod in pods)
        known = self._memory.get(uid)
        if known is None or known[0] != members:
            if known is not None:
                self.lost += max(0, known[1].samples - self.committed.samples)
            self._begin(pods, uid, members, order)
            return
        if self.committed_by > order.generation:
            return
        run = known[1]
        if self._listen(pods, run, order):
            return
        self._step(job, pods, run, order)

    def _begin(self, pods: list[Document], uid: str, members: frozenset[str], order: RunOrder) -> None:
        """Go on from the checkpoint, or refuse a newer schedule that this run can't follow."""
        newer = order.revision > self.committed.applied
        why = self.refuses(order.stages) if self.committed.stages and newer else ""
        if not why:
            self._memory[uid] = (members, self._loaded(order))
            return
        refusal = {
            "version": "nascale.io/run-report/v1",
            "generation": order.generation,
            "revision": order.revision,
            "outcome": "Refused",
            "reason": "Unable",
            "message": why,
        }
        for pod in pods:
            self._terminate(pod, 0, json.dumps(refusal))

    def _loaded(self, order: RunOrder) -> Run:
        run = self.committed.copy()
        run.stages, run.applied = order.stages, max(run.applied, order.revision)
        return run

    def _listen(self, pods: list[Document], run: Run, order: RunOrder) -> bool:
        """Read the annotation; say whether the generation has ended by it."""
        state = parse_desired_state(pods[0]["metadata"]["annotations"][STATE])
        if state.revision <= max(run.applied, run.refused, order.revision):
            return False
        stages = state.stages or order.stages
        if self.refuses(stages):
            run.refused = state.revision
            return False
        run.applied, run.stages = state.revision, stages
        if state.paused:
            self._commit(run, order)
            self._report(pods, run, order, "Paused", run.place)
            return True
        places = [entry.name for entry in stages]
        if state.advance_to is not None and places.index(state.advance_to) > run.place:
            run.place = places.index(state.advance_to)
            run.began.append(run.samples)
        return False

    def _step(self, job: Document, pods: list[Document], run: Run, order: RunOrder) -> None:
        run.samples += BATCH
        self.moved[job["metadata"]["uid"]] = self.now
        bounds = ends_of(run.stages, order)
        if run.samples >= bounds[-1]:
            self._commit(run, order)
            self._report(pods, run, order, "Completed", run.place)
            return
        if run.samples >= bounds[run.place]:
            run.place += 1
            run.began.append(run.samples)
            if run.stages[run.place].hardware.workers != order.workers:
                self._commit(run, order)
                self._report(pods, run, order, "Switch", run.place)
                return
        self._since[job["metadata"]["uid"]] += 1
        if self._since[job["metadata"]["uid"]] % self.checkpoint_every == 0:
            self._commit(run, order)

    def _commit(self, run: Run, order: RunOrder) -> None:
        assert order.generation >= self.committed_by, "an old generation writes"
        assert run.samples >= self.committed.samples, "a checkpoint goes back"
        if run.samples > self.committed.samples:
            self.trained.append((self.committed.samples, run.samples))
        self.committed, self.committed_by = run.copy(), order.generation

    def _save_on_sigterm(self, job: Document) -> None:
        known = self._memory.get(job["metadata"]["uid"])
        live = frozenset(
            pod["metadata"]["uid"] for pod in self.pods_of(job) if pod["status"]["phase"] == "Running"
        )
        order = order_of(job)
        if known is None or not self.saves or known[0] != live or self.committed_by > order.generation:
            return
        self._commit(known[1], order)

    def _report(self, pods: list[Document], run: Run, order: RunOrder, outcome: str, place: int) -> None:
        stages = [
            {
                "name": run.stages[index].name,
                "begin": begin,
                **(
                    {"end": run.began[index + 1]}
                    if index + 1 < len(run.began)
                    else {"end": run.samples}
                    if outcome == "Completed"
                    else {}
                ),
                "steps": ((run.began[index + 1] if index + 1 < len(run.began) else run.samples) - begin)
                // BATCH,
                "seconds": 1.0,
            }
            for index, begin in enumerate(run.began)
        ]
        report = {
            "version": "nascale.io/run-report/v1",
            "generation": order.generation,
            "revision": run.applied,
            **({"refused": run.refused, "refusedReason": "Unable"} if run.refused else {}),
            "outcome": outcome,
            "step": run.samples // BATCH,
            "samples": run.samples,
            "whole": ends_of(run.stages, order)[-1],
            "stage": run.stages[place].name,
            "stages": stages,
            "metrics": {"accuracy": 0.9},
            **({"model": "t-0/model.safetensors", "digest": "0" * 64} if outcome == "Completed" else {}),
        }
        for pod in pods:
            short = {key: value for key, value in report.items() if key not in ("stages", "metrics")}
            self._terminate(pod, 0, json.dumps(report if index_of(pod) == 0 else short))


def ends_of(stages: tuple[StageOrder, ...], order: RunOrder) -> list[int]:
    """Return where stages end, samples; the last one may take what is left."""
    found: list[int] = []
    for entry in stages:
        begin = found[-1] if found else 0
        length = None if entry.length is None else int(entry.length.removesuffix("sp"))
        found.append(int(order.length.removesuffix("sp")) if length is None else begin + length)
    return found


def order_of(job: Document) -> RunOrder:
    """Return a Job's run order."""
    return parse_run_order(work_order_text(job))


def work_order_text(job: Document) -> str:
    """Return the document that a Job's pods are given."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    text = next(entry["value"] for entry in container["env"] if entry["name"] == "NASCALE_WORK_ORDER")
    return str(text).replace("$$(", "$(")


def index_of(pod: Document) -> int:
    """Return a pod's place among the workers."""
    return int(pod["metadata"]["annotations"][INDEX])


def ignored(pod: Document) -> bool:
    """Say whether a failed pod is not counted."""
    disrupted = any(entry["type"] == "DisruptionTarget" for entry in pod["status"].get("conditions", ()))
    return disrupted or "suspended" in pod["metadata"]["annotations"]


def exit_code(pod: Document) -> int | None:
    """Return the exit code of a pod that has ended."""
    for status in pod["status"].get("containerStatuses", ()):
        if "terminated" in status["state"]:
            return int(status["state"]["terminated"]["exitCode"])
    return None


def operator_of(cluster: SimulatedTraining, **more: Any) -> SimulatedOperator:
    """Return an operator for trainings."""
    return SimulatedOperator(cluster, planner=plan, **more)


def condition(cluster: SimulatedTraining, kind: str) -> Document:
    """Return a condition; empty where it is not there."""
    found = cluster.owner.get("status", {}).get("conditions", [])
    return next((entry for entry in found if entry["type"] == kind), {})


def run_until(
    cluster: SimulatedTraining,
    operator: SimulatedOperator,
    holds: Callable[[], bool],
    ticks: int = 500,
) -> None:
    """Work until something holds."""
    for _ in range(ticks):
        operator.settle()
        if holds():
            return
        cluster.tick()
    raise AssertionError(f"it has not happened: {json.dumps(cluster.owner.get('status'), indent=1)}")


def ended(cluster: SimulatedTraining) -> bool:
    """Say whether the training has ended."""
    return "completionTime" in cluster.owner.get("status", {})
