"""Watches the loss without waiting for the device: a loss is looked at when the next step is on its way."""

from __future__ import annotations

from typing import NamedTuple

import torch


class _Pending(NamedTuple):
    value: torch.Tensor
    ready: torch.cuda.Event | None


class LossWatch:
    """Reads each step's loss one step late."""

    def __init__(self, device: torch.device) -> None:
        """Take the device that losses lie on."""
        self._on_gpu = device.type == "cuda"
        self._pending: _Pending | None = None

    def put(self, loss: torch.Tensor) -> float | None:
        """Take a step's loss; return the step's before, ``None`` where there is none."""
        # First this one on its way, then the wait for the one before: the device never stands idle.
        before = self._pending
        if self._on_gpu:
            value = torch.empty(loss.shape, dtype=loss.dtype, pin_memory=True)
            value.copy_(loss.detach(), non_blocking=True)
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            ready.record()
            self._pending = _Pending(value, ready)
        else:
            self._pending = _Pending(loss.detach(), None)
        return None if before is None else _read(before)

    def take(self) -> float | None:
        """Return the last loss, waiting for it; ``None`` where it was returned already."""
        if self._pending is None:
            return None
        pending, self._pending = self._pending, None
        return _read(pending)

    def drop(self) -> None:
        """Forget the last loss: its step is taken back."""
        self._pending = None


def _read(pending: _Pending) -> float:
    if pending.ready is not None:
        pending.ready.synchronize()
    return float(pending.value)
