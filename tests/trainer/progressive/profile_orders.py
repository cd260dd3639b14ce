"""Profile orders, for the tiny task and for digits."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

from tests.trainer.progressive.tiny_task import TinyTask

from nascale.contract.profile_order import ProfileOrder

QUICK = {"minCalls": 20, "minSeconds": 0, "maxSpreadRatio": 10, "maxAttempts": 1}
"""Three windows of seven steps, whatever they take."""
ALONE = {"OMP_NUM_THREADS": "1"}
"""Environment of a container whose sums are always rounded alike."""
STEPS = ["step_p50_seconds", "settle_seconds", "start_seconds", "epoch_samples", "peak_memory_bytes"]
OF_STEPS = {*STEPS, "training_samples_per_second", "step_spread_ratio"}


def candidate(number, *stages, **fields):
    return {"trial": f"demo-{number}", "index": number, "stages": stages, **fields}


def profile_order(*candidates, metrics=STEPS, **fields):
    return ProfileOrder.model_validate(
        {
            "run": {"kind": "ProgressiveTraining", "name": "demo", "namespace": "default", "uid": "u-1"},
            "candidates": candidates,
            "metrics": metrics,
            "seed": 3,
            "measurement": QUICK,
            "optimizer": {"baseBatch": 8, "learningRate": 0.01},
            **fields,
        }
    )


def ticking():
    """Return time in which every step takes a second: no busy machine disturbs what is counted."""
    return SimpleNamespace(perf_counter=itertools.count().__next__)


class Clock:
    """Time that passes only where a test lets it."""

    def __init__(self):
        self.now = 0.0
        self.module = SimpleNamespace(perf_counter=lambda: self.now)

    def pass_by(self, seconds):
        self.now += seconds


class ClockedTask(TinyTask):
    """Takes its time by a clock: for preparing, for the first step of each network, for every step."""

    def __init__(self, clock, prepare=0.0, first=0.0, step=lambda _number: 1.0):
        super().__init__()
        self.clock, self.seconds, self.step_seconds = clock, (prepare, first), step
        self.prepared = None
        self.steps = []  # shared with copies

    def prepare(self, stage):
        if self.prepared != stage.model.resolution:
            self.prepared = stage.model.resolution
            self.clock.pass_by(self.seconds[0])

    def build(self, seed):
        self.clock.pass_by(100.0)
        network = super().build(seed)
        network.taken = False
        return network

    def loss(self, network, batch, stage):
        if not network.taken:
            network.taken = True
            self.clock.pass_by(self.seconds[1])
        self.clock.pass_by(self.step_seconds(len(self.steps)))
        self.steps.append(stage.name)
        return super().loss(network, batch, stage)
