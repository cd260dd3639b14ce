"""A training to be generated, in memory: trials that measure a device of a few formulas, then its run."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.reconcile.simulation import Document, Fate, SimulatedCluster, is_over, started_at
from tests.reconcile.trainings import Run, SimulatedTraining, ends_of, index_of, training, work_order_text

from nascale.contract import training_series as series
from nascale.contract.profile_order import ProfileOrder, ProfileTask, parse_profile_order
from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.schedule import resolve
from nascale.reconcile.actions import Sample

EPOCH = 100_000
"""Samples of the training part."""
SPEEDS = {"FP32": 1.0, "BF16": 1.8, "FP16": 2.2}
BY_FORMAT = {"Contiguous": 1.0, "ChannelsLast": 1.25}
FULL_SIDE = 32


def generated_training(
    *, labels: dict[str, str] | None = None, length: str = "20000000sp", **generate: Any
) -> Document:
    """Return a training of the user's own model to be generated; keywords go into ``generate``."""
    document = training(labels=labels)
    given: Document = {
        "model": {"resolution": [16, 24, 32], "globalBatch": [64, 128]},
        "hardware": {"precision": ["FP32", "BF16"], "memoryFormat": ["Contiguous", "ChannelsLast"]},
        "profile": {"trialsPerPod": 3},
        **generate,
    }
    spec = document["spec"]
    del spec["stages"]
    spec |= {
        "length": length,
        "defaults": {"model": {"resolution": FULL_SIDE, "globalBatch": 64}},
        "schedule": {"generate": {key: value for key, value in given.items() if value is not None}},
    }
    return document


def step_seconds(stage: StageOrder) -> float:
    """Return how long the simulated device takes for a step."""
    side = stage.model.resolution or FULL_SIDE
    work = stage.model.global_batch * side * side * (0.1 + 0.9 * stage.model.depth)
    rate = SPEEDS[stage.hardware.precision] * BY_FORMAT[stage.hardware.memory_format]
    world = stage.hardware.world
    exchange = 0.0 if world == 1 else 0.003 * (0.5 if stage.hardware.communication_hook != "None" else 1.0)
    return 0.002 + 5e-7 * work / rate / world + exchange


@dataclass
class SimulatedGeneration(SimulatedTraining):
    """A cluster with one training that is to be generated.

    Attributes:
        device: Name of the device that measurements name.
        software: Version that they name.
        deviates: Relative deviation of the loss with low precision.
        hook_deviates: The same with rounded gradients; infinite: the loss is no number.
        fp16: Whether the device can do FP16.
        slow: Factor of every step's time.
        off: Factor of a step's time while training over that while measured, by precision or memory format.
        narrow: Whether the smallest images are far faster Contiguous.
        plateau: Whether a stage with a plateau's end ends when half of it is trained.
        straggles: Seconds that the other pods of a group end after the first one.
        gains: Whether a plateau's metric gets better in each evaluation.
        noise: Standard deviation of a measured step's log; it follows from the trial's index.
        pauses: Mean over median of the steps, by which a loader is late now and then: while measured, and
            while training.
        tells_throughput: Whether a measurement's throughput is reported.
        compiles: Seconds that the first step of each stage takes beyond others; they are told of those that
            begin with a switch.
    """

    device: str = "H100"
    software: str = "torch 2.15.0"
    deviates: float = 0.01
    hook_deviates: float = 0.01
    fp16: bool = False
    slow: float = 1.0
    off: dict[str, float] = field(default_factory=dict)
    plateau: bool = False
    narrow: bool = False
    gains: bool = False
    straggles: float = 3.0
    noise: float = 0.0
    pauses: tuple[float, float] = (1.0, 1.0)
    tells_throughput: bool = True
    compiles: float = 0.0

    def report(self, job: Document) -> str:
        """Return the report of a well-behaved trainer for a profile order."""
        order = profile_order_of(job)
        shapes = {
            (own.hardware.workers, own.hardware.processes_per_worker)
            for one in order.candidates
            for own in one.stages
        }
        assert shapes == {(order.workers, order.processes_per_worker)}
        assert job["spec"].get("completions", 1) == order.workers
        if order.task is ProfileTask.MEASURE_STEPS:
            results = [self._measured(candidate) for candidate in order.candidates]
        else:
            results = [self._tried(order, candidate) for candidate in order.candidates]
        device = {"type": "cuda", "name": self.device, "software": self.software, "clockMegahertz": 1980}
        return json.dumps({"version": "nascale.io/report/v1", "results": results, "device": device})

    def _measured(self, candidate: Any) -> Document:
        (stage,) = candidate.stages
        if stage.hardware.precision == "FP16" and not self.fp16:
            reason = {"reason": "UnsupportedPrecision", "message": "the device has no FP16"}
            return {"trial": candidate.trial, "outcome": "Infeasible", **reason}
        hooked = stage.hardware.communication_hook != "None"
        if hooked and math.isinf(self.hook_deviates):
            reason = {"reason": "NonFiniteLoss", "message": "stage final: loss must be finite, not nan"}
            return {"trial": candidate.trial, "outcome": "Infeasible", **reason}
        median = self._seconds(stage) * self._noise_of(candidate.index)
        metrics = {
            "step_p50_seconds": median,
            "settle_seconds": 0.4,
            "start_seconds": 3.0,
            "epoch_samples": float(EPOCH),
            "peak_memory_bytes": 1e9,
        }
        if self.tells_throughput:
            metrics["training_samples_per_second"] = stage.model.global_batch / (median * self.pauses[0])
        if self.noise:
            metrics["step_spread_ratio"] = 1.5 * self.noise
        if candidate.guarded:
            metrics["loss_deviation_ratio"] = self.hook_deviates if hooked else self.deviates
        return {"trial": candidate.trial, "outcome": "Succeeded", "metrics": metrics}

    def _noise_of(self, index: int) -> float:
        return math.exp(self.noise * random.Random(index).gauss())

    def _tried(self, order: ProfileOrder, candidate: Any) -> Document:
        ends = resolve(order.length, candidate.stages, EPOCH)
        whole, quality, seconds = ends.whole, 0.0, 0.0
        for place, stage in enumerate(candidate.stages):
            share = (ends.ends[place] - ends.begin(place)) / whole
            side = (stage.model.resolution or FULL_SIDE) / FULL_SIDE
            quality += share * (0.9 - 0.05 * (1 - side) - 0.02 * (stage.model.global_batch > 64))
            seconds += share * whole / stage.model.global_batch * step_seconds(stage)
        metrics = {metric: round(quality, 6) for metric in order.metrics if metric != "training_seconds"}
        return {
            "trial": candidate.trial,
            "outcome": "Succeeded",
            "metrics": {**metrics, "training_seconds": round(seconds, 6)},
        }

    def _median(self, stage: StageOrder) -> float:
        hardware = stage.hardware
        factor = self.off.get(hardware.precision, 1.0) * self.off.get(hardware.memory_format, 1.0)
        return self._seconds(stage) * factor

    def _in_steps(self, stage: StageOrder, place: int, steps: int) -> float:
        return super()._in_steps(stage, place, steps) * self.pauses[1] + self.compiles

    def _seconds(self, stage: StageOrder) -> float:
        small = (stage.model.resolution or FULL_SIDE) < FULL_SIDE / 2 + 1
        best = "Contiguous" if small else "ChannelsLast"
        factor = 2.0 if self.narrow and stage.hardware.memory_format != best else 1.0
        return self.slow * factor * step_seconds(stage)

    def _samples(self, run: Run, order: RunOrder, *, stepped: bool) -> list[Sample]:
        found = super()._samples(run, order, stepped=stepped)
        if self.compiles:
            labels = {"class": "Recompile", "phase": "firstStep"}
            found += [
                Sample(series.SWITCH_SECONDS, self.compiles, {"stage": str(place), **labels})
                for place in range(1, run.place + 1)
            ]
        if self.gains and run.stages[run.place].until_plateau is not None:
            found.append(Sample(series.WAITED, 0.0))
        return found

    def _step(self, job: Document, pods: list[Document], run: Run, order: RunOrder) -> None:
        ends = ends_of(run.stages, order)
        begin = run.began[run.place]
        half = begin + (ends[run.place] - begin) // 2
        if self.plateau and run.stages[run.place].until_plateau is not None and run.samples >= half:
            run.place += 1
            run.began.append(run.samples)
        super()._step(job, pods, run, order)

    # Jobs of trials are plain ones where one pod measures; those of several and of the run are indexed.

    def _advance(self, job: Document, live: list[Document]) -> None:
        alone = of_trials(job) and "completions" not in job["spec"]
        owner = SimulatedCluster if alone else SimulatedTraining
        owner._advance(self, job, live)

    def _run_kubelet(self, job: Document) -> None:
        if of_trials(job) and "completions" in job["spec"]:
            self._run_group(job)
            return
        owner = SimulatedCluster if of_trials(job) else SimulatedTraining
        owner._run_kubelet(self, job)

    def _run_group(self, job: Document) -> None:
        """Let pods measure together: the first one reports when all have run long enough, and ends first."""
        fates: dict[str, Fate] = {}
        for pod in self.pods_of(job):
            name = pod["metadata"]["name"]
            fates[name] = fate = self.fate(job, index_of(pod) * 100 + int(name.rpartition("-p")[2]))
            if is_over(pod):
                continue
            if pod["status"]["phase"] == "Pending":
                self._start(pod, fate)
            elif fate.end != "report" and self.now >= started_at(pod) + timedelta(seconds=fate.seconds):
                self._end_pod(job, pod, fate)
        running = [pod for pod in self.pods_of(job) if pod["status"]["phase"] == "Running"]
        met = len(running) == job["spec"]["completions"] and all(
            self.now >= started_at(pod) + timedelta(seconds=fates[pod["metadata"]["name"]].seconds)
            for pod in running
        )
        for pod in running:
            if index_of(pod) == 0 and met:
                self._terminate(pod, 0, self.report(job))
            elif self._first_is_through(job, self.straggles):
                self._terminate(pod, 0, "")

    def _first_is_through(self, job: Document, seconds: float) -> bool:
        """Say whether a group's first pod has reported, so long ago."""
        ended = [
            datetime.fromisoformat(found["finishedAt"])
            for pod in self.pods_of(job)
            if index_of(pod) == 0
            for found in [pod["status"].get("containerStatuses", [{}])[0].get("state", {}).get("terminated")]
            if found is not None and found["exitCode"] == 0
        ]
        return bool(ended) and self.now >= max(ended) + timedelta(seconds=seconds)

    def _save_on_sigterm(self, job: Document) -> None:
        if not of_trials(job):
            super()._save_on_sigterm(job)


def of_trials(job: Document) -> bool:
    """Say whether a Job carries trials."""
    return "nascale.io/trials" in job["metadata"].get("annotations", {})


def profile_order_of(job: Document) -> ProfileOrder:
    """Return a Job's profile order."""
    return parse_profile_order(work_order_text(job))


def trial_jobs(cluster: SimulatedGeneration) -> list[Document]:
    """Return the Jobs of trials."""
    return [job for job in cluster.jobs.values() if of_trials(job)]


def run_jobs(cluster: SimulatedGeneration) -> list[Document]:
    """Return the Jobs of the run."""
    return [job for job in cluster.jobs.values() if not of_trials(job)]


def generated(cluster: SimulatedGeneration) -> Document:
    """Return ``status.generated``; empty where there is none."""
    found: Document = cluster.owner.get("status", {}).get("generated", {})
    return found
