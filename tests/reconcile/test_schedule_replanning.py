"""A generated schedule while it runs: predictions that were off, stages that end early."""

from __future__ import annotations

from typing import Any

import pytest
from tests.reconcile.generations import SimulatedGeneration, generated, generated_training
from tests.reconcile.test_schedule_generation import planned, reasons
from tests.reconcile.trainings import condition, ended, operator_of, run_until

from nascale.progressive.generation import rules

LENGTH = 3000


@pytest.fixture(autouse=True)
def bold_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let schedules begin at half the size, so that there are several stages to plan again."""
    monkeypatch.setattr(rules, "CONSERVATIVE", rules.Floor(scale=0.4, mean_scale=0.65))
    monkeypatch.setattr(rules, "COMPOUND_STARTS", (0.5, 0.7))
    monkeypatch.setattr(rules, "COMPOUND_SHARES", ((0.3, 0.25), (0.5, 0.25)))
    monkeypatch.setattr(rules, "RAMP_STAGES", 3)


def running(**more: Any) -> SimulatedGeneration:
    generate = more.pop("generate", {})
    cluster = SimulatedGeneration(generated_training(length=f"{LENGTH}sp", **generate), slow=100.0, **more)
    run_until(cluster, operator_of(cluster), lambda: planned(cluster))
    return cluster


def to_the_end(cluster: SimulatedGeneration) -> None:
    run_until(cluster, operator_of(cluster), lambda: ended(cluster), ticks=900)
    assert condition(cluster, "Succeeded")["status"] == "True"
    assert cluster.committed.samples == LENGTH


def slow_channels_last() -> SimulatedGeneration:
    """Return a training whose first stage is as fast as predicted, and whose later ones are far slower."""
    return running(narrow=True, off={"ChannelsLast": 8.0})


def lengths(stages: list[Any]) -> list[int]:
    """Return the lengths of all stages but the last one, which takes what is left."""
    return [int(stage["length"].removesuffix("sp")) for stage in stages[:-1]]


def formats(stages: list[Any]) -> list[str]:
    return [stage.get("hardware", {}).get("memoryFormat", "Contiguous") for stage in stages]


def ratios(cluster: SimulatedGeneration) -> list[float]:
    return [float(row["observedRatio"]) for row in generated(cluster)["table"] if "observedRatio" in row]


def test_what_is_as_predicted_stays_as_planned():
    cluster = running()
    before = generated(cluster)["stages"]
    to_the_end(cluster)
    assert generated(cluster)["stages"] == before
    assert generated(cluster)["plan"] == 1
    assert ratios(cluster)
    assert all(abs(ratio - 1) < 0.05 for ratio in ratios(cluster))
    assert generated(cluster)["considered"] == []


def in_steps(cluster: SimulatedGeneration) -> float:
    """Return the predicted time of all steps."""
    return sum(float(row["seconds"]) - float(row["switchSeconds"]) for row in generated(cluster)["table"])


def test_pauses_between_steps_count_in_the_prediction_and_are_no_error():
    """A loader that is late for every tenth step: the median step doesn't know, the sum of all does."""
    steady, cluster = running(), running(pauses=(1.4, 1.4), compiles=60.0)
    assert in_steps(cluster) == pytest.approx(1.4 * in_steps(steady), rel=1e-3)
    to_the_end(cluster)
    assert generated(cluster)["plan"] == 1
    assert len(ratios(cluster)) > 1
    assert all(abs(ratio - 1) < 0.05 for ratio in ratios(cluster)), "the first step of each stage is left out"
    assert generated(cluster)["considered"] == []


def test_a_trainer_that_tells_no_throughput_is_predicted_by_its_median_step():
    steady, cluster = running(), running(pauses=(1.4, 1.0), tells_throughput=False)
    assert in_steps(cluster) == pytest.approx(in_steps(steady), rel=1e-6)


def test_pauses_that_come_with_the_training_make_the_prediction_wrong():
    cluster = running(pauses=(1.0, 1.4), compiles=60.0)
    to_the_end(cluster)
    first, *later = ratios(cluster)
    assert first == pytest.approx(1, rel=0.05), "what its first step took is not told: it has the benefit"
    assert later
    assert all(ratio == pytest.approx(1 / 1.4, rel=0.05) for ratio in later)
    assert generated(cluster)["considered"], "it was looked at"


def test_settings_that_are_slower_than_predicted_are_left():
    cluster = slow_channels_last()
    before = generated(cluster)["stages"]
    assert formats(before) == ["Contiguous", "ChannelsLast", "ChannelsLast"]
    to_the_end(cluster)
    found = generated(cluster)
    assert found["plan"] == 2
    assert found["stages"][:2] == before[:2], "a stage that has begun keeps its settings"
    assert found["stages"][2]["hardware"] != before[2]["hardware"]
    assert "off its prediction" in found["reason"]
    assert [row["name"] for row in found["table"]] == [stage["name"] for stage in found["stages"]]
    assert reasons(cluster).count("ScheduleReplanned") == 1
    assert cluster.counted["training_plans", "Replanned"] == 1
    assert condition(cluster, "StageApplied")["status"] == "True"
    trained = cluster.owner["status"]["stages"]
    assert [entry["name"] for entry in trained] == [stage["name"] for stage in found["stages"]]


def test_a_crash_at_any_write_of_the_new_plan_leads_to_the_same_one():
    def run(crash_after_plan: int | None) -> SimulatedGeneration:
        cluster = slow_channels_last()
        if crash_after_plan is not None:
            cluster.crash_at = len(cluster.writes) + crash_after_plan
        run_until(cluster, operator_of(cluster), lambda: generated(cluster)["plan"] == 2, ticks=600)
        return cluster

    whole = run(None)
    writes = len(whole.writes) - len(slow_channels_last().writes)
    for write in range(max(1, writes - 4), writes + 1):
        broken = run(write)
        assert generated(broken)["stages"] == generated(whole)["stages"]
        assert generated(broken)["plan"] == 2


def test_what_is_slower_altogether_is_no_reason_to_leave_settings():
    cluster = running(off={"BF16": 8.0})
    before = generated(cluster)["stages"]
    to_the_end(cluster)
    assert generated(cluster)["stages"] == before
    assert generated(cluster)["plan"] == 1
    assert generated(cluster)["considered"], "it was looked at"


@pytest.mark.parametrize(
    "own", [{"plateau": {"metric": "loss", "goal": "Minimize", "evaluations": 3}}, {}], ids=["own", "default"]
)
def test_stages_that_adapt_have_a_plateau_before_the_last_one(own: dict[str, Any]):
    cluster = running(generate={"adapt": True, **own}, plateau=True)
    stages = generated(cluster)["stages"]
    assert len(stages) > 1
    assert all(stage["until"]["plateau"]["metric"] == "loss" for stage in stages[:-1])
    assert "until" not in stages[-1]
    to_the_end(cluster)
    ends = [entry["endSamples"] for entry in cluster.owner["status"]["stages"]]
    assert ends[0] < int(stages[0]["length"].removesuffix("sp")), "it has ended early"
    assert generated(cluster)["endedEarly"] == [stage["name"] for stage in stages[:-2]]
    assert generated(cluster)["lengthened"] == []


def test_an_early_end_is_shared_out_although_the_next_stage_has_begun():
    """Each stage has its part of what the first one has left, and the last one too."""
    cluster = running(generate={"adapt": True}, plateau=True)
    before = lengths(generated(cluster)["stages"])
    first = generated(cluster)["stages"][0]["name"]
    run_until(cluster, operator_of(cluster), lambda: first in generated(cluster)["endedEarly"])
    found = generated(cluster)
    assert found["plan"] == 2
    assert found["reason"] == f"{first} has ended early"
    after = lengths(found["stages"])
    assert after[0] == before[0], "what has passed stays as it was written"
    assert after[1] < before[1], "its bound moves towards where the first stage has ended"
    assert sum(after) < sum(before), "the last stage is longer"
    assert reasons(cluster).count("ScheduleReplanned") == 1
    to_the_end(cluster)
    assert condition(cluster, "StageApplied")["status"] == "True"


def test_settings_that_turn_out_slow_after_an_early_end_are_left_by_those_to_come():
    cluster = running(narrow=True, off={"ChannelsLast": 8.0}, generate={"adapt": True}, plateau=True)
    before = generated(cluster)["stages"]
    assert formats(before) == ["Contiguous", "ChannelsLast", "ChannelsLast"]
    to_the_end(cluster)
    found = generated(cluster)
    assert found["endedEarly"] == [before[0]["name"]]
    assert found["considered"] == [before[1]["name"]]
    assert found["plan"] == 3
    assert found["stages"][1]["hardware"] == before[1]["hardware"], "it had begun when the first one ended"
    assert found["stages"][-1]["hardware"] != before[-1]["hardware"]


def test_a_stage_that_still_gets_better_near_its_end_lasts_a_quarter_longer():
    cluster = running(generate={"adapt": True, "finalShare": "0.2"}, gains=True)
    before = generated(cluster)["stages"]
    to_the_end(cluster)
    found = generated(cluster)
    names = [stage["name"] for stage in before]
    assert found["lengthened"] == names[:-1]
    assert found["plan"] == 1 + len(names[:-1])
    assert reasons(cluster).count("ScheduleReplanned") == len(names[:-1])
    first, planned_first = lengths(found["stages"])[0], lengths(before)[0]
    assert first == planned_first + round(rules.EXTENSION * planned_first)
    ends = [entry["endSamples"] for entry in cluster.owner["status"]["stages"]]
    assert ends[0] >= first
    assert LENGTH - ends[-2] >= 0.2 * LENGTH - 10, "the last stage has its share, but for a step"
    assert found["stages"][-1].get("model", {}).keys() <= {"learningRateFactor"}
    assert sum(float(row["seconds"]) for row in found["table"]) == pytest.approx(
        float(found["seconds"]), rel=1e-4
    )
    assert condition(cluster, "StageApplied")["status"] == "True"


def test_a_metric_that_waits_or_a_training_that_does_not_adapt_lets_no_stage_last_longer():
    for more in ({"gains": False, "generate": {"adapt": True}}, {"gains": True}):
        cluster = running(**more)
        before = generated(cluster)["stages"]
        to_the_end(cluster)
        assert generated(cluster)["stages"] == before
        assert generated(cluster)["lengthened"] == []


def test_a_plan_that_the_run_refuses_is_taken_back():
    cluster = running(generate={"adapt": True}, gains=True)
    before = generated(cluster)["stages"]
    planned_first = lengths(before)[0]
    cluster.refuses = lambda stages: (
        "Unable" if int(stages[0].length.removesuffix("sp")) > planned_first else ""
    )
    run_until(cluster, operator_of(cluster), lambda: generated(cluster)["plan"] == 2)
    assert lengths(generated(cluster)["stages"])[0] > planned_first
    run_until(cluster, operator_of(cluster), lambda: generated(cluster)["stages"] == before)
    found = generated(cluster)
    assert "was refused" in found["reason"]
    assert [row["name"] for row in found["table"]] == [stage["name"] for stage in before]
    assert found["lengthened"] == [before[0]["name"]], "it is not tried again"
    cluster.refuses = lambda _: ""
    to_the_end(cluster)


def test_a_crash_at_any_write_of_a_longer_stage_leads_to_the_same_plan():
    def run(crash_after_plan: int | None) -> SimulatedGeneration:
        cluster = running(generate={"adapt": True}, gains=True)
        if crash_after_plan is not None:
            cluster.crash_at = len(cluster.writes) + crash_after_plan
        run_until(cluster, operator_of(cluster), lambda: generated(cluster)["plan"] == 2, ticks=600)
        return cluster

    whole = run(None)
    writes = len(whole.writes) - len(running(generate={"adapt": True}, gains=True).writes)
    for write in range(max(1, writes - 2), writes + 1):
        broken = run(write)
        assert generated(broken)["stages"] == generated(whole)["stages"]
        assert generated(broken)["lengthened"] == generated(whole)["lengthened"]
