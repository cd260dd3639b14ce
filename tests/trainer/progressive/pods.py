"""Pods of a training, simulated: processes with their own index, one folder, and no launcher but the test."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tests.trainer.progressive.tiny_task import TinyTask

from nascale.contract import environment
from nascale.contract.run_order import DesiredState, RunOrder
from nascale.contract.run_report import RunReport, parse_run_report
from nascale_trainer.progressive import group, processes, worker
from nascale_trainer.progressive.manifest import Incidents
from nascale_trainer.progressive.run_folder import RunFolder

_PATIENCE_SECONDS = 200
RESTARTED = (processes.EXIT_RESTART, processes.EXIT_PEER_LOST, -signal.SIGKILL)
PRELOADED = ("nascale_trainer.progressive.loop", "nascale_trainer.progressive.group")


class RecordingTask(TinyTask):
    """Writes down which samples are trained; may object to what a stage wants, take its time, or
    have larger losses."""

    def __init__(self, run_folder: Path, generation: int, index: int) -> None:
        super().__init__()
        self.file = os.open(run_folder / "trained", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.generation, self.index = generation, index
        self.before_loss = lambda stage: stage.model.parameters.get("scale")

    def batch(self, place: Any, stage: Any) -> Any:
        pace = stage.model.parameters.get("pace", 0)
        if pace:
            time.sleep(float(pace))
        line = [self.generation, self.index, os.getpid(), place.numbers.tolist(), place.indices.tolist()]
        os.write(self.file, json.dumps([*line, stage.name]).encode() + b"\n")
        return super().batch(place, stage)

    def check(self, stage: Any) -> None:
        super().check(stage)
        if stage.model.parameters.get("refused_by") == self.index:
            from nascale_trainer.progressive.refusal import CannotTrain  # noqa: PLC0415  # in the pod alone

            raise CannotTrain("Objected", f"stage {stage.name}: pod {self.index} objects")


def run_pod(order_text: str, index: int, folder: Path, kill_at: int | None, more: dict[str, str]) -> None:
    """Be a pod's training process; end with its exit code."""
    torch.set_num_threads(1)
    if kill_at is not None:
        sys.setprofile(_killer(kill_at))
    environ = {
        environment.WORK_ORDER: order_text,
        environment.WORKER_INDEX: str(index),
        environment.RUN_DIRECTORY: str(folder / "run"),
        environment.TERMINATION_LOG: str(folder / f"message-{index}"),
        environment.DESIRED_STATE_FILE: str(folder / "desired"),
        environment.METRICS_PORT: "0",
        environment.BIND_ADDRESS: "127.0.0.1",
        processes.LOCAL_RANK: "0",
        group.MEETING_TIMEOUT: "30",
        group.COLLECTIVE_TIMEOUT: "20",
        **more,
    }
    # The exporter looks where a process of its own would.
    os.environ.update({name: environ[name] for name in (environment.METRICS_PORT, environment.BIND_ADDRESS)})
    sys.exit(worker.main(lambda order, _: RecordingTask(folder / "run", order.generation, index), environ))


def _killer(count: int) -> Any:
    """Kill this process at so many calls of functions of the trainer: at any point of any of them."""
    left = count

    def profile(frame: Any, event: str, _argument: Any) -> None:
        nonlocal left
        if event == "call" and "nascale_trainer" in frame.f_code.co_filename:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return profile


@dataclass
class Pods:
    """The pods of a run, generation after generation."""

    folder: Path
    context: Any
    running: dict[int, BaseProcess] = field(default_factory=dict)
    codes: list[tuple[int, int]] = field(default_factory=list)

    def start(self, order: RunOrder, index: int, *, kill_at: int | None = None, **more: str) -> None:
        """Start one pod's process."""
        (self.folder / "run").mkdir(exist_ok=True)
        arguments = (order.to_json(), index, self.folder, kill_at, more)
        process = self.context.Process(target=run_pod, args=arguments)
        process.start()
        self.running[index] = process

    def generation(
        self, order: RunOrder, *, kill: dict[int, int] | None = None, restarts: int = 8
    ) -> dict[int, RunReport]:
        """Run a generation to its end; start anew whom a launcher would. Return the reports by pod."""
        for index in range(order.workers):
            (self.folder / f"message-{index}").unlink(missing_ok=True)
            self.start(order, index, kill_at=(kill or {}).get(index))
        return self.finish(order, restarts=restarts)

    def finish(self, order: RunOrder, *, restarts: int = 8) -> dict[int, RunReport]:
        """Wait for the end of all pods' processes, starting them anew as a launcher does."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self.running:
            assert time.monotonic() < deadline, self.codes
            for index, code in self.ended():
                if code in RESTARTED:
                    assert restarts > 0, self.codes
                    restarts -= 1
                    self.start(order, index)
                else:
                    assert code == 0, self.codes
        return self.reports(order.workers)

    def ended(self) -> Iterator[tuple[int, int]]:
        """Take note of processes that have ended."""
        time.sleep(0.01)
        for index, process in list(self.running.items()):
            code = process.exitcode
            if code is not None:
                process.join()
                del self.running[index]
                self.codes.append((index, code))
                yield index, code

    def reports(self, workers: int) -> dict[int, RunReport]:
        """Return what each pod has left."""
        return {
            index: parse_run_report((self.folder / f"message-{index}").read_text())
            for index in range(workers)
        }

    def want(self, state: DesiredState) -> None:
        """Let all pods' files say so, swapped as the kubelet does."""
        temporary = self.folder / "desired.tmp"
        temporary.write_text(state.to_json())
        temporary.replace(self.folder / "desired")

    def trained(self) -> list[tuple[int, int, int, list[int], list[int], str]]:
        """Return what was trained: generation, pod, process, samples' numbers, their indices, stage."""
        file = self.folder / "run" / "trained"
        return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []

    def wait_for(self, lines: int) -> None:
        """Wait until so many micro-batches were begun."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while len(self.trained()) < lines:
            assert time.monotonic() < deadline, (self.trained(), self.codes)
            time.sleep(0.01)

    def incidents(self) -> Incidents:
        """Return the counts of the run."""
        return RunFolder(self.folder / "run").incidents()

    def close(self) -> None:
        """End what still runs."""
        for process in self.running.values():
            process.kill()
            process.join()


def pods_context() -> Any:
    """Return how processes are started: from a server that has imported torch once."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(list(PRELOADED))
    return made
