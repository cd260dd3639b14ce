# ruff: noqa: INP001  # a script, run by path
"""A trial in Python without torch: training code of your own, in any framework, needs these few lines.

It fits a polynomial of the degree that the parameter ``degree`` says to noisy samples of a sine by least
squares, in plain Python, and reports the error on held-out samples (``error``) and how long one prediction
takes (``latency_p50_seconds``). The operator reads the latter through Prometheus where the search says so.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
import time

from nascale_trainer import CandidateReport, Metrics, Outcome, load_work_order, report

SAMPLES = 120
HELD_OUT = 40
CALLS = 300
MAX_DEGREE = 9


def fit(degree: int, points: list[tuple[float, float]]) -> list[float]:
    """Return the coefficients of the least-squares polynomial, constant first (normal equations)."""
    size = degree + 1
    rows = [
        [sum(x ** (i + j) for x, _ in points) for j in range(size)] + [sum(y * x**i for x, y in points)]
        for i in range(size)
    ]
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for row in range(size):
            if row != column:
                factor = rows[row][column] / rows[column][column]
                rows[row] = [a - factor * b for a, b in zip(rows[row], rows[column], strict=True)]
    return [rows[i][size] / rows[i][i] for i in range(size)]


def predict(coefficients: list[float], x: float) -> float:
    """Evaluate the polynomial (Horner)."""
    value = 0.0
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return value


def latency(coefficients: list[float]) -> float:
    """Return the median time of a prediction, seconds."""
    seconds = []
    for call in range(CALLS):
        begin = time.perf_counter()
        predict(coefficients, call / CALLS)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def measure(trial: str, degree: int, seed: int, metrics: Metrics) -> CandidateReport:
    """Train and measure one candidate, and publish what Prometheus may read."""
    generator = random.Random(seed)  # noqa: S311  # data, not a secret
    abscissas = [generator.uniform(-1, 1) for _ in range(SAMPLES)]
    points = [(x, math.sin(3 * x) + generator.gauss(0, 0.05)) for x in abscissas]
    begin = time.perf_counter()
    coefficients = fit(degree, points[HELD_OUT:])
    errors = [predict(coefficients, x) - y for x, y in points[:HELD_OUT]]
    values = {
        "error": math.sqrt(statistics.mean(error**2 for error in errors)),
        "latency_p50_seconds": latency(coefficients),
    }
    for name, value in values.items():
        metrics.set(trial, name, value)
    return CandidateReport(
        trial=trial,
        outcome=Outcome.SUCCEEDED,
        metrics=values,
        device_seconds=time.perf_counter() - begin,
    )


def main() -> int:
    """Read the work order, measure every candidate, write the report, wait for the last scrape."""
    order = load_work_order()
    metrics = Metrics()
    results = []
    for candidate in order.candidates:
        degree = candidate.parameters.get("degree")
        if isinstance(degree, int) and 1 <= degree <= MAX_DEGREE:
            results.append(measure(candidate.trial, degree, candidate.seed, metrics))
        else:
            message = f"parameters.degree: must be a whole number from 1 to {MAX_DEGREE}, not {degree!r}"
            results.append(
                CandidateReport(
                    trial=candidate.trial, outcome=Outcome.FAILED, reason="BadParameter", message=message
                )
            )
    report(order, results)
    metrics.close(order.exporter.wait_for, order.exporter.max_linger_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
