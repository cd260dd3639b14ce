"""Sweeps that can't be carried out: every fault is named with field, value and allowed range."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.reconcile.searches import from_prometheus
from tests.reconcile.simulation import SimulatedCluster, SimulatedOperator
from tests.reconcile.sweeps import ARCHITECTURE, measured, network_sweep, sweep

from nascale.api.scaling_sweep import ScalingSweep
from nascale.reconcile.observed import Observed, OperatorSettings
from nascale.reconcile.scaling_sweep import plan
from nascale.reconcile.sweep_context import sweep_context
from nascale.reconcile.sweep_validation import faults

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ACCURACY = {"metric": "accuracy", "direction": "Maximize"}
LATENCY = {"metric": "latency_p50_seconds", "direction": "Minimize"}
OWN_PARAMETER = {"name": "layers", "value": 4, "scaledBy": "Depth"}


def faults_of(document, **settings):
    observed = Observed(document, (), (), (), NOW, settings=OperatorSettings(**settings))
    return faults(sweep_context(ScalingSweep.model_validate(document), observed))


@pytest.mark.parametrize("document", [sweep(), network_sweep(), sweep(objectives=[LATENCY, ACCURACY])])
def test_a_sweep_that_can_be_carried_out_has_no_fault(document):
    assert faults_of(document) == ()


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        (sweep(base={}), "spec.base: must hold exactly one of searchName, architecture, parameters, not 0"),
        (
            network_sweep(base={"parameters": [OWN_PARAMETER]}),
            (
                "spec.base: must be searchName or architecture, unless trialTemplate has an image or a "
                "command of its own: the built-in trainer does not know the user's parameters"
            ),
        ),
        (
            sweep(base={"parameters": [OWN_PARAMETER, {**OWN_PARAMETER, "name": "width_multiplier"}]}),
            (
                "spec.base.parameters[1].name: must be none of depth_multiplier, width_multiplier, "
                "resolution_multiplier, under which trials find the multipliers, not width_multiplier"
            ),
        ),
        (sweep(target={}), "spec.target: must name the target hardware by nodeSelector or resources"),
        (
            sweep(objectives=[ACCURACY, {"metric": "energy", "direction": "Minimize"}]),
            (
                "spec.objectives: must have a latency among the metrics (latency_p50_seconds, "
                "latency_p90_seconds, latency_p99_seconds): the members' budgets bound it"
            ),
        ),
        (
            network_sweep(objectives=[LATENCY, {"metric": "parameters", "direction": "Minimize"}]),
            (
                "spec.objectives: must have a quality that decides at equal latency, a metric known only "
                "after training: accuracy, loss, peak_memory_bytes, training_samples_per_second, "
                "training_seconds; with a query or a container of your own any but a latency"
            ),
        ),
        (
            sweep(fidelities={"levels": [{"epochs": 0}]}),
            (
                "spec.fidelities.levels[0].epochs: must be at least 1, not 0: latency is measured in pods of "
                "its own"
            ),
        ),
        (
            network_sweep(fidelities={"levels": [{"epochs": 1, "resolution": 16}]}),
            (
                "spec.fidelities.levels[0].resolution: must be absent, not 16: each network has its own, "
                "which is what is scaled"
            ),
        ),
        (
            sweep(fidelities={"levels": [{"epochs": 4}, {"epochs": 2}]}),
            "spec.fidelities.levels[1]: must not be cheaper than the level before it",
        ),
        (
            network_sweep(trainingData=None),
            "spec.trainingData: must be set, unless trialTemplate has an image or a command of its own",
        ),
        (
            sweep(objectives=from_prometheus()),
            (
                "spec.objectives[1].source: must be Report, not Prometheus: the operator of this cluster "
                "knows no Prometheus (chart value prometheus.url)"
            ),
        ),
        (
            sweep(trialTemplate={"image": "i", "serviceAccountName": "admin"}),
            "spec.trialTemplate.serviceAccountName: must be one of default, not admin",
        ),
        (
            sweep(budget={"maxTrials": 3, "parallelTrials": 4}),
            "spec.budget.parallelTrials: must be at most maxTrials (3), not 4",
        ),
    ],
)
def test_a_fault_is_named(document, fault):
    assert fault in faults_of(document)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"coefficients": {"width": {"min": "0.5", "max": "1.2"}}}, "coefficients.width.min"),
        ({"coefficients": {"depth": {"min": "1.4", "max": "1.2"}}}, "coefficients.depth"),
        (
            {"family": [{"name": "s", "latencyMultiple": "2"}, {"name": "m", "latencyMultiple": "2"}]},
            "family[1].latencyMultiple",
        ),
        (
            {"family": [{"name": "s", "latencySeconds": "0.2"}, {"name": "m", "latencySeconds": "0.1"}]},
            "family[1].latencySeconds",
        ),
        ({"exploration": {"finalists": 3, "trainedVectors": 2}}, "exploration.finalists"),
    ],
)
def test_a_fault_that_the_engine_finds_is_named_by_its_field_of_the_spec(spec, field):
    found = faults_of(sweep(**spec))
    assert [fault for fault in found if fault.startswith(f"spec.{field}: must ")], found


def test_an_architecture_below_its_total_stride_is_refused():
    found = faults_of(network_sweep(base={"architecture": {**ARCHITECTURE, "resolution": 4}}))
    assert found == () or [fault for fault in found if "resolution" in fault]
    stem = {"channels": 8, "stride": 4}
    found = faults_of(network_sweep(base={"architecture": {**ARCHITECTURE, "stem": stem, "resolution": 4}}))
    assert [fault for fault in found if fault.startswith("spec.base.architecture.resolution: must ")], found


WIDE = {"resolution": {"min": "1", "max": "3"}}


def test_a_resolution_range_that_the_embedded_images_can_not_give_is_refused():
    """Digits have 8 x 8 pixels, the base of these tests takes 32 x 32: twice that is the largest side."""
    (fault,) = faults_of(network_sweep(coefficients=WIDE))
    assert fault == (
        "spec.coefficients.resolution.max: must be at most 2 for a base of 32 pixels, not 3: the training "
        "data can give 64 pixels a side at most"
    )
    assert faults_of(network_sweep(coefficients={"resolution": {"min": "1", "max": "2"}})) == ()


def test_a_base_beyond_what_the_embedded_images_can_give_is_refused():
    large = {"architecture": {**ARCHITECTURE, "resolution": 72}}
    (fault,) = faults_of(network_sweep(base=large))
    assert fault.startswith("spec.base.architecture.resolution: must be at most 64 pixels, ")
    assert fault.endswith("not 72")


@pytest.mark.parametrize(
    "changes",
    [
        {"trainingData": {"embedded": "FashionMNIST"}},
        {"trainingData": {"folder": {"path": "/data"}}},
        {"trialTemplate": {"image": "example.com/trial:1", "command": ["train"]}},
    ],
)
def test_images_that_are_larger_or_not_known_allow_what_the_digits_do_not(changes):
    assert faults_of(network_sweep(coefficients=WIDE, **changes)) == ()


def test_every_fault_is_told_at_once():
    found = faults_of(sweep(target={}, fidelities={"levels": [{"epochs": 0}]}, base={}))
    assert len(found) >= 3


def test_an_architecture_of_unknown_form_is_named_and_nothing_starts():
    unknown = {**ARCHITECTURE, "space": "transformer"}
    cluster = SimulatedCluster(network_sweep(base={"architecture": unknown}), measure=measured)
    operator = SimulatedOperator(cluster, planner=plan)
    operator.settle()
    conditions = {entry["type"]: entry for entry in cluster.owner["status"]["conditions"]}
    assert conditions["Failed"]["reason"] == "InvalidSpec"
    assert "base.architecture.space" in conditions["Failed"]["message"]
    assert cluster.trials == {}
    cluster.edit(lambda spec: spec.update(base={"architecture": ARCHITECTURE}))
    operator.run()
    conditions = {entry["type"]: entry for entry in cluster.owner["status"]["conditions"]}
    assert conditions["Succeeded"]["status"] == "True"
