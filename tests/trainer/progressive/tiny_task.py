"""A tiny network with dropout and batch norm on generated pictures, and what runs it in a test."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

from nascale.contract.run_order import RunOrder
from nascale.contract.stage_settings import GradientCheckpointing, MemoryFormat
from nascale_trainer.progressive.loop import TrainingLoop
from nascale_trainer.progressive.ranks import AloneRanks
from nascale_trainer.progressive.run_folder import RunFolder
from nascale_trainer.progressive.task import CannotTrain, TrainingTask

SAMPLES = 32
CPU = torch.device("cpu")


class Picture(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.deeper = nn.Conv2d(4, 4, 1)
        self.dropout = nn.Dropout(0.0)
        self.head = nn.Linear(4, 3)
        self.deep = False
        self.checkpointing = False
        self.seen = []

    def forward(self, images):
        x = functional.relu(self.norm(self.stem(images)))
        if self.deep:
            x = x + self.deeper(x)
        return self.head(self.dropout(x.mean(dim=(2, 3))))


class TinyTask(TrainingTask):
    """Records what it is asked; hooks let tests break it."""

    samples = SAMPLES

    def __init__(self, shift=0.0):
        generator = torch.Generator().manual_seed(7)
        self.images = torch.randn(SAMPLES + 16, 2, 6, 6, generator=generator) + shift
        self.labels = (self.images.mean(dim=(1, 2, 3)) * 9).long().clamp(-1, 1) + 1
        self.numbers = []
        self.batches = []
        self.grown = []
        self.before_loss = lambda _stage: None
        self.metric = None

    def build(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Picture()

    def batch(self, place, stage):
        self.numbers.append(place.numbers.tolist())
        images = self.images[place.indices]
        if stage.model.augmentation:
            images = images + stage.model.augmentation * torch.randn(images.shape)
        if stage.model.resolution:
            images = images[:, :, : stage.model.resolution, : stage.model.resolution]
        if stage.hardware.memory_format is MemoryFormat.CHANNELS_LAST:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, self.labels[place.indices]

    def loss(self, network, batch, stage):
        images, labels = batch
        factor = self.before_loss(stage)
        logits = network(images)
        self.batches.append((network, images, logits))
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=stage.model.label_smoothing)
        return loss if factor is None else loss * factor

    def evaluate(self, network, share):
        images, labels = self.images[SAMPLES:], self.labels[SAMPLES:]
        part = slice(share.rank, None, share.world)
        logits = network(images[part])
        correct = float((logits.argmax(dim=1) == labels[part]).sum())
        loss = float(functional.cross_entropy(logits, labels[part], reduction="sum"))
        count = float(len(labels[part]))
        if self.metric is not None:
            return {"accuracy": (self.metric(), 1.0), "loss": (loss, count)}
        return {"accuracy": (correct, count), "loss": (loss, count)}

    def check(self, stage):
        if stage.model.resolution is not None and stage.model.resolution > 6:
            raise CannotTrain(
                "UnsupportedResolution",
                f"stage {stage.name}: resolution: must be at most 6, not {stage.model.resolution}",
            )

    def apply(self, network, stage):
        network.dropout.p = stage.model.dropout
        network.deep = stage.model.depth == 1
        network.checkpointing = stage.hardware.gradient_checkpointing is GradientCheckpointing.BLOCKS

    def initialise_grown(self, network, before, after):
        if after.model.depth > before.model.depth:
            self.grown.append((before.name, after.name))
            nn.init.zeros_(network.deeper.weight)
            nn.init.zeros_(network.deeper.bias)

    def fingerprint(self):
        return {"digest": float(self.images.sum())}


class Killed(Exception):  # noqa: N818  # what happens, not an error
    """Stands for SIGKILL: nothing of the loop's own runs after it."""


@dataclass
class Recorder:
    """An observer that remembers all, and may end the process after a step."""

    kill_after: int | None = None
    snapshots: list = field(default_factory=list)
    steps: int = 0

    def publish(self, snapshot):
        self.snapshots.append(snapshot)

    def observe_step(self, seconds):
        assert seconds >= 0
        self.steps += 1
        if self.steps == self.kill_after:
            raise Killed


def stage(name, length=None, *, until=None, model=None, hardware=None):
    return {
        "name": name,
        **({"length": length} if length else {}),
        **(until or {}),
        "model": {"globalBatch": 8, **(model or {})},
        "hardware": hardware or {},
    }


def order(*stages, length="96sp", **fields):
    return RunOrder.model_validate(
        {
            "run": {"kind": "ProgressiveTraining", "name": "demo", "namespace": "default", "uid": "u-1"},
            "generation": 1,
            "seed": 3,
            "length": length,
            "stages": stages,
            "optimizer": {"baseBatch": 8, "learningRate": 0.01},
            "checkpoints": {"everySeconds": 86400},
            **fields,
        }
    )


@dataclass
class Run:
    """One process's part of a run, and what is left of it."""

    loop: TrainingLoop
    task: TinyTask
    recorder: Recorder
    end: object = None

    @property
    def report(self):
        return self.end.report

    @property
    def trainee(self):
        return self.loop._trainee

    @property
    def state(self):
        return self.loop._state


def prepare(folder, run_order, task=None, *, recorder=None, ranks=None, **options):
    task = task or TinyTask()
    recorder = recorder or Recorder()
    loop = TrainingLoop(run_order, task, ranks or AloneRanks(CPU), RunFolder(folder), recorder, **options)
    return Run(loop, task, recorder)


def train(folder, run_order, task=None, **options):
    run = prepare(folder, run_order, task, **options)
    run.end = run.loop.run()
    return run


def stop_at(step):
    """Return a stop callable that asks for the end at the boundary after so many calls."""
    calls = iter(range(10**9))
    return lambda: next(calls) >= step
