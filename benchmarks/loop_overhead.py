"""What the training loop costs over a bare torch loop that does the same steps.

Both train the same network from the same seed on the same images in the same order, on one thread: AdamW,
cross-entropy, one forward and backward pass a step. The bare loop is what one would write by hand: index the
images, forward, backward, step, nothing else. The loop of nascale does all its work between the steps:
agreement, bounds, learning rate, seeds, loss watch, progress record, snapshots for the exporter, and it runs
inside the exporter that a pod has. Evaluations and checkpoints are left out on both sides: they are asked
for, and cost what they cost.

Runs of both alternate, and are compared in pairs by the mean time from step to step, without the first ones.
Two networks: a small one whose step takes about a millisecond, where a constant cost weighs most, and one of
a size that people train.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Final

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the trainer does, before torch reads it

import torch
from torch import nn
from torch.nn import functional

from nascale.contract.architecture import Architecture, BlockType, Head, Stage, Stem
from nascale.contract.run_order import (
    CheckpointOrder,
    EvaluationOrder,
    OptimizerOrder,
    RunOrder,
    StageOrder,
)
from nascale.contract.stage_settings import HardwareSettings, ModelSettings
from nascale.contract.work_order import DataOrder, RunIdentity
from nascale_trainer.progressive.image_task import ImageTask
from nascale_trainer.progressive.loop import TrainingLoop
from nascale_trainer.progressive.ranks import AloneRanks
from nascale_trainer.progressive.run_folder import RunFolder
from nascale_trainer.progressive.run_metrics import RunMetrics
from nascale_trainer.progressive.sampling import SampleOrder
from nascale_trainer.progressive.snapshot import RunSnapshot
from rows import Aim, environment, measured, publish

NAME = "loop-overhead"
COMMAND: Final = "python benchmarks/loop_overhead.py"
MOST_OVERHEAD: Final = 0.02
PAIRS: Final = 12
LEFT_OUT: Final = 10
"""Steps at the beginning of each run."""
LEARNING_RATE: Final = 0.003
CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        name: In the figures.
        architecture: The network.
        batch: Samples per step.
        steps: Of one run.
    """

    name: str
    architecture: Architecture
    batch: int
    steps: int


def network(channels: int, depth: int) -> Architecture:
    """Describe three stages of blocks for digits."""

    def stage(factor: int, stride: int) -> Stage:
        return Stage.model_validate(
            {
                "block": BlockType.MBCONV,
                "kernel": 3,
                "stride": stride,
                "expansion": 2,
                "channels": factor * channels,
                "depth": depth,
            }
        )

    return Architecture(
        stem=Stem(channels=channels, stride=1),
        stages=(stage(1, 1), stage(2, 2), stage(3, 1)),
        head=Head(channels=8 * channels),
        resolution=8,
    )


CASES: Final = (
    Case("small network, batch 16", network(8, 1), 16, 400),
    Case("larger network, batch 64", network(32, 2), 64, 60),
)


@dataclass
class Moments:
    """Takes the moment of each step, and hands everything on to the exporter that a pod has."""

    exporter: RunMetrics
    at: list[float] = field(default_factory=list)

    def publish(self, snapshot: RunSnapshot) -> None:
        """Hand a snapshot on."""
        self.exporter.publish(snapshot)

    def observe_step(self, seconds: float) -> None:
        """Note the moment."""
        self.exporter.observe_step(seconds)
        self.at.append(time.perf_counter())


def order_of(case: Case) -> RunOrder:
    """Return a run of one stage, without evaluation or checkpoint on the way."""
    length = f"{case.steps}ba"
    stage = StageOrder(
        name="only", model=ModelSettings(global_batch=case.batch), hardware=HardwareSettings(threads=1)
    )
    return RunOrder(
        run=RunIdentity(kind="ProgressiveTraining", name="overhead", namespace="benchmarks", uid="0"),
        generation=1,
        seed=1,
        architecture=case.architecture,
        data=DataOrder(name="Digits"),
        length=length,
        stages=(stage,),
        optimizer=OptimizerOrder(learning_rate=LEARNING_RATE, base_batch=case.batch),
        evaluation=EvaluationOrder(every=length),
        checkpoints=CheckpointOrder(every_seconds=86_400),
    )


def of_the_loop(case: Case) -> float:
    """Return the mean seconds from step to step under nascale's loop."""
    order = order_of(case)
    with tempfile.TemporaryDirectory() as folder:
        moments = Moments(RunMetrics(order, threads=1))
        try:
            TrainingLoop(
                order, ImageTask(order, {}), AloneRanks(CPU), RunFolder(Path(folder) / "run"), moments
            ).run()
        finally:
            moments.exporter.close(0)
    return between_steps(moments.at)


def bare(case: Case) -> float:
    """Return the mean seconds from step to step of a loop written by hand."""
    order = order_of(case)
    task = ImageTask(order, {})
    task.prepare(order.stages[0])
    images, labels = all_images(task)
    model: nn.Module = task.build(order.seed)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02, fused=True)
    places = SampleOrder(order.seed, task.samples)
    moments = []
    for step in range(case.steps):
        chosen = places.indices(torch.arange(step * case.batch, (step + 1) * case.batch))
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
        loss.backward()
        optimizer.step()
        moments.append(time.perf_counter())
    return between_steps(moments)


def all_images(task: ImageTask) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the whole training part as two tensors."""
    part = task._training  # noqa: SLF001  # the bare loop has the same tensors in its hands
    if part is None:
        raise RuntimeError("the training part must be prepared")
    return part.take(torch.arange(task.samples))


def between_steps(moments: list[float]) -> float:
    """Return the mean time between two moments, the first ones left out."""
    return (moments[-1] - moments[LEFT_OUT]) / (len(moments) - 1 - LEFT_OUT)


def main() -> None:
    """Measure pairs, write the rows."""
    torch.set_num_threads(1)
    where = environment("torch", "timm", extra="one thread")
    rows = []
    for case in CASES:
        of_the_loop(case)
        bare(case)
        pairs = []
        for number in range(PAIRS):
            # Which one comes first changes, so that a drift of the machine favours neither.
            if number % 2:
                by_hand = bare(case)
                pairs.append((of_the_loop(case), by_hand))
            else:
                pairs.append((of_the_loop(case), bare(case)))
            print(
                f"{case.name}: {pairs[-1][0] * 1000:.3f} ms, by hand {pairs[-1][1] * 1000:.3f} ms", flush=True
            )
        rows += [
            measured(
                f"overhead of the loop over a bare torch loop, {case.name}",
                [loop / by_hand - 1 for loop, by_hand in pairs],
                unit="1",
                aim=Aim("at most", MOST_OVERHEAD),
                command=COMMAND,
                environment=where,
            ),
            measured(
                f"step of the bare loop, {case.name}",
                mean(by_hand for _, by_hand in pairs),
                unit="s",
                command=COMMAND,
                environment=where,
            ),
        ]
    publish(NAME, rows)


if __name__ == "__main__":
    main()
