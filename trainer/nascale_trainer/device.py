"""The device that measures and trains: which, what it is called, how fast it runs, what it can compute in."""

from __future__ import annotations

import resource
import statistics
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch

from nascale.contract.report import DeviceReport
from nascale.contract.work_order import Precision
from nascale_trainer.outcomes import UnsupportedPrecision
from nascale_trainer.processor import CPU_INFO, LONGEST_NAME, processor_name

_BF16_CAPABILITY: Final = (8, 0)
"""CUDA compute capability of Ampere, the first with tensor cores for BF16 and TF32."""
_FP16_CAPABILITY: Final = (5, 3)

_CPU_FOLDER: Final = Path("/sys/devices/system/cpu")
_LONGEST_SOFTWARE: Final = 64


def choose_device() -> torch.device:
    """Return the GPU that the pod was given, else the processor."""
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def describe_device(device: torch.device) -> DeviceReport:
    """Name the device, its software and its clock."""
    software = f"torch {torch.__version__}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        software += f", CUDA {torch.version.cuda}"
    else:
        name = processor_name(_read(CPU_INFO))
    return DeviceReport(
        type=device.type,
        name=name[:LONGEST_NAME],
        software=software[:_LONGEST_SOFTWARE],
        clock_megahertz=clock_megahertz(device),
    )


def clock_megahertz(device: torch.device) -> int | None:
    """Return the present clock, megahertz; ``None`` where it can't be read."""
    if device.type == "cuda":
        # torch asks NVML, which not every image has.
        with suppress(ModuleNotFoundError, RuntimeError, ImportError):
            return int(torch.cuda.clock_rate(device))
        return None
    kilohertz = [
        int(text)
        for file in _CPU_FOLDER.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (text := _read(file).strip()).isdecimal()
    ]
    if kilohertz:
        return round(statistics.mean(kilohertz) / 1000)
    lines = [line.partition(":") for line in _read(CPU_INFO).splitlines()]
    clocks = [float(value) for key, _, value in lines if key.strip() == "cpu MHz"]
    return round(statistics.mean(clocks)) if clocks else None


def check_precision(device: torch.device, precision: Precision) -> None:
    """Refuse a number format that the device has no arithmetic for: its latency would say nothing.

    Raises:
        UnsupportedPrecision: the device lacks it; names the formats that it has.
    """
    supported = supported_precisions(device)
    if precision not in supported:
        raise UnsupportedPrecision(
            f"target.precision: must be one of {[str(name) for name in supported]} on this device "
            f"({device.type}), not {str(precision)!r}"
        )


def supported_precisions(device: torch.device) -> tuple[Precision, ...]:
    """Return the number formats that the device computes in."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        ampere = (Precision.TF32, Precision.BF16) if capability >= _BF16_CAPABILITY else ()
        half = (Precision.FP16,) if capability >= _FP16_CAPABILITY else ()
        return (Precision.FP32, *ampere, *half)
    # Without these instructions a processor emulates the format, slower than FP32.
    bf16 = (Precision.BF16,) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ()  # noqa: SLF001  # its name
    fp16 = (Precision.FP16,) if torch.ops.mkldnn._is_mkldnn_fp16_supported() else ()  # noqa: SLF001  # its name
    return (Precision.FP32, *bf16, *fp16)


def dtype_of(precision: Precision) -> torch.dtype:
    """Return the tensors' type; TF32 is a way to multiply FP32 tensors."""
    return {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}.get(precision, torch.float32)


def set_matmul_precision(precision: Precision) -> None:
    """Allow or forbid TF32 in products and convolutions of FP32 tensors on a GPU."""
    mode = "tf32" if precision is Precision.TF32 else "ieee"
    torch.backends.cuda.matmul.fp32_precision = mode
    torch.backends.cudnn.conv.fp32_precision = mode  # type: ignore[attr-defined]  # absent from torch's stubs


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to the device, behind the work that it has: the host goes on and prepares more.

    From memory that isn't pinned, a GPU's copy waits until all of that work is done.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak, so that one candidate's does not count for the next one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # the kernel may lack it; then the peak is that of the process so far
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes(device: torch.device) -> int:
    """Return the highest memory held since ``reset_peak_memory``, bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    for line in _read(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
