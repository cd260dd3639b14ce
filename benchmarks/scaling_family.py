"""A family scaled under measured latency, beside families of published rules at the same budgets.

The base is a small MBConv network for scikit-learn's digits (1,797 grey images), measured one image at a
time on one thread. A sweep (mode PerLevel, all five baselines) finds the family. What it chose is then
judged afresh: every member and every baseline's network is trained again with seeds and a split of the data
that the sweep has not seen, and latencies are measured again in turn, one network after the other, several
rounds. Accuracies are compared in pairs of one seed.

"Baselines" are EfficientNet's rule, fast scaling (mostly width), the vectors of EfficientNet-X for V100 and
TPUv3, and the vector that a sweep blind to latency finds (accuracy at equal FLOPs). Each keeps the same
budget by the largest network on its own ray. "Times faster at equal accuracy": EfficientNet's ray is
followed upwards until its mean accuracy reaches that of our largest member; where the whole ray does not,
the figure is a lower bound and says so.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Final

from nascale.contract.architecture import Architecture, BlockType, Head, Stage, Stem
from nascale.contract.work_order import DataOrder, Fidelity, MeasurementOrder, TrainingOrder
from nascale.scaling import engine
from nascale.scaling.problem import Member, ScalingProblem
from nascale.scaling.rays import ray
from nascale.scaling.vectors import PUBLISHED, log_ratios, normalised
from nascale.search.problem import Direction, Objective
from nascale_trainer.outcomes import NoisyMeasurement
from rows import Aim, Row, environment, measured, publish
from sweep_runner import Workbench, network_of, run_sweep

NAME = "scaling-family"
COMMAND: Final = "python benchmarks/scaling_family.py"
SEEDS: Final = 8
ROUNDS: Final = 5
FRESH_SPLIT: Final = 1
BASELINES: Final = ("EfficientNet", "FastScaling", "LACSGPU", "LACSTPU", "AccuracyFLOPs")
OURS: Final = "nascale"
TIMES_FASTER: Final = 1.5
MOST_ON_RAY: Final = 16
"""Networks of EfficientNet's ray that are tried, from the base up."""
QUALITY: Final = Objective("accuracy", Direction.MAXIMIZE)


def base() -> Architecture:
    """Describe the base network: three stages of two blocks, 8 x 8 pixels."""

    def stage(channels: int, stride: int) -> Stage:
        return Stage.model_validate(
            {
                "block": BlockType.MBCONV,
                "kernel": 3,
                "stride": stride,
                "expansion": 2,
                "channels": channels,
                "depth": 2,
            }
        )

    return Architecture(
        stem=Stem(channels=8, stride=1),
        stages=(stage(8, 1), stage(16, 2), stage(24, 2)),
        head=Head(channels=48),
        resolution=8,
    )


def workbench() -> Workbench:
    """Return data, recipe and measurement: three epochs, so that digits are not learnt to the last image."""
    return Workbench(
        data=DataOrder(name="Digits", validation_fraction=0.3),
        fidelities=(Fidelity(epochs=1), Fidelity(epochs=3)),
        recipe=TrainingOrder(batch_size=64, learning_rate=0.01),
        measurement=MeasurementOrder(min_calls=100, min_seconds=0.5, max_spread_ratio=0.25),
    )


def problem(*, baselines: tuple[str, ...] = BASELINES, per_level: bool = True) -> ScalingProblem:
    """Return the sweep."""
    return ScalingProblem(
        base=base(),
        members=(Member("s", multiple=1.3), Member("m", multiple=1.7), Member("l", multiple=2.2)),
        objectives=(QUALITY, Objective("latency_p50_seconds", Direction.MINIMIZE)),
        latency_metric="latency_p50_seconds",
        quality=QUALITY,
        per_level=per_level,
        baselines=baselines,
        rungs=2,
        vectors=12,
        trained_vectors=6,
        finalists=2,
        repeats=3,
        per_pod=6,
    )


def accuracies(bench: Workbench, architecture: Architecture, seeds: int = SEEDS) -> list[float]:
    """Train with fresh seeds on a fresh split."""
    return [bench.accuracy(architecture, -1, 1000 + seed, FRESH_SPLIT) for seed in range(seeds)]


def latencies(bench: Workbench, networks: list[Architecture]) -> dict[Architecture, float]:
    """Measure all networks in turn, several rounds; return each one's median."""
    found: dict[Architecture, list[float]] = {network: [] for network in networks}
    for _ in range(ROUNDS):
        for network in networks:
            try:
                found[network].append(bench.latency(network).p50)
            except NoisyMeasurement as error:
                print(f"left out of one round: {error}", file=sys.stderr)
    return {network: median(values) for network, values in found.items()}


def efficientnet_reaching(
    bench: Workbench, own: ScalingProblem, accuracy: float
) -> tuple[Architecture, float, bool]:
    """Follow EfficientNet's ray until its mean accuracy reaches a value.

    Returns:
        The network, its accuracy, and whether it reaches the value; else the best one of the ray.
    """
    tried: list[tuple[float, Architecture]] = []
    for network in ray(own, normalised(PUBLISHED["EfficientNet"])).networks[:MOST_ON_RAY]:
        if network.architecture is None:
            continue
        reached = mean(accuracies(bench, network.architecture))
        print(f"EfficientNet's ray: {network.multipliers}: {reached:.4f}", flush=True)
        tried.append((reached, network.architecture))
        if reached >= accuracy:
            return network.architecture, reached, True
    reached, architecture = max(tried, key=lambda own: own[0])
    return architecture, reached, False


@dataclass
class Judgement:
    """Networks of all families, judged afresh.

    Attributes:
        networks: By family and member.
        accuracy: One per seed, by family and member.
        latency: Seconds, by family and member.
        rows: The figures so far.
    """

    networks: dict[tuple[str, str], Architecture]
    accuracy: dict[tuple[str, str], list[float]]
    latency: dict[tuple[str, str], float]
    rows: list[Row] = field(default_factory=list)
    where: str = ""

    def add(self, figure: str, samples: float | list[float], unit: str = "1", aim: Aim | None = None) -> None:
        """Add a row."""
        row = measured(figure, samples, unit=unit, aim=aim, command=COMMAND, environment=self.where)
        self.rows.append(row)

    def compare(self, member: Member) -> None:
        """Add the rows of one member: each family's figures, and ours less each baseline's."""
        at = f"{member.multiple} x the base's latency"
        for name in (OURS, *BASELINES):
            if (name, member.name) in self.networks:
                self.add(f"accuracy at {at}: {name}", self.accuracy[name, member.name])
                self.add(f"latency at {at}: {name}", self.latency[name, member.name], "s")
        there = [name for name in BASELINES if (name, member.name) in self.networks]
        best = max(there, key=lambda name: mean(self.accuracy[name, member.name]))
        for name in there:
            self.add(f"accuracy of nascale less {name}'s, {at}", self._gain(name, member))
        self.add(
            f"accuracy of nascale less that of the best baseline there ({best}), {at}",
            self._gain(best, member),
            aim=Aim("at least", 0.0),
        )

    def _gain(self, name: str, member: Member) -> list[float]:
        pairs = zip(self.accuracy[OURS, member.name], self.accuracy[name, member.name], strict=True)
        return [ours - theirs for ours, theirs in pairs]


def judge(bench: Workbench, own: ScalingProblem, found: engine.Summary) -> Judgement:
    """Train and measure every family's networks afresh; the same network once."""
    families = {OURS: found.members, **{entry.name: entry.members for entry in found.baselines}}
    networks = {
        (name, member.name): network_of(own, member.multipliers)
        for name, family in families.items()
        for member in family
    }
    different = dict.fromkeys(networks.values())
    latency = latencies(bench, list(different))
    accuracy = {architecture: accuracies(bench, architecture) for architecture in different}
    return Judgement(
        networks,
        {key: accuracy[architecture] for key, architecture in networks.items()},
        {key: latency[architecture] for key, architecture in networks.items()},
        where=environment("torch", "timm", "numpy", extra="one thread, digits"),
    )


def main() -> None:
    """Run the sweep, judge what it chose, write the rows."""
    bench, own = workbench(), problem()
    run = run_sweep(own, bench)
    if run.fault is not None:
        raise RuntimeError(f"the sweep must end with a family, not with {run.fault}")
    found = engine.summarise(own, run.records)
    judgement = judge(bench, own, found)
    for member in own.members:
        judgement.compare(member)
    largest = own.members[-1].name
    accuracy = mean(judgement.accuracy[OURS, largest])
    rival, reached, equal = efficientnet_reaching(bench, own, accuracy)
    ours = judgement.networks[OURS, largest]
    pair = latencies(bench, [ours, rival])
    bound = "" if equal else f" (lower bound: its ray ends at {reached:.4f}, below our {accuracy:.4f})"
    judgement.add(
        f"times faster than EfficientNet's rule at equal accuracy, largest member{bound}",
        pair[rival] / pair[ours],
        aim=Aim("at least", TIMES_FASTER),
    )
    families = {OURS: found.members, **{entry.name: entry.members for entry in found.baselines}}
    for name, family in families.items():
        ratios = log_ratios(family[-1].vector) if family else None
        if ratios is not None:
            judgement.add(f"direction at the largest member, log width / log depth: {name}", ratios[0])
            judgement.add(f"direction at the largest member, log resolution / log depth: {name}", ratios[1])
    seconds = found.seconds
    judgement.add("device-seconds of the sweep, baselines left out", seconds.total - seconds.baselines, "s")
    publish(NAME, judgement.rows)


if __name__ == "__main__":
    main()
