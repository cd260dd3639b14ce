"""From the contract's ``Architecture`` to a network whose weights follow from a seed."""

from __future__ import annotations

import torch

from nascale.contract.architecture import Architecture
from nascale_trainer.network import MBConvNetwork
from nascale_trainer.outcomes import ResolutionTooSmall

__all__ = ["MBConvNetwork", "build_network", "check_resolution"]


def build_network(architecture: Architecture, in_channels: int, classes: int, seed: int) -> MBConvNetwork:
    """Build a network whose weights are a function of the seed alone.

    Raises:
        ResolutionTooSmall: the architecture's input is smaller than its total stride.
    """
    check_resolution(architecture, architecture.resolution)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MBConvNetwork(architecture.model_dump(mode="json", by_alias=True), in_channels, classes)


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
