"""How long an optimizer step takes with a stage's settings, and what the switch into them costs.

The steps are those of the training loop: the same ``Trainee``, the same samples, the same watch on the loss.
The watch reads each loss when the next step is on its way, so that the time between two steps is what a step
takes once the device is busy, as in a training; nothing else waits for the device.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.stage_settings import CommunicationHook
from nascale.contract.work_order import MeasurementOrder
from nascale_trainer.device import peak_memory_bytes, reset_peak_memory
from nascale_trainer.latency import agreeing_windows, quantile
from nascale_trainer.progressive.course import learning_rate
from nascale_trainer.progressive.divergence import LossWatch
from nascale_trainer.progressive.profile_bench import Bench, NonFiniteLoss
from nascale_trainer.progressive.task import TrainingTask
from nascale_trainer.progressive.trainee import Trainee

FEWEST_WARM_UP_STEPS: Final = 3
"""CUDA graphs are compiled in the first step, tried in the second, and recorded in the third."""
MOST_WARM_UP_STEPS: Final = 10
USUAL_RATIO: Final = 1.25
"""A step is a usual one when it takes at most this many times as long as others do."""


@dataclass(frozen=True)
class StepMeasurement:
    """What a stage's settings cost.

    Attributes:
        p50: Median of a step, seconds.
        samples_per_second: Over all steps of the accepted windows, pauses included.
        peak_memory: Highest memory since before the switch, bytes; see ``device.peak_memory_bytes``.
        settle: What the switch took, and first steps that were no usual ones beyond these, seconds.
        steps: Steps in the accepted windows.
        spread: Relative difference between the medians of the accepted windows.
    """

    p50: float
    samples_per_second: float
    peak_memory: int
    settle: float
    steps: int
    spread: float


class Stepping:
    """Takes a trainee's steps as the loop does, from the run's first sample on."""

    def __init__(
        self,
        trainee: Trainee,
        order: RunOrder,
        bench: Bench,
        observe: Callable[[float], None],
        *,
        whole: int | None = None,
    ) -> None:
        """Prepare.

        Args:
            trainee: With the stage in force.
            order: The run.
            bench: Where the work is done.
            observe: Told of each step's seconds.
            whole: Length of the learning rate's course, samples; ``None``: its beginning stays in force.
        """
        self._trainee, self._order, self._observe, self._whole = trainee, order, observe, whole
        self._bench = bench
        self._watch = LossWatch(bench.device)
        self._step = self._samples = 0
        self.losses: list[float] = []

    def time_calls(self, count: int) -> list[float]:
        """Take steps; return the seconds of each, in the slowest of all processes.

        Raises:
            NonFiniteLoss: a loss is no number.
        """
        clock = time.perf_counter
        durations = []
        begin = clock()
        for _ in range(count):
            model = self._trainee.stage.model
            done = self._samples / self._whole if self._whole else 0.0
            loss = self._trainee.step(
                self._step, self._samples, learning_rate(self._order.optimizer, model, done)
            )
            self._step += 1
            self._samples += model.global_batch
            self._note(self._watch.put(loss))
            end = clock()
            durations.append(end - begin)
            begin = end
        durations = self._bench.largest(durations)
        for seconds in durations:
            self._observe(seconds)
        return durations

    def finish(self) -> None:
        """Wait for the last step.

        Raises:
            NonFiniteLoss: its loss is no number.
        """
        self._note(self._watch.take())

    def _note(self, loss: float | None) -> None:
        if loss is None:
            return
        self.losses.append(loss)
        if not math.isfinite(loss):
            stage = self._trainee.stage
            hook = stage.hardware.communication_hook
            rounded = hook is not CommunicationHook.NONE and self._bench.ranks.world > 1
            raise NonFiniteLoss(
                f"stage {stage.name}: loss must be finite, not {loss} at step {len(self.losses) - 1} "
                f"in {stage.hardware.precision}{f' with gradients sent as {hook}' if rounded else ''}"
            )


def measure_steps(
    task: TrainingTask,
    order: RunOrder,
    stage: StageOrder,
    measurement: MeasurementOrder,
    bench: Bench,
    *,
    observe: Callable[[float], None],
) -> StepMeasurement:
    """Measure the steps of one stage, which model, data and device allow.

    Args:
        task: Model, data and loss, not prepared for any stage: else the switch would cost nothing.
        order: The run, for seed and optimizer.
        stage: The settings.
        measurement: How many steps and seconds at least, and the accepted spread.
        bench: Where the work is done.
        observe: Told of each step's seconds.

    Raises:
        NoisyMeasurement: the steps' times don't agree.
        NonFiniteLoss: a loss is no number.
        Stopped: the process was asked to end.
    """
    bench.set_threads(stage)
    reset_peak_memory(bench.device)
    network = task.build(order.seed)  # no part of a switch: there the network is there already
    begin = time.perf_counter()
    trainee = Trainee(task, order, bench.ranks, stage, network)
    stepping = Stepping(trainee, order, bench, observe)
    applying = time.perf_counter() - begin
    warm_up = _warm_up(stepping, bench)
    windows = agreeing_windows(
        stepping,
        measurement,
        f"stage {stage.name}: optimizer steps",
        calls=measurement.min_calls,
        check_stop=bench.check_stop,
    )
    stepping.finish()
    durations = windows.calls
    p50 = quantile(durations, 0.5)
    return StepMeasurement(
        p50=p50,
        samples_per_second=stage.model.global_batch * len(durations) / sum(durations),
        peak_memory=peak_memory_bytes(bench.device),
        settle=applying + sum(seconds - p50 for seconds in warm_up if seconds > USUAL_RATIO * p50),
        steps=len(durations),
        spread=windows.spread,
    )


def _warm_up(stepping: Stepping, bench: Bench) -> list[float]:
    """Take steps until they are usual ones; return the seconds of each.

    The first one waits for no step before it: what a GPU has to do for it counts for the second.
    """
    taken: list[float] = []
    while len(taken) < MOST_WARM_UP_STEPS:
        bench.check_stop()
        taken += stepping.time_calls(1)
        if len(taken) >= FEWEST_WARM_UP_STEPS and taken[-1] <= USUAL_RATIO * min(taken[1:-1]):
            break
    return taken
