"""The ranges of ``spec.schedule.generate``: what may differ from spec.defaults before the last stage."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from nascale.api.resource import ApiModel, DecimalText, RatioText
from nascale.api.rules import EACH_ONCE, Rule, guarded
from nascale.api.stages import (
    ABOVE_ZERO_TO_ONE,
    FROM_ZERO_BELOW_ONE,
    FROM_ZERO_TO_TEN,
    SettingText,
)
from nascale.contract.stage_settings import (
    MAX_GLOBAL_BATCH,
    MAX_PROCESSES_PER_WORKER,
    MAX_WORKERS,
    CommunicationHook,
    Compilation,
    GradientCheckpointing,
    MatmulPrecision,
    MemoryFormat,
    Parallelism,
)
from nascale.contract.work_order import Precision

MAX_VALUES = 16

_ASCENDING = Rule(cel="self.isSorted()", message="must ascend")
_ASCENDING_TEXTS = Rule(cel="self.map(value, double(value)).isSorted()", message="must ascend")


class ResolutionRange(ApiModel):
    """Resolutions from min to max in steps."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(cel="self.min <= self.max", message="must be at most max", path=".min"),
        Rule(
            cel=f"(self.max - self.min) / self.step < {MAX_VALUES}",
            message=f"must give at most {MAX_VALUES} resolutions",
            path=".step",
        ),
    )

    min: int = Field(ge=4, le=1024)
    """Smallest side of the training images, pixels."""
    max: int = Field(ge=4, le=1024)
    """Largest side of the training images before the last stage, pixels."""
    step: int = Field(ge=1, le=1024)
    """Distance of two resolutions, pixels."""


class ParameterRange(ApiModel):
    """Values that a parameter of the user's own model may have before the last stage."""

    name: SettingText
    """Name of the parameter; spec.defaults.model.parameters has its value in the last stage."""
    values: tuple[Annotated[str, Field(max_length=128)], ...] = Field(
        min_length=1, max_length=MAX_VALUES, json_schema_extra=EACH_ONCE
    )
    """Values from the cheapest to that of the defaults, as texts."""


class FirstRegularization(ApiModel):
    """Regularisation of the first stage; it grows with resolution and depth to that of spec.defaults."""

    stochastic_depth: RatioText | None = Field(default=None, json_schema_extra=FROM_ZERO_BELOW_ONE)
    """Probability that the last block is skipped in a step, 0 to below 1 as text; absent: as in the
    defaults."""
    dropout: RatioText | None = Field(default=None, json_schema_extra=FROM_ZERO_BELOW_ONE)
    """Probability that an input of the classifier is dropped, 0 to below 1 as text; absent: as in the
    defaults."""
    augmentation: RatioText | None = None
    """Magnitude of the random changes to a training image, 0 to 1 as text; absent: as in the defaults."""
    mixup: DecimalText | None = Field(default=None, json_schema_extra=FROM_ZERO_TO_TEN)
    """Alpha of the Beta distribution that two images are mixed by, 0 to 10 as text; absent: as in the
    defaults."""
    label_smoothing: RatioText | None = Field(default=None, json_schema_extra=FROM_ZERO_BELOW_ONE)
    """Share of a label's probability that is spread over all classes, 0 to below 1 as text; absent: as in
    the defaults."""


class ModelRanges(ApiModel):
    """Model-level settings that may differ from spec.defaults before the last stage.

    What is left out stays as it is in the defaults.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.resolution) || !has(self.resolutionRange)",
            message="must have at most one of resolution, resolutionRange",
        ),
    )

    resolution: tuple[Annotated[int, Field(ge=4, le=1024)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_VALUES,
        json_schema_extra={**EACH_ONCE, **guarded(_ASCENDING)},
    )
    """Sides of the training images, pixels, ascending; none above that of the defaults."""
    resolution_range: ResolutionRange | None = None
    depth: tuple[Annotated[RatioText, Field(json_schema_extra=ABOVE_ZERO_TO_ONE)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_VALUES,
        json_schema_extra={**EACH_ONCE, **guarded(_ASCENDING_TEXTS)},
    )
    """Shares of the active blocks, above 0 to 1 as texts, ascending; none above that of the defaults."""
    global_batch: tuple[Annotated[int, Field(ge=1, le=MAX_GLOBAL_BATCH)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_VALUES,
        json_schema_extra={**EACH_ONCE, **guarded(_ASCENDING)},
    )
    """Samples per optimizer step over all processes, ascending. Those above the batch of the defaults are
    for early stages, unless allowLate has LargeBatch."""
    parameters: tuple[ParameterRange, ...] | None = Field(
        default=None, max_length=8, json_schema_extra=guarded(list_type="map", list_map_keys=["name"])
    )
    """Values of the user's own parameters (a sequence length, say)."""
    regularization: FirstRegularization | None = None


class HardwareRanges(ApiModel):
    """Hardware-level settings that may differ from spec.defaults.

    What is left out stays as it is in the defaults.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.accumulation) || !has(self.maxMicroBatch)",
            message="must have at most one of accumulation, maxMicroBatch",
        ),
        Rule(
            cel="""!has(self.communicationHook) || !has(self.parallelism)
                || self.parallelism.exists(p, p == 'DDP') || self.communicationHook.all(h, h == 'None')""",
            message="must be None, or left out, where parallelism is FSDP alone: hooks are DDP's",
            path=".communicationHook",
        ),
    )

    precision: tuple[Precision, ...] | None = Field(
        default=None, min_length=1, max_length=4, json_schema_extra=EACH_ONCE
    )
    """Number formats of the forward and backward pass; FP16 is for early stages, unless allowLate has
    LowPrecision."""
    matmul_precision: tuple[MatmulPrecision, ...] | None = Field(
        default=None, min_length=1, max_length=3, json_schema_extra=EACH_ONCE
    )
    """How FP32 matrices are multiplied."""
    compilation: tuple[Compilation, ...] | None = Field(
        default=None, min_length=1, max_length=3, json_schema_extra=EACH_ONCE
    )
    """Whether the network is compiled."""
    memory_format: tuple[MemoryFormat, ...] | None = Field(
        default=None, min_length=1, max_length=2, json_schema_extra=EACH_ONCE
    )
    """Orders of a picture's numbers in memory."""
    gradient_checkpointing: tuple[GradientCheckpointing, ...] | None = Field(
        default=None, min_length=1, max_length=2, json_schema_extra=EACH_ONCE
    )
    """Whether activations are computed again in the backward pass instead of kept."""
    accumulation: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        json_schema_extra={**EACH_ONCE, **guarded(_ASCENDING)},
    )
    """Micro-batches per optimizer step in each process, ascending."""
    max_micro_batch: int | None = Field(default=None, ge=1, le=MAX_GLOBAL_BATCH)
    """In place of accumulation: most samples of one forward pass in one process; accumulation follows the
    batch."""
    threads: tuple[Annotated[int, Field(ge=1, le=1024)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        json_schema_extra={**EACH_ONCE, **guarded(_ASCENDING)},
    )
    """CPU threads of each process, ascending."""
    workers: tuple[Annotated[int, Field(ge=1, le=MAX_WORKERS)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        json_schema_extra={**EACH_ONCE, **guarded(_ASCENDING)},
    )
    """Pods, ascending. More than one are measured together, as they would train; each must divide a global
    batch. A change of them needs new pods, which is counted."""
    processes_per_worker: tuple[Annotated[int, Field(ge=1, le=MAX_PROCESSES_PER_WORKER)], ...] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        json_schema_extra={**EACH_ONCE, **guarded(_ASCENDING)},
    )
    """Training processes in each pod, ascending; at most its GPUs, where it has some."""
    parallelism: tuple[Parallelism, ...] | None = Field(
        default=None, min_length=1, max_length=2, json_schema_extra=EACH_ONCE
    )
    """How several processes share the training."""
    communication_hook: tuple[CommunicationHook, ...] | None = Field(
        default=None, min_length=1, max_length=3, json_schema_extra=EACH_ONCE
    )
    """How gradients travel between the processes of DDP; rounded ones are for early stages, unless allowLate
    has CompressedCommunication."""
