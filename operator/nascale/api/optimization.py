"""``spec.optimizer`` and its neighbours of a progressive training: what holds for all of its stages."""

from __future__ import annotations

from pydantic import Field

from nascale.api.resource import ApiModel, DecimalText, RatioText
from nascale.api.rules import Rule, guarded
from nascale.api.stages import FROM_ZERO_BELOW_ONE, SpanText, above
from nascale.contract.run_order import BatchRule, DivergenceAction, LearningRateCourse, OptimizerName
from nascale.contract.stage_settings import MAX_GLOBAL_BATCH


class Optimizer(ApiModel):
    """The optimizer, and the course of its learning rate over the whole run.

    The rate at a step is the product of learningRate, the course, the stage's learningRateFactor and the
    batch rule at globalBatch / baseBatch.
    """

    name: OptimizerName = OptimizerName.ADAMW
    """The algorithm."""
    learning_rate: DecimalText = Field(default="0.003", json_schema_extra=above("0", "100"))
    """Peak learning rate at the base batch, above 0 to 100 as text."""
    course: LearningRateCourse = LearningRateCourse.COSINE
    """How the learning rate goes over the whole run, after the warm-up."""
    warm_up: RatioText = Field(default="0.05", json_schema_extra=FROM_ZERO_BELOW_ONE)
    """Share of the whole length in which the rate rises linearly from a tenth of the peak, 0 to below 1 as
    text."""
    batch_rule: BatchRule = BatchRule.LINEAR
    """How the learning rate follows a change of the global batch."""
    base_batch: int = Field(default=64, ge=1, le=MAX_GLOBAL_BATCH)
    """Global batch that the peak is meant for, samples."""
    gradient_clip: DecimalText | None = Field(
        default=None,
        json_schema_extra=guarded(
            Rule(cel="double(self) > 0.0", message="must be above 0", detail="'must be above 0, not ' + self")
        ),
    )
    """Largest norm of all gradients together, above 0 as text; absent: no limit."""
    average_decay: RatioText = Field(default="0", json_schema_extra=FROM_ZERO_BELOW_ONE)
    """Decay per step of the exponential moving average of the weights, which is then what is evaluated and
    kept, 0 (none) to below 1 as text."""


class Evaluation(ApiModel):
    """When the network is evaluated on the validation part; the end of a stage always is."""

    every: SpanText = "1ep"
    """Distance of two evaluations: a number with the unit ep (epochs), sp (samples), ba (optimizer steps)
    or dur (share of the whole length)."""


class RunCheckpoints(ApiModel):
    """When checkpoints are made, beside those at switches and at the end."""

    every_seconds: int = Field(default=300, ge=1, le=86_400)
    """Longest time between two, seconds."""
    every_steps: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Most optimizer steps between two; absent: no limit."""
    keep: int = Field(default=2, ge=2, le=100)
    """Committed checkpoints that stay."""


class Divergence(ApiModel):
    """What is done when the loss is not finite."""

    action: DivergenceAction = DivergenceAction.ROLL_BACK
    """What is done."""
    most_roll_backs: int = Field(default=2, ge=0, le=100)
    """Times that it goes back to the last checkpoint; one more ends the training as failed."""
