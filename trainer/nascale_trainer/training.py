"""Trains a candidate at a fidelity, deterministically by its seed, and evaluates it.

The recipe: AdamW on cross-entropy, weight decay on weights alone, a learning rate that warms up and falls
along a cosine, no augmentation. Order and randomness of an epoch are functions of seed and epoch, so that a
checkpoint between two epochs holds all that a continued training needs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import nn
from torch.nn import functional

from nascale.contract.work_order import Fidelity, TrainingOrder
from nascale_trainer.batches import Batches
from nascale_trainer.outcomes import Diverged

WARM_UP_SHARE: Final = 0.15
"""Share of the steps in which the learning rate rises."""
_FIRST_FACTOR: Final = 0.1
_FINITE_CHECK_STEPS: Final = 50
"""Steps between two looks at the loss: each look waits for the device."""
EVALUATION_BATCH: Final = 512


class Observer(Protocol):
    """Who follows a training."""

    def check_stop(self) -> None:
        """Raise ``Stopped`` where the process was asked to end."""

    def step(self, seconds: float, done: float) -> None:
        """Take note of one step: its wall time, and the share of all steps that is done."""

    def epoch(self, loss: float) -> None:
        """Take note of an epoch's mean loss."""


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        seconds: Wall time of all training steps, those before an interruption included.
        samples: Samples that they took in.
    """

    seconds: float
    samples: int

    @property
    def samples_per_second(self) -> float:
        """Training throughput."""
        return self.samples / self.seconds if self.seconds > 0 else 0.0


class Training:
    """The state of one candidate's training, from epoch to epoch."""

    def __init__(
        self, network: nn.Module, data: Batches, order: TrainingOrder, fidelity: Fidelity, seed: int
    ) -> None:
        """Prepare; nothing is trained yet.

        Args:
            network: On its device.
            data: The training part at the fidelity's resolution and fraction.
            order: The recipe's settings.
            fidelity: Number of epochs.
            seed: Decides the order of samples.
        """
        self._network, self._data, self._order, self._seed = network, data, order, seed
        self._epochs = fidelity.epochs
        self._batch = min(order.batch_size, len(data))
        steps = math.ceil(len(data) / self._batch)
        self._steps_per_epoch = max(steps - (len(data) % self._batch == 1 and steps > 1), 1)
        self._optimizer = torch.optim.AdamW(
            _parameter_groups(network, order.weight_decay), lr=order.learning_rate, fused=True
        )
        self.epoch = 0
        self._seconds = 0.0
        self._samples = 0

    def state(self) -> dict[str, Any]:
        """Return all that is needed to go on after the epochs so far."""
        return {
            "epoch": self.epoch,
            "seconds": self._seconds,
            "samples": self._samples,
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of an earlier run of the same work."""
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.epoch, self._seconds = int(state["epoch"]), float(state["seconds"])
        self._samples = int(state["samples"])

    def run(self, observer: Observer, after_epoch: Callable[[dict[str, Any]], None]) -> Trained:
        """Train the epochs that are left.

        Args:
            observer: Follows the steps.
            after_epoch: Takes the state after each epoch but the last, whose result is kept instead.

        Raises:
            Diverged: the loss is NaN or infinite.
        """
        while self.epoch < self._epochs:
            self._train_epoch(observer)
            self.epoch += 1
            if self.epoch < self._epochs:
                after_epoch(self.state())
        return Trained(seconds=self._seconds, samples=self._samples)

    def _train_epoch(self, observer: Observer) -> None:
        self._network.train()
        total = torch.zeros((), device=next(self._network.parameters()).device)
        count = 0
        begin = time.perf_counter()
        for images, labels in self._shuffled():
            observer.check_stop()
            total += self._step(images, labels, self.epoch * self._steps_per_epoch + count)
            count += 1
            self._samples += len(labels)
            if count % _FINITE_CHECK_STEPS == 0:
                self._check_finite(total, count)
            end = time.perf_counter()
            self._seconds += end - begin
            done = self.epoch * self._steps_per_epoch + count
            observer.step(end - begin, done / (self._epochs * self._steps_per_epoch))
            begin = end
        observer.epoch(self._check_finite(total, count))

    def _step(self, images: torch.Tensor, labels: torch.Tensor, number: int) -> torch.Tensor:
        factor = learning_rate_factor(number, self._epochs * self._steps_per_epoch)
        for group in self._optimizer.param_groups:
            group["lr"] = self._order.learning_rate * factor
        self._optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(
            self._network(images), labels, label_smoothing=self._order.label_smoothing
        )
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._optimizer.step()
        return loss.detach()

    def _shuffled(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        seed = (self._seed * 1_000_003 + self.epoch) % 2**63
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        return self._data.batches(torch.randperm(len(self._data), generator=generator), self._batch)

    def _check_finite(self, total: torch.Tensor, count: int) -> float:
        mean = float(total) / max(count, 1)
        if not math.isfinite(mean):
            raise Diverged(
                f"training loss: must be finite, not {mean} in epoch {self.epoch + 1} of {self._epochs}; "
                f"learning rate {self._order.learning_rate:g}"
            )
        return mean


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the share of the peak learning rate at a step: a linear rise, then half a cosine to zero."""
    rise = max(round(WARM_UP_SHARE * steps), 1)
    if step < rise:
        return _FIRST_FACTOR + (1 - _FIRST_FACTOR) * (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step + 1 - rise) / (steps - rise + 1)))


def evaluate(network: nn.Module, data: Batches, check_stop: Callable[[], None]) -> tuple[float, float]:
    """Return top-1 accuracy (0 to 1) and mean cross-entropy (nats) on these samples.

    Raises:
        Diverged: the loss is NaN or infinite.
    """
    network.eval()
    correct, loss, count = 0, 0.0, 0
    with torch.inference_mode():
        for images, labels in data.batches(torch.arange(len(data)), EVALUATION_BATCH, keep_all=True):
            check_stop()
            right, total = correct_and_loss(network, images, labels)
            correct, loss, count = correct + right, loss + total, count + len(labels)
    if not math.isfinite(loss):
        raise Diverged(f"validation loss: must be finite, not {loss}")
    return correct / count, loss / count


def correct_and_loss(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[int, float]:
    """Return how many labels the network finds, and the sum of the cross-entropies (nats)."""
    logits = network(images).float()
    correct = int((logits.argmax(dim=1) == labels).sum())
    return correct, float(functional.cross_entropy(logits, labels, reduction="sum"))


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and kernels; scales, shifts and biases have one dimension and are left alone."""
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
