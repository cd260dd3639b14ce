"""What is trained. The loop knows nothing of images: a task brings model, data and loss.

For a model of one's own, subclass ``TrainingTask``, implement the abstract methods, and hand it to
``nascale_trainer.progressive.train``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nascale.contract.run_order import StageOrder
from nascale_trainer.device import sent
from nascale_trainer.durable_file import write_atomically
from nascale_trainer.progressive.refusal import CannotTrain

__all__ = ["CannotTrain", "MicroBatchPlace", "Share", "TrainingTask"]


@dataclass(frozen=True)
class MicroBatchPlace:
    """Which samples a forward pass takes.

    Attributes:
        numbers: Numbers of the samples in the run, from 0, int64: what randomness is a function of.
        indices: Their places in the training part, int64.
        device: Where the tensors are wanted.
    """

    numbers: torch.Tensor
    indices: torch.Tensor
    device: torch.device

    def sent(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy to the device, behind the work that it has: a GPU need not be idle for it."""
        return sent(tensor, self.device)


@dataclass(frozen=True)
class Share:
    """Which part of the validation samples a process evaluates.

    Attributes:
        rank: Place of the process, from 0.
        world: Number of processes.
        device: Where the network lies.
    """

    rank: int
    world: int
    device: torch.device


class TrainingTask(ABC):
    """A model, its data and its loss."""

    @property
    @abstractmethod
    def samples(self) -> int:
        """Size of the training part."""

    @abstractmethod
    def build(self, seed: int) -> nn.Module:
        """Return the whole network on the CPU; its weights are a function of the seed alone."""

    @abstractmethod
    def batch(self, place: MicroBatchPlace, stage: StageOrder) -> Any:
        """Return the samples of one forward pass: a function of the place and the stage alone."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: Any, stage: StageOrder) -> torch.Tensor:
        """Return the mean loss of a batch, a scalar; ``network`` may be wrapped and compiled."""

    @abstractmethod
    def evaluate(self, network: nn.Module, share: Share) -> Mapping[str, tuple[float, float]]:
        """Return sums and counts by metric over this share of the validation samples.

        The network is in evaluation mode. A metric's value is the sum of all shares' sums over that of their
        counts: ``{"accuracy": (correct, samples), "loss": (total, samples)}``.
        """

    def check(self, stage: StageOrder) -> None:  # noqa: B027  # a task may have nothing to refuse
        """Refuse a stage that the model can't take.

        Raises:
            CannotTrain: naming the stage, the setting, its value and the range.
        """

    def prepare(self, stage: StageOrder) -> None:  # noqa: B027  # a task may have nothing to prepare
        """Make the data ready for a stage, before its first step and after a restart within it."""

    def apply(self, network: nn.Module, stage: StageOrder) -> None:  # noqa: B027  # optional
        """Set the bare network's own settings for a stage (dropout, depth, ...); parameters stay the same."""

    def initialise_grown(self, network: nn.Module, before: StageOrder, after: StageOrder) -> None:  # noqa: B027  # optional
        """Let what becomes active with ``after`` begin as the identity, called once, before ``apply``."""

    def fingerprint(self) -> Mapping[str, Any]:
        """Return what decides whether a checkpoint is of the same model and data, as JSON values."""
        return {}

    def export(self, network: nn.Module, folder: Path) -> Path | None:
        """Write the trained network into a folder; return the weights' file, ``None`` where there is none."""
        from safetensors.torch import save  # noqa: PLC0415  # only at the end of a run

        path = folder / "model.safetensors"
        # Copies: safetensors refuses tensors that share memory, as tied weights do.
        weights = {
            name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()
        }
        write_atomically(path, save(weights))
        return path
