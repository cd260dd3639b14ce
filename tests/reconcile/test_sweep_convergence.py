"""Whatever happens on the way, a sweep ends as it should, and then keeps still."""

from __future__ import annotations

import copy
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reconcile.simulation import SimulatedCluster, SimulatedOperator
from tests.reconcile.sweeps import measured, sweep
from tests.reconcile.test_convergence import SIMULATED, seeded_fate

from nascale.reconcile.scaling_sweep import plan


def operated(document: dict[str, Any], **options: Any) -> tuple[SimulatedCluster, SimulatedOperator]:
    cluster = SimulatedCluster(document, **{"measure": measured, **options})
    return cluster, SimulatedOperator(cluster, planner=plan)


def assert_sound(cluster: SimulatedCluster) -> None:
    """Check what holds at the end of every sweep."""
    spec, status = cluster.owner["spec"], cluster.owner["status"]
    trials = cluster.trials.values()
    outcomes = Counter(trial["status"]["outcome"] for trial in trials)
    assert set(cluster.outcomes_written.values()) <= {1}, "a trial ends exactly once"
    assert len(trials) == sum(outcomes.values()) == status["finished"] <= spec["budget"]["maxTrials"]
    counts = status["trials"]
    assert (counts["pending"], counts["running"]) == (0, 0)
    assert counts["succeeded"] == outcomes["Succeeded"]
    assert counts["failed"] == outcomes["Failed"]
    assert counts["earlyStopped"] == outcomes["EarlyStopped"]
    assert counts["metricsUnavailable"] == outcomes["MetricsUnavailable"]
    conditions = {entry["type"]: entry for entry in status["conditions"]}
    assert set(conditions) == {
        *("Succeeded", "Failed", "Suspended", "Progressing", "MetricsAvailable", "LatencySteady")
    }
    assert conditions["Succeeded"]["status"] != conditions["Failed"]["status"]
    assert_no_training_twice(cluster)
    if conditions["Succeeded"]["status"] == "True":
        assert [member["name"] for member in status["family"]] == [
            member["name"] for member in spec["family"]
        ]
        assert all(member["trial"] in cluster.trials for member in status["family"])


def assert_no_training_twice(cluster: SimulatedCluster) -> None:
    """A network is trained once for each rung and repeat, whoever asks for it."""
    sizes = Counter(
        (
            tuple(
                (entry["name"], entry["value"])
                for entry in trial["spec"]["parameters"]
                if not entry["name"].endswith("_multiplier")
            ),
            trial["spec"]["rung"],
            trial["spec"].get("repeat", 0),
        )
        for trial in cluster.trials.values()
        if trial["spec"]["purpose"] not in ("Reference", "Latency")
    )
    assert set(sizes.values()) <= {1}


def assert_at_rest(cluster: SimulatedCluster) -> None:
    """Check that nothing is written any more, and nothing runs."""
    operator = SimulatedOperator(cluster, planner=plan)
    for _ in range(5):
        operator.settle()
        cluster.tick(30)
    before = len(cluster.writes)
    for _ in range(5):
        assert operator.look() is False
        assert operator.last.actions == ()
        assert operator.last.status is None
        assert operator.last.requeue_after_seconds is None
        cluster.tick(60)
    assert len(cluster.writes) == before
    live = [pod for pod in cluster.pods.values() if pod["status"]["phase"] in ("Pending", "Running")]
    assert live == []


@settings(SIMULATED, max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    parallel=st.integers(1, 4),
    per_pod=st.integers(2, 5),
    retries=st.integers(0, 2),
    mode=st.sampled_from(["Compound", "PerLevel"]),
)
def test_every_mix_of_fates_ends_with_counts_that_add_up(seed, parallel, per_pod, retries, mode):
    budget = {
        "parallelTrials": parallel,
        "trialsPerPod": per_pod,
        "trialRetries": retries,
        "maxFailedTrials": 200,
    }
    cluster, operator = operated(sweep(budget=budget, coefficients={"mode": mode}), fate=seeded_fate(seed))
    operator.run(4000)
    assert_sound(cluster)
    assert_at_rest(cluster)


@settings(SIMULATED, max_examples=8)
@given(seed=st.integers(0, 10_000), parallel=st.integers(1, 3), per_pod=st.integers(2, 4))
def test_old_snapshots_do_no_harm(seed, parallel, per_pod):
    budget = {"parallelTrials": parallel, "trialsPerPod": per_pod, "maxFailedTrials": 200}
    cluster, operator = operated(sweep(budget=budget), fate=seeded_fate(seed))
    drawn = random.Random(seed)

    def lag(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # Every kind's watch lags by itself, up to twenty looks; half of the looks are up to date.
        if drawn.random() < 0.5:
            return []
        recent = history[-20:]
        return [{kind: copy.deepcopy(drawn.choice(recent)[kind])} for kind in ("trials", "jobs", "pods")]

    operator.lag = lag
    for _ in range(400):
        for _ in range(3):
            operator.look()
        if "completionTime" in cluster.owner.get("status", {}):
            break
        cluster.tick()
    operator = SimulatedOperator(cluster, planner=plan)
    operator.run(4000)
    operator.settle()
    unended = [name for name, trial in cluster.trials.items() if "outcome" not in trial.get("status", {})]
    assert unended == []
    assert set(cluster.outcomes_written.values()) == {1}
    assert_at_rest(cluster)


def final_state(cluster: SimulatedCluster) -> Any:
    """Reduce a cluster to what must not depend on when the operator crashed."""
    trials = {
        name: (trial["spec"], trial["status"]["outcome"], trial["status"].get("metrics"))
        for name, trial in cluster.trials.items()
    }
    kept = ("trials", "finished", "family", "baselines", "coefficients", "reference", "vectors", "summary")
    return trials, {key: cluster.owner["status"].get(key) for key in kept}


def found_family(cluster: SimulatedCluster) -> Any:
    """Reduce a cluster to what the sweep was for."""
    status = cluster.owner["status"]
    conditions = {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]}
    members = [{key: value for key, value in member.items() if key != "trial"} for member in status["family"]]
    return conditions, members, status["summary"]


@pytest.mark.parametrize("ends", [("report",), ("report", "report", "crash", "evict", "delete")])
def test_a_crash_at_any_write_leads_to_the_same_end(ends):
    def run(crash_at: int | None) -> SimulatedCluster:
        budget = {"parallelTrials": 1, "maxFailedTrials": 200}
        cluster, operator = operated(sweep(budget=budget, baselines=[]), fate=seeded_fate(7, ends))
        cluster.crash_at = crash_at
        operator.run(4000)
        return cluster

    unbroken = run(None)
    assert len(unbroken.writes) > 30
    for write in range(1, len(unbroken.writes) + 1):
        broken = run(write)
        assert found_family(broken) == found_family(unbroken), f"crash at write {write}"
        # Before all trials of a pod are created, a crash leaves one that is not full: the others come later.
        if unbroken.writes[write - 1] != "CreateTrial":
            assert final_state(broken) == final_state(unbroken), f"crash at write {write}"
        assert_sound(broken)
    assert_at_rest(broken)


@settings(SIMULATED, max_examples=8)
@given(seed=st.integers(0, 10_000), crash_at=st.integers(1, 80), per_pod=st.integers(2, 4))
def test_a_crash_between_parallel_trials_does_no_harm(seed, crash_at, per_pod):
    budget = {"parallelTrials": 3, "trialsPerPod": per_pod, "maxFailedTrials": 200}
    cluster, operator = operated(sweep(budget=budget), fate=seeded_fate(seed))
    cluster.crash_at = crash_at
    operator.run(4000)
    assert_sound(cluster)
    assert_at_rest(cluster)


def test_the_same_seed_gives_the_same_trials_and_another_seed_others():
    def run(seed: int) -> Any:
        cluster, operator = operated(sweep(exploration={"seed": seed, "vectors": 6}))
        operator.run()
        return final_state(cluster)

    assert run(1) == run(1)
    assert run(1)[0] != run(2)[0]


@settings(SIMULATED, max_examples=10)
@given(seed=st.integers(0, 10_000), queued=st.booleans())
def test_suspending_at_any_time_loses_no_trial(seed, queued):
    labels = {"kueue.x-k8s.io/queue-name": "team"} if queued else None
    cluster, operator = operated(sweep(labels=labels), fate=seeded_fate(seed, ("report", "evict")))
    drawn = random.Random(seed)
    for _ in range(4):
        for _ in range(drawn.randint(0, 5)):
            operator.settle()
            cluster.tick()
        if "completionTime" in cluster.owner.get("status", {}):
            break
        cluster.edit(lambda spec: spec.update(suspend=not spec.get("suspend", False)))
        if not cluster.owner["spec"]["suspend"]:
            continue
        operator.settle()
        for _ in range(3):
            cluster.tick()
            operator.settle()
        running = [pod for pod in cluster.pods.values() if pod["status"]["phase"] in ("Pending", "Running")]
        assert running == [], "nothing runs while the sweep is suspended"
        before = len(cluster.writes)
        operator.settle()
        assert len(cluster.writes) == before
    cluster.edit(lambda spec: spec.update(suspend=False))
    operator.run(4000)
    assert_sound(cluster)
    assert {trial["status"].get("ownFailures", 0) for trial in cluster.trials.values()} == {0}
    assert_at_rest(cluster)
