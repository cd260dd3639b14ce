"""``spec.space``: what a search may vary."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from nascale.api.resource import ApiModel, DecimalText
from nascale.contract.architecture import Activation, BlockType, Ratio, StemType

ParameterName = Annotated[str, Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_.]{0,62}$", max_length=63)]
ParameterText = Annotated[str, Field(min_length=1, max_length=128)]


class Scale(StrEnum):
    """How a numeric range is sampled."""

    LINEAR = "Linear"
    LOG = "Log"


class CategoricalRange(ApiModel):
    """Unordered choices."""

    values: tuple[ParameterText, ...] = Field(min_length=1, max_length=64)


class IntegerRange(ApiModel):
    """Whole numbers from min to max, both included."""

    min: int = Field(ge=-1_000_000_000, le=1_000_000_000)
    max: int = Field(ge=-1_000_000_000, le=1_000_000_000)
    step: int = Field(default=1, ge=1, le=1_000_000_000)
    scale: Scale = Scale.LINEAR


class DecimalRange(ApiModel):
    """Decimals from min to max, both included."""

    min: DecimalText
    max: DecimalText
    scale: Scale = Scale.LINEAR


class ParameterCondition(ApiModel):
    """A parameter exists only where another one, listed before it, has one of these values."""

    parameter: ParameterName
    values: tuple[ParameterText, ...] = Field(min_length=1, max_length=64)


class Parameter(ApiModel):
    """One parameter of a user's own space: exactly one of categorical, integer, decimal."""

    name: ParameterName
    categorical: CategoricalRange | None = None
    integer: IntegerRange | None = None
    decimal: DecimalRange | None = None
    when: ParameterCondition | None = None


class MBConvStageRange(ApiModel):
    """Choices for one stage of the ``mbconv`` space; every list must name at least one choice."""

    blocks: tuple[Literal["MBConv", "FusedMBConv", "Identity"], ...] = Field(
        default=(BlockType.MBCONV.value, BlockType.FUSED_MBCONV.value), min_length=1, max_length=3
    )
    """Block kinds; ``Identity`` allows the search to skip the stage (only where its stride is 1)."""
    kernels: tuple[Literal[3, 5, 7], ...] = Field(default=(3, 5), min_length=1, max_length=3)
    expansions: tuple[Annotated[int, Field(ge=1, le=8)], ...] = Field(
        default=(1, 4, 6), min_length=1, max_length=8
    )
    depths: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(1, 2, 3), min_length=1, max_length=16
    )
    channels: tuple[Annotated[int, Field(ge=8, le=4096)], ...] = Field(min_length=1, max_length=16)
    squeeze_excitations: tuple[Ratio, ...] = Field(default=("0", "0.25"), min_length=1, max_length=8)
    activations: tuple[Activation, ...] = Field(
        default=(Activation.RELU, Activation.SILU), min_length=1, max_length=4
    )
    stride: Literal[1, 2] = 1


class MBConvSpace(ApiModel):
    """The built-in space after EfficientNet-X: stages of (fused) inverted residual blocks."""

    stems: tuple[StemType, ...] = Field(
        default=(StemType.CONV, StemType.SPACE_TO_DEPTH), min_length=1, max_length=2
    )
    stem_channels: tuple[Annotated[int, Field(ge=8, le=512)], ...] = Field(
        default=(16,), min_length=1, max_length=8
    )
    stem_stride: int = Field(default=2, ge=1, le=4)
    stages: tuple[MBConvStageRange, ...] = Field(min_length=1, max_length=12)
    head_channels: tuple[Annotated[int, Field(ge=8, le=8192)], ...] = Field(
        default=(128,), min_length=1, max_length=8
    )
    resolutions: tuple[Annotated[int, Field(ge=4, le=1024)], ...] = Field(min_length=1, max_length=16)
    """Sides of the square input, pixels; each must be at least the network's total stride."""


class Space(ApiModel):
    """What a search may vary: exactly one of mbconv, parameters."""

    mbconv: MBConvSpace | None = None
    parameters: tuple[Parameter, ...] | None = Field(default=None, min_length=1, max_length=64)
