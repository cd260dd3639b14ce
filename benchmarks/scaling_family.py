"""A family scaled under measured latency, beside families of published rules at the same budgets.

The base is a small network of fused blocks for a twentieth of Fashion-MNIST's training part at 16 pixels a
side (scikit-learn's digits at 8 where Fashion-MNIST is missing), trained for four epochs: far from learnt to
the end. Latency is that of 16 images on one thread. A sweep (mode PerLevel, all five baselines) finds the
family. What it chose is then judged afresh: every member and every baseline's network is trained again with
seeds and a split of the data that the sweep has not seen, and latencies are measured again in turn, one
network after the other, several rounds. Accuracies are compared in pairs of one seed.

"Baselines" are EfficientNet's rule, fast scaling (mostly width), the vectors of EfficientNet-X for V100 and
TPUv3, and the vector that a sweep blind to latency finds (accuracy at equal FLOPs). Each keeps the same
budget by the largest network on its own ray. "Times faster at equal accuracy": EfficientNet's ray is
followed from its network at the largest budget, upwards until its mean accuracy reaches that of our largest
member, or downwards as long as it does; where it is not reached within MOST_TIMES of our latency, the figure
is a lower bound and says so.

The sweep trains each member's contenders three times, and what is too close to call up to nine times. The
best baseline at a member is named after the judgement, by the same trainings: the largest of several means is
above what its network is worth, so that this comparison is to our disadvantage.

Rows are written as soon as they are known: a run that is cut off leaves those it has, of fewer seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from statistics import mean, median
from typing import Final

from nascale.contract.architecture import Architecture, BlockType, Head, Stage, Stem
from nascale.contract.work_order import DataOrder, Fidelity, MeasurementOrder, TrainingOrder
from nascale.scaling import engine
from nascale.scaling.networks import ScaledNetwork, scaler
from nascale.scaling.problem import Member, ScalingProblem
from nascale.scaling.rays import ray
from nascale.scaling.vectors import PUBLISHED, log_ratios, normalised
from nascale.search.problem import Direction, Objective
from nascale_trainer.outcomes import NoisyMeasurement
from rows import Aim, Row, environment, measured, show, write_rows
from sweep_runner import Workbench, data_set, network_of, run_sweep, say

NAME = "scaling-family"
COMMAND: Final = "python benchmarks/scaling_family.py"
SEEDS: Final = 10
FEWEST_SEEDS: Final = 2
"""From which on an interval can be told."""
ROUNDS: Final = 3
FRESH_SPLIT: Final = 1
BASELINES: Final = ("EfficientNet", "FastScaling", "LACSGPU", "LACSTPU", "AccuracyFLOPs")
OURS: Final = "nascale"
TIMES_FASTER: Final = 1.5
MOST_TIMES: Final = 2.5
"""Of our largest member's latency, up to which EfficientNet's ray is followed."""
RAY_STEP: Final = 1.15
"""Factor of FLOPs between the networks of EfficientNet's ray that are tried."""
MOST_ON_RAY: Final = 7
MEMBERS: Final = (Member("s", multiple=1.5), Member("m", multiple=2.2), Member("l", multiple=3.2))
QUALITY: Final = Objective("accuracy", Direction.MAXIMIZE)


@cache
def base() -> Architecture:
    """Describe the base network: two stages of fused blocks."""

    def stage(channels: int, stride: int, depth: int) -> Stage:
        return Stage.model_validate(
            {
                "block": BlockType.FUSED_MBCONV,
                "kernel": 3,
                "stride": stride,
                "expansion": 2,
                "channels": channels,
                "depth": depth,
            }
        )

    small = data_set() == "Digits"
    return Architecture(
        stem=Stem(channels=8, stride=1 if small else 2),
        stages=(stage(8, 1, 2), stage(16, 2, 3)),
        head=Head(channels=32),
        resolution=8 if small else 16,
    )


def workbench() -> Workbench:
    """Return data, recipe and measurement: accuracy is far from where every network ends."""
    images = data_set()
    data = DataOrder(name=images, validation_fraction=0.3 if images == "Digits" else 0.05)
    share = 1.0 if images == "Digits" else 0.05
    return Workbench(
        data=data,
        fidelities=(Fidelity(epochs=1, data_fraction=share), Fidelity(epochs=4, data_fraction=share)),
        batch=16,
        recipe=TrainingOrder(batch_size=32),
        measurement=MeasurementOrder(min_calls=50, min_seconds=0.3, max_spread_ratio=0.5),
    )


def circumstances() -> str:
    """Describe the machine, and what the figures are of."""
    return environment("torch", "timm", "numpy", extra=f"one thread, {data_set()}")


def problem(*, baselines: tuple[str, ...] = BASELINES, per_level: bool = True) -> ScalingProblem:
    """Return the sweep."""
    return ScalingProblem(
        base=base(),
        members=MEMBERS,
        objectives=(QUALITY, Objective("latency_p50_seconds", Direction.MINIMIZE)),
        latency_metric="latency_p50_seconds",
        quality=QUALITY,
        per_level=per_level,
        baselines=baselines,
        rungs=2,
        vectors=16,
        trained_vectors=8,
        finalists=3,
        repeats=3,
        most_repeats=9,
        per_pod=6,
    )


def accuracies(bench: Workbench, architecture: Architecture, seeds: int = SEEDS) -> list[float]:
    """Train with fresh seeds on a fresh split."""
    return [fresh_accuracy(bench, architecture, seed) for seed in range(seeds)]


def fresh_accuracy(bench: Workbench, architecture: Architecture, seed: int) -> float:
    """Train with a seed and a split that no sweep uses."""
    return bench.accuracy(architecture, -1, 1000 + seed, FRESH_SPLIT)


def latencies(bench: Workbench, networks: list[Architecture]) -> dict[Architecture, float]:
    """Measure all networks in turn, several rounds; return each one's median."""
    found: dict[Architecture, list[float]] = {network: [] for network in networks}
    for turn in range(ROUNDS):
        say(f"latency of {len(networks)} networks, round {turn + 1} of {ROUNDS}")
        for network in networks:
            try:
                found[network].append(bench.latency(network).p50)
            except NoisyMeasurement as error:
                say(f"left out of one round: {error}")
    return {network: median(values) for network, values in found.items()}


@dataclass(frozen=True)
class Rival:
    """EfficientNet's network that is as accurate as ours, or the best one that was tried."""

    architecture: Architecture
    accuracy: float
    times: float
    """Its latency over ours, measured beside each other."""
    reaches: bool


@dataclass
class Judgement:
    """Networks of all families, judged afresh.

    Attributes:
        bench: What they are trained and measured on.
        networks: By family and member.
        latency: Seconds, by network.
        accuracy: One per seed, by network.
        rest: Rows of other figures.
    """

    bench: Workbench
    networks: dict[tuple[str, str], Architecture]
    latency: dict[Architecture, float]
    accuracy: dict[Architecture, list[float]] = field(default_factory=dict)
    rest: list[Row] = field(default_factory=list)

    def train(self, seed: int) -> None:
        """Train every network with one more seed."""
        for place, architecture in enumerate(self.latency):
            self.accuracy.setdefault(architecture, []).append(fresh_accuracy(self.bench, architecture, seed))
            say(f"seed {seed}: network {place + 1} of {len(self.latency)}")

    def add(self, figure: str, samples: float | list[float], unit: str = "1", aim: Aim | None = None) -> None:
        """Add a row of another figure."""
        self.rest.append(row(figure, samples, unit, aim))

    def publish(self) -> None:
        """Write all rows that are known."""
        compared = [own for member in MEMBERS for own in self._compared(member)]
        write_rows(NAME, [*compared, *self.rest])

    def _compared(self, member: Member) -> Iterator[Row]:
        """Give each family's figures at one member, and ours less each baseline's."""
        at = f"{member.multiple} x the base's latency"
        there = {
            name: self.networks[name, member.name]
            for name in (OURS, *BASELINES)
            if (name, member.name) in self.networks
        }
        for name, architecture in there.items():
            yield row(f"accuracy at {at}: {name}", self.accuracy[architecture])
            yield row(f"latency at {at}: {name}", self.latency[architecture], "s")
        ours = self.accuracy[there.pop(OURS)]
        best = max(there, key=lambda name: mean(self.accuracy[there[name]]))
        gains = {name: less(ours, self.accuracy[architecture]) for name, architecture in there.items()}
        for name, gain in gains.items():
            yield row(f"accuracy of nascale less {name}'s, {at}", gain)
        same = ", the same network" if there[best] == self.networks[OURS, member.name] else ""
        yield row(
            f"accuracy of nascale less that of the best baseline there ({best}{same}), {at}",
            gains[best],
            aim=Aim("at least", 0.0),
        )


def row(figure: str, samples: float | list[float], unit: str = "1", aim: Aim | None = None) -> Row:
    """Make a row."""
    return measured(figure, samples, unit=unit, aim=aim, command=COMMAND, environment=circumstances())


def less(ours: list[float], theirs: list[float]) -> list[float]:
    """Compare in pairs of one seed."""
    return [one - other for one, other in zip(ours, theirs, strict=True)]


def follow_efficientnet(judgement: Judgement, own: ScalingProblem) -> Rival:
    """Follow EfficientNet's ray from its network at the largest budget to where it is as accurate as ours."""
    bench, largest = judgement.bench, own.members[-1].name
    ours = judgement.networks[OURS, largest]
    wanted = mean(judgement.accuracy[ours])
    start = judgement.networks["EfficientNet", largest]
    above, below = _beside(own, start)
    rival = _rival(judgement, start, ours, wanted)
    further = below if rival.reaches else above
    for architecture in further[:MOST_ON_RAY]:
        judgement.accuracy[architecture] = accuracies(bench, architecture)
        tried = _rival(judgement, architecture, ours, wanted)
        say(f"EfficientNet's ray: {tried.accuracy:.4f} ({wanted:.4f}) at {tried.times:.2f} of our latency")
        if rival.reaches and not tried.reaches:
            break
        if tried.reaches or tried.accuracy > rival.accuracy or tried.times > rival.times:
            rival = tried
        if (tried.reaches and further is above) or tried.times > MOST_TIMES:
            break
    return rival


def _beside(own: ScalingProblem, start: Architecture) -> tuple[list[Architecture], list[Architecture]]:
    """Return the ray's networks above one and below it, each RAY_STEP in FLOPs from the last."""
    flops = scaler(own.base)
    networks = ray(own, normalised(PUBLISHED["EfficientNet"])).networks
    place = next(number for number, network in enumerate(networks) if network.architecture == start)

    def steps(further: Iterable[ScaledNetwork]) -> list[Architecture]:
        last, kept = flops.log_flops(networks[place]), []
        for network in further:
            log = flops.log_flops(network)
            if network.architecture is not None and abs(log - last) >= math.log(RAY_STEP):
                last = log
                kept.append(network.architecture)
        return kept

    return steps(networks[place + 1 :]), steps(reversed(networks[:place]))


def _rival(judgement: Judgement, architecture: Architecture, ours: Architecture, wanted: float) -> Rival:
    reached = mean(judgement.accuracy[architecture])
    pair = latencies(judgement.bench, list(dict.fromkeys([ours, architecture])))
    return Rival(architecture, reached, pair[architecture] / pair[ours], reached >= wanted)


def main() -> None:
    """Run the sweep, judge what it chose, write the rows."""
    bench, own = workbench(), problem()
    run = run_sweep(own, bench)
    if run.fault is not None:
        raise RuntimeError(f"the sweep must end with a family, not with {run.fault}")
    found = engine.summarise(own, run.records)
    families = {OURS: found.members, **{entry.name: entry.members for entry in found.baselines}}
    networks = {
        (name, member.name): network_of(own, member.multipliers)
        for name, family in families.items()
        for member in family
    }
    different = list(dict.fromkeys(networks.values()))
    judgement = Judgement(bench, networks, latencies(bench, different))
    for name, family in families.items():
        ratios = log_ratios(family[-1].vector) if family else None
        if ratios is not None:
            judgement.add(f"direction at the largest member, log width / log depth: {name}", ratios[0])
            judgement.add(f"direction at the largest member, log resolution / log depth: {name}", ratios[1])
    taken = [own.name for own in found.members if own.taken_from]
    judgement.add("members whose network was taken from a baseline", float(len(taken)))
    seconds = found.seconds
    judgement.add("device-seconds of the sweep, baselines left out", seconds.total - seconds.baselines, "s")
    judgement.add("device-seconds of the baselines", seconds.baselines, "s")
    for seed in range(SEEDS):
        judgement.train(seed)
        if seed + 1 >= FEWEST_SEEDS:
            judgement.publish()
    rival = follow_efficientnet(judgement, own)
    bound = "" if rival.reaches else f", a lower bound: its ray was followed to accuracy {rival.accuracy:.4f}"
    judgement.add(
        f"times faster than EfficientNet's rule at equal accuracy, largest member{bound}",
        rival.times,
        aim=Aim("at least", TIMES_FASTER),
    )
    judgement.publish()
    show(NAME)


if __name__ == "__main__":
    main()
