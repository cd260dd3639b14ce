"""A sweep on its way: phases, drift, budgets, suspension, the end."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.reconcile.simulation import Fate, SimulatedCluster, SimulatedOperator, is_over, work_order_of
from tests.reconcile.sweeps import measured, network_sweep, sweep

from nascale.reconcile.actions import DeleteOwner, Reading, ReadingProblem
from nascale.reconcile.scaling_sweep import plan

QUEUE = {"kueue.x-k8s.io/queue-name": "team"}


def operated(document, **options):
    cluster = SimulatedCluster(document, **{"measure": measured, **options})
    return cluster, SimulatedOperator(cluster, planner=plan)


def said(cluster, kind):
    return next(entry for entry in cluster.owner["status"]["conditions"] if entry["type"] == kind)


def reasons(cluster):
    return [reason for reason, _ in cluster.events]


def by_purpose(cluster, *purposes):
    return [trial for trial in cluster.trials.values() if trial["spec"]["purpose"] in purposes]


def accuracy_of(member):
    (value,) = [entry["value"] for entry in member["metrics"] if entry["name"] == "accuracy"]
    return float(value)


class TestFamily:
    def test_every_member_keeps_its_budget_and_is_larger_than_the_one_before(self):
        cluster, operator = operated(sweep())
        operator.run()
        status = cluster.owner["status"]
        family = status["family"]
        assert [member["name"] for member in family] == ["s", "m"]
        assert status["members"] == 2
        latencies = []
        for member in family:
            values = {entry["name"]: float(entry["value"]) for entry in member["metrics"]}
            assert values["latency_p50_seconds"] <= 1.05 * float(member["budgetSeconds"])
            assert values["accuracy"] > 0
            assert member["trial"] in cluster.trials
            assert member["trainings"] == 1
            assert [entry["name"] for entry in member["parameters"]] == ["layers", "width", "context"]
            latencies.append(values["latency_p50_seconds"])
        assert latencies == sorted(set(latencies))
        assert status["summary"].startswith("s: accuracy=")
        assert said(cluster, "Succeeded")["reason"] == "FamilyComplete"
        assert reasons(cluster)[0] == "SweepStarted"
        assert reasons(cluster)[-1] == "SweepSucceeded"

    def test_baselines_stand_beside_it_at_the_same_budgets(self):
        cluster, operator = operated(network_sweep(baselines=["EfficientNet", "FastScaling"]))
        operator.run()
        status = cluster.owner["status"]
        assert [family["name"] for family in status["baselines"]] == ["EfficientNet", "FastScaling"]
        budgets = [member["budgetSeconds"] for member in status["family"]]
        for family in status["baselines"]:
            assert [member["budgetSeconds"] for member in family["members"]] == budgets
            assert all("architecture" not in member for member in family["members"])
        assert all(member["architecture"]["space"] == "mbconv" for member in status["family"])
        assert all("gain" in member for member in status["family"])

    def test_a_member_that_no_slower_network_was_trained_for_is_told(self):
        near = [{"name": "s", "latencyMultiple": "2"}, {"name": "m", "latencyMultiple": "2.001"}]
        exploration = {"vectors": 4, "trainedVectors": 2, "finalists": 1}
        cluster, operator = operated(sweep(family=near, exploration=exploration, baselines=[]))
        operator.run()
        small, medium = cluster.owner["status"]["family"]
        assert "sameAs" not in small
        assert medium["sameAs"] == "s"
        assert medium["parameters"] == small["parameters"]
        told = "m is the network of s: none that was trained for it is slower"
        assert told in said(cluster, "Succeeded")["message"]

    def test_a_network_of_a_baseline_that_is_better_is_taken_and_told(self):
        rules = ["EfficientNet", "FastScaling", "LACSGPU", "LACSTPU"]
        exploration = {"vectors": 4, "trainedVectors": 2, "finalists": 1}
        modes = {"mode": "PerLevel"}
        cluster, operator = operated(sweep(baselines=rules, exploration=exploration, coefficients=modes))
        operator.run()
        status = cluster.owner["status"]
        taken = [member for member in status["family"] if "takenFrom" in member]
        assert taken
        for member in status["family"]:
            beside = {
                family["name"]: {own["name"]: own for own in family["members"]}[member["name"]]
                for family in status["baselines"]
            }
            assert accuracy_of(member) >= max(accuracy_of(own) for own in beside.values())
            if member in taken:
                assert member["trial"] == beside[member["takenFrom"]]["trial"]

    def test_a_vector_for_each_member_in_mode_per_level_and_one_for_all_in_compound(self):
        compound, operator = operated(sweep())
        operator.run()
        assert compound.owner["status"]["coefficients"] == compound.owner["status"]["family"][0]["vector"]
        levels, operator = operated(sweep(coefficients={"mode": "PerLevel"}))
        operator.run()
        assert said(levels, "Succeeded")["reason"] == "FamilyComplete"
        assert len(levels.owner["status"]["family"]) == 2

    def test_device_seconds_are_told_by_phase_and_add_up(self):
        cluster, operator = operated(sweep())
        operator.run()
        status = cluster.owner["status"]
        phases = status["phaseSeconds"]
        assert sum(phases.values()) == status["deviceSeconds"]
        assert phases["measuring"] == sum(
            trial["status"].get("deviceSeconds", 0) for trial in by_purpose(cluster, "Reference", "Latency")
        )
        assert phases["training"] > 0

    def test_its_figures_are_shown(self):
        cluster, operator = operated(sweep())
        operator.run()
        gauges = operator.last.gauges
        assert gauges["trials/succeeded"] == len(cluster.trials)
        assert set(gauges) >= {
            *("member_latency/s", "member_latency/m", "member_quality/s", "member_quality/m"),
            *("device_seconds/measuring", "device_seconds/training"),
            *("latency_model_error", "reference_drift"),
        }


class TestPhases:
    def test_the_condition_says_what_the_sweep_is_at(self):
        cluster, operator = operated(sweep())
        seen = []
        for _ in range(300):
            operator.settle()
            progressing = said(cluster, "Progressing")
            if "completionTime" in cluster.owner["status"]:
                break
            assert progressing["status"] == "True"
            if not seen or seen[-1] != progressing["reason"]:
                seen.append(progressing["reason"])
            cluster.tick()
        assert seen[0] == "MeasuringLatency"
        assert "Training" in seen
        assert set(seen) <= {"MeasuringLatency", "Training", "Verifying", "Baselines"}

    def test_the_time_that_trainings_still_take_is_estimated_until_the_end(self):
        cluster, operator = operated(sweep())
        told = []
        for _ in range(300):
            operator.settle()
            status = cluster.owner["status"]
            trained = [own for own in by_purpose(cluster, "Training") if "outcome" in own.get("status", {})]
            if "completionTime" in status:
                break
            assert ("estimatedRemainingSeconds" in status) == bool(trained)
            if trained:
                told.append(status["estimatedRemainingSeconds"])
            cluster.tick()
        assert told[0] > 0
        assert told[0] == max(told)
        assert "estimatedRemainingSeconds" not in cluster.owner["status"]

    def test_fewer_networks_in_a_pod_than_asked_for_are_told(self):
        document = network_sweep(budget={"trialsPerPod": 16}, exploration={"vectors": 16})
        document["metadata"]["uid"] = "of-many-networks"  # answers of the engine are kept by it
        cluster, operator = operated(document)
        operator.settle()
        most = max(Counter(trial["spec"]["lead"] for trial in cluster.trials.values()).values())
        cap = f"a pod takes {most} networks, not 16 (budget.trialsPerPod): its report has no room for more"
        assert said(cluster, "Progressing")["message"].endswith(f"; {cap}")
        operator.run()
        assert [message for reason, message in cluster.events if reason == "TrialsPerPodCapped"] == [cap]

    def test_as_many_networks_in_a_pod_as_asked_for_are_not_worth_a_word(self):
        cluster, operator = operated(network_sweep())
        operator.run()
        assert "TrialsPerPodCapped" not in reasons(cluster)

    def test_a_queue_that_admits_nothing_is_told(self):
        cluster, operator = operated(sweep(labels=QUEUE), admits=False)
        operator.settle()
        cluster.tick(30)
        operator.settle()
        assert said(cluster, "Progressing")["reason"] == "Queued"


class Drifting:
    """A device that is slower by some ratio while the pods with certain ordinals run."""

    def __init__(self, slow, ratio=1.3):
        self.slow, self.ratio, self.cluster = slow, ratio, None
        self.pods = {}

    def __call__(self, candidate):
        values = dict(measured(candidate))
        job = next(
            job
            for job in self.cluster.jobs.values()
            if candidate["trial"] in [entry["trial"] for entry in work_order_of(job)["candidates"]]
        )
        order = work_order_of(job)
        if order["task"] == "Measure":
            ordinal = self.pods.setdefault(job["metadata"]["name"], len(self.pods))
            factor = self.ratio if self.slow(ordinal) else 1.0
            for name in ("latency_p50_seconds", "latency_p90_seconds"):
                values[name] *= factor
        return values


class TestDrift:
    def run(self, slow, **spec):
        device = Drifting(slow)
        cluster, operator = operated(sweep(budget={"parallelTrials": 1}, **spec), measure=device)
        device.cluster = cluster
        seen = set()
        for _ in range(1000):
            operator.settle()
            steady = said(cluster, "LatencySteady")
            seen.add((steady["status"], steady["reason"]))
            if "completionTime" in cluster.owner["status"]:
                return cluster, seen
            cluster.tick()
        raise AssertionError("the sweep has not ended")

    def test_a_steady_device_is_called_so(self):
        cluster, seen = self.run(lambda _ordinal: False)
        assert seen == {("Unknown", "NothingMeasured"), ("True", "Steady")}
        assert "LatencyDrifted" not in reasons(cluster)
        reference = cluster.owner["status"]["reference"]
        assert reference["measurements"] >= 1
        assert float(reference["lastRatio"]) == 1.0
        assert (reference["remeasuredPods"], reference["correctedPods"]) == (0, 0)

    def test_a_pod_whose_reference_has_moved_is_measured_again_and_told(self):
        cluster, seen = self.run(lambda ordinal: ordinal == 1)
        assert ("False", "Remeasuring") in seen
        assert ("True", "Steady") in seen
        assert said(cluster, "LatencySteady")["reason"] == "Steady"
        again = [trial for trial in cluster.trials.values() if "remeasures" in trial["spec"]]
        assert again
        assert reasons(cluster).count("LatencyDrifted") == 1
        assert cluster.owner["status"]["reference"]["remeasuredPods"] == 1
        steady, _ = self.run(lambda _ordinal: False)
        assert cluster.owner["status"]["family"] == [
            {**member, "trial": ours["trial"]}
            for member, ours in zip(
                steady.owner["status"]["family"], cluster.owner["status"]["family"], strict=True
            )
        ]

    def test_drift_that_is_not_measured_again_is_corrected_and_told(self):
        cluster, seen = self.run(lambda ordinal: ordinal == 1, exploration={"maxRemeasurements": 0})
        assert ("False", "Corrected") in seen
        assert ("False", "Remeasuring") not in seen
        steady = said(cluster, "LatencySteady")
        assert steady["reason"] == "Corrected"
        assert steady["message"].startswith("values of 1 pods are corrected by their reference's drift")
        assert cluster.owner["status"]["reference"]["correctedPods"] == 1
        undisturbed, _ = self.run(lambda _ordinal: False)
        ours, theirs = (
            [
                float(entry["value"])
                for member in found.owner["status"]["family"]
                for entry in member["metrics"]
                if entry["name"] == "latency_p50_seconds"
            ]
            for found in (cluster, undisturbed)
        )
        assert ours == pytest.approx(theirs)


class TestPrometheus:
    OBJECTIVES = (
        {"metric": "accuracy", "direction": "Maximize"},
        {"metric": "latency_p50_seconds", "direction": "Minimize", "source": "Prometheus"},
    )

    def test_latency_is_read_from_prometheus_where_the_objective_says_so(self):
        cluster, operator = operated(sweep(objectives=list(self.OBJECTIVES)))

        def answer(trial, metric):
            parameters = cluster.trials[trial]["spec"]["parameters"]
            sizes = {entry["name"]: float(entry["value"]) for entry in parameters}
            return Reading(value=2 * measured({"parameters": sizes})[metric])

        cluster.prometheus = answer
        operator.run()
        assert said(cluster, "Succeeded")["status"] == "True"
        for trial in by_purpose(cluster, "Reference", "Latency"):
            (latency,) = (
                entry for entry in trial["status"]["metrics"] if entry["name"] == "latency_p50_seconds"
            )
            assert latency["source"] == "Prometheus"
        undisturbed, operator = operated(sweep())
        operator.run()
        ours, theirs = (
            float(found.owner["status"]["reference"]["latencySeconds"]) for found in (cluster, undisturbed)
        )
        assert ours == pytest.approx(2 * theirs, rel=1e-4)

    def test_trainings_do_not_wait_for_a_value_that_they_do_not_measure(self):
        cluster, operator = operated(sweep(objectives=list(self.OBJECTIVES)))
        asked = []

        def answer(trial, _metric):
            asked.append(cluster.trials[trial]["spec"]["purpose"])
            return Reading(problem=ReadingProblem.NO_SERIES, message="there is none")

        cluster.prometheus = answer
        operator.run()
        assert set(asked) == {"Reference", "Latency"}
        assert said(cluster, "Succeeded")["status"] == "True"
        assert "PrometheusFallback" in reasons(cluster)


class TestRepetition:
    def test_an_interrupted_measuring_pod_is_repeated_as_a_whole_with_its_reference(self):
        cluster, operator = operated(sweep(budget={"parallelTrials": 1}))
        cluster.fate = lambda job, _ordinal: Fate(
            "vanish" if job["metadata"]["name"].endswith("-0-a0") else "report"
        )
        operator.run()
        jobs = {
            name.rpartition("-")[0].rpartition("-")[2] + name[-3:]: job["metadata"]["annotations"]
            for name, job in cluster.jobs.items()
        }
        assert jobs["0-a1"]["nascale.io/trials"] == jobs["0-a0"]["nascale.io/trials"]
        assert said(cluster, "Succeeded")["status"] == "True"

    def test_a_network_that_fails_is_repeated_alone(self):
        def crashing(job, _ordinal):
            return Fate("crash" if job["metadata"]["name"].endswith("-0-a0") else "report")

        cluster, operator = operated(sweep(budget={"parallelTrials": 1}), fate=crashing)
        operator.run()
        second = [
            job["metadata"]["annotations"]["nascale.io/trials"]
            for job in cluster.jobs.values()
            if job["metadata"]["labels"]["nascale.io/attempt"] == "1"
        ]
        assert second
        assert all("," not in carried for carried in second)


class TestEnds:
    def test_a_budget_below_the_base_names_the_member_and_the_smallest_latency(self):
        family = [{"name": "s", "latencySeconds": "0.000001"}, {"name": "m", "latencyMultiple": "3"}]
        cluster, operator = operated(sweep(family=family))
        operator.run()
        failed = said(cluster, "Failed")
        assert (failed["status"], failed["reason"]) == ("True", "BudgetUnreachable")
        for part in ("member s", "1e-06", "0.00145498"):
            assert part in failed["message"]
        assert "SweepFailed" in reasons(cluster)
        assert by_purpose(cluster, "Training") == []

    @pytest.mark.parametrize("most", [4, 9])
    def test_too_few_trials_fail_naming_the_members_that_are_missing(self, most):
        cluster, operator = operated(sweep(budget={"maxTrials": most}))
        operator.run()
        assert len(cluster.trials) <= most
        failed = said(cluster, "Failed")
        assert (failed["status"], failed["reason"]) == ("True", "MaxTrialsReached")
        assert f"maxTrials ({most}) have ended; no trained network for: " in failed["message"]

    def test_every_number_of_trials_comes_to_an_end(self):
        whole, operator = operated(sweep())
        operator.run()
        for most in range(1, len(whole.trials) + 1, 3):
            cluster, operator = operated(sweep(budget={"maxTrials": most, "parallelTrials": 1}))
            operator.run()
            assert len(cluster.trials) <= most
            assert said(cluster, "Succeeded")["reason"] in ("MaxTrialsReached", "FamilyComplete")

    def test_a_deadline_ends_with_what_there_is(self):
        whole, operator = operated(sweep())
        operator.run()
        seconds = int((whole.now - whole.now.replace(hour=0, minute=0, second=0)).total_seconds())
        cluster, operator = operated(sweep(budget={"activeDeadlineSeconds": max(1, seconds - 3)}))
        operator.run()
        assert said(cluster, "Progressing")["reason"] == "DeadlineReached"
        complete = cluster.owner["status"].get("members", 0) == 2
        assert said(cluster, "Succeeded")["status"] == str(complete)

    def test_device_seconds_that_are_used_up_end_it(self):
        cluster, operator = operated(sweep(budget={"deviceSeconds": 5}))
        operator.run()
        failed = said(cluster, "Failed")
        assert (failed["status"], failed["reason"]) == ("True", "DeviceSecondsReached")
        assert "no trained network for: s, m" in failed["message"]

    def test_more_failures_than_allowed_fail_it(self):
        def fate(job, _ordinal):
            return Fate("crash" if work_order_of(job)["task"] == "TrainAndMeasure" else "report")

        cluster, operator = operated(sweep(budget={"maxFailedTrials": 1, "trialRetries": 0}), fate=fate)
        operator.run()
        failed = said(cluster, "Failed")
        assert (failed["status"], failed["reason"]) == ("True", "MaxFailedTrialsReached")

    def test_networks_that_break_a_hard_bound_do_not_count(self):
        def measure(candidate):
            values = measured(candidate)
            return {**values, "infeasible": 1.0} if candidate["parameters"]["width"] > 88 else values

        cluster, operator = operated(sweep(), measure=measure)
        operator.run()
        assert said(cluster, "Progressing")["status"] == "False"
        widths = [
            int(entry["value"])
            for member in cluster.owner["status"].get("family", ())
            for entry in member["parameters"]
            if entry["name"] == "width"
        ]
        assert all(width <= 88 for width in widths)

    def test_no_network_of_a_member_that_can_be_trained_fails_it_naming_the_member(self):
        def measure(candidate):
            values = measured(candidate)
            small = values["latency_p50_seconds"] < 0.002
            return values if small else {**values, "infeasible": 1.0}

        family = [{"name": "s", "latencyMultiple": "1.5"}, {"name": "xl", "latencyMultiple": "20"}]
        cluster, operator = operated(sweep(family=family, baselines=[]), measure=measure)
        operator.run()
        status = cluster.owner["status"]
        if said(cluster, "Failed")["status"] == "True":
            assert "xl" in said(cluster, "Failed")["message"]
        else:
            assert [member["name"] for member in status["family"]] == ["s", "xl"]

    def test_it_is_deleted_after_its_ttl(self):
        cluster, operator = operated(sweep(ttlSecondsAfterFinished=60))
        operator.run()
        operator.settle()
        assert not cluster.owner_deleted
        cluster.tick(61)
        operator.look()
        assert cluster.owner_deleted
        assert operator.last.actions == (DeleteOwner("owner-uid"),)

    def test_the_checkpoints_of_the_family_stay(self):
        cluster, operator = operated(sweep(checkpoints={"claimName": "weights"}))
        operator.run()
        operator.settle()
        (job,) = [job for name, job in cluster.jobs.items() if name.endswith("-checkpoints")]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        kept = {member["trial"] for member in cluster.owner["status"]["family"]}
        assert container["args"] == ["keep-checkpoints", *sorted(kept)]
        assert job["metadata"]["labels"]["nascale.io/sweep"] == "family"

    def test_one_that_is_being_deleted_is_left_alone(self):
        cluster, operator = operated(sweep())
        operator.settle()
        cluster.owner["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:05Z"
        before = len(cluster.writes)
        operator.settle()
        assert len(cluster.writes) == before


class TestSuspension:
    def test_suspension_stops_pods_and_resuming_goes_on_to_the_same_family(self):
        undisturbed, operator = operated(sweep())
        operator.run()
        cluster, operator = operated(sweep())
        cluster.fate = lambda _job, _ordinal: Fate(seconds=3)
        for _ in range(4):
            operator.settle()
            cluster.tick()
        cluster.edit(lambda spec: spec.update(suspend=True))
        for _ in range(3):
            operator.settle()
            cluster.tick()
        assert [pod for pod in cluster.pods.values() if not is_over(pod)] == []
        assert said(cluster, "Suspended")["status"] == "True"
        assert said(cluster, "Progressing")["reason"] == "Suspended"
        before = len(cluster.writes)
        cluster.tick(100)
        operator.settle()
        assert len(cluster.writes) == before
        cluster.edit(lambda spec: spec.update(suspend=False))
        operator.run()
        assert cluster.owner["status"]["suspendedSeconds"] >= 100
        ours, theirs = (
            [(member["name"], member["parameters"]) for member in found.owner["status"]["family"]]
            for found in (cluster, undisturbed)
        )
        assert ours == theirs

    def test_a_queue_gets_its_quota_back(self):
        cluster, operator = operated(sweep(labels=QUEUE))
        cluster.fate = lambda _job, _ordinal: Fate(seconds=30)
        for _ in range(4):
            operator.settle()
            cluster.tick()
        assert cluster.jobs
        cluster.edit(lambda spec: spec.update(suspend=True))
        operator.settle()
        assert cluster.jobs == {}
        cluster.edit(lambda spec: spec.update(suspend=False))
        cluster.fate = lambda _job, _ordinal: Fate()
        operator.run()
        assert said(cluster, "Succeeded")["status"] == "True"
        assert {trial["status"].get("ownFailures", 0) for trial in cluster.trials.values()} == {0}
