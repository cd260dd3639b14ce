"""How steady the trainer's latency measurement is, and whether it agrees with ``torch.utils.benchmark``.

The same networks are measured by both, in turn (ours first, theirs first, ours first ...), with the same
input, threads and inference mode, so that a machine that becomes slower does so for both. Ours is the median
of single calls; theirs is the median of blocks of calls (``Timer.blocked_autorange``).

On a machine where other work runs beside it, blocks hold interruptions that the median of single calls
leaves out, and the figures say less about either: the share of processor time that other work took is part
of the environment.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer does, before torch reads it

import torch
from torch.utils.benchmark import Timer

from nascale.contract.architecture import Architecture, BlockType, Head, Stage, Stem, StemType
from nascale.contract.work_order import MeasurementOrder, Precision
from nascale_trainer.build import MBConvNetwork, build_network
from nascale_trainer.measuring import measure_network
from nascale_trainer.outcomes import NoisyMeasurement
from nascale_trainer.threads import available_threads
from rows import Aim, Row, environment, measured, write_rows

NAME = "latency-agreement"
COMMAND: Final = "make bench, or .venv/bin/python benchmarks/latency_agreement.py"
REPEATS: Final = 15
ORDER: Final = MeasurementOrder(min_calls=200, min_seconds=1.0)
AIM: Final = 0.03
CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A network and its input."""

    name: str
    architecture: Architecture
    channels: int
    batch: int
    threads: int

    def network(self) -> MBConvNetwork:
        """Build it, ready to serve."""
        return build_network(self.architecture, self.channels, 10, seed=0).eval()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the input."""
        side = self.architecture.resolution
        return (self.batch, self.channels, side, side)


def stage(block: BlockType, channels: int, depth: int, stride: int, expansion: int = 4) -> Stage:
    """Make a stage with squeeze-and-excitation in MBConv blocks."""
    ratio = "0" if block is BlockType.FUSED_MBCONV else "0.25"
    return Stage.model_validate(
        {
            "block": block,
            "kernel": 3,
            "stride": stride,
            "expansion": expansion,
            "channels": channels,
            "depth": depth,
            "squeeze_excitation": ratio,
        }
    )


def cases() -> list[Case]:
    """Return three sizes of network on one thread, and the largest on all that there are."""
    tiny = Architecture(
        stem=Stem(channels=16, stride=1),
        stages=(stage(BlockType.FUSED_MBCONV, 16, 1, 1, 1), stage(BlockType.MBCONV, 32, 1, 2)),
        head=Head(channels=64),
        resolution=8,
    )
    small = Architecture(
        stem=Stem(type=StemType.SPACE_TO_DEPTH, channels=24, stride=2),
        stages=(
            stage(BlockType.FUSED_MBCONV, 24, 2, 1, 2),
            stage(BlockType.MBCONV, 48, 3, 2),
            stage(BlockType.MBCONV, 96, 2, 2),
        ),
        head=Head(channels=256),
        resolution=32,
    )
    medium = Architecture(
        stem=Stem(channels=32, stride=2),
        stages=(
            stage(BlockType.FUSED_MBCONV, 24, 2, 1, 1),
            stage(BlockType.FUSED_MBCONV, 48, 3, 2),
            stage(BlockType.MBCONV, 96, 4, 2),
            stage(BlockType.MBCONV, 160, 4, 2),
        ),
        head=Head(channels=640),
        resolution=96,
    )
    threads = available_threads()
    listed = [
        Case("tiny network, 1 x 8 x 8, batch 1", tiny, 1, 1, 1),
        Case("small network, 3 x 32 x 32, batch 8", small, 3, 8, 1),
        Case("medium network, 3 x 96 x 96, batch 1", medium, 3, 1, 1),
    ]
    return listed if threads == 1 else [*listed, replace(listed[-1], threads=threads)]


def ours(network: MBConvNetwork, case: Case) -> tuple[float, int]:
    """Measure as the trainer does; return the median, seconds, and how often it refused before."""
    torch.set_num_threads(case.threads)
    refused = 0
    while True:
        try:
            return measure_network(network, case.shape, CPU, Precision.FP32, ORDER).p50, refused
        except NoisyMeasurement:
            refused += 1


def reference(network: MBConvNetwork, case: Case) -> float:
    """Measure with ``torch.utils.benchmark``; return the median, seconds."""
    images = torch.randn(case.shape)
    timer = Timer("network(images)", globals={"network": network, "images": images}, num_threads=case.threads)
    with torch.inference_mode():
        timer.timeit(10)
        return float(timer.blocked_autorange(min_run_time=ORDER.min_seconds).median)


def compare(case: Case) -> tuple[list[float], list[float], int]:
    """Measure by both in turn; return our medians, theirs, and how often ours refused."""
    network = case.network()
    own: list[float] = []
    theirs: list[float] = []
    refused = 0
    for repeat in range(REPEATS):
        if repeat % 2:
            theirs.append(reference(network, case))
        value, noisy = ours(network, case)
        own.append(value)
        refused += noisy
        if not repeat % 2:
            theirs.append(reference(network, case))
    return own, theirs, refused


def rows_of(case: Case, own: list[float], theirs: list[float], refused: int, where: str) -> list[Row]:
    """Make the figures of one case."""
    label = f"{case.name}, {case.threads} thread{'s' if case.threads > 1 else ''}"
    differences = [a / b - 1 for a, b in zip(own, theirs, strict=True)]
    agreement = measured(
        f"{label}: our median over that of torch.utils.benchmark, less 1",
        differences,
        unit="1",
        command=COMMAND,
        environment=where,
    )
    bounded = replace(
        agreement,
        aim=f"between -{AIM:g} and {AIM:g}",
        holds=agreement.value is not None and abs(agreement.value) <= AIM,
    )
    spread = measured(
        f"{label}: spread of {REPEATS} repeated measurements (standard deviation over mean; "
        "baseline: torch.utils.benchmark)",
        statistics.stdev(own) / statistics.mean(own),
        unit="1",
        command=COMMAND,
        environment=where,
        aim=Aim("at most", AIM),
        baseline=statistics.stdev(theirs) / statistics.mean(theirs),
    )
    latency = measured(
        f"{label}: median latency (baseline: torch.utils.benchmark)",
        own,
        unit="s",
        command=COMMAND,
        environment=where,
        baseline=statistics.mean(theirs),
    )
    refusals = measured(
        f"{label}: measurements refused as noisy, per accepted one",
        refused / REPEATS,
        unit="1",
        command=COMMAND,
        environment=where,
    )
    return [bounded, replace(spread, n=REPEATS), latency, refusals]


def busy_seconds() -> tuple[float, float]:
    """Return processor seconds that all processes, and that this one, have used so far."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    ticks = os.sysconf("SC_CLK_TCK")
    idle = int(fields[3]) + int(fields[4])
    everyone = (sum(int(field) for field in fields[:8]) - idle) / ticks
    return everyone, sum(os.times()[:2])


def main() -> None:
    """Measure every case and write the rows."""
    rows: list[Row] = []
    for case in cases():
        everyone, mine = busy_seconds()
        begin = os.times().elapsed
        own, theirs, refused = compare(case)
        everyone_after, mine_after = busy_seconds()
        elapsed = os.times().elapsed - begin
        others = max((everyone_after - everyone) - (mine_after - mine), 0) / elapsed
        where = environment("torch", "timm", extra=f"{others:.1f} processors busy with other work meanwhile")
        found = rows_of(case, own, theirs, refused, where)
        for row in found:
            print(f"{row.figure}: {row.value:.4g} {row.unit}, aim {row.aim}, holds {row.holds}", flush=True)
        rows += found
    write_rows(NAME, rows)


if __name__ == "__main__":
    main()
