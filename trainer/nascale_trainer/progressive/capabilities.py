"""What a stage asks for and this machine can't do: told before the first step, naming the stage."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch

from nascale.contract.run_order import StageOrder
from nascale.contract.stage_settings import CommunicationHook, Compilation, HardwareSettings, Parallelism
from nascale_trainer.device import supported_precisions
from nascale_trainer.progressive.task import CannotTrain
from nascale_trainer.threads import available_threads

_TRITON_CAPABILITY: Final = (7, 0)
"""CUDA compute capability of Volta, the first that torch.compile makes code for."""


def check_stage(
    stage: StageOrder,
    device: torch.device,
    *,
    present: HardwareSettings | None = None,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Refuse a stage whose hardware-level settings can't be carried out here.

    Args:
        stage: Any stage of the schedule.
        device: Device of this process.
        present: Settings of the stage that these pods were made for. A stage of pods with other resources is
            not judged by these ones: its own pods do, when they start.
        environ: The process's environment; ``None`` means the real one.

    Raises:
        CannotTrain: naming the stage, the setting, its value and what is allowed.
    """
    hardware = stage.hardware
    where = f"stage {stage.name}"
    _check_hook(hardware, where)
    if present is not None and hardware.resources != present.resources:
        return
    supported = supported_precisions(device)
    if hardware.precision not in supported:
        raise CannotTrain(
            "UnsupportedPrecision",
            f"{where}: precision: must be one of {[str(name) for name in supported]} on this device "
            f"({device.type}), not {str(hardware.precision)!r}",
        )
    if hardware.compilation is not Compilation.NONE:
        missing = _missing_for_compilation(device, os.environ if environ is None else environ)
        if missing:
            raise CannotTrain(
                "CannotCompile",
                f"{where}: compilation: must be {str(Compilation.NONE)!r} in this container, which has no "
                f"{missing}, not {str(hardware.compilation)!r}",
            )
    _check_processors(hardware, device, where)


def _check_hook(hardware: HardwareSettings, where: str) -> None:
    if (
        hardware.world > 1
        and hardware.parallelism is Parallelism.FSDP
        and hardware.communication_hook is not CommunicationHook.NONE
    ):
        raise CannotTrain(
            "UnsupportedHook",
            f"{where}: communicationHook: must be {str(CommunicationHook.NONE)!r} with FSDP, "
            f"not {str(hardware.communication_hook)!r}",
        )


def _check_processors(hardware: HardwareSettings, device: torch.device, where: str) -> None:
    # Without the environment: OMP_NUM_THREADS is there what the present stage has asked for.
    threads = available_threads(environ={})
    if hardware.threads is not None and hardware.threads > threads:
        raise CannotTrain(
            "TooManyThreads",
            f"{where}: threads: must be from 1 to {threads}, the processors of this container, "
            f"not {hardware.threads}",
        )
    if device.type == "cuda" and hardware.processes_per_worker > torch.cuda.device_count():
        raise CannotTrain(
            "TooFewDevices",
            f"{where}: processesPerWorker: must be from 1 to {torch.cuda.device_count()}, the GPUs of this "
            f"container, not {hardware.processes_per_worker}",
        )


def _missing_for_compilation(device: torch.device, environ: Mapping[str, str]) -> str | None:
    """Return what torch.compile lacks; ``None``: nothing.

    Where it looks is Inductor's own way: the compiler that ``CXX`` names, else g++, builds code for a CPU
    against Python's headers; Triton makes code for a GPU, with a C compiler for its launcher.
    """
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "triton"
        if torch.cuda.get_device_capability(device) < _TRITON_CAPABILITY:
            return "GPU of compute capability 7.0"
        compilers = [environ.get("CC"), "clang", "gcc"]
        return (
            None if any(name and shutil.which(name) for name in compilers) else "C compiler (CC, gcc, clang)"
        )
    compiler = environ.get("CXX") or "g++"
    if shutil.which(compiler, path=environ.get("PATH")) is None:
        return f"C++ compiler {compiler}"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return None if headers.is_file() else f"{headers}"
