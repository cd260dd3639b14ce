"""How the process keeps memory: what a training step frees, the next one wants again.

glibc gives large freed blocks back to the kernel, and the next step takes them anew, page by page: in a small
convolutional network on a processor that is tens of thousands of page faults in each step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Final

TRIM_THRESHOLD: Final = -1
TOP_PAD: Final = -2
MMAP_THRESHOLD: Final = -3
"""Parameters of ``mallopt`` (malloc.h)."""
MOST_KEPT: Final = (1 << 31) - 1
"""Bytes that may lie free at the heap's end: the largest number that mallopt takes."""
STRIDE: Final = 64 << 20
"""Bytes by which the heap grows."""
LARGEST_ON_HEAP: Final = 32 << 20
"""Bytes from which a block has a mapping of its own: the largest number that mallopt takes."""
VARIABLES: Final = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_")
"""Who sets one of them has chosen for themselves."""


def keep_freed_memory(environ: Mapping[str, str]) -> bool:
    """Let the process keep what it frees; its peak stays as it is.

    Args:
        environ: The environment of the process.

    Returns:
        Whether it does: not where the environment says otherwise, or the C library has no such setting.
    """
    if any(name in environ for name in VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {MMAP_THRESHOLD: LARGEST_ON_HEAP, TRIM_THRESHOLD: MOST_KEPT, TOP_PAD: STRIDE}
    return all(mallopt(name, value) for name, value in wanted.items())
