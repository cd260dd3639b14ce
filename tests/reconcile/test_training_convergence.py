"""Whatever happens on the way, a training trains its whole length, loses nothing saved, and keeps still."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reconcile.simulation import Fate
from tests.reconcile.test_convergence import SIMULATED
from tests.reconcile.trainings import (
    SimulatedTraining,
    condition,
    ended,
    operator_of,
    order_of,
    run_until,
    stage,
    training,
)

STAGES = (
    stage("a", 60),
    stage("b", 60, workers=2),
    stage("c", 60, workers=2, precision="BF16"),
    stage("d", 60),
)
WHOLE = 240
ENDS = ("report", "report", "report", "evict", "crash", "oom")


def seeded_fate(seed: int) -> Any:
    """Draw each pod's fate from its name alone; from the third pod of a place on, fortune is kind."""

    def fate(job: dict[str, Any], ordinal: int) -> Fate:
        drawn = random.Random(f"{seed}/{job['metadata']['name']}/{ordinal}")
        kind = ordinal % 100 > 1
        return Fate("report" if kind else drawn.choice(ENDS), seconds=drawn.randint(1, 12))

    return fate


def assert_sound(cluster: SimulatedTraining) -> None:
    """Check what holds at the end of every training that succeeds."""
    status = cluster.owner["status"]
    assert condition(cluster, "Succeeded")["status"] == "True", status["conditions"]
    assert cluster.committed.samples == status["samples"] == WHOLE
    begins = [begin for begin, _ in cluster.trained]
    ends = [end for _, end in cluster.trained]
    assert [0, *ends[:-1]] == begins, "what checkpoints hold is trained once, without a gap"
    numbers = sorted(order_of(job).generation for job in cluster.jobs.values())
    assert len(set(numbers)) == len(numbers)
    assert status["runGeneration"] == max(numbers, default=status["runGeneration"])
    assert [entry["endSamples"] for entry in status["stages"]] == [60, 120, 180, 240]
    assert len({entry["type"] for entry in status["conditions"]}) == len(status["conditions"]) == 11


def assert_at_rest(cluster: SimulatedTraining) -> None:
    """Check that nothing is written any more, and nothing runs."""
    operator = operator_of(cluster)
    for _ in range(3):
        operator.settle()
        cluster.tick(700)
    before = len(cluster.writes)
    for _ in range(3):
        assert operator.look() is False
        assert operator.last.actions == ()
        assert operator.last.requeue_after_seconds is None
        cluster.tick(60)
    assert len(cluster.writes) == before
    assert cluster.jobs == {}


@settings(SIMULATED, max_examples=12)
@given(seed=st.integers(0, 10_000), away=st.booleans())
def test_every_mix_of_fates_ends_with_the_whole_length(seed, away):
    cluster = SimulatedTraining(
        training(*STAGES, restarts={"maxRestarts": 20}), fate=seeded_fate(seed), away=away
    )
    operator = operator_of(cluster)
    run_until(cluster, operator, lambda: ended(cluster))
    operator.settle()
    assert_sound(cluster)
    assert_at_rest(cluster)


@settings(SIMULATED, max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_old_snapshots_do_no_harm(seed):
    cluster = SimulatedTraining(training(*STAGES, restarts={"maxRestarts": 20}), fate=seeded_fate(seed))
    drawn = random.Random(seed)

    def lag(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if drawn.random() < 0.5:
            return []
        # The jobs of a look are at least as new as its pods', and neither older than a few looks.
        recent = history[-6:]
        return [{kind: copy.deepcopy(drawn.choice(recent)[kind])} for kind in ("jobs", "pods")]

    operator = operator_of(cluster, lag=lag)
    for _ in range(400):
        for _ in range(3):
            operator.look()
        if ended(cluster):
            break
        cluster.tick()
    fresh = operator_of(cluster)
    run_until(cluster, fresh, lambda: ended(cluster))
    fresh.settle()
    assert condition(cluster, "Succeeded")["status"] == "True"
    assert cluster.committed.samples == WHOLE
    assert_at_rest(cluster)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_crash_at_any_write_leads_to_the_same_end(seed):
    def run(crash_at: int | None) -> SimulatedTraining:
        cluster = SimulatedTraining(
            training(*STAGES, restarts={"maxRestarts": 20}),
            fate=seeded_fate(seed) if seed is not None else lambda _job, _ordinal: Fate(),
        )
        cluster.crash_at = crash_at
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: ended(cluster))
        operator.settle()
        return cluster

    def final(cluster: SimulatedTraining) -> Any:
        status = cluster.owner["status"]
        kept = ("runGeneration", "samples", "step", "result", "progressPercentage", "summary")
        return (
            {key: status.get(key) for key in kept},
            {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]},
            [(entry["name"], entry["beginSamples"], entry["endSamples"]) for entry in status["stages"]],
            [order_of(job).to_json() for job in cluster.jobs.values()],
        )

    unbroken = run(None)
    expected = final(unbroken)
    important = [place for place, what in enumerate(unbroken.writes, 1) if what != "Status"]
    assert len(important) >= 3
    for write in sorted({*important, *(place + 1 for place in important), *range(1, 8)}):
        broken = run(write)
        assert final(broken) == expected, f"crash at write {write}"
        assert_sound(broken)


@settings(SIMULATED, max_examples=8)
@given(seed=st.integers(0, 10_000), queued=st.booleans())
def test_suspending_at_any_time_loses_nothing(seed, queued):
    labels = {"kueue.x-k8s.io/queue-name": "team"} if queued else None
    cluster = SimulatedTraining(training(*STAGES, labels=labels))
    drawn = random.Random(seed)
    operator = operator_of(cluster)
    for _ in range(6):
        for _ in range(drawn.randint(0, 12)):
            operator.settle()
            cluster.tick()
        cluster.edit(lambda spec: spec.update(suspend=not spec.get("suspend", False)))
        for _ in range(drawn.randint(0, 80)):
            operator.settle()
            cluster.tick()
        if ended(cluster):
            break
    cluster.edit(lambda spec: spec.update(suspend=False))
    run_until(cluster, operator, lambda: ended(cluster))
    operator.settle()
    assert cluster.lost == 0
    assert_sound(cluster)
    assert_at_rest(cluster)


@settings(SIMULATED, max_examples=5)
@given(seed=st.integers(0, 10_000))
def test_an_operator_that_is_away_for_long_finds_everything_as_it_should_be(seed):
    cluster = SimulatedTraining(training(*STAGES, restarts={"maxRestarts": 20}), fate=seeded_fate(seed))
    drawn = random.Random(seed)
    for _ in range(20):
        operator_of(cluster).settle()
        for _ in range(drawn.randint(1, 2000)):
            cluster.tick()
        if ended(cluster):
            break
    fresh = operator_of(cluster)
    run_until(cluster, fresh, lambda: ended(cluster))
    fresh.settle()
    assert_sound(cluster)


@settings(SIMULATED, max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_edits_at_any_time_reach_the_run_or_the_next_generation(seed):
    cluster = SimulatedTraining(training(*STAGES, restarts={"maxRestarts": 20}), fate=seeded_fate(seed))
    drawn = random.Random(seed)
    operator = operator_of(cluster)
    for _ in range(6):
        for _ in range(drawn.randint(0, 8)):
            operator.settle()
            cluster.tick()
        begun = cluster.owner.get("status", {}).get("stages", [])
        if ended(cluster) or "d" in {entry["name"] for entry in begun} or cluster.committed.place == 3:
            break
        wanted = {"workers": drawn.choice([1, 2, 5])}
        cluster.edit(lambda spec, wanted=wanted: spec["stages"][3].update(hardware=wanted))
    run_until(cluster, operator, lambda: ended(cluster))
    operator.settle()
    assert_sound(cluster)
