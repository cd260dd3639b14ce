"""A training that can not be carried out says so, field by field, and heals; a model is waited for."""

from __future__ import annotations

import copy

import pytest
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

from nascale.reconcile.observed import Related

NETWORK = {
    "stem": {"channels": 8, "stride": 1},
    "stages": [{"block": "MBConv", "kernel": 3, "stride": 2, "expansion": 2, "channels": 16, "depth": 2}],
    "head": {"channels": 32},
    "resolution": 8,
}
ENDED = "2026-01-01T00:00:00Z"
VECTOR = {"depth": "1.2", "width": "1.1", "resolution": "1.1"}


def sweep(*, ended: bool = True, architecture=NETWORK, failed: bool = False):
    member = {
        "name": "s",
        "vector": VECTOR,
        **VECTOR,
        "compoundCoefficient": "1",
        "budgetSeconds": "0.1",
        "trial": "sw-3",
        **({"architecture": architecture} if architecture else {}),
    }
    conditions = [
        {
            "type": "Failed",
            "status": "True" if failed else "False",
            "reason": "BudgetUnreachable" if failed else "InProgress",
            "message": "too slow",
            "lastTransitionTime": ENDED,
        }
    ]
    status = {"family": [member], "conditions": conditions, **({"completionTime": ENDED} if ended else {})}
    return {"metadata": {"name": "sw", "namespace": "default", "uid": "u"}, "status": status}


def search(*, ended: bool = True):
    network = {
        "trial": "se-7",
        "selection": "Knee",
        "reason": "r",
        "parameters": [],
        "metrics": [],
        "architecture": NETWORK,
    }
    status = {"baseNetwork": network, "completionTime": ENDED} if ended else {}
    return {"metadata": {"name": "se", "namespace": "default", "uid": "v"}, "status": status}


def of_member(name: str = "s"):
    return training(model={"member": {"sweepName": "sw", "name": name}})


class TestFaults:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"stages": [stage("a", 100), stage("b", 100), stage("c", 50)]}, "lengths must sum to the whole"),
            (
                {"stages": [stage("a", 100, workers=3), stage("b", 200)]},
                "globalBatch: must be a multiple",
            ),
            (
                {"podTemplate": {"image": "i", "serviceAccountName": "admin"}},
                "spec.podTemplate.serviceAccountName: must be one of default, not admin",
            ),
            ({"stages": [stage("a", 150), stage("a", 150)]}, "must have each name once"),
        ],
    )
    def test_nothing_starts_and_an_edit_heals_it(self, change, words):
        cluster = SimulatedTraining(training(**change))
        operator = operator_of(cluster)
        cluster.owner["spec"]["length"] = "300sp"
        operator.settle()
        failed = condition(cluster, "Failed")
        assert (failed["status"], failed["reason"]) == ("True", "InvalidSpec")
        assert words in failed["message"]
        assert cluster.jobs == {}
        cluster.edit(lambda spec: spec.update(copy.deepcopy(training()["spec"])))
        run_until(cluster, operator, lambda: ended(cluster))
        assert condition(cluster, "Failed")["status"] == "False"

    def test_a_spec_that_can_not_even_be_read_is_told(self):
        cluster = SimulatedTraining(training())
        cluster.owner["spec"]["stages"] = "none"
        operator = operator_of(cluster)
        operator.settle()
        assert condition(cluster, "Failed")["reason"] == "InvalidSpec"
        assert "spec.stages" in condition(cluster, "Failed")["message"]

    def test_a_last_stage_that_may_cost_quality_is_a_warning_and_no_fault(self):
        cluster = SimulatedTraining(training(stage("a", 100), stage("b", 100, precision="FP16")))
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: ended(cluster))
        said = condition(cluster, "QualitySafe")
        assert (said["status"], said["reason"]) == ("False", "UnsafeLastStage")
        assert "hardware.precision" in said["message"]
        assert [reason for reason, _ in cluster.events].count("UnsafeLastStage") == 1


class TestModel:
    def test_a_member_is_awaited_pinned_and_kept_when_its_sweep_goes(self):
        cluster = SimulatedTraining(of_member(), related=Related(sweep=sweep(ended=False)))
        operator = operator_of(cluster)
        operator.settle()
        assert condition(cluster, "Progressing")["reason"] == "WaitingForModel"
        assert cluster.jobs == {}
        cluster.related = Related(sweep=sweep())
        run_until(cluster, operator, lambda: bool(cluster.jobs))
        pinned = cluster.owner["status"]["model"]
        assert pinned["trial"] == "sw-3"
        assert pinned["origin"] == "sweep sw, member s"
        (job,) = cluster.jobs.values()
        found = order_of(job).architecture
        assert found is not None
        assert found.resolution == 8
        cluster.related = Related()
        run_until(cluster, operator, lambda: ended(cluster))
        assert condition(cluster, "Succeeded")["status"] == "True"

    def test_a_search_gives_its_base_network(self):
        document = training(model={"searchName": "se"})
        cluster = SimulatedTraining(document, related=Related(search=search(ended=False)))
        operator = operator_of(cluster)
        operator.settle()
        assert condition(cluster, "Progressing")["reason"] == "WaitingForModel"
        cluster.related = Related(search=search())
        run_until(cluster, operator, lambda: bool(cluster.jobs))
        assert cluster.owner["status"]["model"]["trial"] == "se-7"

    @pytest.mark.parametrize(
        ("document", "related", "words"),
        [
            (of_member(), Related(), "spec.model.member.sweepName: must name a ScalingSweep"),
            (of_member("x"), Related(sweep=sweep()), "must be a member of the family of sw (s), not x"),
            (of_member(), Related(sweep=sweep(architecture=None)), "spec.model.parameters instead"),
            (of_member(), Related(sweep=sweep(ended=False, failed=True)), "sw failed: BudgetUnreachable"),
            (training(model={"searchName": "se"}), Related(), "spec.model.searchName: must name an Arch"),
        ],
    )
    def test_a_model_that_will_not_come_is_a_fault_that_heals(self, document, related, words):
        cluster = SimulatedTraining(document, related=related)
        operator = operator_of(cluster)
        operator.settle()
        assert condition(cluster, "Failed")["reason"] == "InvalidSpec"
        assert words in condition(cluster, "Failed")["message"]
        cluster.edit(lambda spec: spec["model"].get("member", {}).update(name="s"))
        cluster.related = Related(sweep=sweep(), search=search())
        run_until(cluster, operator, lambda: bool(cluster.jobs))
        assert condition(cluster, "Failed")["status"] == "False"

    def test_a_member_of_a_sweep_that_failed_for_another_one_is_taken(self):
        cluster = SimulatedTraining(of_member(), related=Related(sweep=sweep(failed=True)))
        operator = operator_of(cluster)
        run_until(cluster, operator, lambda: bool(cluster.jobs))
