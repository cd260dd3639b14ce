"""How well a short measurement of an optimizer step can tell what the next minute brings, on this machine.

On a machine that nobody else uses, seconds suffice. A shared one becomes faster and slower for reasons that
no profile sees: by how much the mean step of a minute differs from the next one's bounds how well a profile
of about a minute can tell the time of a training of about a minute. One step of each network of
``schedule-speedup`` (28 pixels, ChannelsLast, FP32, one thread) is taken again and again for some minutes,
with nothing else running, and each is timed. Then measurements are cut out of this series, one begun in each
second, and compared with the mean step of the minute that follows them: a measurement of 4 s, as in the
profiles of ``schedule-speedup``, by its mean and by its median; a longer one; as many seconds in four parts,
apart; and a whole minute.

Hosts and evenings differ. Of the processor without instructions for BF16, the mean of a whole minute was on
another evening 4.3 % (inverted residuals) and 7.1 % (fused blocks) off the next one's. On the one with them,
whose minutes were within 1.5 and 2.4 % of the next ones here, the constant recipe of the first network took
206, 208 and 246 s with three seeds within the hour that followed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Final

import numpy as np

from nascale.contract.stage_settings import MemoryFormat
from nascale_trainer.progressive.step_measurement import Stepping
from nascale_trainer.progressive.trainee import Trainee
from rows import Row, environment, measured, publish
from schedule_runs import CPU, of_device, say, worker
from schedule_speedup import NETWORKS, RECIPES, Network, recipe, setup_of

NAME = "step-steadiness"
COMMAND: Final = "python benchmarks/step_steadiness.py"
SECONDS: Final = 300.0
WARM_UP: Final = 10
AT_ONCE: Final = 10
"""Steps between two looks at the clock."""
AHEAD: Final = 60.0
"""Seconds that are predicted."""
SEED: Final = 0


@dataclass(frozen=True)
class Rule:
    """A way to measure.

    Attributes:
        what: For people.
        seconds: Of each part.
        parts: How often.
        apart: Seconds between two parts.
        taken: What is taken of all steps: mean or median.
    """

    what: str
    seconds: float
    parts: int = 1
    apart: float = 0.0
    taken: Callable[[np.ndarray], float] = np.mean

    @property
    def takes(self) -> float:
        """Seconds from its begin to its end."""
        return self.parts * self.seconds + (self.parts - 1) * self.apart


RULES: Final = (
    Rule("the mean of 4 s", 4.0),
    Rule("the median of 4 s", 4.0, taken=np.median),
    Rule("the mean of 16 s", 16.0),
    Rule("the mean of four times 1 s, 16 s apart", 1.0, parts=4, apart=16.0),
    Rule("the mean of four times 4 s, 16 s apart", 4.0, parts=4, apart=16.0),
    Rule("the mean of a whole minute", 60.0),
)


class Series:
    """Steps one after the other.

    Args:
        steps: Seconds of each.
    """

    def __init__(self, steps: list[float]) -> None:
        self.steps = np.array(steps)
        self._begins = np.concatenate([[0.0], np.cumsum(self.steps)])

    @property
    def seconds(self) -> float:
        """Length of the whole."""
        return float(self._begins[-1])

    def between(self, begin: float, end: float) -> np.ndarray:
        """Return the steps that begin within a time; at least one."""
        first, last = np.searchsorted(self._begins, (begin, end))
        return self.steps[first : max(last, first + 1)]

    def means(self, seconds: float) -> list[float]:
        """Return the mean step of each part of so many seconds, without overlap."""
        count = int(self.seconds // seconds)
        return [float(self.between(place * seconds, (place + 1) * seconds).mean()) for place in range(count)]

    def errors(self, rule: Rule) -> list[float]:
        """Return the relative errors of a way to measure, once for each second in which it may begin."""
        found = []
        for begin in range(int(self.seconds - rule.takes - AHEAD)):
            starts = [begin + part * (rule.seconds + rule.apart) for part in range(rule.parts)]
            seen = np.concatenate([self.between(own, own + rule.seconds) for own in starts])
            end = begin + rule.takes
            real = self.between(end, end + AHEAD).mean()
            found.append(abs(float(rule.taken(seen) / real) - 1))
        return found


def record(own: Network, seconds: float) -> Series:
    """Take steps for so long."""
    base = recipe(CPU)
    hardware = base.hardware.model_copy(update={"memory_format": MemoryFormat.CHANNELS_LAST})
    stage = base.model_copy(update={"hardware": hardware})
    with tempfile.TemporaryDirectory() as folder:
        setup = setup_of(own, CPU, Path(folder))
        order = setup.order((stage,), RECIPES[CPU.type].samples, SEED)
        bench = setup.bench()
        bench.set_threads(stage)
        task = setup.make_task(order, CPU)
        trainee = Trainee(task, order, bench.ranks, stage, task.build(SEED))
        stepping = Stepping(trainee, order, bench, lambda _: None)
        stepping.time_calls(WARM_UP)
        steps: list[float] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            steps += stepping.time_calls(AT_ONCE)
        stepping.finish()
    return Series(steps)


def rows(name: str, seconds: float) -> Iterator[Row]:
    """Measure one network."""
    own = NETWORKS[name]
    say(f"{name}: {seconds:g} s of steps")
    series = record(own, seconds)
    command = f"{COMMAND} --network {name}"
    trained = f"{worker(CPU)}, batch {RECIPES[CPU.type].batch}, {seconds:g} s"
    where = environment("torch", "numpy", extra=trained)

    def row(figure: str, value: float, unit: str = "1") -> Row:
        return measured(f"{own.what}: {figure}", value, unit=unit, command=command, environment=where)

    yield row(f"mean step, {len(series.steps)} steps", float(series.steps.mean()), "s")
    for length in (4.0, 16.0, AHEAD):
        means = series.means(length)
        spread = float(np.std(means, ddof=1)) / fmean(means)
        yield row(f"standard deviation over mean, {len(means)} means of {length:g} s", spread)
    for rule in RULES:
        errors = series.errors(rule)
        yield row(f"median error of the next minute, told from {rule.what}", median(errors))


def main() -> None:
    """Measure the networks that are asked for, write rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: all")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of each; default {SECONDS:g}")
    given = parser.parse_args()
    if given.seconds < 4 * AHEAD:
        parser.error(f"--seconds: must be at least {4 * AHEAD:g}, not {given.seconds:g}")
    publish(
        of_device(NAME, CPU), [row for name in given.network or NETWORKS for row in rows(name, given.seconds)]
    )


if __name__ == "__main__":
    main()
