"""What a sweep scales, and what it takes over: waiting, faults that name what is wrong, healing."""

from __future__ import annotations

import pytest
from tests.reconcile.simulation import SimulatedCluster, SimulatedOperator
from tests.reconcile.sweeps import (
    ARCHITECTURE,
    condition,
    ended_search,
    measured,
    network_sweep,
    searched_sweep,
    sweep,
)

from nascale.reconcile.observed import Related
from nascale.reconcile.scaling_sweep import plan


def operated(document, related=None):
    cluster = SimulatedCluster(document, measure=measured, related=related or Related())
    return cluster, SimulatedOperator(cluster, planner=plan)


def said(cluster, kind):
    return next(entry for entry in cluster.owner["status"]["conditions"] if entry["type"] == kind)


def running_search():
    conditions = [condition("Succeeded", "False", "InProgress"), condition("Failed", "False", "InProgress")]
    return ended_search(conditions=conditions, completionTime=None, baseNetwork=None)


def failed_search():
    conditions = [condition("Failed", "True", "NoFeasibleTrial", "no trial keeps every hard constraint")]
    return ended_search(conditions=conditions, baseNetwork=None)


class TestBaseOfASearch:
    def test_the_sweep_waits_for_a_search_that_has_not_ended_and_begins_by_itself(self):
        cluster, operator = operated(searched_sweep(), Related(search=running_search()))
        operator.settle()
        progressing = said(cluster, "Progressing")
        assert (progressing["status"], progressing["reason"]) == ("False", "WaitingForBase")
        assert "search digits has not ended" in progressing["message"]
        assert said(cluster, "Failed")["status"] == "False"
        assert "startTime" not in cluster.owner["status"]
        assert cluster.trials == {}
        assert [reason for reason, _ in cluster.events] == ["WaitingForBase"]
        cluster.tick(3600)
        before = len(cluster.writes)
        operator.settle()
        assert len(cluster.writes) == before
        cluster.related = Related(search=ended_search())
        operator.run()
        assert said(cluster, "Succeeded")["status"] == "True"
        assert cluster.owner["status"]["baseTrial"] == "digits-12345-7"

    def test_time_of_waiting_does_not_count_against_the_deadline(self):
        cluster, operator = operated(
            searched_sweep(budget={"activeDeadlineSeconds": 600}), Related(search=running_search())
        )
        operator.settle()
        cluster.tick(3600)
        cluster.related = Related(search=ended_search())
        operator.run()
        assert said(cluster, "Succeeded")["reason"] == "FamilyComplete"

    def test_nothing_is_measured_before_the_status_holds_the_network(self):
        cluster, operator = operated(searched_sweep(), Related(search=ended_search()))
        operator.look()
        assert cluster.owner["status"]["baseArchitecture"]["resolution"] == ARCHITECTURE["resolution"]
        assert cluster.writes == ["Status"]
        assert operator.last.requeue_after_seconds == pytest.approx(0.1)

    def test_a_search_that_is_deleted_later_changes_nothing(self):
        undisturbed, operator = operated(searched_sweep(), Related(search=ended_search()))
        operator.run()
        cluster, operator = operated(searched_sweep(), Related(search=ended_search()))
        operator.settle()
        cluster.related = Related()
        operator.run()
        assert said(cluster, "Succeeded")["status"] == "True"
        assert cluster.owner["status"]["family"] == undisturbed.owner["status"]["family"]

    @pytest.mark.parametrize(
        ("search", "message"),
        [
            (None, "must name an ArchitectureSearch of this namespace, and digits is none"),
            (
                failed_search(),
                (
                    "must name a search that finds a base network, and digits failed: NoFeasibleTrial: no "
                    "trial keeps every hard constraint"
                ),
            ),
            (
                ended_search(baseNetwork=None),
                "must name a search with a base network, and digits ended without one",
            ),
            (
                ended_search(
                    baseNetwork={
                        key: value
                        for key, value in ended_search()["status"]["baseNetwork"].items()
                        if key != "architecture"
                    }
                ),
                (
                    "must name a search of the built-in space, and digits has the user's own parameters: "
                    "give their sizes in spec.base.parameters instead"
                ),
            ),
            (
                {
                    **running_search(),
                    "metadata": {**running_search()["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"},
                },
                "must name a search that stays, and digits is being deleted",
            ),
        ],
    )
    def test_a_search_that_gives_no_base_is_named_and_heals_when_one_comes(self, search, message):
        cluster, operator = operated(searched_sweep(), Related(search=search))
        operator.settle()
        failed = said(cluster, "Failed")
        assert (failed["status"], failed["reason"]) == ("True", "InvalidSpec")
        assert failed["message"] == f"spec.base.searchName: {message}"
        assert said(cluster, "Progressing")["reason"] == "InvalidSpec"
        assert cluster.trials == {}
        assert [reason for reason, _ in cluster.events] == ["InvalidSpec"]
        cluster.related = Related(search=ended_search())
        operator.run()
        assert said(cluster, "Failed")["status"] == "False"
        assert said(cluster, "Succeeded")["status"] == "True"


class TestReuse:
    def first(self, **spec):
        cluster, operator = operated(network_sweep(name="first", **spec))
        cluster.owner["metadata"]["uid"] = "first-uid"
        operator.run()
        return cluster

    def related(self, cluster):
        return Related(sweep=cluster.owner, trials=tuple(cluster.trials.values()))

    def test_trainings_of_the_other_sweep_count_and_only_latency_is_measured(self):
        first = self.first()
        cluster, operator = operated(network_sweep(reuseTrialsFrom="first"), self.related(first))
        operator.run()
        assert {trial["spec"]["purpose"] for trial in cluster.trials.values()} == {"Reference", "Latency"}
        status = cluster.owner["status"]
        assert said(cluster, "Succeeded")["reason"] == "FamilyComplete"
        assert status["reused"] > 0
        ours = [(member["name"], member["depth"], member["width"]) for member in status["family"]]
        theirs = [
            (member["name"], member["depth"], member["width"]) for member in first.owner["status"]["family"]
        ]
        assert ours == theirs

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"training": {"learningRate": "0.1"}}, "spec.training"),
            ({"trainingData": {"embedded": "FashionMNIST"}}, "spec.trainingData"),
            ({"fidelities": {"levels": [{"epochs": 2}]}}, "spec.fidelities.levels"),
            ({"exploration": {"seed": 9}}, "spec.exploration.seed"),
            ({"base": {"architecture": {**ARCHITECTURE, "resolution": 40}}}, "spec.base"),
            ({"trialTemplate": {"image": "example.com/other:1"}}, "spec.trialTemplate.image"),
        ],
    )
    def test_a_sweep_that_trains_otherwise_is_refused_with_the_field_that_differs(self, change, field):
        first = self.first(**change)
        cluster, operator = operated(network_sweep(reuseTrialsFrom="first"), self.related(first))
        operator.settle()
        message = said(cluster, "Failed")["message"]
        assert message.startswith("spec.reuseTrialsFrom: must name a sweep that trains the same networks")
        assert message.endswith(f"and first differs in {field}")
        assert cluster.trials == {}

    def test_a_sweep_that_is_missing_or_has_not_ended_is_named_and_heals(self):
        cluster, operator = operated(network_sweep(reuseTrialsFrom="first"))
        operator.settle()
        missing = "spec.reuseTrialsFrom: must name a ScalingSweep of this namespace, and first is none"
        assert said(cluster, "Failed")["message"] == missing
        cluster.related = Related(sweep=network_sweep(name="first"))
        operator.settle()
        unended = "spec.reuseTrialsFrom: must name a sweep that has ended, and first has not"
        assert said(cluster, "Failed")["message"] == unended
        cluster.related = self.related(self.first())
        operator.run()
        assert said(cluster, "Succeeded")["status"] == "True"

    def test_what_is_deleted_meanwhile_is_trained_again(self):
        cluster, operator = operated(network_sweep(reuseTrialsFrom="first"), self.related(self.first()))
        operator.settle()
        cluster.related = Related()
        operator.run()
        assert said(cluster, "Succeeded")["reason"] == "FamilyComplete"
        assert "Training" in {trial["spec"]["purpose"] for trial in cluster.trials.values()}


def test_a_base_in_the_spec_needs_nothing_else():
    for document in (sweep(), network_sweep()):
        cluster, operator = operated(document)
        operator.run()
        assert said(cluster, "Succeeded")["reason"] == "FamilyComplete"
