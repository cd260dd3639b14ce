"""Seconds per no-op trial, beside the same number of plain Jobs on the same cluster.

Plain Jobs are the floor of whatever starts the next Job when the last is complete. Searches and Jobs take
turns on one cluster, so that the machine's pace cancels out in their ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from statistics import mean

import clusters
import real_node
from nascale.local.instance import LocalCluster
from noop_trials import Api, Workload, run_plain_jobs, run_search, search
from rows import Aim, Row, environment, measured, publish

NAME = "trial-gap"
COMMAND = "python benchmarks/trial_gap.py"
AIMS = {1: 1.0, 4: 1.1}
"""Largest accepted ratio to the floor, by trials at once."""
FIRST_JOB_SECONDS = 1.0
SLEEP_SECONDS = 1.0


def measure(where: str, api: Api, rounds: int, trials: int) -> Iterator[Row]:
    """Measure one cluster: for each parallelism, plain Jobs and a search in turns."""
    described = environment("kopf", "kubernetes", extra=where)
    workload = Workload(f"{SLEEP_SECONDS:g}")
    first_jobs: list[float] = []
    run_plain_jobs(api, "warm-up", 2, 2, workload)
    run_search(api, search("warm-up", 2, 2, workload))
    for parallel, limit in AIMS.items():
        floors: list[float] = []
        ours: list[float] = []
        for turn in range(rounds):
            floors.append(
                run_plain_jobs(api, f"floor-{parallel}-{turn}", trials, parallel, workload) / trials
            )
            timing = run_search(api, search(f"search-{parallel}-{turn}", trials, parallel, workload))
            ours.append(timing.total_seconds / trials)
            first_jobs.append(timing.first_job_seconds)
            clusters.say(
                f"{where}, {parallel} at once: floor {floors[-1]:.3f} s, search {ours[-1]:.3f} s per trial"
            )
        shared = {"command": COMMAND, "environment": described}
        label = f"{where}, {parallel} at once"
        yield measured(
            f"seconds per trial over seconds per plain Job: {label}",
            [own / floor for own, floor in zip(ours, floors, strict=True)],
            unit="1",
            aim=Aim("at most", limit),
            baseline=1.0,
            **shared,
        )
        yield measured(
            f"seconds per trial that sleeps 1 s: {label}", ours, unit="s", baseline=mean(floors), **shared
        )
        if parallel == 1:
            yield measured(
                f"gap between two trials that sleep 1 s: {label}",
                [own - SLEEP_SECONDS for own in ours],
                unit="s",
                baseline=mean(floors) - SLEEP_SECONDS,
                **shared,
            )
    yield measured(
        f"seconds from the search's creation to its first Job: {where}",
        first_jobs,
        unit="s",
        aim=Aim("at most", FIRST_JOB_SECONDS),
        command=COMMAND,
        environment=described,
    )


def main() -> int:
    """Measure the clusters that this machine can run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=12)
    options = parser.parse_args()
    targets: dict[str, Callable[[], contextlib.AbstractContextManager[LocalCluster]]] = {
        "embedded node": clusters.embedded
    }
    lacks = real_node.missing()
    if lacks:
        clusters.say(f"no figures of a real kubelet: this machine lacks {', '.join(lacks)}")
    else:
        targets["real kubelet"] = clusters.real_kubelet
    rows: list[Row] = []
    for where, start in targets.items():
        with start() as cluster:
            api = Api(str(cluster.kubeconfig))
            api.ensure_namespace()
            rows += measure(where, api, options.rounds, options.trials)
    publish(NAME, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
