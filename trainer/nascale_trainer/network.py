"""The network that an architecture describes, built from timm's EfficientNet blocks.

This file stands alone: torch, timm and safetensors (which timm brings) are all that it needs.
``nascale family export`` writes it beside ``architecture.json`` and ``model.safetensors``, which
``load_network()`` reads.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import safe_open
from timm.layers.create_act import get_act_layer
from timm.layers.drop import DropPath
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import EfficientNetBuilder, efficientnet_init_weights
from torch import nn
from torch.utils.checkpoint import checkpoint

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


class BlockSequence(nn.Sequential):
    """The blocks of one stage, of which the first ones may be active alone.

    Only blocks after the first are ever skipped: their shortcut is the identity, so that the shapes of what
    follows stay the same.

    Attributes:
        active: Number of blocks that compute.
        recompute: Whether a block's activations are computed again in the backward pass instead of kept.
    """

    def __init__(self, *blocks: Any) -> None:
        """Take the blocks, as ``nn.Sequential`` does; all are active."""
        super().__init__(*blocks)
        self.active = len(self)
        self.recompute = False
        for block in self:
            if block.has_skip and not isinstance(block.drop_path, DropPath):
                block.drop_path = DropPath(0.0)  # takes a probability that changes while training

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features after the active blocks."""
        again = self.recompute and self.training and torch.is_grad_enabled()
        for block in islice(self, self.active):
            features = _checkpointed(block, features) if again else block(features)
        return features


class MBConvNetwork(nn.Module):
    """Stem, stages, head, pooling, classifier.

    Takes a float tensor of shape (batch, channels, resolution, resolution) and returns logits of shape
    (batch, classes). Whatever is set while training (depth, stochastic depth, dropout, gradient
    checkpointing) is no part of the state; a new network has all its blocks and drops nothing.
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
        built = builder(stem["channels"], stages)
        self.stages = nn.Sequential(*(BlockSequence(*blocks) for blocks in built))
        self.head = nn.Sequential(
            nn.Conv2d(architecture["stages"][-1]["channels"], head["channels"], 1, bias=False),
            nn.BatchNorm2d(head["channels"]),
            _activation(head["activation"])(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.dropout = nn.Dropout(0.0)
        self.classifier = nn.Linear(head["channels"], classes)
        efficientnet_init_weights(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        features = self.head(self.stages(self.stem(images)))
        return cast("torch.Tensor", self.classifier(self.dropout(features)))

    @property
    def depths(self) -> tuple[int, ...]:
        """Number of active blocks of each stage."""
        return tuple(blocks.active for blocks in self._sequences())

    def set_depth(self, share: float) -> None:
        """Let the first blocks of each stage compute and learn, and skip the others.

        The parameters of skipped blocks stay in the state as they are and take no gradient.

        Args:
            share: Share of each stage's blocks, above 0 to 1; see ``active_blocks``.
        """
        for blocks in self._sequences():
            blocks.active = active_blocks(share, len(blocks))
            for position, block in enumerate(blocks):
                block.requires_grad_(position < blocks.active)

    def set_stochastic_depth(self, probability: float) -> None:
        """Skip blocks with an identity shortcut at random, sample by sample, while training.

        The probability grows linearly over the active blocks and reaches the given one at the last of them
        (Huang et al., Deep networks with stochastic depth, 2016, with one minus its survival probability).

        Args:
            probability: That of the last active block, 0 to below 1.
        """
        active = [block for blocks in self._sequences() for block in islice(blocks, blocks.active)]
        for position, block in enumerate(active, start=1):
            if block.has_skip:
                path = cast("DropPath", block.drop_path)
                path.drop_prob = probability * position / len(active)

    def set_dropout(self, probability: float) -> None:
        """Drop inputs of the classifier with this probability, 0 to below 1, while training."""
        self.dropout.p = probability

    def set_gradient_checkpointing(self, *, on: bool) -> None:
        """Compute the activations within blocks again in the backward pass, or keep them."""
        for blocks in self._sequences():
            blocks.recompute = on

    def begin_as_identity(self, before: float, after: float) -> None:
        """Let the blocks that a growth of depth makes active begin as the identity.

        The scale and shift of their last normalisation become zero, so that the network computes what it
        did; gradients then wake the scale first (Goyal et al., Accurate, large minibatch SGD, 2017,
        section 5.1).

        Args:
            before: Share of each stage's blocks that was active.
            after: Share that will be.
        """
        with torch.no_grad():
            for blocks in self._sequences():
                old, new = (active_blocks(share, len(blocks)) for share in (before, after))
                for block in islice(blocks, old, max(old, new)):
                    last = cast("nn.BatchNorm2d", block.bn3 if hasattr(block, "bn3") else block.bn2)
                    last.weight.zero_()
                    last.bias.zero_()

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """Return images of values from 0 to 1 as the network was trained on them, by mean and deviation."""
        return (images - self.mean) / self.deviation

    def _sequences(self) -> Iterator[BlockSequence]:
        return cast("Iterator[BlockSequence]", iter(self.stages))


def active_blocks(share: float, depth: int) -> int:
    """Return how many of a stage's blocks are active: the share of them, rounded, and at least the first."""
    return max(1, min(depth, math.floor(share * depth + 0.5)))


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


def _checkpointed(block: nn.Module, features: torch.Tensor) -> torch.Tensor:
    if torch.compiler.is_compiling():
        # The compiled backward pass computes activations again, but none of the buffers' changes.
        return cast("torch.Tensor", checkpoint(block, features, use_reentrant=False))

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_untouched(block)

    return cast("torch.Tensor", checkpoint(block, features, use_reentrant=False, context_fn=contexts))


@contextmanager
def _statistics_untouched(block: nn.Module) -> Iterator[None]:
    """Compute as before without counting the batch a second time in the running statistics."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # Not track_running_stats: without them, other tensors would be kept than the first time.
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counted


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
