"""Training data: embedded sets, IDX files, sets that torchvision reads, folders of images."""

from __future__ import annotations

import gzip
import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch.nn import functional

from nascale.contract.work_order import DataFormat, DataOrder
from nascale_trainer.outcomes import DataNotFound

FASHION_MNIST_VARIABLE: Final = "NASCALE_FASHION_MNIST"
FASHION_MNIST_FOLDER: Final = Path("/usr/share/datasets/fashion-mnist")

_IDX_IMAGES: Final = 0x00000803
_IDX_LABELS: Final = 0x00000801
_MIN_SAMPLES: Final = 2


class ImageSource(Protocol):
    """Labelled images that can be had at any resolution."""

    @property
    def channels(self) -> int:
        """Channels of an image."""

    @property
    def labels(self) -> torch.Tensor:
        """Class of each image; int64, shape (samples,)."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def side(self) -> int | None:
        """Longer side of the images as they are, pixels; ``None`` where they differ."""

    def images(self, indices: torch.Tensor, resolution: int) -> torch.Tensor:
        """Return these images as floats from 0 to 1, shape (count, channels, resolution, resolution)."""


@dataclass(frozen=True)
class TensorSource:
    """Images that are all in memory.

    Attributes:
        pixels: Bytes, or floats from 0 to 1; shape (samples, channels, height, width).
        labels: Class of each image; int64, shape (samples,).
        classes: Number of classes.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    classes: int

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return int(self.pixels.shape[1])

    @property
    def side(self) -> int:
        """Longer side of the images as they are, pixels."""
        return max(self.pixels.shape[-2:])

    def images(self, indices: torch.Tensor, resolution: int) -> torch.Tensor:
        """Return these images as floats from 0 to 1, shape (count, channels, resolution, resolution)."""
        chosen = self.pixels[indices]
        floats = chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen
        return resize(floats, resolution)


class FolderSource:
    """One sub-folder of image files per class, read when they are needed."""

    channels: int = 3
    side: int | None = None

    def __init__(self, folder: Path) -> None:
        """List the folder.

        Raises:
            DataNotFound: there are no images, or fewer than two classes.
        """
        from torchvision.datasets import ImageFolder  # noqa: PLC0415  # slow to import, seldom needed

        try:
            self._files = ImageFolder(str(folder))
        except (FileNotFoundError, OSError) as error:
            raise DataNotFound(
                f"data.path: {folder} must hold one folder of images per class: {error}"
            ) from error
        self.labels = torch.tensor(self._files.targets, dtype=torch.int64)
        self.classes = len(self._files.classes)

    def images(self, indices: torch.Tensor, resolution: int) -> torch.Tensor:
        """Return these images as floats from 0 to 1, shape (count, channels, resolution, resolution)."""
        if not len(indices):
            return torch.empty(0, self.channels, resolution, resolution)
        return torch.stack([self._image(int(index), resolution) for index in indices])

    def _image(self, index: int, resolution: int) -> torch.Tensor:
        from torchvision.transforms.v2.functional import pil_to_tensor  # noqa: PLC0415  # see __init__

        path, _ = self._files.samples[index]
        try:
            pixels: torch.Tensor = pil_to_tensor(self._files.loader(path))
        except OSError as error:
            raise DataNotFound(f"data.path: {path} must be a readable image: {error}") from error
        side = min(pixels.shape[-2:])
        top, left = (pixels.shape[-2] - side) // 2, (pixels.shape[-1] - side) // 2
        square = pixels[:, top : top + side, left : left + side]
        return resize(square[None].float() / 255, resolution)[0]


def load_source(order: DataOrder, environ: Mapping[str, str] | None = None) -> ImageSource:
    """Find and open the training data.

    Raises:
        DataNotFound: unknown name, missing or empty files; the message names the path.
    """
    environ = os.environ if environ is None else environ
    if order.name is not None:
        loader = _EMBEDDED.get(order.name)
        if loader is None:
            raise DataNotFound(f"data.name: must be one of {sorted(_EMBEDDED)}, not {order.name!r}")
        source = loader(environ)
    elif order.path is not None and order.format is not None:
        source = _FORMATS[order.format](Path(order.path))
    else:
        raise DataNotFound("data: must have a name, or a path and a format")
    samples = len(source.labels)
    if samples < _MIN_SAMPLES or source.classes < _MIN_SAMPLES:
        raise DataNotFound(
            f"data: {order.name or order.path} must hold at least 2 samples of 2 classes, "
            f"not {samples} of {source.classes}"
        )
    return source


def resize(images: torch.Tensor, side: int) -> torch.Tensor:
    """Scale square or oblong images to a square of this side, bilinear and antialiased."""
    if images.shape[-2:] == (side, side):
        return images
    if not len(images):
        return images.new_empty(0, images.shape[1], side, side)
    return functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def _digits(_: Mapping[str, str]) -> ImageSource:
    table = _digits_table()
    pixels = torch.from_numpy(table[:, :-1]).float().reshape(-1, 1, 8, 8) / 16
    return TensorSource(pixels, torch.from_numpy(table[:, -1]).long(), classes=10)


def _digits_table() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return scikit-learn's digits: a row an image, 64 pixels from 0 to 16 and the class.

    The library itself is left out where its file is found: importing it takes each pod a second.
    """
    package = find_spec("sklearn")
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits  # noqa: PLC0415  # slow to import, seldom needed

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def _fashion_mnist(environ: Mapping[str, str]) -> ImageSource:
    named = environ.get(FASHION_MNIST_VARIABLE)
    return _idx(Path(named) if named else FASHION_MNIST_FOLDER)


def _idx(folder: Path) -> ImageSource:
    pixels = _read_idx(folder, "train-images-idx3-ubyte", _IDX_IMAGES)
    labels = _read_idx(folder, "train-labels-idx1-ubyte", _IDX_LABELS).long()
    if len(pixels) != len(labels):
        raise DataNotFound(
            f"data.path: {folder} must hold one label per image, not {len(labels)} for {len(pixels)}"
        )
    classes = int(labels.max()) + 1 if len(labels) else 0
    return TensorSource(pixels[:, None], labels, classes)


def _read_idx(folder: Path, name: str, magic: int) -> torch.Tensor:
    """Read one of MNIST's files, gzipped or not: magic number, sizes, bytes."""
    plain, zipped = folder / name, folder / f"{name}.gz"
    path = plain if plain.is_file() else zipped
    if not path.is_file():
        raise DataNotFound(f"data.path: {folder} must hold {name} or {name}.gz")
    try:
        with gzip.open(path) if path is zipped else path.open("rb") as file:
            (found,) = struct.unpack(">I", file.read(4))
            if found != magic:
                raise DataNotFound(f"data.path: {path} must begin with {magic:#010x}, not {found:#010x}")
            shape = struct.unpack(f">{magic & 0xFF}I", file.read(4 * (magic & 0xFF)))
            content = file.read()
    except (OSError, EOFError, struct.error) as error:
        raise DataNotFound(f"data.path: {path} must be an IDX file: {error}") from error
    if len(content) != math.prod(shape):
        raise DataNotFound(f"data.path: {path} must hold {math.prod(shape)} bytes, not {len(content)}")
    if not content:
        raise DataNotFound(f"data.path: {path} must not be empty")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(shape)


@dataclass(frozen=True)
class _TorchvisionSet:
    """A data set whose files torchvision reads, and checks by their digests.

    Attributes:
        name: Its class in ``torchvision.datasets``.
        files: What the folder must hold.
        training_part: Arguments that choose the training part.
        labels: Attribute with the classes.
        channels_last: Whether its pixels are (height, width, channels).
        classes: Number of classes.
    """

    name: str
    files: str
    training_part: Mapping[str, object]
    labels: str
    channels_last: bool
    classes: int

    def __call__(self, folder: Path) -> ImageSource:
        """Read the training part."""
        from torchvision import datasets  # noqa: PLC0415  # slow to import, seldom needed

        try:
            files = getattr(datasets, self.name)(str(folder), download=False, **self.training_part)
        except (RuntimeError, OSError) as error:
            raise DataNotFound(
                f"data.path: {folder} must hold {self.files}, complete and unaltered: {error}"
            ) from error
        pixels = torch.from_numpy(files.data)
        if self.channels_last:
            pixels = pixels.permute(0, 3, 1, 2)
        labels = torch.as_tensor(getattr(files, self.labels), dtype=torch.int64)
        return TensorSource(pixels.contiguous(), labels, self.classes)


_CIFAR10: Final = _TorchvisionSet("CIFAR10", "cifar-10-batches-py", {"train": True}, "targets", True, 10)
_CIFAR100: Final = _TorchvisionSet("CIFAR100", "cifar-100-python", {"train": True}, "targets", True, 100)
_SVHN: Final = _TorchvisionSet("SVHN", "train_32x32.mat", {"split": "train"}, "labels", False, 10)
_STL10: Final = _TorchvisionSet("STL10", "stl10_binary", {"split": "train"}, "labels", False, 10)

_EMBEDDED: Final[Mapping[str, Callable[[Mapping[str, str]], ImageSource]]] = {
    "Digits": _digits,
    "FashionMNIST": _fashion_mnist,
}
_FORMATS: Final[Mapping[DataFormat, Callable[[Path], ImageSource]]] = {
    DataFormat.IDX: _idx,
    DataFormat.IMAGE_FOLDER: FolderSource,
    DataFormat.CIFAR10: _CIFAR10,
    DataFormat.CIFAR100: _CIFAR100,
    DataFormat.SVHN: _SVHN,
    DataFormat.STL10: _STL10,
}
