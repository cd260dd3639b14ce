"""The fixed split of the training data, and batches of it at a resolution."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.utils.data import DataLoader, Dataset

from nascale.contract.work_order import DataOrder
from nascale_trainer.data import ImageSource
from nascale_trainer.device import sent
from nascale_trainer.outcomes import DataNotFound

IN_MEMORY_BYTES: Final = 2 << 30
"""Parts whose images at the training's resolution need more than this are read batch by batch."""

_NORMALISATION_SAMPLES: Final = 4096
_NORMALISATION_SIDE: Final = 32


@dataclass(frozen=True)
class Split:
    """Which samples train and which validate.

    Attributes:
        training: Indices in an order of which every prefix has the classes' shares.
        validation: Indices held out; the same for every candidate and every fidelity.
    """

    training: torch.Tensor
    validation: torch.Tensor

    def fraction(self, share: float) -> torch.Tensor:
        """Return the first part of the training samples."""
        return self.training[: max(math.ceil(share * len(self.training)), 1)]


def split(labels: torch.Tensor, order: DataOrder) -> Split:
    """Hold out a share of each class, by the order's seed.

    Raises:
        DataNotFound: no sample would be left for one of the two parts.
    """
    generator = torch.Generator().manual_seed(order.split_seed)
    training, validation = [], []
    for label in torch.unique(labels):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        held_out = round(order.validation_fraction * len(members))
        validation.append(members[:held_out])
        rest = members[held_out:]
        # The k-th of n members stands at (k + 1/2) / n: sorted by it, every prefix is stratified.
        places = (torch.arange(len(rest), dtype=torch.float64) + 0.5) / max(len(rest), 1)
        training.append((places, rest))
    places = torch.cat([place for place, _ in training])
    members = torch.cat([rest for _, rest in training])[places.argsort(stable=True)]
    held_out_members = torch.cat(validation)
    if not len(members) or not len(held_out_members):
        raise DataNotFound(
            "data.validationFraction: must leave samples for training and for validation, "
            f"but {order.validation_fraction} of {len(labels)} samples leaves {len(members)} "
            f"and {len(held_out_members)}"
        )
    return Split(training=members, validation=held_out_members)


class Batches:
    """Normalised images of some samples at one resolution, in memory where they fit."""

    def __init__(
        self,
        source: ImageSource,
        indices: torch.Tensor,
        resolution: int,
        normalisation: tuple[torch.Tensor, torch.Tensor],
        device: torch.device,
    ) -> None:
        """Prepare: resize once, up front, where the result fits memory.

        Args:
            source: The images.
            indices: Which of them.
            resolution: Side, pixels.
            normalisation: Mean and standard deviation by channel, shape (1, channels, 1, 1).
            device: Where batches are wanted.
        """
        self._source, self._indices, self._resolution = source, indices, resolution
        self._mean, self._deviation = normalisation
        self._device = device
        self._labels = source.labels[indices]
        self._pixels: torch.Tensor | None = None
        if 4 * len(indices) * source.channels * resolution**2 <= IN_MEMORY_BYTES:
            self._pixels = self._normalised(indices).to(device)
            self._labels = self._labels.to(device)

    @property
    def normalisation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation by channel, shape (1, channels, 1, 1)."""
        return self._mean, self._deviation

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._indices)

    def take(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images and labels of these positions as one batch, on the device."""
        if self._pixels is not None:
            place = sent(positions, self._device)
            return self._pixels[place], self._labels[place]
        images = self._normalised(self._indices[positions])
        return sent(images, self._device), sent(self._labels[positions], self._device)

    def batches(
        self, positions: torch.Tensor, size: int, *, keep_all: bool = False
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield images and labels of these positions, on the device.

        A last batch of a single sample is left out when it is not the only one, unless ``keep_all``: batch
        normalisation has no variance of one value.
        """
        chunks = list(torch.split(positions, size))
        if not keep_all and len(chunks) > 1 and len(chunks[-1]) == 1:
            chunks.pop()
        if self._pixels is not None:
            for chunk in chunks:
                yield self.take(chunk)
            return
        yield from self._read(chunks)

    def _read(self, chunks: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        loader = DataLoader(
            _Chunks(self, chunks),
            batch_size=None,
            num_workers=torch.get_num_threads() if self._device.type == "cuda" else 0,
            pin_memory=self._device.type == "cuda",
        )
        for images, labels in loader:
            yield images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)

    def _normalised(self, indices: torch.Tensor) -> torch.Tensor:
        return (self._source.images(indices, self._resolution) - self._mean) / self._deviation


class _Chunks(Dataset[Any]):
    """Whole batches as items of a data loader, so that its workers read ahead."""

    def __init__(self, owner: Batches, chunks: Sequence[torch.Tensor]) -> None:
        self._owner, self._chunks = owner, chunks

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        chunk = self._chunks[position]
        owner = self._owner
        return owner._normalised(owner._indices[chunk]), owner._labels[chunk]  # noqa: SLF001  # its own part


def normalisation_of(source: ImageSource, training: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation by channel of training images, shape (1, channels, 1, 1).

    The first 4,096 of the stratified order stand for all.
    """
    sample = source.images(training[:_NORMALISATION_SAMPLES], _NORMALISATION_SIDE)
    mean = sample.mean(dim=(0, 2, 3), keepdim=True)
    return mean, sample.std(dim=(0, 2, 3), keepdim=True).clamp_min(1e-3)
