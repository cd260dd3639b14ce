"""What a network holds and computes: parameters and FLOPs."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_flops(network: nn.Module, in_channels: int, resolution: int) -> int:
    """Return the multiply-adds of one forward pass of one sample.

    Convolutions and matrix products count, as in the field's tables; normalisation, activations and pooling,
    which are bound by memory, do not. PyTorch counts a multiply-add as two operations, hence the half.

    Args:
        network: In any mode; its mode and its running statistics stay as they are.
        in_channels: Channels of an image.
        resolution: Side of the square image, pixels.
    """
    weight = next(network.parameters())
    image = torch.zeros(1, in_channels, resolution, resolution, device=weight.device, dtype=weight.dtype)
    training = network.training
    network.eval()
    try:
        # Not inference_mode: tensors made in it would be refused by autograd later on.
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(image)
    finally:
        network.train(training)
    return int(counter.get_total_flops()) // 2
