"""The guard: the same weights and samples twice, hardware settings apart; how far the losses move apart."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.trainer.progressive.profile_orders import ALONE, candidate, profile_order, ticking
from tests.trainer.progressive.tiny_task import CPU, TinyTask, stage

from nascale.contract.report import Outcome
from nascale_trainer.device import supported_precisions
from nascale_trainer.outcomes import Stopped
from nascale_trainer.progressive import step_measurement
from nascale_trainer.progressive.guard import deviation_ratio
from nascale_trainer.progressive.profiling import profile

FAST = "BF16" if "BF16" in supported_precisions(CPU) else "FP32"
STEPS = 10
SAFE = stage("safe")


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    monkeypatch.setattr(step_measurement, "time", ticking())


class NamedTask(TinyTask):
    """Remembers the stage, the samples and the network's type of each forward pass."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.first_weights = {}

    def loss(self, network, batch, stage):
        self.first_weights.setdefault((stage.name, len(self.seen)), network.head.weight.detach().clone())
        loss = super().loss(network, batch, stage)
        self.seen.append((stage.name, tuple(self.numbers[-1]), self.batches[-1][2].dtype))
        return loss


def guard(task, *candidates, reference=SAFE, **options):
    order = profile_order(
        *candidates,
        metrics=["loss_deviation_ratio"],
        reference=reference,
        referenceSteps=STEPS,
        length="20ba",
    )
    return profile(order, lambda _order, _device: task, device=CPU, environ=ALONE, **options).results


def guarded(number, the_stage):
    return candidate(number, the_stage, guarded=True)


def parts(task):
    """Return the guard's two trainings: after all measured steps, and the reference at the end."""
    return task.seen[-2 * STEPS : -STEPS], task.seen[-STEPS:]


def test_both_trainings_see_the_same_samples_and_differ_in_hardware_settings_alone():
    task = NamedTask()
    fast = stage("fast", model={"globalBatch": 16}, hardware={"precision": FAST})
    (result,) = guard(task, guarded(0, fast))
    assert result.outcome is Outcome.SUCCEEDED, result.message
    ours, safe = parts(task)
    assert {name for name, _, _ in ours} == {"fast"}
    assert {name for name, _, _ in safe} == {"safe"}
    assert [numbers for _, numbers, _ in ours] == [numbers for _, numbers, _ in safe]
    assert [len(numbers) for _, numbers, _ in safe] == [16] * STEPS, "the candidate's own model-level values"
    assert ours[0][1] == tuple(range(16)), "from the first sample on"
    assert {dtype for _, _, dtype in safe} == {torch.float32}
    begin = len(task.seen) - 2 * STEPS
    weights = task.first_weights
    assert torch.equal(weights["fast", begin], weights["safe", begin + STEPS]), "from the same weights"
    assert 0 <= result.metrics["loss_deviation_ratio"] < 0.1


def test_settings_that_are_the_references_own_deviate_by_nothing():
    (result,) = guard(NamedTask(), guarded(0, stage("same")))
    assert result.metrics["loss_deviation_ratio"] == 0.0


def test_settings_that_spoil_the_training_deviate_by_much():
    task = NamedTask()
    task.before_loss = lambda the_stage: -1.0 if the_stage.name == "bad" else None
    results = guard(task, guarded(0, stage("bad")), guarded(1, stage("good")))
    assert results[0].metrics["loss_deviation_ratio"] > 1
    assert results[1].metrics["loss_deviation_ratio"] == 0.0


def test_a_candidate_that_is_not_guarded_costs_no_such_training():
    task = NamedTask()
    order = profile_order(candidate(0, stage("free")), reference=SAFE)
    (result,) = profile(order, lambda _order, _device: task, device=CPU, environ=ALONE).results
    assert "loss_deviation_ratio" not in result.metrics
    assert {name for name, _, _ in task.seen} == {"free"}


def losing(name, after):
    """Return what makes a stage's loss no number, after so many of its forward passes."""
    passes = []

    def before(the_stage):
        if the_stage.name != name:
            return None
        passes.append(name)
        return math.nan if len(passes) > after else None

    return before


def losing_in_the_guard(task, name):
    """Return what makes a stage's loss no number from its second beginning at the first sample on."""
    beginnings = []

    def before(the_stage):
        if the_stage.name != name:
            return None
        if int(task.numbers[-1][0]) == 0:
            beginnings.append(name)
        return math.nan if len(beginnings) > 1 else None

    return before


def test_a_loss_that_is_no_number_is_infeasible_and_what_was_measured_is_kept():
    task = NamedTask()
    task.before_loss = losing_in_the_guard(task, "fast")
    (result,) = guard(task, guarded(0, stage("fast")))
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, "NonFiniteLoss")
    assert "stage fast: loss must be finite" in result.message
    assert result.metrics["step_p50_seconds"] > 0


def test_a_reference_whose_own_loss_is_no_number_is_not_the_candidates_fault():
    task = NamedTask()
    task.before_loss = losing("safe", after=2)
    (result,) = guard(task, guarded(0, stage("fast")))
    assert (result.outcome, result.reason) == (Outcome.FAILED, "ReferenceDiverged")


def test_a_reference_that_can_not_be_had_is_named():
    broken = stage("safe", hardware={"accumulation": 3})
    (result,) = guard(NamedTask(), guarded(0, stage("fast")), reference=broken)
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, "IndivisibleBatch")
    assert "safe" in result.message


def test_a_request_to_stop_is_honoured_between_two_steps():
    task = NamedTask()
    with pytest.raises(Stopped):
        guard(
            task,
            guarded(0, stage("fast")),
            stop=lambda: [name for name, _, _ in task.seen].count("safe") >= 3,
        )
    assert [name for name, _, _ in task.seen].count("safe") == 3


losses = st.lists(st.floats(0.01, 10), min_size=8, max_size=40)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is slow
@given(losses)
def test_a_training_does_not_deviate_from_itself(values):
    assert deviation_ratio(values, values) == 0


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(losses, st.floats(0.1, 10))
def test_the_ratio_has_no_unit(values, factor):
    other = list(reversed(values))
    scaled = deviation_ratio([factor * x for x in other], [factor * x for x in values])
    assert scaled == pytest.approx(deviation_ratio(other, values), rel=1e-6, abs=1e-9)


def test_the_ratio_is_relative_to_the_references_fall():
    expected = [3.0] * 2 + [2.0] * 4 + [1.0] * 2
    assert deviation_ratio([3.0] * 2 + [2.0] * 4 + [1.5] * 2, expected) == pytest.approx(0.25)
    assert deviation_ratio([3.0] * 8, expected) == pytest.approx(1.0), "one that has not learnt at all"


def test_a_reference_that_has_hardly_learnt_makes_no_ratio_of_noise():
    flat = [2.0] * 8
    assert deviation_ratio([2.001] * 8, flat) == pytest.approx(0.01)
    assert deviation_ratio([0.0] * 8, [0.0] * 8) == 0
