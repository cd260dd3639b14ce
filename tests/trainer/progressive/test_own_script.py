"""A script of one's own under the real launcher: started, started anew for a stage, ended with a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.run_report import RunOutcome, SwitchPhase, parse_run_report
from nascale.contract.stage_settings import HardwareSettings, ModelSettings
from nascale.contract.switch_class import SwitchClass
from nascale.contract.work_order import ExporterOrder, RunIdentity

SCRIPT = """
import os
from pathlib import Path
import torch
from torch import nn
from nascale_trainer.progressive import TrainingTask, train

SEEN = Path(os.environ["SEEN"])


class Line(TrainingTask):
    def __init__(self, order):
        self.width = int(order.parameters["width"])
        self.points = torch.linspace(-1, 1, 64)

    samples = 64

    def build(self, seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(1, self.width), nn.Tanh(), nn.Linear(self.width, 1))

    def batch(self, place, stage):
        with SEEN.open("a") as log:
            log.write(f"{os.getpid()} {torch.get_num_threads()} {place.numbers.tolist()}\\n")
        x = self.points[place.indices, None] * float(stage.model.parameters["scale"])
        return x, torch.sin(3 * x)

    def loss(self, network, batch, stage):
        x, y = batch
        return (network(x) - y).square().mean()

    def evaluate(self, network, share):
        x = self.points[share.rank :: share.world, None]
        return {"loss": (float((network(x) - torch.sin(3 * x)).square().sum()), float(len(x)))}


if __name__ == "__main__":
    train(Line)
"""


def stage(name: str, scale: float, threads: int, rate: float = 1.0, **hardware: Any) -> StageOrder:
    return StageOrder(
        name=name,
        length="6ba" if name != "last" else None,
        model=ModelSettings(global_batch=8, learning_rate_factor=rate, parameters={"scale": scale}),
        hardware=HardwareSettings(threads=threads, **hardware),
    )


def run_script(
    folder: Path, stages: tuple[StageOrder, ...], length: str, *, generation: int = 1, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    script = folder / "train.py"
    script.write_text(SCRIPT)
    order = RunOrder(
        run=RunIdentity(kind="ProgressiveTraining", name="line", namespace="test", uid="u"),
        generation=generation,
        processes_per_worker=processes,
        seed=3,
        parameters={"width": 16},
        length=length,
        stages=stages,
        exporter=ExporterOrder(max_linger_seconds=0),
    )
    environment: dict[str, Any] = {
        **{key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"},
        "NASCALE_WORK_ORDER": order.to_json(),
        "NASCALE_RUN_DIRECTORY": str(folder / "run"),
        "NASCALE_TERMINATION_LOG": str(folder / "report.json"),
        "NASCALE_METRICS_PORT": "0",
        "SEEN": str(folder / "seen"),
    }
    return subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_script_is_its_own_launcher_and_goes_through_live_recompile_and_restart(tmp_path: Path) -> None:
    stages = (
        stage("first", 1.0, 1),
        stage("slower", 1.0, 1, rate=0.5),
        stage("wider", 0.5, 1, rate=0.5),
        stage("last", 0.5, 2, rate=0.5),
    )
    ended = run_script(tmp_path, stages, "24ba")
    assert ended.returncode == 0, ended.stderr
    report = parse_run_report((tmp_path / "report.json").read_text())
    assert report.outcome is RunOutcome.COMPLETED
    assert (report.step, report.samples, report.lost_steps) == (24, 192, 0)
    assert [entry.switch for entry in report.stages] == [
        SwitchClass.NONE,
        SwitchClass.LIVE,
        SwitchClass.RECOMPILE,
        SwitchClass.RESTART,
    ]
    assert set(report.stages[-1].phases) >= {SwitchPhase.SAVE, SwitchPhase.GAP, SwitchPhase.RESTORE}
    lines = [line.split(" ", 2) for line in (tmp_path / "seen").read_text().splitlines()]
    numbers = [number for _, _, text in lines for number in json.loads(text)]
    assert numbers == list(range(192))  # none is left out, none comes twice
    assert len({process for process, _, _ in lines}) == 2
    assert [threads for _, threads, _ in lines] == ["1"] * 18 + ["2"] * 6
    assert (tmp_path / "run" / "model.safetensors").stat().st_size > 0


@pytest.mark.slow
def test_several_processes_in_one_pod_share_each_step_and_other_pods_take_over_from_them(
    tmp_path: Path,
) -> None:
    two = {"processes_per_worker": 2}
    stages = (
        stage("first", 1.0, 1, **two),
        stage("slower", 1.0, 1, rate=0.5, **two),
        stage("wider", 0.5, 1, rate=0.5, **two),
        stage("threads", 0.5, 2, rate=0.5, **two),
        stage("last", 0.5, 1, rate=0.5),
    )
    ended = run_script(tmp_path, stages, "30ba", processes=2)
    assert ended.returncode == 0, ended.stderr
    first = parse_run_report((tmp_path / "report.json").read_text())
    assert (first.outcome, first.step, first.stage) == (RunOutcome.SWITCH, 24, "last")
    assert len(first.stages) == 5, "the pod's first process alone reports, with the whole history"
    lines = read_seen(tmp_path)
    assert {len(numbers) for _, numbers in lines} == {4}, "each process takes its half of the batch"
    assert len(lines) == 2 * 24
    assert len({process for process, _ in lines}) == 4, "two, and two more after the Restart"

    ended = run_script(tmp_path, stages, "30ba", generation=2)
    assert ended.returncode == 0, ended.stderr
    report = parse_run_report((tmp_path / "report.json").read_text())
    assert report.outcome is RunOutcome.COMPLETED
    assert (report.step, report.samples, report.lost_steps) == (30, 240, 0)
    assert [entry.switch for entry in report.stages] == [
        SwitchClass.NONE,
        SwitchClass.LIVE,
        SwitchClass.RECOMPILE,
        SwitchClass.RESTART,
        SwitchClass.RESCHEDULE,
    ]
    lines = read_seen(tmp_path)
    assert [len(numbers) for _, numbers in lines[2 * 24 :]] == [8] * 6
    assert sorted(number for _, numbers in lines for number in numbers) == list(range(240))
    assert (tmp_path / "run" / "model.safetensors").stat().st_size > 0


def read_seen(folder: Path) -> list[tuple[str, list[int]]]:
    """Return each micro-batch: the process that took it, and the numbers of its samples."""
    lines = [line.split(" ", 2) for line in (folder / "seen").read_text().splitlines()]
    return [(process, json.loads(numbers)) for process, _, numbers in lines]
