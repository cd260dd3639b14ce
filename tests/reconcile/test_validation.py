"""Specs that can't be carried out: every fault is named at once, and nothing that runs is harmed."""

from __future__ import annotations

import copy

import pytest
from tests.reconcile.searches import built_in_search, from_prometheus, search
from tests.reconcile.simulation import Fate, SimulatedCluster, SimulatedOperator, is_over

from nascale.reconcile.actions import EventType
from nascale.reconcile.observed import OperatorSettings

ACCURACY = {"metric": "accuracy", "direction": "Maximize"}
LATENCY = {"metric": "latency_p50_seconds", "direction": "Minimize"}
NO_PROMETHEUS = OperatorSettings()


def failed(document):
    return next(entry for entry in document["status"]["conditions"] if entry["type"] == "Failed")


def faults(document, settings=None):
    cluster = SimulatedCluster(copy.deepcopy(document))
    if settings is not None:
        cluster.settings = settings
    operator = SimulatedOperator(cluster)
    operator.settle()
    condition = failed(cluster.owner)
    if condition["status"] == "False":
        return ""
    assert condition["reason"] == "InvalidSpec"
    assert cluster.trials == cluster.jobs == {}
    return condition["message"]


def parameters(*entries):
    return {"parameters": list(entries)}


WIDTH = {"name": "width", "integer": {"min": 1, "max": 8}}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (search(objectives=[ACCURACY]), "objectives: Tuple should have at least 2 items"),
        (search(objectives=[ACCURACY, ACCURACY]), "spec.objectives: metric: must differ between objectives"),
        (
            built_in_search(objectives=[{"metric": "bleu", "direction": "Maximize"}, LATENCY]),
            "spec.objectives[0].metric: must be one that the built-in trainer reports (accuracy, flops,",
        ),
        (
            search(objectives=[ACCURACY, {**LATENCY, "constraint": {"atLeast": "0.1"}}]),
            "spec.objectives[1].constraint: must have atMost, not atLeast, with Minimize",
        ),
        (
            search(objectives=[{**ACCURACY, "constraint": {"atMost": "0.1"}}, LATENCY]),
            "spec.objectives[0].constraint: must have atLeast, not atMost, with Maximize",
        ),
        (
            search(objectives=[ACCURACY, {**LATENCY, "goal": "0.5", "constraint": {"atMost": "0.1"}}]),
            "spec.objectives[1].goal: must be at most constraint.atMost (0.1), not 0.5",
        ),
        (
            search(objectives=[{**ACCURACY, "goal": "0.5", "constraint": {"atLeast": "0.7"}}, LATENCY]),
            "spec.objectives[0].goal: must be at least constraint.atLeast (0.7), not 0.5",
        ),
        (
            search(objectives=[ACCURACY, {**LATENCY, "goal": "-0.5"}]),
            "spec.objectives[1].goal: must be 0 or greater for latency_p50_seconds, not -0.5",
        ),
        (search(space=parameters()), "space.parameters"),
        (
            search(space=parameters({"name": "width", "integer": {"min": 4, "max": 4}})),
            "spec.space: must hold at least 2 candidates, not 1",
        ),
        (
            search(
                space=parameters(WIDTH, {**WIDTH, "name": "b", "when": {"parameter": "a", "values": ["1"]}})
            ),
            "when.parameter must be one of the parameters before it (width), not a",
        ),
        (search(space=parameters({"name": "w", "integer": {"min": 9, "max": 1}})), "not 9 > 1"),
        (
            built_in_search(fidelities={"levels": [{"epochs": 1, "resolution": 4}]}),
            "spec.fidelities.levels[0].resolution: must be at least the network's total stride of 8, not 4",
        ),
        (
            search(budget={"maxTrials": 2, "parallelTrials": 3}),
            "spec.budget.parallelTrials: must be at most maxTrials (2), not 3",
        ),
        (search(budget={"maxTrials": -1}), "budget.maxTrials: Input should be greater than or equal to 1"),
        (search(budget={"maxTrials": 10**9}), "budget.maxTrials: Input should be less than or equal to"),
        (
            search(budget={"trialsPerPod": 16, "maxTrials": 100}),
            "with 2 metrics, so that the report fits 4,096 bytes, not 16",
        ),
        (
            search(objectives=from_prometheus(query="up")),
            "spec.objectives[1].query: must name $trial or $pod",
        ),
        (
            search(objectives=from_prometheus(query='x{pod="$pod"}'), budget={"trialsPerPod": 2}),
            "spec.objectives[1].query: must name $trial where trialsPerPod is above 1",
        ),
        (
            search(objectives=[ACCURACY, {**LATENCY, "query": 'x{pod="$pod"}'}]),
            "spec.objectives[1].source: must be Prometheus where query is set, not Report",
        ),
        (built_in_search(trainingData=None), "spec.trainingData: must be set, unless"),
        (
            built_in_search(space=parameters(WIDTH)),
            "spec.space: must be mbconv, unless trialTemplate has an image",
        ),
        (
            built_in_search(trainingData={"embedded": "Digits", "validationFraction": "1"}),
            "spec.trainingData.validationFraction: must be above 0 and below 1, not 1",
        ),
        (
            built_in_search(trainingData={"embedded": "Digits", "folder": {"path": "/data"}}),
            "spec.trainingData: must have exactly one of embedded, folder, volumeClaim, not 2",
        ),
        (
            built_in_search(fidelities={"levels": [{"epochs": 0}, {"epochs": 2}]}),
            "spec.objectives[0].metric: must be known without training where a fidelity has 0 epochs",
        ),
        (
            search(fidelities={"levels": [{"epochs": 5}, {"epochs": 2}]}),
            "spec.fidelities.levels[1]: must not be cheaper than the level before it",
        ),
        (
            search(algorithm={"name": "Random", "settings": [{"name": "speed", "value": "9"}]}),
            "spec.algorithm.settings",
        ),
        (
            search(selection={"method": "TuNAS"}),
            "spec.selection.scalarisation: must be set with method TuNAS",
        ),
        (
            search(
                selection={
                    "method": "MnasNet",
                    "scalarisation": {
                        "qualityMetric": "latency_p50_seconds",
                        "costMetric": "accuracy",
                        "target": "0.1",
                    },
                }
            ),
            "spec.selection.scalarisation.qualityMetric: must be an objective of direction Maximize",
        ),
        (
            search(training={"learningRate": "101"}),
            "spec.training.learningRate: must be above 0 and at most 100, not 101",
        ),
        (
            search(training={"weightDecay": "-1"}),
            "spec.training.weightDecay: must be from 0 to 10, not -1",
        ),
        (search(training={"labelSmoothing": "1"}), "spec.training.labelSmoothing: must be below 1, not 1"),
        (
            search(measurement={"maxSpreadRatio": "0"}),
            "spec.measurement.maxSpreadRatio: must be above 0, not 0",
        ),
        (
            search(trialTemplate={"image": "x", "serviceAccountName": "admin"}),
            "spec.trialTemplate.serviceAccountName: must be one of default, not admin",
        ),
        (
            search(target={"isolation": "ExclusiveNode"}),
            "spec.target.isolation: ExclusiveNode needs equal requests and limits: limits.cpu must be set",
        ),
        (
            search(
                target={
                    "isolation": "ExclusiveNode",
                    "resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "1", "memory": "1Gi"}},
                }
            ),
            "ExclusiveNode needs equal requests and limits: requests.cpu must be 1, not 500m",
        ),
    ],
)
def test_a_fault_is_named_with_field_value_and_range(document, said):
    assert said in faults(document)


def test_searches_without_fault_pass():
    assert faults(search()) == ""
    assert faults(built_in_search()) == ""
    assert faults(built_in_search(budget={"trialsPerPod": 4})) == ""


def test_the_installation_decides_about_prometheus_and_accounts():
    said = faults(search(objectives=from_prometheus()), NO_PROMETHEUS)
    assert "spec.objectives[1].source: must be Report, not Prometheus" in said
    assert faults(search(objectives=from_prometheus())) == ""
    template = {"image": "x", "serviceAccountName": "trainer"}
    allowed = OperatorSettings(service_accounts=("trainer",))
    assert faults(search(trialTemplate=template), allowed) == ""
    assert "must be one of default, not trainer" in faults(search(trialTemplate=template), NO_PROMETHEUS)


def test_a_name_that_makes_no_label_is_refused():
    document = search()
    document["metadata"]["name"] = "n" * 64
    assert "metadata.name: must be at most 63 characters, not 64" in faults(document)


def test_all_faults_are_named_at_once():
    said = faults(
        built_in_search(
            space=parameters({"name": "w", "integer": {"min": 9, "max": 1}}),
            objectives=[{**ACCURACY, "goal": "-1"}, {"metric": "bleu", "direction": "Maximize"}],
            budget={"parallelTrials": 9},
            trialTemplate={"serviceAccountName": "admin"},
        )
    )
    for part in (
        "objectives[0].goal",
        "objectives[1].metric",
        "parallelTrials",
        "serviceAccountName",
        "9 > 1",
    ):
        assert part in said, part


def test_fields_that_no_template_has_reach_no_pod():
    template = {
        "image": "x",
        "command": ["run"],
        "hostNetwork": True,
        "namespace": "kube-system",
        "securityContext": {"privileged": True},
        "volumes": [{"name": "root", "mountPath": "/host", "hostPath": {"path": "/"}}],
    }
    cluster = SimulatedCluster(search(trialTemplate=template))
    SimulatedOperator(cluster).settle()
    assert cluster.jobs
    for job in cluster.jobs.values():
        text = str(job)
        assert "hostPath" not in text
        assert "hostNetwork" not in text
        assert "privileged" not in text
        assert job["metadata"]["namespace"] == "default"


def test_the_event_is_sent_once():
    cluster = SimulatedCluster(search(budget={"parallelTrials": 99}))
    operator = SimulatedOperator(cluster)
    operator.look()
    (event,) = operator.last.events
    assert (event.type, event.reason) == (EventType.WARNING, "InvalidSpec")
    before = len(cluster.writes)
    for _ in range(5):
        cluster.tick(60)
        operator.settle()
    assert len(cluster.writes) == before
    assert len(cluster.events) == 1


def test_a_spec_that_is_mended_goes_on():
    cluster = SimulatedCluster(search(budget={"parallelTrials": 99}))
    operator = SimulatedOperator(cluster)
    operator.settle()
    assert "startTime" not in cluster.owner["status"]
    cluster.edit(lambda spec: spec["budget"].update(parallelTrials=2))
    operator.run()
    assert failed(cluster.owner)["status"] == "False"
    assert len(cluster.trials) == 6


def test_a_spec_that_becomes_wrong_harms_nothing_that_runs():
    cluster = SimulatedCluster(search())
    cluster.fate = lambda _job, _ordinal: Fate(seconds=5)
    operator = SimulatedOperator(cluster)
    for _ in range(3):
        operator.settle()
        cluster.tick()
    cluster.edit(lambda spec: spec["budget"].update(parallelTrials=99))
    for _ in range(20):
        operator.settle()
        cluster.tick()
    assert failed(cluster.owner)["reason"] == "InvalidSpec"
    assert len(cluster.trials) == 2, "nothing new is started"
    assert cluster.owner["status"]["trials"]["succeeded"] == 2
    assert all(is_over(pod) for pod in cluster.pods.values())
    assert "completionTime" not in cluster.owner["status"]
    assert not {"DeleteJob", "SuspendJob"} & set(cluster.writes)
    cluster.edit(lambda spec: spec["budget"].update(parallelTrials=2))
    operator.run()
    assert cluster.owner["status"]["trials"]["succeeded"] == 6


def test_a_status_that_cannot_be_read_is_no_reason_to_fall_over():
    document = search(objectives=[ACCURACY])
    document["status"] = {"finished": "many"}
    assert "at least 2 items" in faults(document)
