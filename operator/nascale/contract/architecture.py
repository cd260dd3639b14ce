"""The readable description of a network: what a search finds, a sweep scales and a trainer builds."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from nascale.contract.document import Document

ARCHITECTURE_VERSION: Final = "nascale.io/architecture/v1"

Ratio = Annotated[str, Field(pattern=r"^(0|1|0\.[0-9]{1,4})$", max_length=6)]
"""A decimal from 0 to 1 as text: floats would not survive a round trip through every client."""


class BlockType(StrEnum):
    """The kinds of block that a stage repeats (EfficientNet-X, section 3)."""

    MBCONV = "MBConv"
    """Inverted residual with a depthwise convolution."""
    FUSED_MBCONV = "FusedMBConv"
    """Inverted residual with one full convolution in place of expansion and depthwise: more parallel work."""


class Activation(StrEnum):
    """Activation functions; which is fastest depends on the device."""

    RELU = "ReLU"
    SILU = "SiLU"
    HARD_SWISH = "HardSwish"
    GELU = "GELU"


class StemType(StrEnum):
    """How the image enters the network."""

    CONV = "Conv"
    """A 3x3 convolution of the stem's stride."""
    SPACE_TO_DEPTH = "SpaceToDepth"
    """A learned n x n convolution of stride n: reshapes memory so that the first layers use wide channels."""


class Stem(Document):
    """The first layer."""

    type: StemType = StemType.CONV
    """How the image enters the network."""
    channels: int = Field(ge=8, le=512)
    """Output channels."""
    stride: int = Field(ge=1, le=4)
    """Step: input side over output side."""
    activation: Activation = Activation.SILU


class Stage(Document):
    """Blocks of one kind and width; the first one takes the stride."""

    block: BlockType
    """Kind of the blocks."""
    kernel: Literal[3, 5, 7]
    """Side of the convolution's kernel, pixels."""
    stride: Literal[1, 2]
    """Step of the first block: 2 halves the resolution."""
    expansion: int = Field(ge=1, le=8)
    """Inner channels of a block as a multiple of its input channels."""
    channels: int = Field(ge=8, le=4096)
    """Output channels."""
    depth: int = Field(ge=1, le=64)
    """Blocks in the stage."""
    squeeze_excitation: Ratio = "0"
    """Squeezed channels as a share of the block's input channels; 0 is none."""
    activation: Activation = Activation.SILU

    @property
    def squeeze_excitation_ratio(self) -> float:
        """Squeezed channels as a share of the block's input channels; 0 switches it off."""
        return float(Decimal(self.squeeze_excitation))


class Head(Document):
    """The last convolution before pooling."""

    channels: int = Field(ge=8, le=8192)
    """Output channels."""
    activation: Activation = Activation.SILU


class Architecture(Document):
    """One network, complete but for the data's channels and classes.

    A stage that a search chose to skip (identity) does not appear.
    """

    version: Literal["nascale.io/architecture/v1"] = ARCHITECTURE_VERSION
    """Version of the document."""
    space: Literal["mbconv"] = "mbconv"
    """Search space that the network is of."""
    stem: Stem
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=16)
    """Stages in order, from the stem to the head."""
    head: Head
    resolution: int = Field(ge=4, le=1024)
    """Side of the square input, pixels."""

    @property
    def total_stride(self) -> int:
        """Input side over the side of the last feature map."""
        stride = self.stem.stride
        for stage in self.stages:
            stride *= stage.stride
        return stride
