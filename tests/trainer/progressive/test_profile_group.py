"""Several real processes that measure together: in step, by the slowest, and on after a failure of one."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from tests.trainer.progressive.profile_orders import OF_STEPS, QUICK, candidate, profile_order
from tests.trainer.progressive.tiny_task import TinyTask, stage

from nascale.contract.errors import ContractError
from nascale.contract.report import CandidateReport, Outcome, parse_report
from nascale_trainer.progressive import profile_worker
from nascale_trainer.progressive.processes import EXIT_UNUSABLE_ORDER
from nascale_trainer.progressive.profile_group import ProfileNotes, absent
from nascale_trainer.progressive.usable_profile import check_usable

SCRIPT = """
import json, os
from pathlib import Path

import torch
from torch import nn
from nascale_trainer.progressive import TrainingTask, train

PLACE = os.environ.get("JOB_COMPLETION_INDEX", "0") + os.environ.get("NASCALE_LOCAL_RANK", "-")


class Line(TrainingTask):
    samples = 64

    def __init__(self, order):
        self.points = torch.linspace(-1, 1, 64)

    def build(self, seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def batch(self, place, stage):
        with Path(os.environ["SEEN"]).open("a") as log:
            line = [PLACE, stage.name, place.numbers.tolist(), torch.get_num_threads()]
            log.write(json.dumps(line) + "\\n")
        if stage.model.parameters.get("fails") == PLACE:
            raise MemoryError
        x = self.points[place.indices, None]
        return x, torch.sin(3 * x)

    def loss(self, network, batch, stage):
        x, y = batch
        return (network(x) - y).square().mean() * float(stage.model.parameters.get("scale", 1))

    def evaluate(self, network, share):
        return {"loss": (0.0, 1.0)}


if __name__ == "__main__":
    train(Line)
"""


class Container:
    """The pods of a profile: processes with their own index, and a folder that all have."""

    def __init__(self, folder, start_python):
        self.folder, self.start_python = folder, start_python
        (folder / "train.py").write_text(SCRIPT)

    def start(self, order, index, **more):
        environ = {
            **os.environ,
            "NASCALE_WORK_ORDER": order.to_json(),
            "NASCALE_TERMINATION_LOG": str(self.folder / f"message-{index}"),
            "NASCALE_METRICS_PORT": "0",
            "NASCALE_BIND_ADDRESS": "127.0.0.1",
            "NASCALE_RUN_DIRECTORY": str(self.folder / "shared"),
            "NASCALE_MEETING_TIMEOUT_SECONDS": "100",
            "NASCALE_COLLECTIVE_TIMEOUT_SECONDS": "60",
            "JOB_COMPLETION_INDEX": str(index),
            "SEEN": str(self.folder / "seen"),
            **more,
        }
        return self.start_python([str(self.folder / "train.py")], environ)

    def run(self, order):
        """Run all pods to their end; return the report of the first one."""
        pods = [self.start(order, index) for index in range(order.workers)]
        errors = [pod.communicate(timeout=280)[1] for pod in pods]
        assert [pod.returncode for pod in pods] == [0] * order.workers, errors
        others = [index for index in range(1, order.workers) if (self.folder / f"message-{index}").exists()]
        assert not others, "only the first pod reports"
        return parse_report((self.folder / "message-0").read_text(), [one.trial for one in order.candidates])

    def seen(self):
        return [json.loads(line) for line in (self.folder / "seen").read_text().splitlines()]


@pytest.fixture
def container(tmp_path, start_python):
    return Container(tmp_path, start_python)


def shared(name, *, workers=1, processes=1, **hardware):
    places = {"workers": workers, "processesPerWorker": processes}
    return stage(name, hardware={**places, **hardware})


@pytest.mark.slow
def test_two_pods_measure_ddp_its_hook_and_fsdp_in_step(container):
    order = profile_order(
        candidate(0, shared("plain", workers=2), guarded=True),
        candidate(1, shared("hooked", workers=2, communicationHook="BF16")),
        candidate(2, shared("sharded", workers=2, parallelism="FSDP")),
        workers=2,
        reference=shared("safe", workers=2),
        referenceSteps=8,
    )

    report = container.run(order)

    assert [own.outcome for own in report.results] == [Outcome.SUCCEEDED] * 3, report.results
    assert [set(own.metrics) - {"loss_deviation_ratio"} for own in report.results] == [OF_STEPS] * 3
    assert report.results[0].metrics["loss_deviation_ratio"] == 0, "the same settings from the same weights"
    steps = {place: [own[1:3] for own in container.seen() if own[0] == place] for place in ("00", "10")}
    assert Counter(name for name, _ in steps["00"]) == Counter(name for name, _ in steps["10"])
    for (name, first), (other, second) in zip(steps["00"], steps["10"], strict=True):
        assert name == other
        assert len(first) == len(second) == 4, "half of the batch each"
        assert second == [number + 4 for number in first], "different samples of the same step"


def scaled(name, scale, hook):
    """Return a stage of two workers whose loss, and with it all gradients, is larger or smaller."""
    found = shared(name, workers=2, communicationHook=hook)
    found["model"]["parameters"] = {"scale": scale}
    return found


@pytest.mark.slow
def test_rounded_gradients_are_compared_with_those_that_are_not(container):
    """AdamW does not mind the scale of a loss, and BF16 hardly; FP16 has neither large nor small numbers."""
    steps = 20
    order = profile_order(
        candidate(0, scaled("usual", 1.0, "BF16"), guarded=True),
        candidate(1, scaled("large", 1e7, "FP16"), guarded=True),
        candidate(2, scaled("small", 3e-8, "FP16"), guarded=True),
        candidate(3, scaled("small-too", 3e-8, "BF16"), guarded=True),
        workers=2,
        reference=shared("plain", workers=2),
        referenceSteps=steps,
    )

    report = container.run(order)

    usual, large, small, wide = report.results
    assert [own.reason for own in report.results] == [None, "NonFiniteLoss", None, None]
    assert large.outcome is Outcome.INFEASIBLE
    assert "stage large: loss must be finite" in large.message
    assert "in FP32 with gradients sent as FP16" in large.message
    assert 0 < usual.metrics["loss_deviation_ratio"] < 0.05, "it is rounded, and hardly matters"
    assert 0 < wide.metrics["loss_deviation_ratio"] < 0.05
    assert small.metrics["loss_deviation_ratio"] > 0.5, "gradients that are too small for FP16 are lost"
    for place in ("00", "10"):
        seen = [own[1:3] for own in container.seen() if own[0] == place]
        end = max(number for number, own in enumerate(seen) if own[0] == "usual") + 1
        ours, safe = seen[end - steps : end], seen[end : end + steps]
        assert {name for name, _ in safe} == {"plain"}
        assert [numbers for _, numbers in ours] == [numbers for _, numbers in safe], "the same samples"


@pytest.mark.slow
def test_two_processes_of_one_pod_share_its_processors(container):
    order = profile_order(
        candidate(0, shared("usual", processes=2)),
        candidate(1, shared("narrow", processes=2, threads=1)),
        processesPerWorker=2,
    )

    report = container.run(order)

    assert [own.outcome for own in report.results] == [Outcome.SUCCEEDED] * 2, report.results
    seen = container.seen()
    assert {own[0] for own in seen} == {"00", "01"}
    usual = {own[3] for own in seen if own[1] == "usual"}
    assert len(usual) == 1
    assert usual.pop() <= max(1, len(os.sched_getaffinity(0)) // 2)
    assert {own[3] for own in seen if own[1] == "narrow"} == {1}


@pytest.mark.slow
def test_what_one_process_or_all_refuse_is_named_and_the_others_are_measured(container):
    hungry = shared("hungry", workers=2)
    hungry["model"]["parameters"] = {"fails": "10"}
    order = profile_order(
        candidate(0, shared("both", workers=2, parallelism="FSDP", communicationHook="BF16")),
        candidate(1, shared("odd", workers=2, accumulation=8)),
        candidate(2, shared("first", workers=2)),
        candidate(3, hungry),
        candidate(4, shared("last", workers=2)),
        workers=2,
    )

    report = container.run(order)

    reasons = [own.reason for own in report.results]
    assert reasons == ["UnsupportedHook", "IndivisibleBatch", None, "OutOfMemory", None]
    assert [own.outcome is Outcome.INFEASIBLE for own in report.results] == [True, True, False, True, False]
    counts = Counter((own[0], own[1]) for own in container.seen())
    assert {name for _, name in counts} == {"first", "hungry", "last"}, "what all refuse is not begun"
    assert counts["00", "first"] == counts["10", "first"] >= 21
    assert counts["00", "last"] == counts["10", "last"] >= 21
    assert counts["00", "hungry"] <= 1
    assert counts["10", "hungry"] == 1


@pytest.mark.slow
def test_workers_that_do_not_come_make_their_settings_infeasible(container):
    order = profile_order(candidate(0, shared("two", workers=2)), workers=2)

    pod = container.start(order, 0, NASCALE_MEETING_TIMEOUT_SECONDS="0.5")
    _, errors = pod.communicate(timeout=280)

    assert pod.returncode == 0, errors
    (result,) = parse_report((container.folder / "message-0").read_text(), ["demo-0"]).results
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, "WorkersAbsent")
    assert "workers: must be as many as the cluster can run at the same time, not 2" in result.message


def test_what_is_known_is_kept_once_and_survives(tmp_path: Path):
    notes = ProfileNotes(tmp_path / "new")
    order = profile_order(
        candidate(0, shared("a", workers=2)), candidate(1, shared("a", workers=2)), workers=2
    )
    first = CandidateReport(trial="demo-1", outcome=Outcome.SUCCEEDED, metrics={"step_p50_seconds": 0.5})

    assert notes.results(order) == {}
    notes.keep(first)
    notes.keep(first.model_copy(update={"outcome": Outcome.FAILED}))
    (tmp_path / "new/results/demo-0.json").write_text("{")

    assert ProfileNotes(tmp_path / "new").results(order) == {"demo-1": first}
    assert [notes.missed_meeting(), notes.missed_meeting()] == [1, 2]
    assert [own.trial for own in absent(order, "nobody came")] == ["demo-0", "demo-1"]


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "NASCALE_RUN_DIRECTORY: must be set"),
        ({"NASCALE_RUN_DIRECTORY": "/run", "JOB_COMPLETION_INDEX": "2"}, "must be 0 to 1, not '2'"),
    ],
)
def test_a_container_without_its_place_is_refused(environ, message):
    order = profile_order(candidate(0, shared("a", workers=2)), workers=2)
    with pytest.raises(ContractError, match=message):
        profile_worker.check_place(order, environ)


def test_schedules_are_tried_by_one_process():
    order = profile_order(
        candidate(0, stage("a")), task="TrainSchedule", metrics=["loss", "training_seconds"], workers=2
    )
    with pytest.raises(ContractError, match=r"workers, processesPerWorker: must be 1 for task TrainSchedule"):
        check_usable(order)


def test_a_container_that_lacks_the_folder_says_so_for_each_trial(tmp_path):
    from nascale_trainer.progressive import profile_container  # noqa: PLC0415  # as the containers do
    from nascale_trainer.stop_request import StopRequest  # noqa: PLC0415  # as the containers do

    order = profile_order(candidate(0, shared("a", workers=2)), workers=2, measurement=QUICK)
    environ = {"NASCALE_WORK_ORDER": order.to_json(), "NASCALE_TERMINATION_LOG": str(tmp_path / "message")}
    code = profile_container.main(lambda *_: TinyTask(), stop=StopRequest(), environ=environ)
    assert code == EXIT_UNUSABLE_ORDER
    (result,) = parse_report((tmp_path / "message").read_text(), ["demo-0"]).results
    assert "NASCALE_RUN_DIRECTORY: must be set" in result.message
