"""Image classification with the built-in network: what is trained where there is no model of one's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from nascale.contract import metric_names
from nascale.contract.architecture import Architecture, StemType
from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.stage_settings import GradientCheckpointing, MemoryFormat, micro_batch
from nascale.contract.work_order import DataFormat, DataOrder
from nascale_trainer.batches import Batches, normalisation_of, split
from nascale_trainer.build import build_network
from nascale_trainer.checkpoint import weights_file
from nascale_trainer.data import load_source
from nascale_trainer.durable_file import write_atomically
from nascale_trainer.network import ARCHITECTURE, WEIGHTS, MBConvNetwork
from nascale_trainer.outcomes import DataNotFound
from nascale_trainer.progressive.augmentation import augment, mixed, mixed_cross_entropy, mixing_share
from nascale_trainer.progressive.sampling import derived_seed
from nascale_trainer.progressive.task import CannotTrain, MicroBatchPlace, Share, TrainingTask
from nascale_trainer.training import EVALUATION_BATCH, correct_and_loss

MOST_ENLARGEMENT: Final = 8
"""Images enlarged beyond this multiple of their own side are refused: work that adds no information."""
MAX_RESOLUTION: Final = 1024
"""Where the images' own sides are not known: the largest resolution of the contract."""

_MIRRORED: Final[Mapping[str, bool]] = {
    "Digits": False,
    "FashionMNIST": True,
    DataFormat.IMAGE_FOLDER: True,
    DataFormat.IDX: False,
    DataFormat.CIFAR10: True,
    DataFormat.CIFAR100: True,
    DataFormat.SVHN: False,
    DataFormat.STL10: True,
}
"""Whether a mirrored image is still one of its class: digits are not; IDX files mostly hold characters."""


@dataclass(frozen=True)
class ImageBatch:
    """Images of one forward pass.

    Attributes:
        images: Normalised and changed, on the device.
        labels: Their classes, int64.
        share: What an image holds of its own label; the rest is its neighbour's. 1: nothing is mixed.
    """

    images: torch.Tensor
    labels: torch.Tensor
    share: float


class ImageTask(TrainingTask):
    """Images, an architecture's network, cross-entropy.

    Training images are kept at the present stage's resolution, so that a stage with small images reads and
    computes less. Evaluation is at the architecture's own resolution in every stage.
    """

    def __init__(
        self, order: RunOrder, environ: Mapping[str, str] | None = None, device: torch.device | None = None
    ) -> None:
        """Open the data; nothing is resized yet.

        Args:
            order: With architecture and data.
            environ: Where embedded data sets may be named; ``None`` means the process's environment.
            device: Where images are kept and batches made; ``None`` means the CPU.

        Raises:
            CannotTrain: there is no architecture, or no such data.
        """
        if order.architecture is None:
            raise CannotTrain("NoArchitecture", "architecture: must be given for the built-in trainer")
        if order.data is None:
            raise CannotTrain("NoData", "data: must be given for the built-in trainer")
        self._architecture: Architecture = order.architecture
        self._data: DataOrder = order.data
        self._seed = order.seed
        self._augmentation_seed = derived_seed(order.seed, "augmentation")
        self._device = torch.device("cpu") if device is None else device
        try:
            self._source = load_source(order.data, os.environ if environ is None else environ)
            self._split = split(self._source.labels, order.data)
        except DataNotFound as error:
            raise CannotTrain(DataNotFound.reason, str(error)) from error
        self._flip = _MIRRORED[order.data.name or str(order.data.format)]
        self._normalisation = normalisation_of(self._source, self._split.training)
        self._training: Batches | None = None
        self._resolution: int | None = None
        self._validation: tuple[tuple[int, int], Batches] | None = None

    @property
    def samples(self) -> int:
        """Size of the training part."""
        return len(self._split.training)

    def build(self, seed: int) -> MBConvNetwork:
        """Return the whole network on the CPU; its weights are a function of the seed alone."""
        return build_network(self._architecture, self._source.channels, self._source.classes, seed)

    def check(self, stage: StageOrder) -> None:
        """Refuse a resolution that network or data don't allow, and settings that nothing here reads.

        Raises:
            CannotTrain: naming the stage, the setting, its value and the range.
        """
        where = f"stage {stage.name}"
        least, most = self._architecture.total_stride, MAX_RESOLUTION
        if self._source.side is not None:
            most = max(MOST_ENLARGEMENT * self._source.side, self._architecture.resolution)
        resolution = self._resolution_of(stage)
        if not least <= resolution <= most:
            raise CannotTrain(
                "ResolutionOutOfRange",
                f"{where}: resolution: must be from {least} (the network's total stride) to {most} pixels, "
                f"not {resolution}",
            )
        if micro_batch(stage.model, stage.hardware) == 1 and self._last_side(resolution) == 1:
            raise CannotTrain(
                "MicroBatchTooSmall",
                f"{where}: globalBatch: must be at least 2 for each micro-batch at resolution {resolution}, "
                "because batch normalisation has no variance of one value, "
                f"not {stage.model.global_batch} for {stage.hardware.accumulation * stage.hardware.world}",
            )
        if stage.model.parameters:
            raise CannotTrain(
                "UnknownSetting",
                f"{where}: parameters: must be empty for the built-in network, "
                f"not {sorted(stage.model.parameters)}",
            )

    def prepare(self, stage: StageOrder) -> None:
        """Bring the training images to the stage's resolution, once."""
        resolution = self._resolution_of(stage)
        if self._training is None or resolution != self._resolution:
            self._training = None  # one resolution at a time in memory
            self._training = self._part(self._split.training, resolution)
            self._resolution = resolution

    def batch(self, place: MicroBatchPlace, stage: StageOrder) -> ImageBatch:
        """Return the samples of one forward pass: a function of the place and the stage alone."""
        self.prepare(stage)
        if self._training is None:
            raise RuntimeError("the training part must be prepared")
        images, labels = self._training.take(place.indices)
        images, labels = place.sent(images), place.sent(labels)
        model = stage.model
        images = augment(
            images,
            place.numbers,
            seed=self._augmentation_seed,
            magnitude=model.augmentation,
            flip=self._flip,
        )
        share = 1.0
        if model.mixup > 0 and len(labels) > 1:
            share = mixing_share(self._seed, int(place.numbers[0]), model.mixup)
            images = mixed(images, share)
        if stage.hardware.memory_format is MemoryFormat.CHANNELS_LAST:
            images = images.contiguous(memory_format=torch.channels_last)
        return ImageBatch(images, labels, share)

    def loss(self, network: nn.Module, batch: ImageBatch, stage: StageOrder) -> torch.Tensor:
        """Return the mean cross-entropy, nats; in FP32 whatever the network computes in."""
        logits = network(batch.images).float()
        return mixed_cross_entropy(logits, batch.labels, batch.share, stage.model.label_smoothing)

    def evaluate(self, network: nn.Module, share: Share) -> Mapping[str, tuple[float, float]]:
        """Return accuracy and loss over this share of the validation part, as sums and counts."""
        indices = self._split.validation
        key = (share.rank, share.world)
        if self._validation is None or self._validation[0] != key:
            self._validation = (
                key,
                self._part(indices[share.rank :: share.world], self._architecture.resolution),
            )
        data = self._validation[1]
        # A sharded network gathers its parts in each forward pass: all processes make the same number of
        # them, the last one on no samples where there are fewer.
        largest = -(-len(indices) // share.world)
        chunks = [
            torch.arange(begin, max(begin, min(begin + EVALUATION_BATCH, len(data))))
            for begin in range(0, largest, EVALUATION_BATCH)
        ]
        correct, loss = 0, 0.0
        # Not inference_mode: a sharded network's gathered parameters are used again by the next step.
        with torch.no_grad():
            for chunk in chunks:
                right, total = correct_and_loss(network, *data.take(chunk))
                correct, loss = correct + right, loss + total
        return {
            metric_names.ACCURACY: (float(correct), float(len(data))),
            metric_names.LOSS: (loss, float(len(data))),
        }

    def apply(self, network: nn.Module, stage: StageOrder) -> None:
        """Set depth, stochastic depth, dropout and gradient checkpointing of the bare network."""
        bare = _bare(network)
        bare.set_depth(stage.model.depth)
        bare.set_stochastic_depth(stage.model.stochastic_depth)
        bare.set_dropout(stage.model.dropout)
        bare.set_gradient_checkpointing(
            on=stage.hardware.gradient_checkpointing is GradientCheckpointing.BLOCKS
        )

    def initialise_grown(self, network: nn.Module, before: StageOrder, after: StageOrder) -> None:
        """Let the blocks that become active with ``after`` begin as the identity."""
        _bare(network).begin_as_identity(before.model.depth, after.model.depth)

    def fingerprint(self) -> Mapping[str, Any]:
        """Return architecture, data and what they come to."""
        return {
            "architecture": self._architecture.model_dump(mode="json", by_alias=True),
            "data": self._data.model_dump(mode="json", by_alias=True),
            "samples": self.samples,
            "channels": self._source.channels,
            "classes": self._source.classes,
        }

    def export(self, network: nn.Module, folder: Path) -> Path:
        """Write ``architecture.json`` and ``model.safetensors``, which ``network.load_network`` reads.

        What is written is the network that computes: blocks that the last stage skips are no part of it.
        """
        bare = _bare(network)
        stages = tuple(
            stage.model_copy(update={"depth": depth})
            for stage, depth in zip(self._architecture.stages, bare.depths, strict=True)
        )
        architecture = self._architecture.model_copy(update={"stages": stages})
        skipped = tuple(
            f"stages.{place}.{block}."
            for place, (active, whole) in enumerate(zip(stages, self._architecture.stages, strict=True))
            for block in range(active.depth, whole.depth)
        )
        state = {name: value for name, value in bare.state_dict().items() if not name.startswith(skipped)}
        content = weights_file(
            state, architecture, self._source.classes, self._source.channels, self._normalisation
        )
        path = folder / WEIGHTS
        write_atomically(path, content)
        write_atomically(folder / ARCHITECTURE, architecture.to_json().encode())
        return path

    def _resolution_of(self, stage: StageOrder) -> int:
        return stage.model.resolution or self._architecture.resolution

    def _last_side(self, resolution: int) -> int:
        """Return the side of the smallest feature map: strides round up, but a space-to-depth stem's down."""
        stem = self._architecture.stem
        if stem.type is StemType.SPACE_TO_DEPTH:
            side = resolution // stem.stride
        else:
            side = -(-resolution // stem.stride)
        for stage in self._architecture.stages:
            side = -(-side // stage.stride)
        return side

    def _part(self, indices: torch.Tensor, resolution: int) -> Batches:
        return Batches(self._source, indices, resolution, self._normalisation, self._device)


def _bare(network: nn.Module) -> MBConvNetwork:
    if not isinstance(network, MBConvNetwork):
        raise TypeError(f"network: must be the bare MBConvNetwork, not {type(network).__name__}")
    return network
