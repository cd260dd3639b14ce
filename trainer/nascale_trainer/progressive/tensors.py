"""Tensors of a state, whatever number of processes they are spread over."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from nascale.contract.stage_settings import MemoryFormat

_FORMATS = {
    MemoryFormat.CONTIGUOUS: torch.contiguous_format,
    MemoryFormat.CHANNELS_LAST: torch.channels_last,
}
_PICTURE_DIMENSIONS = 4


def is_spread(value: Any) -> bool:
    """Say whether a tensor is a process's part of a larger one (a DTensor)."""
    # Its module takes most of a second to import; nobody can have one without it.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def whole(value: Any) -> Any:
    """Return the whole tensor; all processes call it alike."""
    return value.full_tensor() if is_spread(value) else value


def like(value: torch.Tensor, template: torch.Tensor) -> torch.Tensor:
    """Return a value placed as the template is: device, spread over processes, order in memory."""
    if is_spread(template) and not is_spread(value):
        from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415  # loaded already

        spread: Any = template
        return distribute_tensor(value.to(spread.device), spread.device_mesh, spread.placements)
    if is_spread(value):
        return value
    placed = torch.empty_like(template, dtype=value.dtype)
    placed.copy_(value)
    return placed


def arrange(network: nn.Module, memory_format: MemoryFormat) -> None:
    """Put the network's weights into an order in memory; the parameters stay the same objects."""
    if any(is_spread(parameter) for parameter in network.parameters()):
        return  # each process holds rows: their order is FSDP's
    network.to(memory_format=_FORMATS[memory_format])


def arranged(value: torch.Tensor, memory_format: MemoryFormat) -> torch.Tensor:
    """Return a tensor in an order in memory; only pictures' kernels have more than one."""
    if value.dim() != _PICTURE_DIMENSIONS or is_spread(value):
        return value
    return value.contiguous(memory_format=_FORMATS[memory_format])


def all_finite(tensors: list[torch.Tensor]) -> bool:
    """Say whether no number among these is NaN or infinite; looks at this process's part alone."""
    local = [_local(value) for value in tensors]
    if not local:
        return True
    # The sum of a tensor is not finite if one of its numbers isn't; an overflow of the sum itself needs
    # numbers that are no use either.
    sums = torch.stack([value.detach().sum(dtype=torch.float32) for value in local])
    return bool(torch.isfinite(sums).all())


def _local(value: Any) -> torch.Tensor:
    part: torch.Tensor = value.to_local() if is_spread(value) else value
    return part
