"""The image task: what a stage's batches hold, how evaluation is shared, what is refused, what is left."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from nascale.contract.run_order import RunOrder, StageOrder
from nascale_trainer.network import load_network
from nascale_trainer.progressive import image_task
from nascale_trainer.progressive.image_task import ImageTask
from nascale_trainer.progressive.task import CannotTrain, MicroBatchPlace, Share

CPU = torch.device("cpu")
DIGITS = {"name": "Digits"}


def stage(name="only", hardware=None, **model):
    return StageOrder.model_validate(
        {"name": name, "model": {"globalBatch": 16, **model}, "hardware": hardware or {}}
    )


@pytest.fixture
def make_task(make_architecture):
    def make(**fields):
        order = RunOrder.model_validate(
            {
                "run": {"kind": "ProgressiveTraining", "name": "r", "namespace": "d", "uid": "u"},
                "generation": 1,
                "seed": 11,
                "architecture": make_architecture(depth=4),
                "data": DIGITS,
                "length": "1ep",
                "stages": [stage().model_dump(by_alias=True)],
                **fields,
            }
        )
        return ImageTask(order, {}, CPU)

    return make


def place(*numbers):
    tensor = torch.tensor(numbers)
    return MicroBatchPlace(numbers=tensor, indices=tensor % 1000, device=CPU)


@pytest.mark.parametrize("resolution", [4, 8, 12])
def test_batches_are_normalised_and_have_the_stages_resolution(make_task, resolution):
    task = make_task()
    small = stage(resolution=resolution)
    task.prepare(small)
    batch = task.batch(place(*range(500)), small)
    assert batch.images.shape == (500, 1, resolution, resolution)
    assert batch.labels.dtype == torch.int64
    assert abs(float(batch.images.mean())) < 0.15
    assert batch.share == 1


def test_a_batch_is_a_function_of_place_and_stage_alone(make_task):
    stages = [stage(resolution=4), stage(augmentation=0.7), stage(resolution=4, augmentation=0.7, mixup=0.5)]
    first = make_task()
    seen = [first.batch(place(5, 9, 2000), each) for each in stages]
    second = make_task()
    for each, before in reversed(list(zip(stages, seen, strict=True))):
        second.batch(place(1, 2), each)
        again = second.batch(place(5, 9, 2000), each)
        assert torch.equal(again.images, before.images)
        assert torch.equal(again.labels, before.labels)
        assert again.share == before.share


def test_images_are_resized_once_for_a_resolution(make_task, monkeypatch):
    task = make_task()
    made = []
    build = image_task.Batches
    monkeypatch.setattr(image_task, "Batches", lambda *arguments: made.append(1) or build(*arguments))
    for each in (stage(resolution=4), stage(resolution=4, dropout=0.5), stage(resolution=8), stage()):
        task.prepare(each)
        task.batch(place(1), each)
    assert len(made) == 2, "8 is the architecture's own resolution"


def test_a_mirrored_digit_is_none(make_task):
    task = make_task()
    images = [task.batch(place(*range(100)), stage(augmentation=magnitude)).images for magnitude in (0, 1e-6)]
    assert torch.allclose(*images, atol=1e-3)


def test_the_loss_of_a_mixed_batch_is_that_of_both_labels(make_task):
    task = make_task()
    mixing = stage(mixup=0.4, labelSmoothing=0.1)
    batch = task.batch(place(*range(16)), mixing)
    plain = task.batch(place(*range(16)), stage())
    assert 0 < batch.share < 1
    expected = batch.share * plain.images + (1 - batch.share) * plain.images.roll(1, 0)
    assert torch.allclose(batch.images, expected, atol=1e-6)
    network = task.build(0).eval()
    target = torch.full((16, 10), 0.01)
    rows = torch.arange(16)
    target[rows, plain.labels] += 0.9 * batch.share
    target[rows, plain.labels.roll(1)] += 0.9 * (1 - batch.share)
    found = task.loss(network, batch, mixing)
    assert float(found) == pytest.approx(
        float(functional.cross_entropy(network(batch.images), target)), rel=1e-5
    )


def test_a_single_sample_is_mixed_with_nobody(make_task):
    assert make_task().batch(place(3), stage(mixup=1)).share == 1


@pytest.mark.parametrize("world", [1, 2, 3, 7, 400])
def test_shares_of_the_validation_part_add_up(make_task, monkeypatch, world):
    monkeypatch.setattr(image_task, "EVALUATION_BATCH", 20)
    task = make_task()
    network = task.build(1).eval()
    passes = []
    network.register_forward_hook(lambda *_: passes.append(1))
    whole = task.evaluate(network, Share(0, 1, CPU))
    assert whole["accuracy"][1] == whole["loss"][1] == 1797 - task.samples
    sums = {"accuracy": [0.0, 0.0], "loss": [0.0, 0.0]}
    made = set()
    for rank in range(world):
        passes.clear()
        for name, (total, count) in task.evaluate(network, Share(rank, world, CPU)).items():
            sums[name][0] += total
            sums[name][1] += count
        made.add(len(passes))
    assert len(made) == 1, "a sharded network must be called alike by all"
    assert sums["accuracy"] == list(whole["accuracy"])
    assert sums["loss"] == pytest.approx(list(whole["loss"]), rel=1e-5)


def test_evaluation_is_at_the_architectures_resolution_in_every_stage(make_task):
    task = make_task()
    network = task.build(1).eval()
    shapes = []
    network.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[-1]))
    task.prepare(stage(resolution=4))
    task.evaluate(network, Share(0, 1, CPU))
    assert set(shapes) == {8}


@pytest.mark.parametrize(
    ("refused", "reason", "message"),
    [
        (
            stage("tiny", resolution=4),
            "ResolutionOutOfRange",
            r"stage tiny: resolution: must be from 8 .* to 64 pixels, not 4",
        ),
        (
            stage("huge", resolution=65),
            "ResolutionOutOfRange",
            r"stage huge: resolution: must be from 8 .* to 64 pixels, not 65",
        ),
        (
            stage("thin", {"accumulation": 16}, resolution=8),
            "MicroBatchTooSmall",
            r"stage thin: globalBatch: must be at least 2 for each micro-batch",
        ),
        (
            stage("odd", parameters={"heads": 4}),
            "UnknownSetting",
            r"stage odd: parameters: must be empty .* not \['heads'\]",
        ),
    ],
)
def test_a_stage_that_can_not_be_trained_is_refused_by_name(
    make_task, make_architecture, refused, reason, message
):
    document = make_architecture(resolution=16)
    document["stem"]["stride"] = 4
    task = make_task(architecture=document)
    with pytest.raises(CannotTrain, match=message) as caught:
        task.check(refused)
    assert caught.value.reason == reason
    for usable in (stage(), stage(resolution=8), stage(resolution=64)):
        task.check(usable)


def test_what_is_accepted_trains(make_task, make_architecture):
    """The smallest resolution and the smallest micro-batches that ``check`` lets pass make a step."""
    document = make_architecture(resolution=16)
    document["stem"]["stride"] = 4
    task = make_task(architecture=document)
    network = task.build(0).train()
    for usable, numbers in (
        (stage(resolution=8), (1, 2)),
        (stage(hardware={"accumulation": 16}, resolution=9), (1,)),
    ):
        task.check(usable)
        task.loss(network, task.batch(place(*numbers), usable), usable).backward()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"data": {"name": "Unheard"}}, "DataNotFound"),
        ({"data": {"path": "/nowhere", "format": "ImageFolder"}}, "DataNotFound"),
        ({"data": None}, "NoData"),
        ({"architecture": None}, "NoArchitecture"),
    ],
)
def test_missing_parts_are_refused(make_task, fields, reason):
    with pytest.raises(CannotTrain) as caught:
        make_task(**fields)
    assert caught.value.reason == reason


def test_images_of_a_folder_are_taken_and_shared(make_task, make_architecture, tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for position in range(10):
            pixels = generator.integers(0, 255, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{position}.png")
    monkeypatch.setattr("nascale_trainer.batches.IN_MEMORY_BYTES", 0)
    task = make_task(architecture=make_architecture(), data={"path": str(tmp_path), "format": "ImageFolder"})
    assert task.samples == 16
    task.check(stage(resolution=1024))
    indices = torch.tensor([3, 1])
    batch = task.batch(MicroBatchPlace(indices, indices, CPU), stage(augmentation=0.5, resolution=6))
    assert batch.images.shape == (2, 3, 6, 6)
    assert batch.images.is_contiguous()
    pixelwise = stage(hardware={"memoryFormat": "ChannelsLast"}, augmentation=0.5, resolution=6)
    same = task.batch(MicroBatchPlace(indices, indices, CPU), pixelwise)
    assert torch.equal(same.images, batch.images)
    assert same.images.is_contiguous(memory_format=torch.channels_last)
    network = task.build(0).eval()
    counts = [task.evaluate(network, Share(rank, 5, CPU))["accuracy"][1] for rank in range(5)]
    assert counts == [1, 1, 1, 1, 0]


def test_the_settings_of_a_stage_reach_the_network(make_task):
    task = make_task()
    network = task.build(0)
    deep = stage(hardware={"gradientCheckpointing": "Blocks"}, depth=0.5, stochasticDepth=0.2, dropout=0.3)
    task.apply(network, deep)
    assert network.depths == (2, 1)
    assert network.dropout.p == 0.3
    assert network.stages[0][1].drop_path.drop_prob == pytest.approx(0.2 * 2 / 3)
    assert network.stages[0].recompute
    images = task.batch(place(1, 2, 3), stage()).images
    before = network.eval()(images)
    task.initialise_grown(network, deep, stage())
    task.apply(network, stage())
    assert network.depths == (4, 1)
    assert not network.stages[0].recompute
    assert torch.equal(network(images), before)
    with pytest.raises(TypeError, match="must be the bare MBConvNetwork, not Sequential"):
        task.apply(torch.nn.Sequential(network), stage())


@pytest.mark.parametrize("depth", [1.0, 0.5])
def test_what_is_exported_computes_the_same(make_task, tmp_path, depth):
    task = make_task()
    network = task.build(7)
    task.apply(network, stage(depth=depth))
    path = task.export(network, tmp_path)
    assert path == tmp_path / "model.safetensors"
    assert {file.name for file in tmp_path.iterdir()} == {"model.safetensors", "architecture.json"}
    loaded = load_network(tmp_path)
    batch = task.batch(place(1, 2, 3), stage())
    assert torch.equal(loaded(batch.images), network.eval()(batch.images))
    assert json.loads((tmp_path / "architecture.json").read_text())["stages"][0]["depth"] == 4 * depth
    raw = batch.images * loaded.deviation + loaded.mean
    assert torch.allclose(loaded.normalised(raw), batch.images, atol=1e-5)


def test_the_fingerprint_is_json_and_tells_models_and_data_apart(make_task, make_architecture):
    first = make_task().fingerprint()
    assert json.loads(json.dumps(first)) == first
    assert make_task().fingerprint() == first
    assert make_task(architecture=make_architecture(channels=24)).fingerprint() != first
    assert make_task(data={**DIGITS, "splitSeed": 1}).fingerprint() != first
