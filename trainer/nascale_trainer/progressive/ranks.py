"""The processes that train together, as the loop sees them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from nascale.contract.stage_settings import HardwareSettings


@dataclass(frozen=True)
class Signals:
    """What a process wants all of them to know, before each step. Together: the maximum of each field.

    Attributes:
        stop: It was asked to end (SIGTERM).
        revision: Newest revision of the desired state that rank 0 has seen; 0 on the others.
        diverged: Its loss was not finite.
        checkpoint: By its clock a checkpoint is due.
    """

    stop: bool = False
    revision: int = 0
    diverged: bool = False
    checkpoint: bool = False


class PeerLost(Exception):  # noqa: N818  # what has happened, not an error of ours
    """Another process is gone or does not answer: this one must end, to meet the others anew."""


class Ranks(Protocol):
    """One process's view of all of them. Every method but ``unwrap`` and ``no_sync`` is called by all alike.

    Each may raise ``PeerLost``.
    """

    @property
    def rank(self) -> int:
        """Place of this process, from 0; rank 0 decides, publishes and reports."""

    @property
    def world(self) -> int:
        """Number of processes."""

    @property
    def device(self) -> torch.device:
        """Device of this process."""

    def exchange(self, signals: Signals) -> Signals:
        """Give this step's signals and return the maximum over all processes of the step before.

        One step late, so that no step waits for it; for a process alone, its own of this step.
        """

    def broadcast(self, document: str | None) -> str | None:
        """Return rank 0's document to all; the argument counts on rank 0 alone."""

    def objections(self, mine: str | None) -> tuple[str, ...]:
        """Return what any process has against a proposal, in order of rank; empty: all agree."""

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes, float64, on the CPU."""

    def barrier(self) -> None:
        """Wait for all."""

    def wrap(self, network: nn.Module, hardware: HardwareSettings) -> nn.Module:
        """Return the network ready for training together (DDP, FSDP); alone, the network itself.

        Called again, with the same bare network, after each change of what is compiled or active.
        """

    def no_sync(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """Leave gradients unsynchronised within the block: for all micro-batches of a step but the last."""

    def settle(self, network: nn.Module) -> None:
        """Give the bare network's buffers (batch norm's statistics) the mean over all processes.

        Each process gathers them from its own samples. Called before evaluations and checkpoints.
        """

    def close(self) -> None:
        """Leave the group."""


class AloneRanks:
    """A process that trains alone."""

    rank = 0
    world = 1

    def __init__(self, device: torch.device) -> None:
        """Take the device."""
        self.device = device

    def exchange(self, signals: Signals) -> Signals:
        """Return the signals."""
        return signals

    def broadcast(self, document: str | None) -> str | None:
        """Return the document."""
        return document

    def objections(self, mine: str | None) -> tuple[str, ...]:
        """Return its own objection."""
        return () if mine is None else (mine,)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values."""
        return values.detach().to("cpu", torch.float64)

    def barrier(self) -> None:
        """Go on."""

    def wrap(self, network: nn.Module, hardware: HardwareSettings) -> nn.Module:  # noqa: ARG002  # alone
        """Return the network."""
        return network

    def no_sync(self, wrapped: nn.Module) -> AbstractContextManager[Any]:  # noqa: ARG002  # alone
        """Do nothing."""
        return nullcontext()

    def settle(self, network: nn.Module) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
