"""What a processor is called: its model, and the fastest instructions that it has for training.

The kernel's name of a model says too little. Behind one name ("AMD EPYC") stand generations with and without
instructions for BF16, and a hypervisor may hide them; a step's time differs by a factor then.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CPU_INFO: Final = Path("/proc/cpuinfo")
LONGEST_NAME: Final = 64
_INSTRUCTIONS: Final = {
    "amx_bf16": "AMX BF16",
    "avx512_bf16": "AVX-512 BF16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "svebf16": "SVE BF16",
    "bf16": "NEON BF16",
    "sve": "SVE",
    "asimd": "NEON",
}
"""What the kernel calls the instructions that training depends on, the fastest of each architecture first."""
_FP16: Final = frozenset({"amx_fp16", "avx512_fp16", "asimdhp"})


def processor_name(cpu_info: str) -> str:
    """Name a processor so that two of one name train at the same speed.

    Args:
        cpu_info: What the kernel says of all cores, as ``/proc/cpuinfo`` has it; the first one counts.

    Returns:
        At most ``LONGEST_NAME`` characters; where that is too few, the model's name is cut.
    """
    core = _first_core(cpu_info)
    instructions = _instructions(frozenset(core.get("flags", core.get("Features", "")).split()))
    return _model(core)[: LONGEST_NAME - len(instructions)] + instructions


def _model(core: Mapping[str, str]) -> str:
    for key in ("model name", "Processor"):
        if core.get(key):
            return core[key]
    # ARM's kernels number the makers and their designs and name none.
    numbers = [core[key] for key in ("CPU implementer", "CPU part", "CPU variant") if core.get(key)]
    return " ".join([platform.machine(), "/".join(numbers)]).strip() or "unknown processor"


def _instructions(flags: frozenset[str]) -> str:
    fastest = next((known for flag, known in _INSTRUCTIONS.items() if flag in flags), None)
    if fastest is None:
        return ""
    return f" with {fastest}, FP16" if flags & _FP16 else f" with {fastest}"


def _first_core(cpu_info: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for line in cpu_info.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found
