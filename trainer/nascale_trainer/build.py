"""Builds the network that an ``Architecture`` describes, from timm's EfficientNet blocks."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, cast

import torch
from timm.layers.create_act import get_act_layer
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import EfficientNetBuilder, efficientnet_init_weights
from torch import nn

from nascale.contract.architecture import Activation, Architecture, BlockType, Stage, StemType
from nascale_trainer.outcomes import ResolutionTooSmall

_ACTIVATIONS: Final[dict[Activation, str]] = {
    Activation.RELU: "relu",
    Activation.SILU: "silu",
    Activation.HARD_SWISH: "hard_swish",
    Activation.GELU: "gelu",
}

_NO_DILATION: Final = 1 << 20
"""timm turns strides beyond its ``output_stride`` into dilation; here every stride stays one."""


class MBConvNetwork(nn.Module):
    """Stem, stages, head, pooling, classifier.

    Takes a float tensor of shape (batch, channels, resolution, resolution) and returns logits of shape
    (batch, classes).
    """

    def __init__(self, architecture: Architecture, in_channels: int, classes: int) -> None:
        """Build with weights drawn from torch's default generator.

        Args:
            architecture: What to build.
            in_channels: Channels of an image.
            classes: Number of logits.
        """
        super().__init__()
        stem = architecture.stem
        kernel, padding = (stem.stride, 0) if stem.type is StemType.SPACE_TO_DEPTH else (3, 1)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem.channels, kernel, stem.stride, padding, bias=False),
            nn.BatchNorm2d(stem.channels),
            _activation(stem.activation)(inplace=True),
        )
        builder = EfficientNetBuilder(
            output_stride=_NO_DILATION,
            # Widths are the search's own and are not rounded; timm rounds the expanded width within a block
            # to a multiple of 8.
            round_chs_fn=_exactly,
            act_layer=nn.ReLU,
            norm_layer=nn.BatchNorm2d,
            se_layer=partial(SqueezeExcite, rd_round_fn=_at_least_one),
        )
        stages = [[_block(stage) for _ in range(stage.depth)] for stage in architecture.stages]
        self.stages = nn.Sequential(*builder(stem.channels, stages))
        head = architecture.head
        self.head = nn.Sequential(
            nn.Conv2d(architecture.stages[-1].channels, head.channels, 1, bias=False),
            nn.BatchNorm2d(head.channels),
            _activation(head.activation)(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(head.channels, classes)
        efficientnet_init_weights(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return cast("torch.Tensor", self.classifier(self.head(self.stages(self.stem(images)))))


def build_network(architecture: Architecture, in_channels: int, classes: int, seed: int) -> MBConvNetwork:
    """Build a network whose weights are a function of the seed alone.

    Raises:
        ResolutionTooSmall: the architecture's input is smaller than its total stride.
    """
    check_resolution(architecture, architecture.resolution)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MBConvNetwork(architecture, in_channels, classes)


def check_resolution(architecture: Architecture, resolution: int) -> None:
    """Refuse an input of which nothing would be left before the head.

    Raises:
        ResolutionTooSmall: the resolution is below the total stride.
    """
    if resolution < architecture.total_stride:
        raise ResolutionTooSmall(
            f"resolution: must be at least {architecture.total_stride} pixels, the network's total stride, "
            f"not {resolution}"
        )


def _block(stage: Stage) -> dict[str, Any]:
    """Return timm's arguments for one block; the builder keeps the stride for a stage's first one."""
    common = {
        "out_chs": stage.channels,
        "stride": stage.stride,
        "exp_ratio": float(stage.expansion),
        "se_ratio": stage.squeeze_excitation_ratio,
        "act_layer": _activation(stage.activation),
        "noskip": False,
    }
    if stage.block is BlockType.FUSED_MBCONV:
        return {"block_type": "er", "exp_kernel_size": stage.kernel, **common}
    return {"block_type": "ir", "dw_kernel_size": stage.kernel, **common}


def _activation(name: Activation) -> type[nn.Module]:
    return cast("type[nn.Module]", get_act_layer(_ACTIVATIONS[name]))


def _exactly(channels: int) -> int:
    return channels


def _at_least_one(channels: float) -> int:
    """Squeeze to a whole number of channels: a small share of few is less than half a channel."""
    return max(1, round(channels))
