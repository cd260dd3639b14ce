"""The network that an architecture describes, built from timm's EfficientNet blocks.

This file stands alone: torch, timm and safetensors (which timm brings) are all that it needs.
``nascale family export`` writes it beside ``architecture.json`` and ``model.safetensors``, which
``load_network()`` reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import safe_open
from timm.layers.create_act import get_act_layer
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import EfficientNetBuilder, efficientnet_init_weights
from torch import nn

ARCHITECTURE: Final = "architecture.json"
WEIGHTS: Final = "model.safetensors"
METADATA_KEY: Final = "nascale"
"""Entry of the weights' metadata: JSON with architecture, channels, classes, mean and deviation."""

_ACTIVATIONS: Final[dict[str, str]] = {
    "ReLU": "relu",
    "SiLU": "silu",
    "HardSwish": "hard_swish",
    "GELU": "gelu",
}

_NO_DILATION: Final = 1 << 20
"""timm turns strides beyond its ``output_stride`` into dilation; here every stride stays one."""


class MBConvNetwork(nn.Module):
    """Stem, stages, head, pooling, classifier.

    Takes a float tensor of shape (batch, channels, resolution, resolution) and returns logits of shape
    (batch, classes).
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, architecture: Mapping[str, Any], in_channels: int, classes: int) -> None:
        """Build with weights drawn from torch's default generator.

        Args:
            architecture: What to build: the JSON document of an architecture, with every field.
            in_channels: Channels of an image.
            classes: Number of logits.
        """
        super().__init__()
        self.resolution = int(architecture["resolution"])
        # What normalised() uses; no part of the state, because the network itself does not.
        self.register_buffer("mean", torch.zeros(1, in_channels, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.ones(1, in_channels, 1, 1), persistent=False)
        stem, head = architecture["stem"], architecture["head"]
        kernel, padding = (stem["stride"], 0) if stem["type"] == "SpaceToDepth" else (3, 1)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem["channels"], kernel, stem["stride"], padding, bias=False),
            nn.BatchNorm2d(stem["channels"]),
            _activation(stem["activation"])(inplace=True),
        )
        builder = EfficientNetBuilder(
            output_stride=_NO_DILATION,
            # Widths are the architecture's own and are not rounded; timm rounds the expanded width within a
            # block to a multiple of 8.
            round_chs_fn=_exactly,
            act_layer=nn.ReLU,
            norm_layer=nn.BatchNorm2d,
            se_layer=partial(SqueezeExcite, rd_round_fn=_at_least_one),
        )
        stages = [[_block(stage) for _ in range(stage["depth"])] for stage in architecture["stages"]]
        self.stages = nn.Sequential(*builder(stem["channels"], stages))
        self.head = nn.Sequential(
            nn.Conv2d(architecture["stages"][-1]["channels"], head["channels"], 1, bias=False),
            nn.BatchNorm2d(head["channels"]),
            _activation(head["activation"])(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(head["channels"], classes)
        efficientnet_init_weights(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return cast("torch.Tensor", self.classifier(self.head(self.stages(self.stem(images)))))

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """Return images of values from 0 to 1 as the network was trained on them, by mean and deviation."""
        return (images - self.mean) / self.deviation


def load_network(
    folder: str | Path | None = None, *, channels: int | None = None, classes: int | None = None
) -> MBConvNetwork:
    """Build the network of an exported folder in evaluation mode, with the weights that lie there.

    Args:
        folder: Holds ``architecture.json`` and, where there are weights, ``model.safetensors``; by default
            the folder of this file.
        channels: Channels of an image; needed only where there are no weights, which state them.
        classes: Number of logits; needed only where there are no weights.

    Raises:
        ValueError: there are no weights, and channels or classes is not given.
        OSError: the folder's files can't be read.
    """
    place = Path(__file__).parent if folder is None else Path(folder)
    architecture = json.loads((place / ARCHITECTURE).read_text())
    weights = place / WEIGHTS
    if not weights.exists():
        if channels is None or classes is None:
            raise ValueError(f"channels, classes: must be given, because {place} has no {WEIGHTS}")
        return MBConvNetwork(architecture, channels, classes).eval()
    with safe_open(weights, "pt") as file:
        about = json.loads(file.metadata()[METADATA_KEY])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    network = MBConvNetwork(architecture, about["channels"], about["classes"])
    network.load_state_dict(state)
    if "mean" in about:
        network.mean.copy_(torch.tensor(about["mean"]).view(1, -1, 1, 1))
        network.deviation.copy_(torch.tensor(about["deviation"]).view(1, -1, 1, 1))
    return network.eval()


def _block(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return timm's arguments for one block; the builder keeps the stride for a stage's first one."""
    common = {
        "out_chs": stage["channels"],
        "stride": stage["stride"],
        "exp_ratio": float(stage["expansion"]),
        "se_ratio": float(stage["squeezeExcitation"]),
        "act_layer": _activation(stage["activation"]),
        "noskip": False,
    }
    if stage["block"] == "FusedMBConv":
        return {"block_type": "er", "exp_kernel_size": stage["kernel"], **common}
    return {"block_type": "ir", "dw_kernel_size": stage["kernel"], **common}


def _activation(name: str) -> type[nn.Module]:
    return cast("type[nn.Module]", get_act_layer(_ACTIVATIONS[name]))


def _exactly(channels: int) -> int:
    return channels


def _at_least_one(channels: float) -> int:
    """Squeeze to a whole number of channels: a small share of few is less than half a channel."""
    return max(1, round(channels))
