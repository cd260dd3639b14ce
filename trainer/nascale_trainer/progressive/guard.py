"""Whether hardware settings cost quality early on: a short training beside one with safe settings.

Low precision in the first steps can leave a network worse for good (critical learning periods: Achille,
Rovere, Soatto, 2019), and nothing of it need show later. The same goes for gradients that are rounded on
their way between processes: in FP16 small ones become zero, and large ones infinite. So both begin at the
same weights, see the same samples in the same order in as many processes, and differ in their hardware
settings alone.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from nascale.contract.report import Outcome
from nascale.contract.run_order import LearningRateCourse, RunOrder, StageOrder
from nascale_trainer.outcomes import CandidateEnd
from nascale_trainer.progressive.profile_bench import (
    Bench,
    NonFiniteLoss,
    check_settings,
    clear_memory,
    failures_of_settings,
)
from nascale_trainer.progressive.step_measurement import Stepping
from nascale_trainer.progressive.task import TrainingTask
from nascale_trainer.progressive.trainee import Trainee

END_SHARE: Final = 5
"""The loss at an end of the training is the mean over this part of the steps: a fifth."""
FEWEST_OF_END: Final = 2
LEAST_FALL: Final = 0.05
"""A reference whose loss falls by less than this share of itself has hardly learnt: then the share counts."""
WARM_UP: Final = 0.25
"""Share of the steps in which the learning rate rises to its peak, where it stays: the hardest case."""


class ReferenceDiverged(CandidateEnd):
    """The reference's own loss is no number: nothing can be compared with it."""

    outcome = Outcome.FAILED
    reason = "ReferenceDiverged"


@dataclass(frozen=True)
class Guard:
    """Compares stages with the reference.

    Attributes:
        task: Model, data and loss, not prepared for any stage.
        order: The run, for seed and optimizer.
        reference: Whose hardware settings are safe.
        steps: Optimizer steps of each training.
        bench: Where the work is done.
    """

    task: TrainingTask
    order: RunOrder
    reference: StageOrder
    steps: int
    bench: Bench

    def deviation(self, stage: StageOrder, observe: Callable[[float], None]) -> float:
        """Return ``loss_deviation_ratio`` of a stage, which model, data and device allow.

        Args:
            stage: The settings.
            observe: Told of each step's seconds.

        Raises:
            CannotTrain: the reference's settings can't be carried out here.
            NonFiniteLoss: a loss with the stage's settings is no number.
            ReferenceDiverged: one with the reference's is none.
            Stopped: the process was asked to end.
        """
        safe = stage.model_copy(update={"name": self.reference.name, "hardware": self.reference.hardware})
        check_settings(safe, self.task, self.bench.device, self.order)
        losses = self._losses(stage, observe)
        try:
            expected = self._losses(safe, observe)
        except NonFiniteLoss as error:
            raise ReferenceDiverged(f"reference: {error}") from error
        return deviation_ratio(losses, expected)

    def _losses(self, stage: StageOrder, observe: Callable[[float], None]) -> list[float]:
        peak = self.order.optimizer.model_copy(
            update={"course": LearningRateCourse.CONSTANT, "warm_up": WARM_UP}
        )
        order = self.order.model_copy(update={"optimizer": peak})
        self.bench.set_threads(stage)
        with failures_of_settings(lambda: stage):
            trainee = Trainee(copy.copy(self.task), order, self.bench.ranks, stage)
            whole = self.steps * stage.model.global_batch
            stepping = Stepping(trainee, order, self.bench, observe, whole=whole)
            for _ in range(self.steps):
                self.bench.check_stop()
                stepping.time_calls(1)
            stepping.finish()
        del trainee
        clear_memory(self.bench.device)
        # Of all processes' samples: each has seen its share of the batch.
        together = self.bench.ranks.total(torch.tensor(stepping.losses)) / self.bench.ranks.world
        return [float(loss) for loss in together]


def deviation_ratio(losses: Sequence[float], expected: Sequence[float]) -> float:
    """Return how far a training's last losses are from the reference's, relative to these losses' fall.

    ``|end - end_ref| / max(begin_ref - end_ref, 0.05 |begin_ref|)``, where an end is the mean loss of the
    last fifth of the steps, and the begin that of the first fifth: single losses tell of their samples.

    Args:
        losses: Of each step, in order.
        expected: The reference's, as many.
    """
    width = max(FEWEST_OF_END, len(expected) // END_SHARE)
    begin, end = statistics.fmean(expected[:width]), statistics.fmean(expected[-width:])
    fall = max(begin - end, LEAST_FALL * abs(begin))
    moved = abs(statistics.fmean(losses[-width:]) - end)
    return moved / fall if fall > 0 else moved
