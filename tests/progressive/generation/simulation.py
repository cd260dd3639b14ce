"""Simulated targets: devices whose step times follow from a roofline with overheads, drawn by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nascale.contract.run_order import StageOrder
from nascale.contract.stage_settings import (
    CommunicationHook,
    Compilation,
    GradientCheckpointing,
    HardwareSettings,
    MemoryFormat,
    ModelSettings,
    Parallelism,
    micro_batch,
)
from nascale.contract.work_order import Precision
from nascale.progressive.generation.grid import hardware_settings
from nascale.progressive.generation.problem import Combination, GenerationProblem, Growth, ProfileRecord, Ramp
from nascale.progressive.generation.profile import Design, design
from nascale.progressive.generation.step_time import Belief
from nascale.search.history import TrialState

NOISY_SPREAD = 0.07
"""Difference of three windows' medians, relative to the median, on a device that others use too."""
Measure = Callable[[Sequence[Combination]], list[ProfileRecord]]
"""Measures a batch."""


@dataclass(frozen=True)
class Target:
    """A device with a network on it.

    Attributes:
        compute: Seconds of arithmetic per sample at full size in FP32.
        memory: Seconds of traffic per sample at full size in FP32.
        overhead: Seconds per forward and backward pass of a full-depth network.
        fixed: Seconds per optimizer step.
        speed: Arithmetic of a number format relative to FP32.
        last_speed: Arithmetic with channels last relative to contiguous, by number format.
        compiled: Overhead, traffic of a compiled network relative to an eager one, and seconds to compile.
        fill: Samples at full size that half fill the device.
        cache: What half a micro-batch saves of a sample's arithmetic, as a share of it for each halving.
        stem: Share of the work that depth does not scale.
        capacity: Largest micro-batch at full size in FP32; infinite: no limit.
        unsupported: Number formats that the device does not have.
        noise: Standard deviation of a measured log.
        switch: Seconds of a switch without compilation.
        gradients: Seconds that a ring of two needs for the gradients in FP32, over the network.
        latency: Seconds of an exchange of nothing, for each doubling of the processes.
        local: Time of an exchange within a pod, relative to one between pods.
        shared: Whether the processes of a pod share its device: then each works that much slower.
        pods: Seconds until new pods run.
    """

    compute: float = 2e-3
    memory: float = 5e-4
    overhead: float = 5e-3
    fixed: float = 1e-3
    speed: dict[Precision, float] = field(default_factory=dict)
    last_speed: dict[Precision, float] = field(default_factory=dict)
    compiled: tuple[float, float, float] = (0.4, 0.7, 20.0)
    fill: float = 4.0
    cache: float = 0.0
    stem: float = 0.15
    capacity: float = math.inf
    unsupported: frozenset[Precision] = frozenset()
    noise: float = 0.01
    switch: float = 0.2
    gradients: float = 4e-3
    latency: float = 5e-4
    local: float = 0.4
    shared: bool = True
    pods: float = 15.0
    start: float = 6.0
    side: int | None = 28
    length: int | None = None

    def seconds(self, model: ModelSettings, hardware: HardwareSettings) -> float:
        """Return the true median step."""
        micro = micro_batch(model, hardware)
        assert micro is not None
        size = ((model.resolution or 1) / (self.side or 1)) ** 2
        if self.length is not None:
            share = float(model.parameters["sequence_length"]) / self.length
            size *= share * (0.7 + 0.3 * share)
        layers = self.stem + (1 - self.stem) * model.depth
        work = micro * size * layers
        precision = hardware.precision
        fast = self.speed.get(precision, 1.0)
        if hardware.memory_format is MemoryFormat.CHANNELS_LAST:
            fast *= self.last_speed.get(precision, 1.0)
        overhead, traffic, _ = (
            self.compiled if hardware.compilation is not Compilation.NONE else (1.0, 1.0, 0.0)
        )
        bytes_per = 0.6 if precision in (Precision.BF16, Precision.FP16) else 1.0
        again = 1.3 if hardware.gradient_checkpointing is GradientCheckpointing.BLOCKS else 1.0
        parts = (1 - self.cache) ** math.log2(hardware.accumulation)
        arithmetic = self.compute * again * parts * (work + self.fill * layers) / fast
        device = (arithmetic**3 + (self.memory * traffic * bytes_per * work) ** 3) ** (1 / 3)
        if self.shared:
            device *= hardware.processes_per_worker
        launches = self.overhead * overhead * model.depth * (1.15 if bytes_per < 1 else 1.0)
        return self.fixed + hardware.accumulation * (device**2 + launches**2) ** 0.5 + self.exchange(hardware)

    def exchange(self, hardware: HardwareSettings) -> float:
        """Return what the processes' exchange adds to a step."""
        world = hardware.world
        if world == 1:
            return 0.0
        sent = self.gradients * 2 * (world - 1) / world
        if hardware.communication_hook is not CommunicationHook.NONE:
            sent *= 0.55
        if hardware.parallelism is Parallelism.FSDP:
            sent *= 1.5
        return (sent + self.latency * math.log2(world)) * (self.local if hardware.workers == 1 else 1.0)

    def settle(self, hardware: HardwareSettings) -> float:
        """Return what a switch into settings costs, seconds."""
        return self.switch + (self.compiled[2] if hardware.compilation is not Compilation.NONE else 0.0)

    def measure(self, combination: Combination, *, times: int = 0) -> ProfileRecord:
        """Measure a combination; the noise follows from the combination and the time of asking."""
        model, hardware = combination.model, combination.hardware
        if hardware.precision in self.unsupported:
            return ProfileRecord(
                model,
                hardware,
                TrialState.INFEASIBLE,
                reason=f"precision {hardware.precision} is not supported",
            )
        micro = micro_batch(model, hardware)
        assert micro is not None
        room = 1.8 if hardware.precision in (Precision.BF16, Precision.FP16) else 1.0
        room *= 2.0 if hardware.gradient_checkpointing is GradientCheckpointing.BLOCKS else 1.0
        if micro * ((model.resolution or 1) / (self.side or 1)) ** 2 > self.capacity * room:
            return ProfileRecord(model, hardware, TrialState.INFEASIBLE, reason="no memory")
        rng = np.random.default_rng([times, *combination.key.encode()])
        measured = self.seconds(model, hardware) * math.exp(self.noise * rng.standard_normal())
        return ProfileRecord(
            model,
            hardware,
            TrialState.SUCCEEDED,
            step_seconds=measured,
            settle_seconds=self.settle(hardware),
            start_seconds=self.start,
            pod_seconds=self.pods,
            epoch_samples=54_000,
        )


def draw_target(seed: int) -> Target:
    """Draw a device: from a slow processor bound by arithmetic to a large accelerator bound by launches."""
    rng = np.random.default_rng(seed)
    compute = math.exp(rng.uniform(math.log(2e-5), math.log(3e-3)))
    half = float(rng.uniform(0.6, 3.5))
    last = {precision: float(rng.uniform(0.8, 1.6)) for precision in Precision}
    return Target(
        compute=compute,
        memory=compute * float(rng.uniform(0.1, 1.2)),
        overhead=math.exp(rng.uniform(math.log(5e-4), math.log(2e-2))),
        fixed=math.exp(rng.uniform(math.log(2e-4), math.log(4e-3))),
        speed={
            Precision.BF16: half,
            Precision.FP16: half * float(rng.uniform(0.8, 1.1)),
            Precision.TF32: float(rng.uniform(1.0, 2.0)),
        },
        last_speed=last,
        compiled=(float(rng.uniform(0.2, 0.9)), float(rng.uniform(0.5, 1.0)), float(rng.uniform(5, 60))),
        fill=float(rng.uniform(0.5, 16)),
        stem=float(rng.uniform(0.05, 0.3)),
        noise=float(rng.uniform(0.003, 0.015)),
        gradients=compute * math.exp(rng.uniform(math.log(0.5), math.log(60))),
        latency=math.exp(rng.uniform(math.log(1e-4), math.log(3e-3))),
        local=float(rng.uniform(0.2, 1.0)),
        shared=bool(rng.random() < 0.5),
    )


def image_problem(**changes: Any) -> GenerationProblem:
    """Return a problem with pictures: 3 resolutions, 2 depths, 3 batches, 8 hardware-level combinations."""
    base = StageOrder(
        name="full",
        model=ModelSettings(resolution=28, global_batch=64, augmentation=0.5),
        hardware=HardwareSettings(),
    )
    ranges = {
        "precision": (Precision.FP32, Precision.BF16),
        "memory_format": (MemoryFormat.CONTIGUOUS, MemoryFormat.CHANNELS_LAST),
        "compilation": (Compilation.NONE, Compilation.DEFAULT),
    }
    given: dict[str, Any] = {
        "base": base,
        "length": 12 * 54_000,
        "growing": (Growth("resolution", (14, 20, 28)), Growth("depth", (0.5, 1.0))),
        "batches": (64, 128, 256),
        "ramps": (Ramp("augmentation", 0.0),),
        "hardware": hardware_settings(base.hardware, ranges),
    }
    return GenerationProblem(**(given | changes))


def group_problem(**changes: Any) -> GenerationProblem:
    """Return a problem with pictures whose processes vary: 13 ways to share, 2 number formats."""
    base = StageOrder(
        name="full",
        model=ModelSettings(resolution=28, global_batch=64),
        hardware=HardwareSettings(),
    )
    ranges = {
        "precision": (Precision.FP32, Precision.BF16),
        "workers": (1, 2, 4),
        "processes_per_worker": (1, 2),
        "communication_hook": (CommunicationHook.NONE, CommunicationHook.BF16),
        "parallelism": (Parallelism.DDP, Parallelism.FSDP),
    }
    given: dict[str, Any] = {
        "base": base,
        "length": 12 * 54_000,
        "growing": (Growth("resolution", (14, 20, 28)),),
        "batches": (64, 128, 256),
        "hardware": hardware_settings(base.hardware, ranges),
    }
    return GenerationProblem(**(given | changes))


def text_problem(**changes: Any) -> GenerationProblem:
    """Return a problem with texts: a sequence length that grows, 2 batches, 4 hardware-level combinations."""
    parameters: dict[str, int | float | str] = {"sequence_length": 64, "vocabulary": 96}
    base = StageOrder(
        name="full",
        model=ModelSettings(global_batch=32, parameters=parameters),
        hardware=HardwareSettings(),
    )
    ranges = {
        "precision": (Precision.FP32, Precision.BF16),
        "compilation": (Compilation.NONE, Compilation.DEFAULT),
    }
    given: dict[str, Any] = {
        "base": base,
        "length": 500_000,
        "growing": (Growth("sequence_length", (16, 32, 48, 64), own=True),),
        "batches": (32, 64),
        "hardware": hardware_settings(base.hardware, ranges),
    }
    return GenerationProblem(**(given | changes))


@dataclass(frozen=True)
class Oracle:
    """Stands in for the model of step times: knows a target's true ones, as if the whole grid were measured.

    Attributes:
        target: The device.
        noise: Of its measurements: none.
    """

    target: Target
    noise: float = 0.0

    def measured(self, _: Combination) -> bool:
        return True

    def believe(self, chosen: Sequence[Combination]) -> Belief:
        logs = [math.log(self.target.seconds(own.model, own.hardware)) for own in chosen]
        return Belief(np.array(logs), np.zeros((len(logs), len(logs))))

    def held_out_error(self) -> None:
        return None


def run_profile(
    problem: GenerationProblem, measure: Measure, *, again: bool = True
) -> tuple[list[ProfileRecord], Design]:
    """Measure what the design asks for until it asks for nothing more."""
    records: list[ProfileRecord] = []
    for _ in range(problem.max_trials + 2):
        found = design(problem, records, again=again)
        if found.finished:
            return records, found
        assert found.proposals
        records += measure([own.combination for own in found.proposals])
    raise AssertionError("the profile did not end")


def measuring(target: Target) -> Measure:
    """Measure on a device that nobody else uses."""
    return lambda batch: [target.measure(own) for own in batch]


def measuring_beside_others(target: Target, seed: int) -> Measure:
    """Measure on a device that others use too: five percent of noise, three of which a batch has in common.

    The windows of each measurement differ by as much as they do where that is so.
    """
    rng = np.random.default_rng(seed)

    def measure(batch: Sequence[Combination]) -> list[ProfileRecord]:
        shared, found = 0.03 * rng.standard_normal(), []
        for own in batch:
            record = target.measure(own)
            seconds = record.step_seconds * math.exp(shared + 0.04 * rng.standard_normal())
            found.append(replace(record, step_seconds=seconds, step_spread=NOISY_SPREAD))
        return found

    return measure
