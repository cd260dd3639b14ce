"""Parameters, multiply-adds and activations of a network, counted from its description alone.

The operator has no torch. The counts are those of the network that the trainer builds (timm's
``InvertedResidual`` and ``EdgeResidual`` blocks); a test compares both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nascale.contract.architecture import Architecture, BlockType, Stage, StemType
from nascale.scaling.rounding import rounded_channels

_STEM_KERNEL: Final = 3
_PER_NORM: Final = 2
"""Trainable parameters of a batch normalisation per channel: scale and shift."""


@dataclass(frozen=True)
class Cost:
    """What a network holds and computes.

    Attributes:
        parameters: Trainable parameters.
        flops: Multiply-adds of one forward pass of one sample: convolutions and matrix products, as in the
            field's tables (EfficientNet, table 2). Normalisation, activations, pooling do not count.
        activations: Elements of all outputs of convolutions and matrix products (Dollar et al., 2021,
            section 2: what runtime follows on accelerators).
        layers: Convolutions and matrix products.
    """

    parameters: int = 0
    flops: int = 0
    activations: int = 0
    layers: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.flops + other.flops,
            self.activations + other.activations,
            self.layers + other.layers,
        )


def cost(architecture: Architecture, in_channels: int, classes: int) -> Cost:
    """Count a network.

    Args:
        architecture: The network.
        in_channels: Channels of an image, 1 or more.
        classes: Number of logits, 1 or more.
    """
    stem = architecture.stem
    if stem.type is StemType.SPACE_TO_DEPTH:
        kernel, side = stem.stride, architecture.resolution // stem.stride
    else:
        kernel, side = _STEM_KERNEL, -(-architecture.resolution // stem.stride)
    total = _convolution(in_channels, stem.channels, kernel, side)
    channels = stem.channels
    for stage in architecture.stages:
        for place in range(stage.depth):
            stride = stage.stride if place == 0 else 1
            total += _block(stage, channels, side, stride)
            channels, side = stage.channels, -(-side // stride)
    total += _convolution(channels, architecture.head.channels, 1, side)
    return total + _linear(architecture.head.channels, classes)


def _block(stage: Stage, channels: int, side: int, stride: int) -> Cost:
    inner = rounded_channels(channels * stage.expansion)
    after = -(-side // stride)
    if stage.block is BlockType.FUSED_MBCONV:
        total = _convolution(channels, inner, stage.kernel, after)
    else:
        total = _convolution(channels, inner, 1, side)
        total += _convolution(inner, inner, stage.kernel, after, groups=inner)
    if stage.squeeze_excitation_ratio > 0:
        # timm is given the share of the inner channels: the same two roundings as there.
        share = stage.squeeze_excitation_ratio / float(stage.expansion)
        squeezed = max(1, round(inner * share))
        total += _linear(inner, squeezed) + _linear(squeezed, inner)
    return total + _convolution(inner, stage.channels, 1, after)


def _convolution(before: int, after: int, kernel: int, side: int, groups: int = 1) -> Cost:
    """Count a convolution without bias, and its normalisation.

    Args:
        before: Input channels.
        after: Output channels.
        kernel: Side of the kernel.
        side: Side of the output.
        groups: Of channels.
    """
    weights = before // groups * after * kernel * kernel
    return Cost(weights + _PER_NORM * after, weights * side * side, after * side * side, 1)


def _linear(before: int, after: int) -> Cost:
    return Cost((before + 1) * after, before * after, after, 1)
