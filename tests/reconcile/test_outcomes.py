"""Each cause leads to its outcome, and shows as a condition reason, an event and a counter."""

from __future__ import annotations

import json

import pytest
from tests.reconcile.searches import from_prometheus, search
from tests.reconcile.simulation import (
    Fate,
    SimulatedCluster,
    SimulatedOperator,
    honest_values,
)

from nascale.reconcile.actions import Reading, ReadingProblem

ONE_AT_A_TIME = {"parallelTrials": 1, "maxTrials": 2, "trialRetries": 0, "maxFailedTrials": 2}


def condition(document, kind):
    found = [entry for entry in document["status"]["conditions"] if entry["type"] == kind]
    return found[0] if found else None


def only_first(fate):
    """Let the first trial's first pod meet this fate, and all others end well."""
    return lambda job, ordinal: fate if job["metadata"]["name"].endswith("-0-a0") and not ordinal else Fate()


def run(fate=None, **spec):
    budget = {**ONE_AT_A_TIME, **spec.pop("budget", {})}
    options = {key: spec.pop(key) for key in ("prometheus", "measure", "admits") if key in spec}
    cluster = SimulatedCluster(search(budget=budget, **spec), **options)
    if fate is not None:
        cluster.fate = only_first(fate)
    SimulatedOperator(cluster).run()
    return cluster, cluster.trials[min(cluster.trials)]


def report(**result):
    return json.dumps({"version": "nascale.io/report/v1", "results": [result]})


NAME = "digits-27dfb-0"
OWN_ERRORS = {
    "NonZeroExit": Fate("crash", report="Traceback (most recent call last): boom"),
    "OutOfMemory": Fate("oom"),
    "InvalidReport": Fate(report="accuracy: 0.9"),
    "UnknownReportVersion": Fate(report=json.dumps({"version": "nascale.io/report/v9", "results": []})),
    "ReportTooLong": Fate(report="{" + " " * 4096 + "}"),
    "Exploded": Fate(report=report(trial=NAME, outcome="Failed", reason="Exploded", message="bang")),
}


def test_noise_is_measured_again_and_is_no_failure_of_the_candidate():
    message = "latency: the medians of three windows must differ by at most 0.1, but at best differed by 0.3"
    noisy = report(trial=NAME, outcome="Failed", reason="NoisyMeasurement", message=message)
    noisy_once = Fate(report=noisy)
    _, repeated = run(noisy_once, budget={"trialRetries": 1})
    assert repeated["status"]["outcome"] == "Succeeded"
    assert repeated["status"]["attempt"] == 1

    cluster, trial = run(noisy_once)
    assert trial["status"]["outcome"] == "MetricsUnavailable"
    assert condition(trial, "MetricsAvailable")["reason"] == "NoisyMeasurement"
    assert condition(trial, "Ended")["message"] == message
    counts = cluster.owner["status"]["trials"]
    assert (counts["metricsUnavailable"], counts["failed"], counts["succeeded"]) == (1, 0, 1)
    assert condition(cluster.owner, "Succeeded")["status"] == "True"


@pytest.mark.parametrize("reason", list(OWN_ERRORS))
def test_an_own_error_fails_the_trial(reason):
    cluster, trial = run(OWN_ERRORS[reason])
    assert trial["status"]["outcome"] == "Failed"
    assert trial["status"]["ownFailures"] == 1
    assert condition(trial, "Ended")["reason"] == reason
    assert ("TrialFailed", cluster.events[1][1]) == cluster.events[1]
    assert f"{NAME}: {reason}: " in cluster.events[1][1]
    assert cluster.counted["trials_finished", "Failed"] == 1
    assert cluster.owner["status"]["trials"]["failed"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no json", "must be JSON"),
        (
            report(trial=NAME, outcome="Succeeded", metrics={"accuracy": float("nan")}),
            "NaN is not a number",
        ),
        (report(trial="somebody-else", outcome="Succeeded"), "trial must be one of ['digits-27dfb-0'], not"),
        (report(trial=NAME, outcome="Splendid"), "'Splendid'"),
        ("[1, 2]", "must be a JSON object, not list"),
        (
            report(trial=NAME, outcome="Succeeded", metrics={"accuracy": 1e300, "latency_p50_seconds": 1}),
            "must be below 1e100",
        ),
    ],
)
def test_a_wrong_report_says_what_is_wrong(text, said):
    _, trial = run(Fate(report=text))
    ended = condition(trial, "Ended")
    assert (trial["status"]["outcome"], ended["reason"]) == ("Failed", "InvalidReport")
    assert said in ended["message"]


def test_a_report_without_one_of_the_pods_trials_fails_that_one_only():
    def fate(job, _ordinal):
        names = job["metadata"]["annotations"]["nascale.io/trials"].split(",")
        results = [{"trial": names[0], "outcome": "Infeasible", "reason": "TooSlow"}]
        return Fate(report=json.dumps({"version": "nascale.io/report/v1", "results": results}))

    cluster = SimulatedCluster(search(budget={**ONE_AT_A_TIME, "trialsPerPod": 2}), fate=fate)
    SimulatedOperator(cluster).run()
    first, second = (cluster.trials[f"digits-27dfb-{index}"] for index in (0, 1))
    assert first["status"]["outcome"] == "Infeasible"
    assert condition(first, "Ended")["reason"] == "TooSlow"
    assert second["status"]["outcome"] == "Failed"
    assert condition(second, "Ended")["reason"] == "MissingResult"


def test_an_own_error_is_repeated_up_to_the_limit():
    cluster, trial = run(Fate("crash"), budget={"trialRetries": 1})
    assert trial["status"]["outcome"] == "Succeeded"
    assert (trial["status"]["attempt"], trial["status"]["ownFailures"]) == (1, 1)
    assert trial["status"]["jobName"] == f"{NAME}-a1"
    assert cluster.counted["trial_retries", "OwnError"] == 1
    assert cluster.owner["status"]["trials"]["failed"] == 0
    assert [reason for reason, _ in cluster.events].count("TrialRetried") == 1


def test_a_trial_that_always_fails_is_run_once_more_than_its_retries():
    cluster = SimulatedCluster(
        search(budget={**ONE_AT_A_TIME, "maxTrials": 1, "trialRetries": 3}),
        fate=lambda _job, _ordinal: Fate("crash"),
    )
    SimulatedOperator(cluster).run()
    assert len(cluster.jobs) == 4
    assert cluster.counted["trial_retries", "OwnError"] == 3
    assert cluster.trials[NAME]["status"]["ownFailures"] == 4


def test_a_repeated_trial_runs_without_its_neighbours():
    def fate(job, _ordinal):
        shared = "," in job["metadata"]["annotations"]["nascale.io/trials"]
        return Fate("crash" if shared else "report")

    cluster = SimulatedCluster(
        search(budget={"maxTrials": 3, "parallelTrials": 1, "trialsPerPod": 3}), fate=fate
    )
    SimulatedOperator(cluster).run()
    carried = [job["metadata"]["annotations"]["nascale.io/trials"] for job in cluster.jobs.values()]
    assert sorted(len(names.split(",")) for names in carried) == [1, 1, 1, 3]
    assert cluster.owner["status"]["trials"]["succeeded"] == 3


@pytest.mark.parametrize(
    ("fate", "said"),
    [(Fate("delete"), "pod digits-27dfb-0-a0-p0 was deleted"), (Fate("vanish"), "and with it its report")],
)
def test_a_lost_pod_is_repeated_after_a_wait_and_no_failure(fate, said):
    cluster, trial = run(fate)
    assert trial["status"]["outcome"] == "Succeeded"
    assert (trial["status"]["attempt"], trial["status"].get("ownFailures", 0)) == (1, 0)
    assert cluster.counted["trial_retries", "Infrastructure"] == 1
    assert said in dict(cluster.events)["TrialRetried"]
    assert "not counted as a failure" in dict(cluster.events)["TrialRetried"]
    first, second = (cluster.jobs[f"{NAME}-a{attempt}"]["metadata"] for attempt in (0, 1))
    assert second["creationTimestamp"] > first["creationTimestamp"]


def test_an_evicted_pod_is_replaced_by_its_job():
    cluster, trial = run(Fate("evict", seconds=5))
    assert trial["status"]["outcome"] == "Succeeded"
    assert trial["status"].get("attempt", 0) == 0
    assert trial["status"]["podName"] == f"{NAME}-a0-p1"
    assert cluster.counted["trial_retries", "Infrastructure"] == 1
    assert "The node was low on resource" in dict(cluster.events)["TrialRetried"]
    assert trial["status"]["deviceSeconds"] == 7, "the evicted pod held the device as well"


def test_lost_pods_are_repeated_for_ever_and_ever_more_slowly():
    cluster = SimulatedCluster(
        search(budget={**ONE_AT_A_TIME, "maxTrials": 1}),
        fate=lambda job, _ordinal: Fate("report" if job["metadata"]["name"].endswith("-a8") else "delete"),
    )
    SimulatedOperator(cluster).run(ticks=3000)
    assert cluster.owner["status"]["trials"]["succeeded"] == 1
    begun = sorted(job["metadata"]["creationTimestamp"] for job in cluster.jobs.values())
    assert len(begun) == 9
    progressing = [message for reason, message in cluster.events if reason == "WaitingForInfrastructure"]
    assert len(progressing) >= 1
    assert "interrupted again and again" in progressing[0]


@pytest.mark.parametrize("obstacle", ["image", "quota"])
def test_what_blocks_a_trial_is_told_once_and_heals(obstacle):
    cluster = SimulatedCluster(search(budget={**ONE_AT_A_TIME, "maxTrials": 1}))
    blocked = True
    cluster.quota = obstacle != "quota"
    cluster.fate = lambda _job, _ordinal: Fate("image" if blocked and obstacle == "image" else "report")
    operator = SimulatedOperator(cluster)
    for _ in range(200):
        operator.settle()
        cluster.tick()
    before = len(cluster.writes)
    for _ in range(100):
        operator.settle()
        cluster.tick()
    assert len(cluster.writes) == before, "a trial that stays blocked costs no writes"
    assert condition(cluster.owner, "Progressing")["reason"] == "WaitingForInfrastructure"
    reasons = [reason for reason, _ in cluster.events]
    assert reasons.count("TrialBlocked") == 1
    assert reasons.count("WaitingForInfrastructure") == 1
    blocked = False
    cluster.quota = True
    operator.run()
    assert cluster.owner["status"]["trials"]["succeeded"] == 1
    assert cluster.owner["status"]["trials"]["failed"] == 0


def test_a_deadline_is_the_trials_failure_and_is_not_repeated():
    cluster, trial = run(Fate("hang"), budget={"trialDeadlineSeconds": 20, "trialRetries": 3})
    assert trial["status"]["outcome"] == "Failed"
    assert condition(trial, "Ended")["reason"] == "DeadlineExceeded"
    assert "must end within trialDeadlineSeconds (20 s)" in condition(trial, "Ended")["message"]
    assert cluster.counted["trials_finished", "Failed"] == 1


def test_a_deadline_that_passes_before_the_container_starts_is_no_failure():
    cluster = SimulatedCluster(search(budget={**ONE_AT_A_TIME, "maxTrials": 1, "trialDeadlineSeconds": 30}))
    cluster.fate = lambda job, _ordinal: Fate(
        "image" if job["metadata"]["name"].endswith("-a0") else "report"
    )
    SimulatedOperator(cluster).run()
    trial = cluster.trials[NAME]
    assert trial["status"]["outcome"] == "Succeeded"
    assert (trial["status"]["attempt"], trial["status"].get("ownFailures", 0)) == (1, 0)


def test_a_broken_hard_constraint_makes_a_trial_infeasible():
    latency = {"metric": "latency_p50_seconds", "direction": "Minimize"}
    objectives = [
        {"metric": "accuracy", "direction": "Maximize"},
        {**latency, "constraint": {"atMost": "0.005"}},
    ]
    values = iter([0.02, 0.001])
    measured = {}

    def measure(candidate):
        trial = candidate["trial"]
        measured.setdefault(trial, next(values) if len(measured) < 2 else 0.001)
        return {"accuracy": 0.9, "latency_p50_seconds": measured[trial]}

    cluster, trial = run(objectives=objectives, measure=measure)
    assert trial["status"]["outcome"] == "Infeasible"
    ended = condition(trial, "Ended")
    assert ended["reason"] == "ConstraintBroken"
    assert ended["message"] == "latency_p50_seconds must be at most 0.005, not 0.02"
    status = cluster.owner["status"]
    assert (status["trials"]["infeasible"], status["trials"]["succeeded"]) == (1, 1)
    assert condition(cluster.owner, "Succeeded")["status"] == "True"


def test_a_soft_constraint_leaves_the_trial_in_the_race():
    objectives = [
        {"metric": "accuracy", "direction": "Maximize"},
        {
            "metric": "latency_p50_seconds",
            "direction": "Minimize",
            "constraint": {"atMost": "0.0001", "enforcement": "Soft"},
        },
    ]
    cluster, trial = run(objectives=objectives)
    assert trial["status"]["outcome"] == "Succeeded"
    status = cluster.owner["status"]
    assert condition(cluster.owner, "Succeeded")["status"] == "True"
    assert {point["feasible"] for point in status["front"]} == {False}


# --- values from Prometheus ---------------------------------------------------------------------------


def answers(problem, message="as the test wants it"):
    return lambda _trial, _metric: Reading(problem=problem, message=message)


def test_a_value_from_prometheus_counts_before_the_reports():
    cluster, trial = run(objectives=from_prometheus(), prometheus=lambda _trial, _metric: Reading(value=0.25))
    metrics = {entry["name"]: (entry["value"], entry["source"]) for entry in trial["status"]["metrics"]}
    assert metrics["latency_p50_seconds"] == ("0.25", "Prometheus")
    assert metrics["accuracy"][1] == "Report"
    assert condition(cluster.owner, "MetricsAvailable")["status"] == "True"
    assert not any(name == "prometheus_fallbacks" for name, _ in cluster.counted)


@pytest.mark.parametrize("problem", list(ReadingProblem))
def test_every_problem_falls_back_to_the_report(problem):
    cluster, trial = run(objectives=from_prometheus(), prometheus=answers(problem))
    expected = honest_values({"parameters": parameters_of(trial)})["latency_p50_seconds"]
    metrics = {
        entry["name"]: (float(entry["value"]), entry["source"]) for entry in trial["status"]["metrics"]
    }
    assert metrics["latency_p50_seconds"] == (expected, "Report")
    assert trial["status"]["outcome"] == "Succeeded"
    available = condition(cluster.owner, "MetricsAvailable")
    assert (available["status"], available["reason"]) == ("False", f"Prometheus{problem.value}")
    assert cluster.counted["prometheus_fallbacks", problem.value] == 2
    assert [reason for reason, _ in cluster.events].count("PrometheusFallback") == 1, "one per transition"


@pytest.mark.parametrize("problem", list(ReadingProblem))
def test_without_a_value_in_the_report_the_trial_ends_as_metrics_unavailable(problem):
    query = 'sum(power{pod="$pod"})'
    cluster, trial = run(
        objectives=from_prometheus(query=query),
        measure=lambda _candidate: {"accuracy": 0.5},
        prometheus=answers(problem, "two series"),
    )
    assert trial["status"]["outcome"] == "MetricsUnavailable"
    ended = condition(trial, "Ended")
    assert ended["reason"] == f"Prometheus{problem.value}"
    assert ended["message"].startswith("latency_p50_seconds: two series")
    assert query in ended["message"]
    assert [reason for reason, _ in cluster.events].count("MetricsUnavailable") == 2
    assert cluster.counted["trials_finished", "MetricsUnavailable"] == 2


def test_prometheus_taken_away_and_brought_back_shows_in_the_condition():
    down = {"now": False}

    def prometheus(trial, _metric):
        down["now"] = trial in {"digits-27dfb-1", "digits-27dfb-2"}
        return Reading(problem=ReadingProblem.UNREACHABLE) if down["now"] else Reading(value=0.003)

    cluster, _ = run(objectives=from_prometheus(), prometheus=prometheus, budget={"maxTrials": 4})
    reasons = [reason for reason, _ in cluster.events]
    assert reasons.count("PrometheusFallback") == 1
    assert reasons.count("MetricsAvailable") == 1
    assert condition(cluster.owner, "MetricsAvailable")["status"] == "True"
    sources = [
        {entry["name"]: entry["source"] for entry in trial["status"]["metrics"]}["latency_p50_seconds"]
        for _, trial in sorted(cluster.trials.items())
    ]
    assert sources == ["Prometheus", "Report", "Report", "Prometheus"]


def test_a_metric_that_nobody_reports_ends_the_trial_with_its_reason():
    cluster, trial = run(measure=lambda _candidate: {"accuracy": 0.5}, budget={"maxFailedTrials": 0})
    assert trial["status"]["outcome"] == "MetricsUnavailable"
    ended = condition(trial, "Ended")
    assert (ended["reason"], ended["message"]) == (
        "NotReported",
        "latency_p50_seconds: must be in the report, and is not",
    )
    failed = condition(cluster.owner, "Failed")
    assert (failed["status"], failed["reason"]) == ("True", "MetricsUnavailable")
    assert len(cluster.trials) == 1, "a search without values does not spend its whole budget"


def test_a_container_without_a_report_may_show_all_its_values_to_prometheus():
    accuracy = {"metric": "accuracy", "direction": "Maximize", "source": "Prometheus"}
    objectives = [accuracy, from_prometheus()[1]]
    _, trial = run(Fate(report=""), objectives=objectives, prometheus=lambda _t, _m: Reading(value=0.5))
    assert trial["status"]["outcome"] == "Succeeded"
    assert {entry["source"] for entry in trial["status"]["metrics"]} == {"Prometheus"}


def parameters_of(trial):
    settings = {entry["name"]: entry["value"] for entry in trial["spec"]["parameters"]}
    return {"width": int(settings["width"]), "activation": settings["activation"]}
