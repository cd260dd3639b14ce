"""What every benchmark writes: rows of figures, with their aim, spread and circumstances.

A benchmark is a script ``benchmarks/<name>.py`` with a constant ``NAME``; it measures, calls
``write_rows(NAME, rows)``, and ends with status 0, or with ``CANNOT_MEASURE`` where this machine lacks what
it needs (a GPU, say; it says what on stderr). ``render.py`` makes ``docs/benchmarks.md`` from the rows.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.stats import t as student

from nascale_trainer.processor import CPU_INFO, processor_name

RESULTS = Path(__file__).parent / "results"
CANNOT_MEASURE = 77
"""Exit status of a benchmark that this machine can't run (the convention of automake's tests)."""
VARIANTS = {
    "cuda": "on a GPU",
    "fp32-only": "on a processor that has instructions neither for BF16 nor for FP16",
}
"""Devices whose figures stand apart from others', in ``results/<name>-<variant>.json``."""


@dataclass(frozen=True)
class Aim:
    """What a figure should be.

    Attributes:
        relation: Side on which the aim is met.
        limit: In the figure's unit.
    """

    relation: Literal["at most", "at least"]
    limit: float

    def met_by(self, value: float) -> bool:
        """Say whether a measured value meets the aim (never met by NaN)."""
        return value <= self.limit if self.relation == "at most" else value >= self.limit

    def __str__(self) -> str:
        return f"{self.relation} {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        figure: What was measured, unique within the benchmark.
        value: The measured value (mean of ``n`` samples where ``n`` > 1), or ``None`` where measuring it
            gave no finite number (the figure then says why).
        unit: Unit of ``value``, ``ci95`` and ``baseline``; "1" for ratios.
        aim: What it should be, in words, or ``None``.
        holds: Whether ``value`` meets the aim; ``None`` where there is no aim.
        n: Number of independent samples.
        ci95: 95 % confidence interval of the mean, or ``None`` for a single sample.
        baseline: The value to compare with, in the same unit, or ``None``.
        environment: Machine and versions.
        command: How to measure it again, from the root of the checkout.
    """

    figure: str
    value: float | None
    unit: str
    aim: str | None
    holds: bool | None
    n: int
    ci95: tuple[float, float] | None
    baseline: float | None
    environment: str
    command: str


def measured(
    figure: str,
    samples: float | Sequence[float],
    *,
    unit: str,
    command: str,
    environment: str,
    aim: Aim | None = None,
    baseline: float | None = None,
) -> Row:
    """Make a row of one value, or of the mean of independent samples with its confidence interval."""
    values = [float(samples)] if isinstance(samples, int | float) else [float(value) for value in samples]
    mean, ci95 = mean_with_ci95(values)
    finite = bool(np.isfinite(mean))
    return Row(
        figure=figure,
        value=mean if finite else None,
        unit=unit,
        aim=None if aim is None else str(aim),
        holds=None if aim is None else aim.met_by(mean),
        n=len(values),
        ci95=ci95 if finite else None,
        baseline=baseline,
        environment=environment,
        command=command,
    )


def mean_with_ci95(samples: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Return the mean and its 95 % confidence interval by Student's t; no interval below two samples."""
    values = np.asarray(samples, dtype=float)
    mean = float(values.mean())
    count = len(values)
    if count < 2:
        return mean, None
    half = float(student.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count))
    return mean, (mean - half, mean + half)


def environment(*packages: str, extra: str = "") -> str:
    """Describe this machine: processor, cores this process may use, kernel, Python, library versions.

    Args:
        packages: Distributions whose versions matter to the figure; one that is not installed is left out.
        extra: Anything else that matters (GPU, version of a control plane).
    """
    parts = [
        f"{processor_name(CPU_INFO.read_text(encoding='utf-8'))}, {len(os.sched_getaffinity(0))} cores",
        f"Linux {platform.release().split('-')[0]}",
        f"Python {platform.python_version()}",
    ]
    for package in packages:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if extra:
        parts.append(extra)
    return "; ".join(parts)


def write_rows(name: str, rows: Sequence[Row]) -> Path:
    """Write ``results/<name>.json``, replacing it as a whole.

    Raises:
        ValueError: Two rows have the same figure, or a value is not finite.
    """
    figures = [row.figure for row in rows]
    twice = {figure for figure in figures if figures.count(figure) > 1}
    if twice:
        raise ValueError(f"figure: must be unique within {name}, not repeated: {sorted(twice)}")
    text = json.dumps([asdict(row) for row in rows], indent=1, allow_nan=False, ensure_ascii=False)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def write_rows_about(name: str, what: str, rows: Sequence[Row]) -> None:
    """Write the rows that a benchmark has of one thing; those of others stay as they are, before them.

    Args:
        name: Of the benchmark.
        what: What the figures of these rows begin with, up to a colon.
        rows: All of them.
    """
    known = read_rows(name) if (RESULTS / f"{name}.json").is_file() else []
    write_rows(name, [*(row for row in known if row.figure.partition(":")[0] != what), *rows])


def publish(name: str, rows: Sequence[Row]) -> None:
    """Write the rows of a benchmark, and print them."""
    write_rows(name, rows)
    show(name)


def show(name: str) -> None:
    """Print the rows of a benchmark."""
    for row in read_rows(name):
        print(f"{row.figure}: {row.value} {row.unit} (aim {row.aim}, holds {row.holds})")


def read_rows(name: str) -> list[Row]:
    """Read ``results/<name>.json``."""
    documents = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return [
        Row(**{**document, "ci95": tuple(document["ci95"]) if document["ci95"] else None})
        for document in documents
    ]
