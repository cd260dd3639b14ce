"""The learning rate of a step."""

from __future__ import annotations

import math
from typing import Final

from nascale.contract.run_order import BatchRule, LearningRateCourse, OptimizerOrder
from nascale.contract.stage_settings import ModelSettings

FIRST_SHARE: Final = 0.1
"""Share of the peak at which the warm-up begins."""


def learning_rate(order: OptimizerOrder, model: ModelSettings, done: float) -> float:
    """Return the learning rate of a step.

    Args:
        order: The optimizer, its peak and its course.
        model: The stage's settings: factor and global batch.
        done: Share of the whole run's samples that precede the step, 0 to 1.
    """
    batch = batch_factor(order.batch_rule, model.global_batch / order.base_batch)
    return order.learning_rate * course_share(order, done) * model.learning_rate_factor * batch


def course_share(order: OptimizerOrder, done: float) -> float:
    """Return the share of the peak: a linear rise, then the course over what is left of the run."""
    if done < order.warm_up:
        return FIRST_SHARE + (1 - FIRST_SHARE) * done / order.warm_up
    left = (done - order.warm_up) / (1 - order.warm_up)
    left = min(max(left, 0.0), 1.0)
    if order.course is LearningRateCourse.COSINE:
        return 0.5 * (1 + math.cos(math.pi * left))
    if order.course is LearningRateCourse.LINEAR:
        return 1 - left
    return 1.0


def batch_factor(rule: BatchRule, ratio: float) -> float:
    """Return what the rate is multiplied by at a global batch of so many times the base batch."""
    if rule is BatchRule.LINEAR:
        return ratio
    if rule is BatchRule.SQUARE_ROOT:
        return math.sqrt(ratio)
    return 1.0
