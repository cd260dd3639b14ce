"""How steady the trainer's latency measurement is, and whether it agrees with ``torch.utils.benchmark``.

Steadiness: the measurement as a trial makes it, repeated. Agreement: short measurements by both in turn (ours
first, theirs first, ours first ...), with the same network, input, threads and inference mode, so that a
machine that becomes slower does so for both.

Ours is the median of single calls. Theirs is the median of blocks of calls (``Timer.blocked_autorange``); a
block is a mean: what disturbs one call in ten is in every block and in no median of calls. On a machine that
is not quiet the two differ by the disturbance, and a second figure compares with the median of ``Timer`` on
blocks of 4 ms, most of which nothing disturbs. The environment states how much other work ran meanwhile.

An undisturbed processor without an undisturbed machine:
``taskset -c 1 chrt --fifo 1 .venv/bin/python benchmarks/latency_agreement.py`` (root).
"""

from __future__ import annotations

import os
import statistics
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer does, before torch reads it

import torch
from torch.utils.benchmark import Timer

from nascale.contract.architecture import Architecture, BlockType, Head, Stage, Stem, StemType
from nascale.contract.work_order import MeasurementOrder, Precision
from nascale_trainer.build import MBConvNetwork, build_network
from nascale_trainer.measuring import measure_network
from nascale_trainer.outcomes import NoisyMeasurement
from nascale_trainer.threads import available_threads
from rows import CANNOT_MEASURE, Aim, Row, environment, measured, write_rows

NAME = "latency-agreement"
COMMAND: Final = "make bench, or .venv/bin/python benchmarks/latency_agreement.py"
REPEATS: Final = 10
PAIRS: Final = 20
SHORT_BLOCKS: Final = 60
SHORT_BLOCK_SECONDS: Final = 0.004
"""Long enough that what comes between two blocks does not count, short enough to be undisturbed mostly."""
MAX_REFUSALS: Final = 20
AS_A_TRIAL: Final = MeasurementOrder()
SHORT: Final = MeasurementOrder(min_calls=60, min_seconds=0.2)
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
    # With precedence over everything else, all processors at once would starve the machine.
    alone = threads == 1 or os.sched_getscheduler(0) == os.SCHED_FIFO
    return listed if alone else [*listed, replace(listed[-1], threads=threads)]


def ours(network: MBConvNetwork, case: Case, order: MeasurementOrder) -> tuple[float, int]:
    """Measure as the trainer does; return the median, seconds, and how often it refused before."""
    torch.set_num_threads(case.threads)
    for refused in range(MAX_REFUSALS):
        try:
            return measure_network(network, case.shape, CPU, Precision.FP32, order).p50, refused
        except NoisyMeasurement as error:
            print(error, file=sys.stderr)
    print("this machine is too busy to measure latency", file=sys.stderr)
    sys.exit(CANNOT_MEASURE)


def reference(network: MBConvNetwork, case: Case) -> tuple[float, float]:
    """Measure with ``torch.utils.benchmark``; return the medians of long and of short blocks, seconds."""
    images = torch.randn(case.shape)
    timer = Timer("network(images)", globals={"network": network, "images": images}, num_threads=case.threads)
    with torch.inference_mode():
        timer.timeit(10)
        blocks = timer.blocked_autorange(min_run_time=SHORT.min_seconds).median
        calls = max(1, round(SHORT_BLOCK_SECONDS / blocks))
        return blocks, statistics.median(timer.timeit(calls).median for _ in range(SHORT_BLOCKS))


@dataclass
class Compared:
    """Medians, seconds."""

    repeated: list[float] = field(default_factory=list)
    """Ours, as a trial measures."""
    refused: int = 0
    """How often that was refused as noisy."""
    own: list[float] = field(default_factory=list)
    """Ours, short, in turn with the next two."""
    blocks: list[float] = field(default_factory=list)
    short: list[float] = field(default_factory=list)


def compare(case: Case) -> Compared:
    """Measure by both."""
    network = case.network()
    found = Compared()
    for _ in range(REPEATS):
        value, refused = ours(network, case, AS_A_TRIAL)
        found.repeated.append(value)
        found.refused += refused

    def take_theirs() -> None:
        blocks, short = reference(network, case)
        found.blocks.append(blocks)
        found.short.append(short)

    def take_ours() -> None:
        found.own.append(ours(network, case, SHORT)[0])

    for pair in range(PAIRS):
        for take in (take_ours, take_theirs) if pair % 2 == 0 else (take_theirs, take_ours):
            take()
    return found


def rows_of(case: Case, found: Compared, where: str) -> list[Row]:
    """Make the figures of one case."""
    label = f"{case.name}, {case.threads} thread{'s' if case.threads > 1 else ''}"

    def row(figure: str, samples: float | list[float], unit: str = "1", **more: Any) -> Row:
        return measured(f"{label}: {figure}", samples, unit=unit, command=COMMAND, environment=where, **more)

    def difference(figure: str, theirs: list[float]) -> Row:
        made = row(figure, [own / other - 1 for own, other in zip(found.own, theirs, strict=True)])
        holds = made.value is not None and abs(made.value) <= AIM
        return replace(made, aim=f"between -{AIM:g} and {AIM:g}", holds=holds)

    spread = row(
        f"spread of {REPEATS} repeated measurements, standard deviation over mean",
        _relative_deviation(found.repeated),
        aim=Aim("at most", AIM),
    )
    return [
        difference("median over that of torch.utils.benchmark, blocked_autorange, less 1", found.blocks),
        difference("median over that of torch.utils.benchmark, short blocks, less 1", found.short),
        replace(spread, n=REPEATS),
        row(
            "median latency (baseline: torch.utils.benchmark, blocks)",
            found.repeated,
            unit="s",
            baseline=statistics.mean(found.blocks),
        ),
        row("measurements refused as noisy, per accepted one", found.refused / REPEATS),
    ]


def _relative_deviation(values: list[float]) -> float:
    return statistics.stdev(values) / statistics.mean(values)


def circumstances(others: float) -> str:
    """Say what else ran, and how this process was scheduled."""
    text = f"{others:.1f} processors busy with other work meanwhile"
    if os.sched_getscheduler(0) == os.SCHED_FIFO:
        text += "; scheduled before all of it (FIFO)"
    return text


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
        compared = compare(case)
        everyone_after, mine_after = busy_seconds()
        elapsed = os.times().elapsed - begin
        others = max((everyone_after - everyone) - (mine_after - mine), 0) / elapsed
        found = rows_of(case, compared, environment("torch", "timm", extra=circumstances(others)))
        for row in found:
            print(f"{row.figure}: {row.value:.4g} {row.unit}, aim {row.aim}, holds {row.holds}", flush=True)
        rows += found
    write_rows(NAME, rows)


if __name__ == "__main__":
    main()
