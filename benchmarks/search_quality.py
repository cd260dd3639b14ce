"""How good the front is after how many trials, on a table of 6,561 trained networks (NAS-Bench-Macro).

Two searches: accuracy against FLOPs, and accuracy against parameters. Every algorithm sees the table as a
black box that returns the mean accuracy of three trainings. A front's quality is its hypervolume in
objectives scaled to the table's range, reference point at the table's worst values; "baseline" is that of
the table's true front, the most that can be reached. All runs are sequential, one network after the other.

"Adaptive" and "RegularizedEvolution" are asked through the sampler interface of the operator. Random, TPE,
NSGA-II and GP are Optuna's own samplers, each in its natural run in one process, with default settings;
NSGA-II also with a population of 20, and the one of the two that has the larger hypervolume is what Adaptive
is compared with. GP costs about half a second per network and is limited to fewer networks and seeds.

The decisive figures: after how many networks Adaptive reaches the hypervolume that NSGA-II reaches on average
after 100, 200 and 500, as a share of these. "One training" repeats this with the accuracy of a single
training, drawn anew for each network, as the search would see it; the hypervolume is that of mean accuracies.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning

from nascale.search.history import TrialRecord, TrialState
from nascale.search.hypervolume import hypervolume
from nascale.search.problem import Direction, Objective, SearchProblem
from nascale.search.samplers import registry
from nascale.search.space import Categorical, SearchSpace
from rows import Aim, Row, environment, measured, write_rows

NAME = "search-quality"
TABLE = Path(__file__).parent / "data" / "nas-bench-macro-cifar10.csv"
LAYERS = [f"layer{number}" for number in range(8)]
OPERATIONS = ("identity", "mb3-k3", "mb6-k5")
SPACE = SearchSpace(tuple(Categorical(layer, OPERATIONS) for layer in LAYERS))
CHECKPOINTS = (50, 100, 200, 500)
LEVELS = (100, 200, 500)
COSTS = ("flops", "parameters")
HALF = Aim("at most", 0.5)
COMMAND = "python benchmarks/search_quality.py"


@dataclass(frozen=True)
class Network:
    """A row of the table: accuracies in %, costs by name."""

    accuracies: tuple[float, float, float]
    costs: Mapping[str, float]

    @property
    def accuracy(self) -> float:
        """Mean of the three trainings."""
        return sum(self.accuracies) / len(self.accuracies)


@cache
def table() -> Mapping[tuple[str, ...], Network]:
    """Read the table: networks by the operations of their layers."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {
            tuple(OPERATIONS[int(digit)] for digit in row["network"]): Network(
                (float(row["accuracy_0"]), float(row["accuracy_1"]), float(row["accuracy_2"])),
                {cost: float(row[cost]) for cost in COSTS},
            )
            for row in csv.DictReader(file)
        }


@dataclass(frozen=True)
class Run:
    """One search: which algorithm, on what, how long.

    Attributes:
        algorithm: Label of the algorithm.
        cost: The objective beside accuracy.
        seed: Of the algorithm.
        trials: Networks to ask for.
        one_training: Whether the search sees one training's accuracy instead of the mean.
    """

    algorithm: str
    cost: str
    seed: int
    trials: int
    one_training: bool = False

    def see(self, network: Network, rng: np.random.Generator) -> tuple[float, float]:
        """Return the accuracy and the cost that the search is told."""
        training = int(rng.integers(3))
        accuracy = network.accuracies[training] if self.one_training else network.accuracy
        return accuracy, network.costs[self.cost]


Search = Callable[[Run], list[Network]]


def ours(run: Run) -> list[Network]:
    """Run one of the operator's samplers."""
    objectives = (Objective("accuracy", Direction.MAXIMIZE), Objective(run.cost, Direction.MINIMIZE))
    problem = SearchProblem(SPACE, objectives, algorithm=run.algorithm, seed=run.seed)
    sampler = registry.create(run.algorithm)
    rng = np.random.default_rng(run.seed)
    history: list[TrialRecord] = []
    networks: list[Network] = []
    for index in range(run.trials):
        (proposal,) = sampler.propose(problem, history, 1)
        network = table()[tuple(str(proposal.parameters[layer]) for layer in LAYERS)]
        accuracy, cost = run.see(network, rng)
        values = {"accuracy": accuracy, run.cost: cost}
        history.append(TrialRecord(index, index, 0, proposal.parameters, TrialState.SUCCEEDED, values))
        networks.append(network)
    return networks


OPTUNA: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "Random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "NSGA-II": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "NSGA-II, population 20": lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    "GP": lambda seed: optuna.samplers.GPSampler(seed=seed, deterministic_objective=True),
}
NSGA = ("NSGA-II", "NSGA-II, population 20")
OURS = ("Adaptive", "RegularizedEvolution")


def natural(run: Run) -> list[Network]:
    """Run one of Optuna's samplers as Optuna runs it: it may ask for a network again, and it counts."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=OPTUNA[run.algorithm](run.seed))
    rng = np.random.default_rng(run.seed)
    networks: list[Network] = []
    for _ in range(run.trials):
        trial = study.ask()
        network = table()[tuple(trial.suggest_categorical(layer, OPERATIONS) for layer in LAYERS)]
        networks.append(network)
        study.tell(trial, run.see(network, rng))
    return networks


def losses(networks: Sequence[Network], cost: str) -> np.ndarray:
    """Return accuracy and cost, smaller is better, scaled to the table's range."""
    every = np.array([[-network.accuracy, network.costs[cost]] for network in table().values()])
    asked = np.array([[-network.accuracy, network.costs[cost]] for network in networks])
    low, high = every.min(0), every.max(0)
    return (asked - low) / (high - low)


def curve(run: Run) -> list[float]:
    """Run a search and return its hypervolume after each network."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    search: Search = ours if run.algorithm in OURS else natural
    points = losses(search(run), run.cost)
    reference = np.ones(2)
    reached: list[float] = []
    for count in range(1, len(points) + 1):
        # A point that is no better anywhere adds nothing: no need to compute the volume again.
        beaten = count > 1 and bool(np.any(np.all(points[: count - 1] <= points[count - 1], axis=1)))
        reached.append(reached[-1] if beaten else hypervolume(points[:count], reference))
    return reached


def plan(seeds: int, gp_seeds: int) -> list[Run]:
    """List all runs."""
    most = CHECKPOINTS[-1]
    runs: list[Run] = []
    for cost in COSTS:
        for algorithm in (*OURS, *OPTUNA):
            few = algorithm == "GP"
            runs += [
                Run(algorithm, cost, seed, 100 if few else most) for seed in range(gp_seeds if few else seeds)
            ]
    for algorithm in ("Adaptive", *NSGA):
        trials = 250 if algorithm == "Adaptive" else most
        runs += [Run(algorithm, "flops", seed, trials, one_training=True) for seed in range(seeds)]
    return runs


def first_reaching(curves: np.ndarray, level: float) -> list[float]:
    """Return after how many networks each run reaches a hypervolume; infinite where it never does."""
    return [
        float(np.argmax(reached >= level) + 1) if bool(np.any(reached >= level)) else float("inf")
        for reached in curves
    ]


def rows_of(curves: Mapping[tuple[str, str, bool], np.ndarray], where: str) -> list[Row]:
    """Turn the curves of all runs into rows."""
    circumstances = {"command": COMMAND, "environment": where}
    rows: list[Row] = []
    for (algorithm, cost, one_training), reached in curves.items():
        if one_training:
            continue
        best = hypervolume(losses(list(table().values()), cost), np.ones(2))
        limit = ", limited to 100 networks and fewer seeds by its cost" if algorithm == "GP" else ""
        rows += [
            measured(
                f"accuracy against {cost}: hypervolume after {count}, {algorithm}{limit}",
                reached[:, count - 1].tolist(),
                unit="1",
                baseline=best,
                **circumstances,
            )
            for count in CHECKPOINTS
            if count <= reached.shape[1]
        ]
    for one_training, cost in ((False, "flops"), (False, "parameters"), (True, "flops")):
        adaptive = curves["Adaptive", cost, one_training]
        what = f"accuracy{' of one training' if one_training else ''} against {cost}"
        for count in LEVELS:
            level = max(float(curves[name, cost, one_training][:, count - 1].mean()) for name in NSGA)
            needed = first_reaching(adaptive, level)
            figure = (
                f"{what}: networks that Adaptive needs for what NSGA-II reaches after {count}, as a share"
            )
            shares = [share / count for share in needed]
            rows.append(measured(figure, shares, unit="1", aim=HALF, baseline=1.0, **circumstances))
            figure = f"{what}: the slowest seed's share of NSGA-II's {count}"
            rows.append(measured(figure, max(shares), unit="1", aim=HALF, baseline=1.0, **circumstances))
    return rows


def main() -> int:
    """Run everything, write the rows, print the decisive ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="runs per algorithm (GP has a quarter)")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    runs = plan(options.seeds, max(2, options.seeds // 4))
    # One thread per process: the matrices are small, and the runs are parallel already. Read when the
    # libraries are loaded, so that the processes must be fresh ones.
    os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        reached = list(pool.map(curve, runs))
    grouped: dict[tuple[str, str, bool], list[list[float]]] = {}
    for run, values in zip(runs, reached, strict=True):
        grouped.setdefault((run.algorithm, run.cost, run.one_training), []).append(values)
    curves = {key: np.array(values) for key, values in grouped.items()}
    rows = rows_of(curves, environment("numpy", "optuna", "torch"))
    for row in rows:
        print(f"{row.figure}: {row.value} {row.ci95 or ''} {'' if row.holds is None else row.holds}")
    print(f"written: {write_rows(NAME, rows).name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
