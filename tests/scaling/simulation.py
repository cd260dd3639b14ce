"""A simulated target and a simulated quality: a sweep in milliseconds, with a known best direction."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from nascale.contract.architecture import (
    Activation,
    Architecture,
    BlockType,
    Head,
    Stage,
    Stem,
)
from nascale.scaling import engine
from nascale.scaling.cost import cost
from nascale.scaling.networks import ScaledNetwork, scaled, scaler
from nascale.scaling.problem import (
    MEASURE_ONLY,
    Axis,
    Base,
    Member,
    Purpose,
    ScaledParameter,
    ScalingProblem,
    ScalingProposal,
    ScalingRecord,
)
from nascale.scaling.vectors import Shares
from nascale.search.history import TrialState
from nascale.search.problem import Direction, Objective

LATENCY = "latency_p50_seconds"
ACCURACY = "accuracy"
OBJECTIVES = (Objective(LATENCY, Direction.MINIMIZE), Objective(ACCURACY, Direction.MAXIMIZE))
PREFERRED: Shares = (0.55, 0.3, 0.15)


def stage(  # noqa: PLR0917 - in the order of a stage's own fields
    channels: int,
    depth: int,
    stride: int = 2,
    block: BlockType = BlockType.MBCONV,
    kernel: int = 3,
    expansion: int = 4,
    squeeze_excitation: str = "0.25",
) -> Stage:
    return Stage.model_validate(
        {
            "block": block,
            "kernel": kernel,
            "stride": stride,
            "expansion": expansion,
            "channels": channels,
            "depth": depth,
            "squeezeExcitation": squeeze_excitation,
            "activation": Activation.RELU,
        }
    )


BASE = Architecture(
    stem=Stem(channels=16, stride=2),
    stages=(stage(24, 2, stride=1), stage(40, 2), stage(80, 3)),
    head=Head(channels=160),
    resolution=64,
)
LARGE_BASE = Architecture(
    stem=Stem(channels=32, stride=2),
    stages=(stage(64, 4, stride=1), stage(96, 5), stage(160, 7)),
    head=Head(channels=640),
    resolution=128,
)
"""Rounding changes it little: directions are smooth."""
TRANSFORMER = (
    ScaledParameter("layers", 4, Axis.DEPTH),
    ScaledParameter("width", 64, Axis.WIDTH, 8),
    ScaledParameter("heads", 4, Axis.WIDTH),
    ScaledParameter("length", 32, Axis.RESOLUTION, 4),
)


def sweep(**changes: object) -> ScalingProblem:
    problem = ScalingProblem(
        base=BASE,
        members=(Member("s", multiple=1.5), Member("m", multiple=2.5), Member("l", multiple=4.0)),
        objectives=OBJECTIVES,
        latency_metric=LATENCY,
        quality=OBJECTIVES[1],
        rungs=2,
    )
    return replace(problem, **changes)  # type: ignore[arg-type]


@dataclass
class Target:
    """Latency = fixed + layers + FLOPs + activations, times noise and drift."""

    noise: float = 0.004
    drift: Callable[[int], float] = lambda _: 1.0
    """Factor by the number of the measuring pod, from 0."""
    per_layer: float = 1.5e-5
    per_flop: float = 4e-11
    per_activation: float = 4e-10
    fixed: float = 2e-4

    def latency(self, network: ScaledNetwork) -> float:
        if network.architecture is None:
            sizes = dict(network.parameters)
            return 1e-4 * (1 + sizes["layers"] * (sizes["width"] / 64) ** 1.5 * sizes["length"] / 32)
        own = cost(network.architecture, 3, 10)
        return (
            self.fixed
            + self.per_layer * own.layers
            + self.per_flop * own.flops
            + self.per_activation * own.activations
        )


@dataclass
class Surface:
    """Accuracy saturates with size, and unbalanced growth is worth less.

    Each axis has diminishing returns around its preferred share, so that among networks of equal FLOPs the
    preferred direction is best. What counts is what has really grown, so that one network has one accuracy.
    """

    preferred: Shares = PREFERRED
    noise: float = 0.001

    def accuracy(self, problem: ScalingProblem, network: ScaledNetwork, rung: int) -> float:
        worth = sum(
            share * math.log1p(_CURVATURE * max(0.0, log) / share) / _CURVATURE
            for share, log in zip(self.preferred, growth_of(problem.base, network), strict=True)
        )
        return 0.9 - 0.25 * math.exp(-4 * worth) - 0.03 * (problem.rungs - 1 - rung)


_CURVATURE = 4.0


def growth_of(base: Base, network: ScaledNetwork) -> tuple[float, float, float]:
    """Return log depth, 2 log width, 2 log resolution, as realised."""
    own = network.architecture
    if own is None or not isinstance(base, Architecture):
        depth, width, resolution = scaler(base).features(network)
        return depth, 2 * width, 2 * resolution
    depth = sum(s.depth for s in own.stages) / sum(s.depth for s in base.stages)
    width = sum(s.channels for s in own.stages) / sum(s.channels for s in base.stages)
    return math.log(depth), 2 * math.log(width), 2 * math.log(own.resolution / base.resolution)


Fate = Callable[[ScalingProposal, int], TrialState]


def succeeds(_: ScalingProposal, __: int) -> TrialState:
    return TrialState.SUCCEEDED


@dataclass
class Simulation:
    """Runs a sweep; noise depends on what is measured, never on when, but for the drift."""

    problem: ScalingProblem
    target: Target = field(default_factory=Target)
    surface: Surface = field(default_factory=Surface)
    fate: Fate = succeeds
    records: list[ScalingRecord] = field(default_factory=list)
    answer: engine.Proposals = field(default_factory=engine.Proposals)

    def run(self, most: int = 2000) -> Simulation:
        """Work off one pod after the other until the sweep ends."""
        while len(self.records) < most:
            self.answer = engine.propose(self.problem, self.records, 1)
            if not self.answer.pods:
                return self
            self.records += self.work(self.answer.pods[0], len(self.records))
        raise AssertionError(f"no end after {most} trials")

    def work(self, pod: engine.Pod, lead: int) -> list[ScalingRecord]:
        return [self.trial(own, lead + place, lead) for place, own in enumerate(pod)]

    def trial(self, own: ScalingProposal, index: int, lead: int) -> ScalingRecord:
        state = self.fate(own, index)
        good = state is TrialState.SUCCEEDED
        network = scaled(self.problem, own.multipliers)
        return ScalingRecord(
            index=index,
            lead=lead,
            purpose=own.purpose,
            multipliers=own.multipliers,
            state=state,
            rung=own.rung,
            repeat=own.repeat,
            remeasures=own.remeasures,
            values=self._values(own, network, lead) if good else {},
            member=own.member,
            origin=own.origin,
            device_seconds=self._seconds(own, network),
        )

    @property
    def summary(self) -> engine.Summary:
        return engine.summarise(self.problem, self.records)

    def _values(self, own: ScalingProposal, network: ScaledNetwork, lead: int) -> Mapping[str, float]:
        if own.purpose not in MEASURE_ONLY:
            draw = random.Random(f"{network.key} {own.rung} {own.repeat}")
            exact = self.surface.accuracy(self.problem, network, own.rung)
            return {ACCURACY: exact + draw.gauss(0, self.surface.noise)}
        draw = random.Random(f"{network.key} {lead}")
        pod = len({record.lead for record in self.records if record.purpose in MEASURE_ONLY})
        factor = self.target.drift(pod) * math.exp(draw.gauss(0, self.target.noise))
        latency = self.target.latency(network) * factor
        return {
            LATENCY: latency,
            "latency_p90_seconds": 1.1 * latency,
            "throughput_samples_per_second": 1 / latency,
        }

    def _seconds(self, own: ScalingProposal, network: ScaledNetwork) -> float:
        if own.purpose in MEASURE_ONLY:
            return 2.0
        return 60.0 * 3.0 ** (own.rung - self.problem.rungs + 1) * self.target.latency(network) / 1e-3


def purposes(records: list[ScalingRecord], purpose: Purpose) -> list[ScalingRecord]:
    return [own for own in records if own.purpose is purpose]
