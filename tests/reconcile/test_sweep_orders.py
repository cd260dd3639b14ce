"""What a sweep's trials say and what their containers are told."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.reconcile.simulation import SimulatedCluster, SimulatedOperator, work_order_of
from tests.reconcile.sweeps import measured, network_sweep, sizes_of, sweep

from nascale.api.scaling_sweep import ScalingSweep
from nascale.api.training import FidelityLevel
from nascale.api.trial import TrialPurpose
from nascale.contract.report import check_order, max_candidates
from nascale.contract.work_order import parse_work_order
from nascale.reconcile.job_manifest import job_manifest
from nascale.reconcile.observed import Observed, OperatorSettings
from nascale.reconcile.scaling_sweep import plan
from nascale.reconcile.snapshot import sample_trial
from nascale.reconcile.sweep_context import SweepContext, per_pod, sweep_context
from nascale.reconcile.sweep_trials import trial_parameters
from nascale.scaling.networks import scaled
from nascale.scaling.problem import Multipliers

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LARGER = Multipliers(1.5, 1.25, 1.2)
MEASURED = {
    *("latency_p50_seconds", "latency_p90_seconds", "throughput_samples_per_second"),
    *("parameters", "flops"),
}


def context_of(document, **settings) -> SweepContext:
    observed = Observed(document, (), (), (), NOW, settings=OperatorSettings(**settings))
    return sweep_context(ScalingSweep.model_validate(document), observed)


def trial_of(context, purpose, index=0, multipliers=LARGER, repeat=None):
    parameters = trial_parameters(scaled(context.base.scaled, multipliers), multipliers)
    epochs = 0 if purpose in (TrialPurpose.REFERENCE, TrialPurpose.LATENCY) else 3
    level = FidelityLevel(epochs=epochs)
    view = sample_trial(context.prefix, index, 0, level, parameters, purpose=purpose)
    return view if repeat is None else replace(view, repeat=repeat)


def order_of(context, *trials):
    order = work_order_of(job_manifest(context, list(trials), 0))
    return parse_work_order(json.dumps(order))


class TestOrders:
    def test_measuring_trains_nothing_and_asks_for_what_is_known_without_training(self):
        context = context_of(network_sweep())
        trials = [trial_of(context, TrialPurpose.LATENCY, index) for index in range(3)]
        order = order_of(context, *trials)
        assert order.run.kind == "ScalingSweep"
        assert order.task == "Measure"
        assert set(order.metrics) == MEASURED
        assert [candidate.trial for candidate in order.candidates] == [trial.name for trial in trials]
        check_order(order)

    def test_a_users_own_container_measures_the_latencies_among_the_objectives(self):
        order = order_of(context := context_of(sweep()), trial_of(context, TrialPurpose.REFERENCE))
        assert order.metrics == ("latency_p50_seconds",)

    def test_training_asks_for_every_objective_but_latencies(self):
        objectives = [
            {"metric": "latency_p50_seconds", "direction": "Minimize"},
            {"metric": "accuracy", "direction": "Maximize"},
            {"metric": "parameters", "direction": "Minimize"},
        ]
        context = context_of(network_sweep(objectives=objectives))
        order = order_of(context, trial_of(context, TrialPurpose.TRAINING))
        assert order.task == "TrainAndMeasure"
        assert order.metrics == ("accuracy", "parameters")
        assert order.fidelity.epochs == 3

    def test_a_quality_that_a_query_gives_asks_the_built_in_trainer_for_nothing_that_it_does_not_know(self):
        energy = {
            "metric": "energy_joules",
            "direction": "Minimize",
            "source": "Prometheus",
            "query": "e{$trial}",
        }
        objectives = [{"metric": "latency_p50_seconds", "direction": "Minimize"}, energy]
        context = context_of(network_sweep(objectives=objectives), prometheus=True)
        assert order_of(context, trial_of(context, TrialPurpose.TRAINING)).metrics == ("accuracy",)

    def test_noise_of_a_latency_that_does_not_count_fails_no_training(self):
        context = context_of(network_sweep(measurement={"minCalls": 500, "maxSpreadRatio": "0.02"}))
        measuring = order_of(context, trial_of(context, TrialPurpose.LATENCY)).measurement
        training = order_of(context, trial_of(context, TrialPurpose.BASELINE)).measurement
        assert (measuring.min_calls, measuring.max_spread_ratio) == (500, 0.02)
        assert (training.min_calls, training.max_spread_ratio) == (20, 10.0)

    def test_a_candidate_is_told_multipliers_and_the_sizes_that_follow_from_them(self):
        context = context_of(sweep())
        (candidate,) = order_of(context, trial_of(context, TrialPurpose.LATENCY)).candidates
        assert candidate.parameters == {
            "depth_multiplier": 1.5,
            "width_multiplier": 1.25,
            "resolution_multiplier": 1.2,
            "layers": 6,
            "width": 80,
            "context": 80,
        }
        assert candidate.architecture is None

    def test_a_candidate_of_the_built_in_space_is_a_network(self):
        context = context_of(network_sweep())
        (candidate,) = order_of(context, trial_of(context, TrialPurpose.LATENCY)).candidates
        assert candidate.architecture is not None
        assert [stage.depth for stage in candidate.architecture.stages] == [2, 3]
        assert candidate.architecture.stages[1].channels == 32
        assert set(candidate.parameters) == {"depth_multiplier", "width_multiplier", "resolution_multiplier"}

    def test_all_networks_are_trained_with_the_seeds_of_their_repeats(self):
        context = context_of(sweep())

        def seed(multipliers, repeat, purpose):
            trial = trial_of(context, purpose, 7, multipliers, repeat)
            return order_of(context, trial).candidates[0].seed

        ours = [seed(LARGER, repeat, TrialPurpose.TRAINING) for repeat in range(3)]
        theirs = [seed(Multipliers(1.2, 1.1, 1.15), repeat, TrialPurpose.BASELINE) for repeat in range(3)]
        assert ours == theirs
        assert len(set(ours)) == 3

    def test_hard_constraints_bind_where_their_metric_is_known(self):
        objectives = [
            {"metric": "latency_p50_seconds", "direction": "Minimize", "constraint": {"atMost": "0.5"}},
            {"metric": "accuracy", "direction": "Maximize", "constraint": {"atLeast": "0.1"}},
        ]
        context = context_of(sweep(objectives=objectives))
        measuring = order_of(context, trial_of(context, TrialPurpose.LATENCY)).constraints
        training = order_of(context, trial_of(context, TrialPurpose.TRAINING)).constraints
        assert [bound.metric for bound in measuring] == ["latency_p50_seconds"]
        assert [bound.metric for bound in training] == ["accuracy"]

    def test_a_trial_whose_sizes_do_not_follow_from_its_multipliers_is_foreign(self):
        context = context_of(sweep())
        own = trial_of(context, TrialPurpose.LATENCY)
        changed = tuple((name, "6400" if name == "width" else value) for name, value in own.parameters)
        foreign = replace(own, parameters=changed)
        assert context.knows(own)
        assert not context.knows(foreign)
        assert not context.knows(replace(own, purpose=None))

    def test_children_carry_the_sweeps_name(self):
        context = context_of(sweep())
        job = job_manifest(context, [trial_of(context, TrialPurpose.LATENCY)], 0)
        assert job["metadata"]["labels"]["nascale.io/sweep"] == "family"
        assert "nascale.io/search" not in job["metadata"]["labels"]
        (owner,) = job["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["controller"]) == ("ScalingSweep", "family", True)


class TestPods:
    @pytest.mark.parametrize("asked", [2, 5, 16])
    def test_a_measuring_pod_takes_no_more_than_its_report_has_room_for(self, asked):
        found = ScalingSweep.model_validate(network_sweep(budget={"trialsPerPod": asked}))
        assert per_pod(found) == min(asked, max_candidates(sorted(MEASURED)))

    def test_the_reference_stands_in_front_of_every_measuring_pod_and_trainings_are_alone(self):
        cluster = SimulatedCluster(sweep(), measure=measured)
        SimulatedOperator(cluster, planner=plan).run()
        purposes = {name: trial["spec"]["purpose"] for name, trial in cluster.trials.items()}
        alone = 0
        for job in cluster.jobs.values():
            carried = [
                purposes[name] for name in job["metadata"]["annotations"]["nascale.io/trials"].split(",")
            ]
            if "Reference" in carried or "Latency" in carried:
                assert carried[0] == "Reference"
                assert set(carried[1:]) <= {"Latency"}
                assert len(carried) <= 4
                alone += len(carried) == 1
            else:
                assert len(carried) == 1
        assert alone <= 2, "at most to have the reference three times before anything is trained"

    def test_a_trial_says_what_it_is_for(self):
        cluster = SimulatedCluster(sweep(exploration={"repeats": 2}), measure=measured)
        SimulatedOperator(cluster, planner=plan).run()
        specs = [trial["spec"] for trial in cluster.trials.values()]
        assert {spec["purpose"] for spec in specs} >= {"Reference", "Latency", "Training", "Baseline"}
        for spec in specs:
            measuring = spec["purpose"] in ("Reference", "Latency")
            assert (spec["fidelity"]["epochs"] == 0) == measuring
        assert {spec.get("repeat", 0) for spec in specs} == {0, 1}
        same = {}
        for spec in specs:
            parameters = tuple((entry["name"], entry["value"]) for entry in spec["parameters"])
            assert same.setdefault(parameters, spec["candidate"]) == spec["candidate"]


class TestConfirmation:
    def test_networks_too_close_to_call_are_trained_with_further_seeds(self):
        def noisy(candidate):
            found = measured(candidate)
            noise = hash((candidate.get("seed", 0), *sizes_of(candidate))) % 1000 / 20_000
            return {**found, "accuracy": round(found["accuracy"] + noise, 6)}

        wanted = {"finalists": 2, "repeats": 2, "maxRepeats": 4}
        cluster = SimulatedCluster(sweep(exploration=wanted), measure=noisy)
        SimulatedOperator(cluster, planner=plan).run()
        ended = {each["type"]: each["status"] for each in cluster.owner["status"]["conditions"]}
        assert ended["Succeeded"] == "True"
        specs = [trial["spec"] for trial in cluster.trials.values()]
        further = [spec for spec in specs if spec["purpose"] == "Confirmation"]
        assert further
        assert {spec["repeat"] for spec in further} <= {2, 3}
        assert min(spec["index"] for spec in further) > max(
            spec["index"] for spec in specs if spec["purpose"] != "Confirmation"
        )
        assert cluster.owner["status"]["phaseSeconds"]["verifying"] > 0
