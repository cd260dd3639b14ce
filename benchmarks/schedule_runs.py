"""Whole trainings in this process, for the benchmarks of generated schedules.

Each is a run of the trainer's own loop (``proxy.try_schedule``), from its first stage to its last, with all
switches. Images are a fixed part of Fashion-MNIST's training images; what a run has learnt is judged on
images that no run sees while it trains, outside the clock: the test images, and as many left-over ones.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import os
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer does, before torch reads it

import torch
from torch import nn

from nascale.contract.architecture import Activation, Architecture, BlockType, Head, Stage, Stem
from nascale.contract.run_order import (
    CheckpointOrder,
    DivergenceAction,
    DivergenceOrder,
    EvaluationOrder,
    OptimizerOrder,
    RunOrder,
    StageOrder,
)
from nascale.contract.run_report import RunReport
from nascale.contract.work_order import DataOrder, ParameterValue, Precision, RunIdentity
from nascale_trainer.allocation import keep_freed_memory
from nascale_trainer.batches import Batches, normalisation_of, split
from nascale_trainer.data import FASHION_MNIST_FOLDER, FASHION_MNIST_VARIABLE, TensorSource, load_source
from nascale_trainer.device import describe_device, supported_precisions
from nascale_trainer.progressive.image_task import ImageTask
from nascale_trainer.progressive.profile_bench import Bench, TaskMaker, TrialObserver, Unwatched
from nascale_trainer.progressive.proxy import training_seconds, try_schedule
from nascale_trainer.progressive.task import TrainingTask
from nascale_trainer.training import EVALUATION_BATCH, correct_and_loss
from rows import CANNOT_MEASURE

keep_freed_memory(os.environ)  # as the trainer does

IDENTITY: Final = RunIdentity(kind="ProgressiveTraining", name="schedule", namespace="benchmarks", uid="0")
CPU: Final = torch.device("cpu")
CLASSES: Final = 10
SIDE: Final = 28
VALIDATION: Final = 1000
"""Images that the loop itself evaluates on, at the end of each stage."""
MOST_WAITING: Final = 1.1
"""Time of a run over its own time on the processor, beyond which it was disturbed, and is made again."""
PART_SEED: Final = 0
"""Of the choice of images: the same for every run."""


def say(text: str) -> None:
    """Tell how far a benchmark is."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def three_stages(
    block: BlockType, channels: Sequence[int], depths: Sequence[int], expansion: int
) -> Architecture:
    """Describe a network of three stages of one kind of block for images of 28 pixels."""
    stages = tuple(
        Stage.model_validate(
            {
                "block": block,
                "kernel": 3,
                "stride": stride,
                "expansion": expansion,
                "channels": width,
                "depth": depth,
                "activation": Activation.RELU,
            }
        )
        for width, depth, stride in zip(channels, depths, (1, 2, 2), strict=True)
    )
    stem = Stem(channels=channels[0], stride=1, activation=Activation.RELU)
    head = Head(channels=4 * channels[-1], activation=Activation.RELU)
    return Architecture(stem=stem, stages=stages, head=head, resolution=SIDE)


@dataclass(frozen=True)
class Images:
    """A part of Fashion-MNIST in a folder of its own, and unseen images to judge by.

    Attributes:
        folder: Where the part is written, as MNIST's files.
        count: Images that a run trains on.
        unseen: Images of the training files that no run sees, beside the test images.
    """

    folder: Path
    count: int
    unseen: int = 10_000

    def __post_init__(self) -> None:
        """Write the part."""
        source = load_source(DataOrder(name="FashionMNIST"), os.environ)
        if not isinstance(source, TensorSource):
            raise TypeError("Fashion-MNIST must be in memory")
        generator = torch.Generator().manual_seed(PART_SEED)
        places = torch.randperm(len(source.labels), generator=generator)
        seen = places[: self.count + VALIDATION]
        rest = places[len(seen) : len(seen) + self.unseen]
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "train-images-idx3-ubyte", source.pixels[seen, 0])
        _write(self.folder / "train-labels-idx1-ubyte", source.labels[seen].to(torch.uint8))
        test = _test_part()
        object.__setattr__(
            self,
            "_held_out",
            TensorSource(
                torch.cat([test.pixels, source.pixels[rest]]),
                torch.cat([test.labels, source.labels[rest]]),
                CLASSES,
            ),
        )

    @property
    def order(self) -> DataOrder:
        """The part as the loop is told of it."""
        share = VALIDATION / (self.count + VALIDATION)
        return DataOrder(name="FashionMNIST", validation_fraction=share)

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment in which the part is found."""
        return {FASHION_MNIST_VARIABLE: str(self.folder)}

    @cached_property
    def judged(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The unseen images, normalised as a run normalises its own, and their classes."""
        source = load_source(self.order, self.environ)
        normalisation = normalisation_of(source, split(source.labels, self.order).training)
        held_out: TensorSource = self._held_out  # type: ignore[attr-defined]  # frozen: set above
        everything = torch.arange(len(held_out.labels))
        part = Batches(held_out, everything, SIDE, normalisation, torch.device("cpu"))
        return part.take(everything)


def _test_part() -> TensorSource:
    folder = Path(os.environ.get(FASHION_MNIST_VARIABLE) or FASHION_MNIST_FOLDER)
    pixels = _read(folder / "t10k-images-idx3-ubyte.gz", 16).reshape(-1, 1, SIDE, SIDE)
    return TensorSource(pixels, _read(folder / "t10k-labels-idx1-ubyte.gz", 8).long(), CLASSES)


def _read(path: Path, head: int) -> torch.Tensor:
    """Read the bytes after the head of one of MNIST's files."""
    plain = path.with_suffix("")
    content = plain.read_bytes() if plain.is_file() else gzip.decompress(path.read_bytes())
    return torch.frombuffer(bytearray(content[head:]), dtype=torch.uint8)


def _write(path: Path, values: torch.Tensor) -> None:
    head = struct.pack(f">I{values.dim()}I", 0x0800 + values.dim(), *values.shape)
    path.write_bytes(head + values.contiguous().numpy().tobytes())


class JudgedTask(ImageTask):
    """The built-in trainer's task, which also judges the final network on unseen images."""

    final: nn.Module

    def export(self, network: nn.Module, folder: Path) -> Path:
        """Keep a copy for the judgement after the clock has stopped: averages are in force only here."""
        self.final = copy.deepcopy(network)
        return super().export(network, folder)

    def judge(self, images: Images) -> float:
        """Return the final network's accuracy on the unseen images, in FP32 at the full resolution."""
        pixels, labels = images.judged
        device = next(self.final.parameters()).device
        self.final.eval()
        right = 0
        with torch.no_grad():
            for chunk, truth in zip(
                pixels.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True
            ):
                right += correct_and_loss(self.final, chunk.to(device), truth.to(device))[0]
        return right / len(labels)


def judged(images: Images, task: TrainingTask) -> float:
    """Return the accuracy of a task's final network on the unseen images."""
    if not isinstance(task, JudgedTask):
        raise TypeError("the task must be one that judges")
    return task.judge(images)


@dataclass(frozen=True)
class Setup:
    """What all runs of a benchmark share.

    Attributes:
        optimizer: Optimizer and course of the learning rate.
        make_task: Brings model, data and loss.
        judge: Says how good a task's final network is, outside the clock; higher is better.
        architecture: The network, for the built-in trainer.
        data: Its data.
        parameters: What another task builds its model from.
        environ: The container's environment.
        device: Trains.
        observer: Told of what is trained and measured.
    """

    optimizer: OptimizerOrder
    make_task: TaskMaker
    judge: Callable[[TrainingTask, RunReport], float]
    architecture: Architecture | None = None
    data: DataOrder | None = None
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    device: torch.device = CPU
    observer: TrialObserver = field(default_factory=Unwatched)

    def order(self, stages: Sequence[StageOrder], samples: int, seed: int) -> RunOrder:
        """Return a run of so many samples; it is evaluated where stages end."""
        return RunOrder(
            run=IDENTITY,
            generation=1,
            seed=seed,
            architecture=self.architecture,
            parameters=dict(self.parameters),
            data=self.data,
            length=f"{samples}sp",
            stages=tuple(stages),
            optimizer=self.optimizer,
            evaluation=EvaluationOrder(every=f"{samples}sp"),
            checkpoints=CheckpointOrder(every_seconds=86_400),
            divergence=DivergenceOrder(action=DivergenceAction.STOP),
        )

    def bench(self) -> Bench:
        """Return where the work is done."""
        return Bench(self.device, self.environ, self.observer, lambda: False)


def image_setup(
    architecture: Architecture, images: Images, optimizer: OptimizerOrder, device: torch.device = CPU
) -> Setup:
    """Return runs of the built-in trainer on a part of Fashion-MNIST."""
    return Setup(
        optimizer=optimizer,
        make_task=lambda order, where: JudgedTask(order, images.environ, where),
        judge=lambda task, _: judged(images, task),
        architecture=architecture,
        data=images.order,
        environ=images.environ,
        device=device,
    )


@dataclass(frozen=True)
class Run:
    """A training that has ended.

    Attributes:
        quality: What the setup's judge says.
        samples: Trained, as planned.
        seconds: From the opening of the data to the end: steps, switches, evaluations where stages end, the
            last checkpoint.
        training_seconds: Steps and switches alone.
        switch_seconds: Switches alone.
        processor_seconds: Of this process, over all of it.
        stages: By stage: name, samples, seconds of its steps, median step.
        on_processor: Whether it was trained on one thread of a processor.
    """

    quality: float
    samples: int
    seconds: float
    training_seconds: float
    switch_seconds: float
    processor_seconds: float
    stages: tuple[tuple[str, int, float, float], ...]
    on_processor: bool = True

    @property
    def disturbed(self) -> bool:
        """Whether another program had the processor for some of the time."""
        return self.on_processor and self.seconds > MOST_WAITING * self.processor_seconds


def worker(device: torch.device) -> str:
    """Return what trains, for people."""
    return torch.cuda.get_device_name() if device.type == "cuda" else "one thread"


def add_device(parser: argparse.ArgumentParser) -> None:
    """Let the command line name the kind of device that is measured."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default=CPU.type)


def chosen_device(given: argparse.Namespace) -> torch.device:
    """Return the device that the command line has named; the program ends where this machine has none."""
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"device: must be one that this machine has, not {device.type}", file=sys.stderr)
        raise SystemExit(CANNOT_MEASURE)
    return device


def named_device(device: torch.device) -> str:
    """Return what a command line needs to name a device, after a space; nothing for the processor."""
    return "" if device.type == CPU.type else f" --device {device.type}"


def device_name(device: torch.device) -> str:
    """Name a device so that times on two of the same name can be compared."""
    return describe_device(device).name


def of_device(name: str, device: torch.device) -> str:
    """Return the name that a benchmark's figures on a device are kept under."""
    if device.type == "cuda":
        return f"{name}-cuda"
    return f"{name}-fp32-only" if supported_precisions(device) == (Precision.FP32,) else name


def train(setup: Setup, stages: Sequence[StageOrder], samples: int, seed: int) -> Run:
    """Train a schedule as a whole run, and judge it."""
    order, bench = setup.order(stages, samples, seed), setup.bench()
    begin, computing = time.perf_counter(), time.process_time()
    task = setup.make_task(order, setup.device)
    report = try_schedule(task, order, bench, "run").report
    seconds, computing = time.perf_counter() - begin, time.process_time() - computing
    training = training_seconds(report)
    switches = sum(sum(stage.phases.values()) for stage in report.stages[1:])
    return Run(
        quality=setup.judge(task, report),
        samples=samples,
        seconds=seconds,
        training_seconds=training,
        switch_seconds=switches,
        processor_seconds=computing,
        stages=tuple(
            (stage.name, (stage.end or report.samples) - stage.begin, stage.seconds, stage.p50 or 0.0)
            for stage in report.stages
        ),
        on_processor=setup.device.type == "cpu",
    )
