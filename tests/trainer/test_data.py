"""Training data: where they come from, how what is refused is named, and the split that never moves."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100, STL10, SVHN

from nascale.api.training import SIDES, EmbeddedDataSet
from nascale.contract.work_order import DataFormat, DataOrder
from nascale_trainer import batches as batches_module
from nascale_trainer.batches import Batches, normalisation_of, split
from nascale_trainer.data import FASHION_MNIST_FOLDER, TensorSource, load_source, resize
from nascale_trainer.outcomes import DataNotFound

CPU = torch.device("cpu")


def write_idx(folder, count=20, *, zipped=False, labels=None, images_magic=0x803, cut=0):
    folder.mkdir(exist_ok=True)
    pixels = bytes((number * 7) % 256 for number in range(count * 28 * 28))
    names = np.arange(count) % 10 if labels is None else np.asarray(labels)
    contents = {
        "train-images-idx3-ubyte": struct.pack(">IIII", images_magic, count, 28, 28) + pixels,
        "train-labels-idx1-ubyte": struct.pack(">II", 0x801, len(names)) + names.astype(np.uint8).tobytes(),
    }
    for name, content in contents.items():
        whole = content[: len(content) - cut]
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(whole) if zipped else whole)
    return folder


def test_digits_come_with_the_trainer():
    source = load_source(DataOrder(name="Digits"), {})
    assert (len(source.labels), source.channels, source.classes) == (1797, 1, 10)
    images = source.images(torch.arange(5), 8)
    assert images.shape == (5, 1, 8, 8)
    assert images.min() == 0
    assert images.max() == 1


def test_the_operator_knows_the_side_of_embedded_images():
    digits = load_source(DataOrder(name="Digits"), {})
    assert digits.pixels.shape[-2:] == (SIDES[EmbeddedDataSet.DIGITS],) * 2
    assert set(SIDES) == set(EmbeddedDataSet)
    if FASHION_MNIST_FOLDER.is_dir():
        fashion = load_source(DataOrder(name="FashionMNIST"), {})
        assert fashion.pixels.shape[-2:] == (SIDES[EmbeddedDataSet.FASHION_MNIST],) * 2


@pytest.mark.parametrize("zipped", [False, True])
def test_fashion_mnist_is_read_from_the_folder_that_the_environment_names(tmp_path, zipped):
    folder = write_idx(tmp_path / "fashion", zipped=zipped)
    source = load_source(DataOrder(name="FashionMNIST"), {"NASCALE_FASHION_MNIST": str(folder)})
    assert (len(source.labels), source.channels, source.classes) == (20, 1, 10)
    assert torch.equal(
        source.images(torch.tensor([0]), 28)[0, 0, 0, :3] * 255, torch.tensor([0.0, 7.0, 14.0])
    )


def test_a_folder_of_idx_files(tmp_path):
    folder = write_idx(tmp_path / "data")
    source = load_source(DataOrder(path=str(folder), format=DataFormat.IDX), {})
    assert source.images(torch.arange(3), 14).shape == (3, 1, 14, 14)


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ({"images_magic": 0x805}, "must begin with 0x00000803, not 0x00000805"),
        ({"cut": 3}, "must hold 15680 bytes, not 15677"),
        ({"cut": 15690}, "must be an IDX file"),
        ({"labels": [0, 1]}, "must hold one label per image, not 2 for 20"),
        ({"count": 0}, "must not be empty"),
        ({"labels": [0] * 20}, "must hold at least 2 samples of 2 classes, not 20 of 1"),
    ],
)
def test_broken_idx_files_are_named(tmp_path, faults, message):
    folder = write_idx(tmp_path / "data", **faults)
    with pytest.raises(DataNotFound, match=message) as caught:
        load_source(DataOrder(path=str(folder), format=DataFormat.IDX), {})
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("data_format", list(DataFormat))
@pytest.mark.parametrize("made", [False, True])
def test_a_missing_or_empty_folder_is_named(tmp_path, data_format, made):
    folder = tmp_path / "nothing"
    if made:
        folder.mkdir()
    with pytest.raises(DataNotFound, match=str(folder)):
        load_source(DataOrder(path=str(folder), format=data_format), {})


def test_an_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(DataNotFound, match=r"must be one of \['Digits', 'FashionMNIST'\], not 'ImageNet'"):
        load_source(DataOrder(name="ImageNet"), {})


def test_an_order_without_name_or_format_is_refused(tmp_path):
    with pytest.raises(DataNotFound, match="must have a name, or a path and a format"):
        load_source(DataOrder(path=str(tmp_path)), {})


def test_a_folder_of_images(tmp_path):
    for number, name in enumerate(["cat", "dog"]):
        (tmp_path / name).mkdir()
        for index in range(3):
            pixels = np.full((10, 20, 3), 100 * number + index, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    source = load_source(DataOrder(path=str(tmp_path), format=DataFormat.IMAGE_FOLDER), {})
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]
    images = source.images(torch.tensor([4, 0]), 6)
    assert images.shape == (2, 3, 6, 6)
    assert torch.allclose(images[0] * 255, torch.tensor(101.0))


def test_a_broken_image_is_named(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(b"no image")
    source = load_source(DataOrder(path=str(tmp_path), format=DataFormat.IMAGE_FOLDER), {})
    with pytest.raises(DataNotFound, match=r"cat/0.png must be a readable image"):
        source.images(torch.tensor([0]), 6)


def test_cifar10_is_read_from_its_files(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number in range(1, 6):
        batch = {"data": np.full((4, 3072), number, dtype=np.uint8), "labels": [0, 1, 2, number % 10]}
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(n) for n in range(10)]}))
    # The true files' digests are known to torchvision; these are small ones of the same form.
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": None})
    source = load_source(DataOrder(path=str(tmp_path), format=DataFormat.CIFAR10), {})
    assert (len(source.labels), source.channels, source.classes) == (20, 3, 10)
    assert source.images(torch.tensor([19]), 32).unique().tolist() == [pytest.approx(5 / 255)]


def test_cifar100_is_read_from_its_files(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pixels = np.zeros((6, 3, 32, 32), dtype=np.uint8)
    pixels[:, 1] = 51
    batch = {"data": pixels.reshape(6, 3072), "fine_labels": [0, 99, 3, 4, 5, 6]}
    (folder / "train").write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(n) for n in range(100)]}))
    monkeypatch.setattr(CIFAR100, "_check_integrity", lambda _: True)
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": None})
    source = load_source(DataOrder(path=str(tmp_path), format=DataFormat.CIFAR100), {})
    assert (source.labels.tolist(), source.classes) == ([0, 99, 3, 4, 5, 6], 100)
    assert source.images(torch.tensor([0]), 32).mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0.2, 0])


def test_svhn_is_read_from_its_file(tmp_path, monkeypatch):
    pixels = np.zeros((32, 32, 3, 4), dtype=np.uint8)
    pixels[:, :, 2] = 51
    # SVHN writes the digit 0 as class 10.
    savemat(tmp_path / "train_32x32.mat", {"X": pixels, "y": np.array([[1], [2], [10], [9]], dtype=np.uint8)})
    monkeypatch.setattr(SVHN, "_check_integrity", lambda _: True)
    source = load_source(DataOrder(path=str(tmp_path), format=DataFormat.SVHN), {})
    assert (source.labels.tolist(), source.classes) == ([1, 2, 0, 9], 10)
    assert source.images(torch.tensor([3]), 32).mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0, 0.2])


def test_stl10_is_read_from_its_files(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    pixels = np.zeros((3, 3, 96, 96), dtype=np.uint8)
    pixels[:, 0] = 51
    pixels.tofile(folder / "train_X.bin")
    np.array([1, 10, 4], dtype=np.uint8).tofile(folder / "train_y.bin")
    (folder / "class_names.txt").write_text("\n".join(str(n) for n in range(10)))
    monkeypatch.setattr(STL10, "_check_integrity", lambda _: True)
    source = load_source(DataOrder(path=str(tmp_path), format=DataFormat.STL10), {})
    assert (source.labels.tolist(), source.classes) == ([0, 9, 3], 10)
    assert source.images(torch.tensor([1]), 96).mean(dim=(0, 2, 3)).tolist() == pytest.approx([0.2, 0, 0])


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "SVHN", "STL10"])
def test_a_folder_without_the_sets_files_is_named(tmp_path, name):
    with pytest.raises(DataNotFound, match=rf"data.path: {tmp_path} must hold .*, complete and unaltered"):
        load_source(DataOrder(path=str(tmp_path), format=DataFormat(name)), {})


def source_of(count=500, classes=5, side=8):
    generator = torch.Generator().manual_seed(0)
    # Unequal classes: class k has about k + 1 shares.
    weights = torch.arange(1, classes + 1).float()
    labels = torch.multinomial(weights, count, replacement=True, generator=generator)
    return TensorSource(torch.rand(count, 1, side, side, generator=generator), labels, classes)


def test_every_candidate_gets_the_same_split_whatever_its_fidelity():
    labels = source_of().labels
    order = DataOrder(name="x", validation_fraction=0.2, split_seed=3)
    first, second = split(labels, order), split(labels, order)
    assert torch.equal(first.training, second.training)
    assert torch.equal(first.validation, second.validation)
    together = torch.cat([first.training, first.validation])
    assert sorted(together.tolist()) == list(range(len(labels)))
    other = split(labels, order.model_copy(update={"split_seed": 4}))
    assert not torch.equal(other.validation, first.validation)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.77, 1.0])
def test_every_fraction_has_the_classes_shares_and_holds_the_smaller_ones(fraction):
    labels = source_of().labels
    parts = split(labels, DataOrder(name="x"))
    chosen = parts.fraction(fraction)
    assert len(chosen) == -(-len(parts.training) * fraction // 1)
    whole = torch.bincount(labels[parts.training], minlength=5)
    counts = torch.bincount(labels[chosen], minlength=5)
    assert (counts - whole * fraction).abs().max() <= 1
    assert torch.equal(parts.fraction(0.05), chosen[: len(parts.fraction(0.05))])


def test_the_validation_part_has_the_classes_shares():
    labels = source_of().labels
    held_out = torch.bincount(labels[split(labels, DataOrder(name="x", validation_fraction=0.3)).validation])
    assert (held_out - torch.bincount(labels) * 0.3).abs().max() <= 0.5


def test_a_fraction_that_leaves_a_part_empty_is_refused():
    labels = torch.tensor([0, 0, 1, 1])
    with pytest.raises(DataNotFound, match="validationFraction: must leave samples"):
        split(labels, DataOrder(name="x", validation_fraction=0.01))


def test_batches_are_normalised_and_the_same_from_memory_and_from_a_loader(monkeypatch):
    source = source_of()
    parts = split(source.labels, DataOrder(name="x"))
    normalisation = normalisation_of(source, parts.training)
    positions = torch.arange(len(parts.training)).flip(0)
    in_memory = Batches(source, parts.training, 12, normalisation, CPU)
    monkeypatch.setattr(batches_module, "IN_MEMORY_BYTES", 0)
    read = Batches(source, parts.training, 12, normalisation, CPU)
    pairs = list(zip(in_memory.batches(positions, 64), read.batches(positions, 64), strict=True))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)
    assert torch.cat([a[1] for a, _ in pairs]).tolist() == source.labels[parts.training].flip(0).tolist()
    images = torch.cat([a[0] for a, _ in pairs])
    assert images.shape[1:] == (1, 12, 12)
    assert abs(float(images.mean())) < 0.1


@pytest.mark.parametrize(("samples", "size", "sizes"), [(9, 4, [4, 4]), (10, 4, [4, 4, 2]), (1, 4, [1])])
def test_a_last_batch_of_one_is_left_out_of_training_only(samples, size, sizes):
    source = source_of(count=samples)
    data = Batches(source, torch.arange(samples), 8, (torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)), CPU)
    positions = torch.arange(samples)
    assert [len(labels) for _, labels in data.batches(positions, size)] == sizes
    assert sum(len(labels) for _, labels in data.batches(positions, size, keep_all=True)) == samples


def test_resizing_keeps_images_of_that_size_as_they_are():
    images = torch.rand(2, 1, 8, 8)
    assert resize(images, 8) is images
    assert resize(images, 16).shape == (2, 1, 16, 16)


def test_digits_are_those_of_scikit_learn_however_they_are_read(monkeypatch):
    bunch = load_digits()
    for found in (True, False):
        if not found:
            monkeypatch.setattr("nascale_trainer.data.find_spec", lambda _: None)
        source = load_source(DataOrder(name="Digits"), {})
        assert torch.equal(source.labels, torch.from_numpy(bunch.target).long())
        pixels = source.images(torch.arange(len(bunch.target)), 8)
        assert torch.equal(pixels, torch.from_numpy(bunch.images).float()[:, None] / 16)
