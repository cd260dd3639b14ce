"""The numbers behind generated schedules, each with its source: the one place to change them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_BATCH_FACTOR: Final = 4
"""Largest early batch over the base's. Goyal et al. (2017) and Smith et al. (ICLR 2018) hold the accuracy of
long trainings far beyond; short ones lack the steps."""

ROOM_TOLERANCE: Final = 1.1
"""Most work of a step of smaller samples, over that of the base's full step: sizes and batches are coarse."""


@dataclass(frozen=True)
class ResizingRule:
    """A known good schedule of one growing setting.

    Attributes:
        start: First value as a share of the full one.
        hold: Share of the run with it.
        ramp_end: Share of the run at whose end the full value is reached.
        ramp_stages: Steps of the ramp.
    """

    start: float
    hold: float
    ramp_end: float
    ramp_stages: int


EFFICIENTNETV2: Final = ResizingRule(start=128 / 300, hold=0.25, ramp_end=0.75, ramp_stages=2)
"""Tan and Le (ICML 2021), table 6: four stages of equal length, 128 to 300 pixels for S; regularisation is
interpolated with the size."""
COMPOSER: Final = ResizingRule(start=0.5, hold=0.5, ramp_end=0.8, ramp_stages=3)
"""MosaicML Composer, progressive resizing: half the side for half of the run, full for its last fifth."""
FFCV: Final = ResizingRule(start=160 / 192, hold=0.74, ramp_end=0.86, ramp_stages=1)
"""FFCV's ImageNet recipes: 160 to 192 pixels, the ramp at 74 to 86 % of the run."""
LENGTH_WARM_UP: Final = ResizingRule(start=0.25, hold=0.0, ramp_end=0.3, ramp_stages=3)
"""Li et al. (NeurIPS 2022), sequence length warm-up: longer sequences over the first 30 % of the run."""
STACKING: Final = ResizingRule(start=0.5, hold=0.5, ramp_end=0.5, ramp_stages=0)
"""Gong et al. (ICML 2019), progressive stacking: half the blocks for the first half of the run."""


@dataclass(frozen=True)
class Floor:
    """What a schedule must keep to where no proxy says what it does to the quality.

    Attributes:
        scale: Least first value of a growing number, as a share of the full one. Published schedules begin at
            0.43 to 0.83, in trainings of hundreds of thousands of steps. In trainings of some thousands, half
            the side for a third or more of the run has cost 0.8 to 2 points of accuracy, 0.71 none (small
            convolutional networks on Fashion-MNIST, seeds apart from those of benchmarks/). Half the blocks
            for the first 0.35 of the samples have cost 1.2 points against the same images with all blocks,
            for the first half 1.4.
        mean_scale: Least mean over the samples of resolution as a share of the full one. In the same
            trainings half of the samples at 0.71 (mean 0.857) has cost nothing, a mean of 0.836 up to 0.8
            points, means of 0.79 and 0.8 have cost 0.8 points.
        full_share: Share of the samples with the full resolution from which on it may begin smaller: at
            ``small_scale``, with a mean of ``small_mean_scale``. What small images cost is made good by a
            long last stage: half the side for a fifth to a quarter of the run, and all of it for its second
            half, have cost nothing in the same trainings; all of it for its last 0.4 has cost a network of
            16 to 64 channels 0.3 points, and one with twice as many nothing.
        small_scale: Least first resolution of such a schedule, as a share of the full one.
        small_mean_scale: Least mean resolution of such a schedule, as a share of the full one.
        own_scale: Least first value of the user's own parameters, as a share of the full one.
        batch_factor: Largest early batch over the base's.
    """

    scale: float = 0.7
    mean_scale: float = 0.855
    full_share: float = 0.5
    small_scale: float = 0.5
    small_mean_scale: float = 0.82
    own_scale: float = 0.25
    batch_factor: float = 2.0


CONSERVATIVE: Final = Floor()

COMPOUND_STARTS: Final = (0.7, 0.85)
"""First values of the generator's own schedules, as shares of the full ones."""
COMPOUND_SHARES: Final = ((0.3, 0.25), (0.3, 0.4), (0.5, 0.5))
"""Shares of the run with the first values and with the last ones; the ramp lies between them."""
SMALL_BEGINNINGS: Final = ((0.5, 0.2, 0.5),)
"""Further schedules of its own where the resolution grows: first value as a share of the full one, share of
the run with it, share of the run with the full one."""
RAMP_STAGES: Final = 2
"""Steps of the ramp, where the number of stages is Auto: sizes that differ less are not worth a switch."""

MOST_RATE_FACTOR: Final = 3.0
"""Most that a later stage's learning rate is raised by, against the run's own course."""

RISKY_UNTIL: Final = 1.0
"""Share of the run before the last stage in which risky settings may be used."""
LEAST_SPEED_UP: Final = 1.25
"""Throughput of a smaller model over that of the full one, each with its best hardware-level settings, below
which it isn't worth its samples: on a target that is bound by launches, small images save little and teach
less."""
LEAST_STAGE_SHARE: Final = 0.04
"""Shorter stages are joined with the next one: their throughput can hardly be measured."""

DOUBT: Final = 0.03
"""Relative deviation of the chosen schedule's time below which nothing more need be measured."""
REGRET: Final = 0.01
"""Share of the chosen schedule's time that better settings may still be expected to save."""
AGAIN: Final = 0.25
"""Share of the constant recipe's device-seconds that a profile may have taken to measure something again: it
makes a prediction better, and hardly ever the schedule by more than a few percent."""

OFF: Final = 0.10
"""Relative error of a prediction from which the rest of a schedule is planned again."""
LEAST_SAVING: Final = 0.03
"""Share of the remaining time that another plan must save: less is within the noise, and plans would flap."""
EXTENSION: Final = 0.25
"""Share of its own length by which a stage lasts longer, once, while its metric still gets better."""
LATE: Final = 0.75
"""Share of a stage's length from which it may be given more: earlier nobody knows whether its metric will
still get better at its planned end."""
