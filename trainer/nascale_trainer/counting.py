"""What a network holds and computes: parameters and FLOPs."""

from __future__ import annotations

import math

import torch
from torch import nn


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def count_flops(network: nn.Module, in_channels: int, resolution: int) -> int:
    """Return the multiply-adds of one forward pass of one sample.

    Convolutions and linear layers count, as in the field's tables; normalisation, activations and pooling,
    which are bound by memory, do not. The layers' own sizes tell: torch's counter of operations would import
    torch's compiler, which takes longer than the whole measurement of a small network.

    Args:
        network: In any mode; its mode and its running statistics stay as they are.
        in_channels: Channels of an image.
        resolution: Side of the square image, pixels.
    """
    weight = next(network.parameters())
    image = torch.zeros(1, in_channels, resolution, resolution, device=weight.device, dtype=weight.dtype)
    products = 0

    def count(layer: nn.Conv2d | nn.Linear, _: object, output: torch.Tensor) -> None:
        nonlocal products
        products += output.numel() * _products_per_element(layer)

    hooks = [
        layer.register_forward_hook(count)
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    training = network.training
    network.eval()
    try:
        # Not inference_mode: tensors made in it would be refused by autograd later on.
        with torch.no_grad():
            network(image)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return products


def _products_per_element(layer: nn.Conv2d | nn.Linear) -> int:
    """Return the multiply-adds behind one element of a layer's output."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    return layer.in_features
