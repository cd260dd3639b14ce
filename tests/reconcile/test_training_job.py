"""The Job of a generation: what its pods are given, and that a real API server takes it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.reconcile.test_job_manifest import (
    FULL_TEMPLATE,
    container_of,
    environment_of,
    pod_of,
    restricted_faults,
    write,
)
from tests.reconcile.trainings import order_of, stage, training

from nascale.api.progressive_training import ProgressiveTraining
from nascale.contract import training_series as series
from nascale.contract.run_order import parse_desired_state
from nascale.reconcile.observed import Observed, OperatorSettings
from nascale.reconcile.training_context import training_context
from nascale.reconcile.training_job import generation_job, run_order

NOW = datetime(2026, 1, 1, tzinfo=UTC)
UID = "0123456789abcdef"


def make(document, number=1, revision=0, place=0, **settings):
    document["metadata"]["uid"] = UID
    found = ProgressiveTraining.model_validate(document)
    installation = OperatorSettings(**{"service_accounts": ("trainer",), **settings})
    context = training_context(found, Observed(document, (), (), (), NOW, settings=installation))
    assert context.faults == []
    order = run_order(context, number, revision, context.stages, context.stages[place])
    return generation_job(context, order, context.stages[place])


def full_training():
    resources = {"cpu": "1", "memory": "2Gi"}
    return training(
        stage("a", 100),
        stage("b", 100, workers=2, resources=resources),
        podTemplate=FULL_TEMPLATE,
        trainingData={"volumeClaim": {"claimName": "images", "path": "train"}},
        placement={"resources": {"limits": {"nvidia.com/gpu": 1}}, "nodeSelector": {"gpu": "yes"}},
    )


def test_a_job_is_indexed_replaces_disrupted_pods_and_stops_at_an_order_that_can_not_be_used():
    job = make(training(restarts={"maxRestarts": 4}), number=2, place=2)
    spec = job["spec"]
    assert job["metadata"]["name"].endswith("-g2")
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert spec["backoffLimit"] == 4
    assert spec["podReplacementPolicy"] == "Failed"
    ignore, fail = spec["podFailurePolicy"]["rules"]
    assert ignore["action"] == "Ignore"
    assert (fail["action"], fail["onExitCodes"]["values"]) == ("FailJob", [2])
    assert fail["onExitCodes"]["containerName"] == container_of(job)["name"]
    assert "ttlSecondsAfterFinished" not in spec, "the report must outlive an operator that is away"


def test_pods_know_their_order_their_folder_and_what_is_desired_from_birth():
    job = make(training(), number=3, revision=7)
    environment = environment_of(job)
    order = order_of(job)
    assert (order.generation, order.revision, order.workers) == (3, 7, 1)
    assert [entry.name for entry in order.stages] == ["a", "b", "c"]
    assert order.parameters == {"width": 64}
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(job)["volumeMounts"]}
    assert environment["NASCALE_RUN_DIRECTORY"] == f"{mounts['nascale-run']}/nascale/t-{UID[:8]}"
    assert environment["NASCALE_DESIRED_STATE_FILE"].startswith(mounts["nascale-state"])
    (volume,) = [entry for entry in pod_of(job)["volumes"] if entry["name"] == "nascale-state"]
    path = volume["downwardAPI"]["items"][0]["fieldRef"]["fieldPath"]
    annotations = job["spec"]["template"]["metadata"]["annotations"]
    key = path.removeprefix("metadata.annotations['").removesuffix("']")
    assert parse_desired_state(annotations[key]).revision == 7
    assert annotations["prometheus.io/scrape"] == "true"


@pytest.mark.parametrize(("prometheus", "waits_for"), [(True, (series.STEPS,)), (False, ())])
def test_the_last_figures_are_waited_for_where_somebody_scrapes_them(prometheus, waits_for):
    document = training(metricsCollection={"maxLingerSeconds": 7})
    order = order_of(make(document, prometheus=prometheus))
    assert order.exporter.wait_for == waits_for
    assert order.exporter.max_linger_seconds == 7


def test_labels_say_whose_pods_they_are_and_of_which_generation():
    job = make(training(labels={"kueue.x-k8s.io/queue-name": "team"}), number=2)
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert labels["nascale.io/training"] == "t"
        assert labels["nascale.io/owner-uid"] == UID
        assert labels["nascale.io/generation"] == "2"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert job["spec"]["suspend"] is True
    assert "suspend" not in make(training())["spec"]


def test_a_stage_gets_its_own_workers_and_resources():
    first, second = make(full_training()), make(full_training(), place=1)
    assert first["spec"]["completions"] == 1
    assert second["spec"]["completions"] == 2
    wanted = container_of(second)["resources"]
    assert wanted["requests"] == {"cpu": "1", "memory": "2Gi", "nvidia.com/gpu": "1"}
    assert wanted["limits"] == {"cpu": "1", "memory": "2Gi", "nvidia.com/gpu": "1"}
    assert container_of(first)["resources"]["requests"]["memory"] == "1Gi"


def test_a_long_order_goes_into_a_file(monkeypatch):
    monkeypatch.setattr("nascale.reconcile.pod_parts.LARGEST_VARIABLE_BYTES", 100)
    job = make(training())
    assert "NASCALE_WORK_ORDER" not in environment_of(job)
    assert environment_of(job)["NASCALE_WORK_ORDER_FILE"] == "/etc/nascale/work-order.json"
    monkeypatch.setattr("nascale.reconcile.pod_parts.LARGEST_ORDER_BYTES", 200)
    with pytest.raises(ValueError, match=r"spec\.stages: must be shorter"):
        make(training())


@pytest.mark.parametrize("document", [training(), full_training()])
def test_every_pod_is_restricted_and_has_no_token(document):
    pod = pod_of(make(document))
    assert restricted_faults(pod) == []
    assert pod["automountServiceAccountToken"] is False
    assert pod["restartPolicy"] == "Never"


@pytest.mark.cluster
def test_a_real_api_server_takes_job_and_pod_under_the_restricted_profile(control_plane, tmp_path):
    namespace = "restricted-trainings"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    accounts = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}
        for name in ("default", "trainer")
    ]
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}
    control_plane.kubectl("apply", "-f", write(tmp_path, [space]))
    control_plane.kubectl("apply", "-f", write(tmp_path, accounts))
    for document in (training(), full_training()):
        template = document["spec"]["podTemplate"]
        kept = {key: value for key, value in template.items() if not key.endswith("ClassName")}
        document["spec"]["podTemplate"] = kept
        document["metadata"]["namespace"] = namespace
        job = make(document)
        metadata = {"name": "probe", "namespace": namespace}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_of(job)}
        for manifest in (job, pod):
            control_plane.kubectl("create", "--dry-run=server", "-f", write(tmp_path, [manifest]))
