"""A whole run of images: stages that grow, learn, and leave a network that loads and computes the same."""

import json

import pytest
import torch

from nascale.contract.run_order import RunOrder
from nascale.contract.run_report import RunOutcome
from nascale.contract.switch_class import SwitchClass
from nascale_trainer.device import supported_precisions
from nascale_trainer.network import load_network
from nascale_trainer.progressive.image_task import ImageTask
from nascale_trainer.progressive.loop import TrainingLoop
from nascale_trainer.progressive.ranks import AloneRanks
from nascale_trainer.progressive.run_folder import RunFolder
from nascale_trainer.progressive.task import Share

CPU = torch.device("cpu")
FAST = "BF16" if "BF16" in supported_precisions(CPU) else "FP32"


class Watch:
    """Keeps the snapshots; the exporter's place."""

    def __init__(self):
        self.snapshots = []

    def publish(self, snapshot):
        self.snapshots.append(snapshot)

    def observe_step(self, seconds):
        assert seconds >= 0


class WatchedTask(ImageTask):
    """Remembers what the network was given."""

    def __init__(self, order):
        super().__init__(order, {}, CPU)
        self.seen = []

    def loss(self, network, batch, stage):
        self.seen.append((stage.name, batch.images.shape[-1], batch.share < 1, self.depths(network)))
        return super().loss(network, batch, stage)

    @staticmethod
    def depths(network):
        return network.depths


@pytest.fixture
def make_order(make_architecture):
    """Return a function that makes a run's order: small images in BF16, then growth, then all settings."""
    architecture = make_architecture(depth=3)
    architecture["stages"][1]["depth"] = 2

    def stage(name, length=None, hardware=None, **model):
        return {
            "name": name,
            **({"length": length} if length else {}),
            "model": {"globalBatch": 64, **model},
            "hardware": hardware or {},
        }

    def make(length="9ep", first="2ep", second="2ep"):
        stages = [
            stage("small", first, {"precision": FAST}, resolution=4, depth=0.4),
            stage(
                "middle",
                second,
                {"precision": FAST, "memoryFormat": "ChannelsLast", "gradientCheckpointing": "Blocks"},
                augmentation=0.1,
                mixup=0.1,
                globalBatch=32,
            ),
            stage("full", hardware={"accumulation": 2}, dropout=0.1, stochasticDepth=0.1, labelSmoothing=0.1),
        ]
        return RunOrder.model_validate(
            {
                "run": {"kind": "ProgressiveTraining", "name": "demo", "namespace": "default", "uid": "u-1"},
                "generation": 1,
                "seed": 5,
                "architecture": architecture,
                "data": {"name": "Digits"},
                "length": length,
                "stages": stages,
                "optimizer": {"learningRate": 0.01, "averageDecay": 0.9},
                "evaluation": {"every": "3ep"},
            }
        )

    return make


@pytest.fixture
def short(make_order):
    """A run of five steps in each stage."""
    return make_order("800sp", "5ba", "5ba")


def train(order, folder, **options):
    task, watch = WatchedTask(order), Watch()
    folder.mkdir(exist_ok=True)
    loop = TrainingLoop(order, task, AloneRanks(CPU), RunFolder(folder), watch, **options)
    return loop.run(), task, watch


@pytest.mark.slow
def test_a_run_of_three_stages_learns_and_leaves_its_network(make_order, tmp_path):
    order = make_order()
    end, task, watch = train(order, tmp_path / "run")
    report = end.report
    assert report.outcome is RunOutcome.COMPLETED, report.message
    assert [stage.name for stage in report.stages] == ["small", "middle", "full"]
    assert [stage.switch for stage in report.stages][1:] == [SwitchClass.RECOMPILE] * 2
    assert report.samples >= 9 * task.samples > report.samples - 64
    assert report.metrics["accuracy"] > 0.85

    by_stage = {}
    for name, side, mixing, depths in task.seen:
        by_stage.setdefault(name, set()).add((side, mixing, depths))
    assert by_stage == {
        "small": {(4, False, (1, 1))},
        "middle": {(8, True, (3, 2))},
        "full": {(8, False, (3, 2))},
    }
    assert {snapshot.micro_batch for snapshot in watch.snapshots} == {64, 32}

    loaded = load_network(tmp_path / "run")
    values = task.evaluate(loaded, Share(0, 1, CPU))
    correct, count = values["accuracy"]
    assert correct / count == pytest.approx(report.metrics["accuracy"], abs=1e-9)
    loss, count = values["loss"]
    assert loss / count == pytest.approx(report.metrics["loss"], rel=1e-6)
    written = json.loads((tmp_path / "run" / "architecture.json").read_text())
    assert written == order.architecture.model_dump(mode="json", by_alias=True)


def test_growth_changes_no_output_at_the_switch(short, tmp_path):
    """The evaluation at the end of the first stage equals one of the grown network before its first step."""
    outputs = []

    class Growing(WatchedTask):
        def apply(self, network, stage):
            before = network.depths
            super().apply(network, stage)
            if before != network.depths and outputs:
                outputs.append(self.evaluate(network.eval(), Share(0, 1, CPU)))
                network.train()

        def initialise_grown(self, network, before, after):
            outputs.append(self.evaluate(network.eval(), Share(0, 1, CPU)))
            network.train()
            super().initialise_grown(network, before, after)

    watch = Watch()
    (tmp_path / "run").mkdir()
    TrainingLoop(short, Growing(short), AloneRanks(CPU), RunFolder(tmp_path / "run"), watch).run()
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("boundary", [0, 4, 5, 6, 9, 11, 14])
def test_a_stopped_run_goes_on_to_the_same_weights(short, tmp_path, boundary):
    train(short, tmp_path / "unbroken")
    calls = iter(range(10**6))
    end, *_ = train(short, tmp_path / "broken", stop=lambda: next(calls) >= boundary)
    assert end.report is None
    train(short, tmp_path / "broken")
    first, second = (load_network(tmp_path / name).state_dict() for name in ("unbroken", "broken"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_stage_that_the_network_can_not_take_is_refused_before_a_step(short, tmp_path):
    last = short.stages[-1]
    huge = last.model_copy(update={"model": last.model.model_copy(update={"resolution": 1000})})
    asked = short.model_copy(update={"stages": (*short.stages[:2], huge)})
    end, task, _ = train(asked, tmp_path / "run")
    assert end.report.outcome is RunOutcome.REFUSED
    assert end.report.reason == "ResolutionOutOfRange"
    assert "stage full: resolution: must be from 2" in end.report.message
    assert not task.seen
