"""Whatever happens on the way, a search ends as it should, and then keeps still."""

from __future__ import annotations

import copy
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.reconcile.searches import from_prometheus, search
from tests.reconcile.simulation import Fate, SimulatedCluster, SimulatedOperator

from nascale.reconcile.actions import Reading, ReadingProblem

# The drawn numbers are seeds: a smaller one is no simpler case, so that shrinking would only cost time.
SIMULATED = settings(
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
ENDS = ("report", "report", "report", "crash", "oom", "evict", "delete", "vanish")


def seeded_fate(seed: int, ends: tuple[str, ...] = ENDS) -> Any:
    """Draw each pod's fate from its name alone, so that a restarted operator meets the same ones."""

    def fate(job: dict[str, Any], ordinal: int) -> Fate:
        name = job["metadata"]["name"]
        drawn = random.Random(f"{seed}/{name}/{ordinal}")
        # From the fourth pod of a Job, and the fourth attempt of a trial on, the infrastructure is kind.
        kind = ordinal > 2 or int(name.rpartition("-a")[2]) > 5
        return Fate("report" if kind else drawn.choice(ends), seconds=drawn.randint(0, 4))

    return fate


def assert_sound(cluster: SimulatedCluster) -> None:
    """Check what holds at the end of every search."""
    spec, status = cluster.owner["spec"], cluster.owner["status"]
    trials = cluster.trials.values()
    outcomes = Counter(trial["status"]["outcome"] for trial in trials)
    assert set(cluster.outcomes_written.values()) <= {1}, "a trial ends exactly once"
    assert len(trials) == sum(outcomes.values()) == status["finished"]
    assert len(trials) <= spec["budget"]["maxTrials"]
    counts = status["trials"]
    assert (counts["pending"], counts["running"]) == (0, 0)
    assert counts["succeeded"] == outcomes["Succeeded"]
    assert counts["failed"] == outcomes["Failed"]
    assert counts["earlyStopped"] == outcomes["EarlyStopped"]
    assert counts["infeasible"] == outcomes["Infeasible"]
    assert counts["metricsUnavailable"] == outcomes["MetricsUnavailable"]
    assert cluster.counted["trials_finished", "Succeeded"] <= outcomes["Succeeded"]
    rung_zero = [
        tuple((entry["name"], entry["value"]) for entry in trial["spec"]["parameters"])
        for trial in trials
        if trial["spec"]["rung"] == 0
    ]
    assert len(set(rung_zero)) == len(rung_zero), "no candidate twice"
    conditions = {entry["type"]: entry for entry in status["conditions"]}
    assert set(conditions) == {"Succeeded", "Failed", "Suspended", "Progressing", "MetricsAvailable"}
    assert conditions["Succeeded"]["status"] != conditions["Failed"]["status"]
    if conditions["Succeeded"]["status"] == "True":
        assert status["baseNetwork"]["trial"] in cluster.trials
        assert all(point["trial"] in cluster.trials for point in status["front"])


def assert_at_rest(cluster: SimulatedCluster) -> None:
    """Check that nothing is written any more, and nothing runs."""
    operator = SimulatedOperator(cluster)
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


@settings(SIMULATED, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    parallel=st.integers(1, 4),
    per_pod=st.integers(1, 3),
    retries=st.integers(0, 2),
)
def test_every_mix_of_fates_ends_with_counts_that_add_up(seed, parallel, per_pod, retries):
    budget = {
        "maxTrials": 8,
        "parallelTrials": parallel,
        "trialsPerPod": per_pod,
        "trialRetries": retries,
        "maxFailedTrials": 8,
    }
    cluster = SimulatedCluster(search(budget=budget), fate=seeded_fate(seed))
    SimulatedOperator(cluster).run()
    assert_sound(cluster)
    assert len(cluster.trials) == 8
    assert_at_rest(cluster)


@settings(SIMULATED, max_examples=15)
@given(seed=st.integers(0, 10_000), parallel=st.integers(1, 3), per_pod=st.integers(1, 2))
def test_old_snapshots_do_no_harm(seed, parallel, per_pod):
    budget = {
        "maxTrials": 6,
        "parallelTrials": parallel,
        "trialsPerPod": per_pod,
        "maxFailedTrials": 6,
    }
    cluster = SimulatedCluster(search(budget=budget), fate=seeded_fate(seed))
    drawn = random.Random(seed)

    def lag(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        # Every kind's watch lags by itself, up to twenty looks; half of the looks are up to date.
        if drawn.random() < 0.5:
            return []
        recent = history[-20:]
        return [{kind: copy.deepcopy(drawn.choice(recent)[kind])} for kind in ("trials", "jobs", "pods")]

    operator = SimulatedOperator(cluster, lag)
    for _ in range(400):
        for _ in range(3):
            operator.look()
        if "completionTime" in cluster.owner.get("status", {}):
            break
        cluster.tick()
    SimulatedOperator(cluster).run()
    SimulatedOperator(cluster).settle()
    status = cluster.owner["status"]
    unended = [name for name, trial in cluster.trials.items() if "outcome" not in trial.get("status", {})]
    assert unended == []
    assert set(cluster.outcomes_written.values()) == {1}
    assert "completionTime" in status
    assert_at_rest(cluster)


def final_state(cluster: SimulatedCluster) -> Any:
    """Reduce a cluster to what must not depend on when the operator crashed."""
    trials = {
        name: (trial["spec"], trial["status"]["outcome"], trial["status"].get("metrics"))
        for name, trial in cluster.trials.items()
    }
    status = cluster.owner["status"]
    conditions = {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]}
    kept = ("trials", "finished", "front", "frontSize", "hypervolume", "best", "baseNetwork")
    return trials, conditions, {key: status.get(key) for key in kept}


@pytest.mark.parametrize("ends", [("report",), ("report", "crash", "evict", "delete")])
def test_a_crash_at_any_write_leads_to_the_same_end(ends):
    def run(crash_at: int | None) -> SimulatedCluster:
        cluster = SimulatedCluster(
            search(budget={"maxTrials": 5, "parallelTrials": 1, "maxFailedTrials": 5}),
            fate=seeded_fate(7, ends),
        )
        cluster.crash_at = crash_at
        SimulatedOperator(cluster).run()
        return cluster

    unbroken = run(None)
    expected = final_state(unbroken)
    assert len(unbroken.writes) > 15
    for write in range(1, len(unbroken.writes) + 1):
        broken = run(write)
        assert final_state(broken) == expected, f"crash at write {write}"
        assert_sound(broken)
        assert_at_rest(broken)


@settings(SIMULATED, max_examples=15)
@given(seed=st.integers(0, 10_000), crash_at=st.integers(1, 40), per_pod=st.integers(1, 2))
def test_a_crash_between_parallel_trials_does_no_harm(seed, crash_at, per_pod):
    budget = {"parallelTrials": 3, "trialsPerPod": per_pod, "maxFailedTrials": 6}
    cluster = SimulatedCluster(search(budget=budget), fate=seeded_fate(seed))
    cluster.crash_at = crash_at
    SimulatedOperator(cluster).run()
    assert_sound(cluster)
    assert len(cluster.trials) == 6
    assert_at_rest(cluster)


def test_the_same_seed_gives_the_same_trials_and_another_seed_others():
    def run(seed: int) -> Any:
        cluster = SimulatedCluster(search(algorithm={"name": "Random", "seed": seed}))
        SimulatedOperator(cluster).run()
        return final_state(cluster)

    assert run(1) == run(1)
    assert run(1)[0] != run(2)[0]


@settings(SIMULATED, max_examples=20)
@given(seed=st.integers(0, 10_000), problem=st.sampled_from([None, *ReadingProblem]))
def test_prometheus_never_holds_up_a_search(seed, problem):
    def prometheus(trial: str, _metric: str) -> Reading:
        if problem is None or random.Random(f"{seed}{trial}").random() < 0.5:
            return Reading(value=0.002)
        return Reading(problem=problem, message="as the test wants it")

    cluster = SimulatedCluster(
        search(objectives=from_prometheus(), budget={"maxFailedTrials": 6}),
        fate=seeded_fate(seed),
        prometheus=prometheus,
    )
    SimulatedOperator(cluster).run()
    assert_sound(cluster)
    assert_at_rest(cluster)


@settings(SIMULATED, max_examples=25)
@given(seed=st.integers(0, 10_000), queued=st.booleans())
def test_suspending_at_any_time_loses_no_trial(seed, queued):
    labels = {"kueue.x-k8s.io/queue-name": "team"} if queued else None
    cluster = SimulatedCluster(search(labels=labels), fate=seeded_fate(seed, ("report", "evict")))
    drawn = random.Random(seed)
    operator = SimulatedOperator(cluster)
    for _ in range(4):
        for _ in range(drawn.randint(0, 5)):
            operator.settle()
            cluster.tick()
        cluster.edit(lambda spec: spec.update(suspend=not spec.get("suspend", False)))
        if "completionTime" in cluster.owner.get("status", {}):
            break
        if not cluster.owner["spec"]["suspend"]:
            continue
        operator.settle()
        for _ in range(3):
            cluster.tick()
            operator.settle()
        running = [pod for pod in cluster.pods.values() if pod["status"]["phase"] in ("Pending", "Running")]
        assert running == [], "nothing runs while the search is suspended"
        before = len(cluster.writes)
        operator.settle()
        assert len(cluster.writes) == before
    cluster.edit(lambda spec: spec.update(suspend=False))
    operator.run()
    assert_sound(cluster)
    assert len(cluster.trials) == 6
    assert {trial["status"].get("ownFailures", 0) for trial in cluster.trials.values()} == {0}
    assert_at_rest(cluster)
