"""What a compilation costs in a process of its own: with an empty cache, and with a compiler to be loaded.

Candidates of a profile order share a process, and the files that torch.compile keeps. Without this, the
second one that compiles would look cheaper than it is for the training that does the same.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from torch import nn

from nascale.contract.run_order import StageOrder
from nascale.contract.stage_settings import Compilation
from nascale_trainer.progressive.numerics import compiled

COMPILER_CACHE: Final = "TORCHINDUCTOR_CACHE_DIR"
KERNEL_CACHE: Final = "TRITON_CACHE_DIR"


def is_compiled(stages: Sequence[StageOrder]) -> bool:
    """Say whether any stage's network is compiled."""
    return any(stage.hardware.compilation is not Compilation.NONE for stage in stages)


@contextmanager
def cold_compiler() -> Iterator[None]:
    """Let compilations within the block find nothing that earlier ones have left.

    A cache that the container names itself stays in use: a training's pods will find it too.
    """
    if COMPILER_CACHE in os.environ:
        yield
        return
    utilities = sys.modules.get("torch._inductor.utils")  # where it isn't, nothing has been compiled
    if utilities is not None:
        utilities.clear_caches()
    with tempfile.TemporaryDirectory(prefix="nascale-compiler-", ignore_cleanup_errors=True) as folder:
        before = {name: os.environ.get(name) for name in (COMPILER_CACHE, KERNEL_CACHE)}
        os.environ[COMPILER_CACHE] = folder
        os.environ[KERNEL_CACHE] = str(Path(folder) / "triton")
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def loading_seconds(device: torch.device) -> float:
    """Return what a process's first compilation costs beyond those to come: imports, and tests of the device.

    It is measured with a network of one weight, compiled twice: afterwards it is paid for. Not to be called
    within ``cold_compiler``, where the second time would find the first one's files.

    Raises:
        RuntimeError: the compiler does not work here.
    """
    first, again = _seconds(device), _seconds(device)
    return max(first - again, 0.0)


def _seconds(device: torch.device) -> float:
    begin = time.perf_counter()
    with cold_compiler():
        call = compiled(nn.Linear(1, 1).to(device), Compilation.DEFAULT, device)
        call(torch.ones(1, 1, device=device)).sum().backward()
    return time.perf_counter() - begin
