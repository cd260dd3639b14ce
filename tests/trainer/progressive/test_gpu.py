"""What a GPU alone can show: steps that don't wait, its number formats, its graphs. Skipped without one."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tests.trainer.progressive import tiny_task
from tests.trainer.progressive.profile_orders import candidate, profile_order

from nascale.contract.report import Outcome
from nascale.contract.run_report import RunOutcome
from nascale_trainer.progressive.augmentation import augment
from nascale_trainer.progressive.course import learning_rate
from nascale_trainer.progressive.divergence import LossWatch
from nascale_trainer.progressive.image_task import ImageTask
from nascale_trainer.progressive.profiling import profile
from nascale_trainer.progressive.ranks import AloneRanks
from nascale_trainer.progressive.task import MicroBatchPlace
from nascale_trainer.progressive.trainee import Trainee

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = torch.device("cuda", 0)


def stage(name, length=None, hardware=None, **model):
    return tiny_task.stage(
        name, length, model={"globalBatch": 64, "resolution": 8, **model}, hardware=hardware
    )


@pytest.fixture
def make_order(make_architecture):
    """Return a function that makes a run of digits."""

    def make(*stages):
        return tiny_task.order(
            *stages,
            length="20ep",
            architecture=make_architecture(depth=2),
            data={"name": "Digits"},
            optimizer={"learningRate": 0.01, "averageDecay": 0.9, "gradientClip": 1.0},
            evaluation={"every": "20ep"},
        )

    return make


def train(order, folder):
    """Train on the GPU to the end; return the report."""
    return tiny_task.train(folder, order, ImageTask(order, {}, GPU), ranks=AloneRanks(GPU)).report


@contextmanager
def no_waiting() -> Iterator[None]:
    """Let whatever waits for the device fail."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["FP32", "TF32", "BF16"])
def test_a_step_never_waits_for_the_device(make_order, precision):
    hardware = {"precision": precision, "memoryFormat": "ChannelsLast", "accumulation": 2}
    settings = {"augmentation": 0.5, "mixup": 0.2, "dropout": 0.1, "stochasticDepth": 0.1}
    order = make_order(stage("all", hardware=hardware, labelSmoothing=0.1, **settings))
    trainee = Trainee(ImageTask(order, {}, GPU), order, AloneRanks(GPU), order.stages[0])
    watch = LossWatch(GPU)
    rate = learning_rate(order.optimizer, order.stages[0].model, 0.5)
    for step in range(3):  # whatever is made once
        watch.put(trainee.step(step, 64 * step, rate))
    with no_waiting():
        losses = [trainee.step(step, 64 * step, rate) for step in range(3, 8)]
    assert all(math.isfinite(float(loss)) for loss in losses)


def test_what_a_task_sends_does_not_wait_and_arrives():
    place = MicroBatchPlace(torch.arange(4), torch.arange(4), GPU)
    letters = torch.arange(1000)
    place.sent(letters)
    with no_waiting():
        there = place.sent(letters)
    assert torch.equal(there.cpu(), letters)


def test_images_are_changed_alike_on_either_device():
    images, numbers = torch.randn(32, 1, 12, 12), torch.arange(100, 132)
    here = augment(images.clone(), numbers, seed=7, magnitude=0.7, flip=True)
    there = augment(images.to(GPU), numbers, seed=7, magnitude=0.7, flip=True)
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=1e-4)


def test_a_run_goes_through_all_number_formats(make_order, tmp_path):
    formats = {"precision": "BF16", "memoryFormat": "ChannelsLast"}
    order = make_order(
        stage("half", "5ep", {"precision": "FP16"}, resolution=4),
        stage("brain", "5ep", formats, depth=0.5),
        stage("tensor", "5ep", {"precision": "TF32", "accumulation": 2}),
        stage("full", hardware={"gradientCheckpointing": "Blocks"}),
    )
    report = train(order, tmp_path / "run")
    assert report.outcome is RunOutcome.COMPLETED
    assert [own.name for own in report.stages] == ["half", "brain", "tensor", "full"]
    assert report.metrics["accuracy"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_goes_into_graphs_and_out_of_them(make_order, tmp_path, accumulation):
    graphs = {"precision": "BF16", "compilation": "ReduceOverhead", "accumulation": accumulation}
    order = make_order(
        stage("graphs", "10ep", graphs),
        stage("full"),
    )
    report = train(order, tmp_path / "run")
    assert report.outcome is RunOutcome.COMPLETED
    assert report.metrics["accuracy"] > 0.8


def test_a_profile_measures_what_the_gpu_holds(make_architecture):
    order = profile_order(
        candidate(0, stage("measured")),
        candidate(1, stage("measured", hardware={"precision": "BF16"}, globalBatch=512), guarded=True),
        architecture=make_architecture(depth=2),
        data={"name": "Digits"},
        reference=stage("full"),
    )
    report = profile(order, environ={}, device=GPU)
    assert [own.outcome for own in report.results] == [Outcome.SUCCEEDED] * 2
    small, large = (own.metrics for own in report.results)
    assert 0 < small["peak_memory_bytes"] < large["peak_memory_bytes"]
    assert large["loss_deviation_ratio"] < 0.05
    assert report.device is not None
    assert report.device.type == "cuda"
