"""The last figures of a run reach Prometheus however short it was; between two generations nobody waits."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.progressive.pods import Pods, pods_context
from tests.trainer.progressive.tiny_task import order, stage

from nascale.contract import environment
from nascale.contract import training_series as series
from nascale.contract.run_report import RunOutcome, RunReport
from nascale_trainer.progressive.run_end import EndKind, RunEnd
from nascale_trainer.progressive.worker import linger_seconds

WAITING = {"waitFor": [series.STEPS], "maxLingerSeconds": 60}


@pytest.mark.parametrize(
    ("outcome", "seconds"),
    [
        (RunOutcome.COMPLETED, 60),
        (RunOutcome.FAILED, 60),
        (RunOutcome.SWITCH, 0),
        (RunOutcome.PAUSED, 0),
        (RunOutcome.REFUSED, 0),
    ],
)
def test_only_the_end_of_a_run_is_worth_waiting_for(outcome: RunOutcome, seconds: float) -> None:
    end = RunEnd(EndKind.REPORTED, RunReport(generation=1, outcome=outcome))
    assert linger_seconds(order(stage("only", "8sp"), exporter=WAITING), end) == seconds
    assert linger_seconds(order(stage("only", "8sp"), exporter={"maxLingerSeconds": 60}), end) == 0


@pytest.mark.parametrize("kind", [EndKind.RESTART, EndKind.STOPPED])
def test_a_process_that_another_follows_waits_for_nothing(kind: EndKind) -> None:
    assert linger_seconds(order(stage("only", "8sp"), exporter=WAITING), RunEnd(kind)) == 0


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    made = Pods(tmp_path, pods_context())
    yield made
    made.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def steps_at(port: int) -> float | None:
    """Scrape once; ``None``: nobody answers, or there is no run to be seen yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{series.STEPS} ")), None)


@pytest.mark.slow
def test_a_run_shorter_than_the_pause_between_two_scrapes_is_seen_whole(pods: Pods) -> None:
    port, seen = free_port(), list[float]()
    over = threading.Event()

    def scrape() -> None:
        # As rarely as Prometheus does: a run of a few steps is over before it is looked at twice.
        while not over.wait(1.0):
            steps = steps_at(port)
            if steps is not None:
                seen.append(steps)

    scraper = threading.Thread(target=scrape)
    scraper.start()
    wanted: Any = order(stage("only", model={"globalBatch": 8}), exporter=WAITING)
    pods.start(wanted, 0, **{environment.METRICS_PORT: str(port)})
    deadline = time.monotonic() + 120
    try:
        while not list(pods.ended()):
            assert time.monotonic() < deadline, pods.codes
    finally:
        over.set()
        scraper.join()
    assert pods.codes == [(0, 0)]
    report = pods.reports(1)[0]
    assert report.outcome is RunOutcome.COMPLETED
    assert seen[-1] == report.step > 0
