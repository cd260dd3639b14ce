"""Carries out a sweep in this process as pods would: the operator's own plan, the trainer's own work.

Measuring pods measure the reference and their candidates one after the other; trainings follow, one at a
time, so that nothing disturbs a measurement. Wall time of each is its device-seconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer does, before torch reads it

import torch

from nascale.contract.architecture import Architecture
from nascale.contract.work_order import DataOrder, Fidelity, MeasurementOrder, Precision, TrainingOrder
from nascale.scaling import engine
from nascale.scaling.networks import scaled
from nascale.scaling.problem import (
    MEASURE_ONLY,
    Multipliers,
    Purpose,
    ScalingProblem,
    ScalingProposal,
    ScalingRecord,
)
from nascale.search.history import TrialState
from nascale_trainer.batches import Batches, normalisation_of, split
from nascale_trainer.build import build_network
from nascale_trainer.counting import count_flops, count_parameters
from nascale_trainer.data import ImageSource, load_source
from nascale_trainer.measuring import LatencyRecord, measure_network
from nascale_trainer.outcomes import DataNotFound, NoisyMeasurement
from nascale_trainer.training import Training, evaluate

CPU: Final = torch.device("cpu")
torch.set_num_threads(1)  # the target: one thread of this machine
MOST_ATTEMPTS: Final = 5


def say(text: str) -> None:
    """Tell how far a benchmark is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@cache
def source_of(name: str) -> ImageSource:
    """Load an embedded data set, once."""
    return load_source(DataOrder(name=name), os.environ)


def data_set() -> str:
    """Name the images: Fashion-MNIST where the machine has it (``data/README.md``), else the digits."""
    try:
        source_of("FashionMNIST")
    except DataNotFound as error:
        say(f"the digits instead of Fashion-MNIST: {error}")
        return "Digits"
    return "FashionMNIST"


class _Nobody:
    """Follows a training without a word."""

    def check_stop(self) -> None:
        """Go on."""

    def step(self, seconds: float, done: float) -> None:
        """Ignore a step."""

    def epoch(self, loss: float) -> None:
        """Ignore an epoch."""


@dataclass(frozen=True)
class Workbench:
    """The target, the data and the recipe.

    Attributes:
        data: Which images, and how they are split.
        fidelities: Training at each rung.
        batch: Samples per forward pass when latency is measured.
        recipe: Of the training.
        measurement: Of the latency.
    """

    data: DataOrder
    fidelities: tuple[Fidelity, ...]
    batch: int = 1
    recipe: TrainingOrder = field(default_factory=TrainingOrder)
    measurement: MeasurementOrder = field(default_factory=MeasurementOrder)
    _parts: dict[tuple[int, float, int], tuple[Batches, Batches]] = field(default_factory=dict, init=False)

    def latency(self, architecture: Architecture) -> LatencyRecord:
        """Measure a network; what is too noisy is measured again.

        Raises:
            NoisyMeasurement: it stayed noisy.
        """
        source = source_of(self.data.name or "")
        network = build_network(architecture, source.channels, source.classes, seed=0)
        shape = (self.batch, source.channels, architecture.resolution, architecture.resolution)
        for attempt in count(1):
            try:
                return measure_network(network, shape, CPU, Precision.FP32, self.measurement)
            except NoisyMeasurement:
                if attempt == MOST_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def sizes(self, architecture: Architecture) -> dict[str, float]:
        """Count parameters and multiply-adds."""
        source = source_of(self.data.name or "")
        network = build_network(architecture, source.channels, source.classes, seed=0)
        flops = count_flops(network, source.channels, architecture.resolution)
        return {"parameters": float(count_parameters(network)), "flops": float(flops)}

    def accuracy(
        self, architecture: Architecture, rung: int, seed: int, split_seed: int | None = None
    ) -> float:
        """Train at a rung and return the accuracy on held-out images."""
        fidelity = self.fidelities[rung]
        order = self.data if split_seed is None else self.data.model_copy(update={"split_seed": split_seed})
        source = source_of(order.name or "")
        key = (architecture.resolution, fidelity.data_fraction, order.split_seed)
        if key not in self._parts:
            parts = split(source.labels, order)
            scale = normalisation_of(source, parts.training)
            self._parts[key] = (
                Batches(source, parts.fraction(fidelity.data_fraction), architecture.resolution, scale, CPU),
                Batches(source, parts.validation, architecture.resolution, scale, CPU),
            )
        training, validation = self._parts[key]
        network = build_network(architecture, source.channels, source.classes, seed)
        nobody = _Nobody()
        Training(network, training, self.recipe, fidelity, seed).run(nobody, lambda _: None)
        return evaluate(network, validation, nobody.check_stop)[0]


@dataclass
class Run:
    """A finished sweep: its records, and seconds on the device in sum."""

    records: list[ScalingRecord]
    fault: Any = None

    @property
    def device_seconds(self) -> float:
        """All seconds that trials held the device."""
        return sum(record.device_seconds for record in self.records)


def run_sweep(problem: ScalingProblem, bench: Workbench) -> Run:
    """Ask for one pod after the other and do its work, until the sweep says that it is done."""
    run = Run([])
    while True:
        answer = engine.propose(problem, run.records, 1)
        if answer.fault is not None or (answer.finished and not answer.pods):
            run.fault = answer.fault
            return run
        for pod in answer.pods:
            first = pod[0]
            say(f"{len(run.records)} trials; {answer.phase}: {first.purpose} {first.member} {first.origin}")
            run.records.extend(_work(problem, bench, pod, len(run.records)))


def _work(
    problem: ScalingProblem, bench: Workbench, pod: Iterable[ScalingProposal], lead: int
) -> list[ScalingRecord]:
    return [_trial(problem, bench, proposal, lead + place, lead) for place, proposal in enumerate(pod)]


def _trial(
    problem: ScalingProblem, bench: Workbench, proposal: ScalingProposal, index: int, lead: int
) -> ScalingRecord:
    begun = time.perf_counter()
    architecture = network_of(problem, proposal.multipliers)
    record = ScalingRecord(
        index=index,
        lead=lead,
        purpose=proposal.purpose,
        multipliers=proposal.multipliers,
        state=TrialState.SUCCEEDED,
        rung=proposal.rung,
        repeat=proposal.repeat,
        remeasures=proposal.remeasures,
        member=proposal.member,
        origin=proposal.origin,
    )
    try:
        values: Mapping[str, float] = _values(bench, proposal, architecture)
    except NoisyMeasurement:
        record = replace(record, state=TrialState.METRICS_UNAVAILABLE)
        values = {}
    return replace(record, values=values, device_seconds=time.perf_counter() - begun)


def _values(bench: Workbench, proposal: ScalingProposal, architecture: Architecture) -> dict[str, float]:
    if proposal.purpose in MEASURE_ONLY:
        measured = bench.latency(architecture)
        return {**measured.metrics(), **bench.sizes(architecture)}
    return {"accuracy": bench.accuracy(architecture, proposal.rung, proposal.repeat)}


def network_of(problem: ScalingProblem, multipliers: Multipliers) -> Architecture:
    """Return the scaled network."""
    network = scaled(problem.base, multipliers)
    if network.architecture is None:
        raise ValueError("base: must be an architecture")
    return network.architecture


__all__ = ["Purpose", "Run", "Workbench", "data_set", "network_of", "run_sweep", "say"]
