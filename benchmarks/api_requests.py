"""API requests per trial, counted by the API server's audit log, for 10 and for 1,000 no-op trials."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import clusters
from noop_trials import Api, Workload, run_plain_jobs, run_search, search
from rows import Aim, Row, environment, measured, publish

NAME = "api-requests"
COMMAND = "python benchmarks/api_requests.py"
OWN_LIMIT = 6.0
ALL_LIMIT = 35.0
GROWTH_LIMIT = 1.05
"""Requests per trial at the larger number of trials over those at the smaller one: equal but for noise."""
OPERATOR = "nascale-operator"


class AuditLog:
    """The audit log's lines since the last look."""

    def __init__(self, path: Path) -> None:
        """Start at the end of the log."""
        self._path = path
        self._position = path.stat().st_size

    def since_last_look(self, *, benchmark_agent: str = "OpenAPI-Generator") -> Counter[str]:
        """Count new requests by user agent; this benchmark's own are left out."""
        counts: Counter[str] = Counter()
        with self._path.open("rb") as log:
            log.seek(self._position)
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                entry = json.loads(line)
                agent = entry.get("userAgent", "unknown").split("/")[0]
                if agent != benchmark_agent:
                    counts[agent] += 1
        return counts


def measure(api: Api, log: AuditLog, trials: int, parallel: int) -> tuple[Counter[str], Counter[str]]:
    """Return the requests of a search and of as many plain Jobs, each by user agent."""
    workload = Workload("0")
    log.since_last_look()
    run_search(api, search(f"requests-{trials}", trials, parallel, workload))
    ours = log.since_last_look()
    run_plain_jobs(api, f"requests-floor-{trials}", trials, parallel, workload)
    return ours, log.since_last_look()


def main() -> int:
    """Measure on the embedded cluster."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs=2, default=(10, 1000))
    parser.add_argument("--parallel", type=int, default=4)
    options = parser.parse_args()
    rows: list[Row] = []
    own: list[float] = []
    described = environment("kopf", "kubernetes", extra="embedded node")
    with clusters.embedded() as cluster:
        api = Api(str(cluster.kubeconfig))
        api.ensure_namespace()
        run_search(api, search("warm-up", 2, 2, Workload("0")))
        log = AuditLog(cluster.audit_log)
        for trials in options.trials:
            ours, floor = measure(api, log, trials, options.parallel)
            clusters.say(
                f"{trials} trials: {dict(ours.most_common())}; plain Jobs: {dict(floor.most_common())}"
            )
            own.append(ours[OPERATOR] / trials)
            shared = {"unit": "requests", "command": COMMAND, "environment": described}
            label = f"{trials} trials, {options.parallel} at once"
            rows.append(
                measured(
                    f"requests per trial by the operator: {label}",
                    own[-1],
                    aim=Aim("at most", OWN_LIMIT),
                    **shared,
                )
            )
            rows.append(
                measured(
                    f"requests per trial by the whole cluster: {label}",
                    ours.total() / trials,
                    aim=Aim("at most", ALL_LIMIT),
                    baseline=floor.total() / trials,
                    **shared,
                )
            )
    rows.append(
        measured(
            f"requests per trial by the operator, {options.trials[1]} trials over {options.trials[0]}",
            own[1] / own[0],
            unit="1",
            aim=Aim("at most", GROWTH_LIMIT),
            command=COMMAND,
            environment=described,
        )
    )
    publish(NAME, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
