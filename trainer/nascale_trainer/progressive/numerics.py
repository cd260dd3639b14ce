"""Number formats and compilation: how the device works on a network in a stage."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch import nn

from nascale.contract.run_order import StageOrder
from nascale.contract.stage_settings import (
    CommunicationHook,
    Compilation,
    HardwareSettings,
    MatmulPrecision,
)
from nascale.contract.work_order import Precision
from nascale_trainer.device import dtype_of

_TORCH_NAMES: Final = {
    MatmulPrecision.HIGHEST: "highest",
    MatmulPrecision.HIGH: "high",
    MatmulPrecision.MEDIUM: "medium",
}
_REDUCED: Final = frozenset({Precision.BF16, Precision.FP16})


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return the context of a forward pass in a number format."""
    if precision not in _REDUCED:
        return nullcontext()
    return torch.autocast(device.type, dtype=dtype_of(precision))


def set_matmul_precision(hardware: HardwareSettings) -> None:
    """Set how products of FP32 tensors are computed; what a stage before has set does not stay."""
    chosen = hardware.matmul_precision
    if hardware.precision is Precision.TF32 and chosen is MatmulPrecision.HIGHEST:
        chosen = MatmulPrecision.HIGH
    torch.set_float32_matmul_precision(_TORCH_NAMES[chosen])
    convolutions = "ieee" if chosen is MatmulPrecision.HIGHEST else "tf32"
    torch.backends.cudnn.conv.fp32_precision = convolutions  # type: ignore[attr-defined]  # absent from its stubs


def has_graphs(compilation: Compilation, device: torch.device) -> bool:
    """Say whether the network's work is recorded in CUDA graphs, whose outputs the next replay overwrites."""
    return compilation is Compilation.REDUCE_OVERHEAD and device.type == "cuda"


def compiled(wrapped: nn.Module, compilation: Compilation, device: torch.device) -> nn.Module:
    """Return what is called instead of the network; the parameters stay the network's."""
    if compilation is Compilation.NONE:
        return wrapped
    # What was compiled for other shapes and settings counts against a limit, past which code runs eagerly.
    torch._dynamo.reset()  # noqa: SLF001  # its name
    graphs = has_graphs(compilation, device)
    call: Any = torch.compile(wrapped, mode="reduce-overhead" if graphs else None)
    module: nn.Module = call
    return module


def compilations() -> int:
    """Return how many graphs torch.compile has compiled in this process."""
    module = sys.modules.get("torch._dynamo.utils")  # importing it takes seconds
    return int(module.counters["stats"]["unique_graphs"]) if module is not None else 0


def quality_safe(stage: StageOrder) -> StageOrder:
    """Return the stage with hardware settings that don't cost quality: FP32, eager, gradients as they are."""
    hardware = stage.hardware.model_copy(
        update={
            "precision": Precision.FP32,
            "matmul_precision": MatmulPrecision.HIGHEST,
            "compilation": Compilation.NONE,
            "communication_hook": CommunicationHook.NONE,
        }
    )
    return stage.model_copy(update={"hardware": hardware})
