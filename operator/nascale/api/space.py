"""``spec.space``: what a search may vary."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nascale.api.resource import ApiModel, DecimalText
from nascale.api.rules import EACH_ONCE, Rule, exactly_one_of, guarded, number
from nascale.contract.architecture import Activation, BlockType, Ratio, StemType

ParameterName = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_.]{0,62}$", max_length=63)]
ParameterText = Annotated[str, Field(min_length=1, max_length=128)]
MAX_INTEGER = 1_000_000_000
MAX_INTEGER_VALUES = 100_000
"""Most values of one integer range: samplers list them."""


class Scale(StrEnum):
    """How a numeric range is sampled."""

    LINEAR = "Linear"
    """Every value is as likely as any other."""
    LOG = "Log"
    """Every order of magnitude is as likely as any other."""


class CategoricalRange(ApiModel):
    """Unordered choices."""

    values: tuple[ParameterText, ...] = Field(min_length=1, max_length=64, json_schema_extra=EACH_ONCE)
    """The choices, each once."""


class IntegerRange(ApiModel):
    """Whole numbers from min to max, both included."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.min <= self.max",
            message="must have min at most max",
            detail=f"""'must have min at most max (' + {number("self.max", largest=MAX_INTEGER)} + '), not '
                + {number("self.min", largest=MAX_INTEGER)}""",
        ),
        Rule(
            cel="self.scale != 'Log' || self.min > 0",
            message="must have min above 0 with scale Log",
            detail=f"""'must have min above 0 with scale Log, not '
                + {number("self.min", largest=MAX_INTEGER)}""",
        ),
        Rule(
            cel=f"(self.max - self.min) / self.step < {MAX_INTEGER_VALUES}",
            message=f"must have at most {MAX_INTEGER_VALUES} values; a larger step or a decimal range helps",
            detail=f"""'must have at most {MAX_INTEGER_VALUES} values, not '
                + {number("(self.max - self.min) / self.step + 1", largest=2 * MAX_INTEGER)}
                + '; a larger step or a decimal range helps'""",
        ),
    )

    min: int = Field(ge=-MAX_INTEGER, le=MAX_INTEGER)
    """Smallest value."""
    max: int = Field(ge=-MAX_INTEGER, le=MAX_INTEGER)
    """Largest value."""
    step: int = Field(default=1, ge=1, le=MAX_INTEGER)
    """Distance between neighbouring values, counted from min."""
    scale: Scale = Scale.LINEAR


class DecimalRange(ApiModel):
    """Decimals from min to max, both included."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="double(self.min) <= double(self.max)",
            message="must have min at most max",
            detail="'must have min at most max (' + self.max + '), not ' + self.min",
        ),
        Rule(
            cel="self.scale != 'Log' || double(self.min) > 0.0",
            message="must have min above 0 with scale Log",
            detail="'must have min above 0 with scale Log, not ' + self.min",
        ),
    )

    min: DecimalText
    """Smallest value, a decimal as text."""
    max: DecimalText
    """Largest value, a decimal as text."""
    scale: Scale = Scale.LINEAR


class ParameterCondition(ApiModel):
    """A parameter exists only where another one, listed before it, has one of these values."""

    parameter: ParameterName
    """Name of the other parameter, a categorical or integer one."""
    values: tuple[ParameterText, ...] = Field(min_length=1, max_length=64, json_schema_extra=EACH_ONCE)
    """Its values under which this parameter exists, as text."""


class Parameter(ApiModel):
    """One parameter of a user's own space: exactly one of categorical, integer, decimal."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("categorical", "integer", "decimal"),)

    name: ParameterName
    """Name under which trials find the value in their work order."""
    categorical: CategoricalRange | None = None
    integer: IntegerRange | None = None
    decimal: DecimalRange | None = None
    when: ParameterCondition | None = None


class MBConvStageRange(ApiModel):
    """Choices for one stage of the ``mbconv`` space; every list must name at least one choice."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.stride == 1 || !self.blocks.exists(block, block == 'Identity')",
            message="must have stride 1 where blocks has Identity: a skipped stage can't halve a resolution",
        ),
    )

    blocks: tuple[Literal["MBConv", "FusedMBConv", "Identity"], ...] = Field(
        default=(BlockType.MBCONV.value, BlockType.FUSED_MBCONV.value),
        min_length=1,
        max_length=3,
        json_schema_extra=EACH_ONCE,
    )
    """Kinds of block; Identity lets the search skip the stage, where its stride is 1."""
    kernels: tuple[Literal[3, 5, 7], ...] = Field(
        default=(3, 5), min_length=1, max_length=3, json_schema_extra=EACH_ONCE
    )
    """Sides of the convolution's kernel, pixels."""
    expansions: tuple[Annotated[int, Field(ge=1, le=8)], ...] = Field(
        default=(1, 4, 6), min_length=1, max_length=8, json_schema_extra=EACH_ONCE
    )
    """Inner channels of a block as a multiple of its input channels."""
    depths: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(1, 2, 3), min_length=1, max_length=16, json_schema_extra=EACH_ONCE
    )
    """Blocks in the stage."""
    channels: tuple[Annotated[int, Field(ge=8, le=4096)], ...] = Field(
        min_length=1, max_length=16, json_schema_extra=EACH_ONCE
    )
    """Output channels of the stage."""
    squeeze_excitations: tuple[Ratio, ...] = Field(
        default=("0", "0.25"), min_length=1, max_length=8, json_schema_extra=EACH_ONCE
    )
    """Squeezed channels as a share of the block's input channels, 0 to 1 as text; 0 is none."""
    activations: tuple[Activation, ...] = Field(
        default=(Activation.RELU, Activation.SILU), min_length=1, max_length=4, json_schema_extra=EACH_ONCE
    )
    """Activation functions; which is fastest depends on the device."""
    stride: Literal[1, 2] = 1
    """Step of the stage's first block: 2 halves the resolution."""


_STRIDES = "[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]"
TOTAL_STRIDE = f"(self.stemStride * {_STRIDES}[self.stages.filter(stage, stage.stride == 2).size()])"
"""CEL: input side over the side of the last feature map, of an MBConvSpace."""
MAX_TOTAL_STRIDE = 4 * 4096


class MBConvSpace(ApiModel):
    """The built-in space after EfficientNet-X: stages of (fused) inverted residual blocks."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.resolutions.all(side, side >= {TOTAL_STRIDE})",
            message="must have resolutions of at least the total stride (stemStride times all strides)",
            detail=f"""'must have resolutions of at least the network\\'s total stride, '
                + {number(TOTAL_STRIDE, largest=MAX_TOTAL_STRIDE)}
                + ' pixels, not ' + {number("self.resolutions.min()", largest=1024)}""",
        ),
        Rule(
            cel="self.stages.exists(stage, !stage.blocks.exists(block, block == 'Identity'))",
            message="must have a stage without Identity among its blocks: a network needs at least one stage",
        ),
        Rule(
            cel="""self.stems.size() > 1 || self.stemChannels.size() > 1 || self.headChannels.size() > 1
                || self.resolutions.size() > 1 || self.stages.exists(stage,
                    stage.blocks.size() > 1 || stage.kernels.size() > 1 || stage.expansions.size() > 1
                    || stage.depths.size() > 1 || stage.channels.size() > 1
                    || stage.squeezeExcitations.size() > 1 || stage.activations.size() > 1)""",
            message="must have at least 2 different networks to choose from, not 1",
        ),
    )

    stems: tuple[StemType, ...] = Field(
        default=(StemType.CONV, StemType.SPACE_TO_DEPTH),
        min_length=1,
        max_length=2,
        json_schema_extra=EACH_ONCE,
    )
    """Kinds of the first layer."""
    stem_channels: tuple[Annotated[int, Field(ge=8, le=512)], ...] = Field(
        default=(16,), min_length=1, max_length=8, json_schema_extra=EACH_ONCE
    )
    """Output channels of the first layer."""
    stem_stride: int = Field(default=2, ge=1, le=4)
    """Step of the first layer."""
    stages: tuple[MBConvStageRange, ...] = Field(min_length=1, max_length=12)
    """The network's stages in order, with the choices for each."""
    head_channels: tuple[Annotated[int, Field(ge=8, le=8192)], ...] = Field(
        default=(128,), min_length=1, max_length=8, json_schema_extra=EACH_ONCE
    )
    """Output channels of the last convolution."""
    resolutions: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field(
        min_length=1, max_length=16, json_schema_extra=EACH_ONCE
    )
    """Sides of the square input, pixels; each at least the network's total stride."""


_UNKNOWN_CONDITION = """has(p.when) && !self.exists(q, q.name == p.when.parameter)"""
_LATER_CONDITION = """has(p.when) && !self.exists(j, q, j < i && q.name == p.when.parameter)"""

_PARAMETER_RULES = (
    Rule(
        cel="self.all(p, self.exists_one(q, q.name == p.name))",
        message="must have each name once",
        detail="""'must have each name once, not again '
            + self.map(p, !self.exists_one(q, q.name == p.name), p.name)[0]""",
    ),
    Rule(
        cel=f"!self.exists(p, {_UNKNOWN_CONDITION})",
        message="must have conditions (when.parameter) on a parameter of this list",
        detail=f"""'must have conditions (when.parameter) on a parameter of this list, not on '
            + self.map(p, {_UNKNOWN_CONDITION}, p.when.parameter)[0]""",
    ),
    Rule(
        cel=f"!self.exists(i, p, {_LATER_CONDITION})",
        message="must have conditions (when.parameter) on a parameter that stands before",
        detail=f"""'must have conditions (when.parameter) on a parameter that stands before '
            + self.transformList(i, p, {_LATER_CONDITION}, p.name)[0]""",
    ),
    Rule(
        cel="""self.exists(p, has(p.categorical) ? p.categorical.values.size() > 1
            : has(p.integer) ? p.integer.min + p.integer.step <= p.integer.max
            : has(p.decimal) ? double(p.decimal.min) < double(p.decimal.max) : false)""",
        message="must have at least 2 different candidates to choose from, not 1",
    ),
)


class Space(ApiModel):
    """What a search may vary: exactly one of mbconv, parameters."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("mbconv", "parameters"),)

    mbconv: MBConvSpace | None = None
    parameters: tuple[Parameter, ...] | None = Field(
        default=None, min_length=1, max_length=64, json_schema_extra=guarded(*_PARAMETER_RULES)
    )
    """The user's own parameters, for a container that trains by itself (trialTemplate)."""
