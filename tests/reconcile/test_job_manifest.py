"""The Job of a trial: what its pod is given, and what no template can take away."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from tests.reconcile.searches import built_in_search, from_prometheus, search

from nascale.api.architecture_search import ArchitectureSearch, FidelityLevel
from nascale.contract.work_order import Task, parse_work_order
from nascale.reconcile.job_manifest import devices_per_pod, job_manifest
from nascale.reconcile.naming import candidate_seed
from nascale.reconcile.observed import OperatorSettings
from nascale.reconcile.search_context import SearchContext, search_problem
from nascale.reconcile.snapshot import sample_trial

FULL_TEMPLATE = {
    "image": "example.com/trial:1",
    "imagePullPolicy": "Always",
    "command": ["measure"],
    "args": ["--fast"],
    "env": [{"name": "LEVEL", "value": "debug"}],
    "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
    "volumes": [
        {"name": "scratch", "mountPath": "/scratch", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "code", "mountPath": "/code", "readOnly": True, "configMap": {"name": "code"}},
        {"name": "set", "mountPath": "/set", "persistentVolumeClaim": {"claimName": "images"}},
    ],
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccountName": "trainer",
    "priorityClassName": "low",
    "runtimeClassName": "nvidia",
    "schedulerName": "volcano",
    "labels": {"team": "vision"},
    "annotations": {"note": "short"},
    "terminationGracePeriodSeconds": 5,
}


def context_of(document, **settings):
    found = ArchitectureSearch.model_validate(document)
    return SearchContext(
        search=found,
        problem=search_problem(found),
        settings=OperatorSettings(**{"prometheus": True, **settings}),
        now=datetime(2026, 1, 1, tzinfo=UTC),
    )


def trials_of(context, count=1, level=None):
    candidates = context.problem.space.enumerate()
    found = []
    for index in range(count):
        parameters = tuple((name, str(value)) for name, value in next(candidates).items())
        found.append(sample_trial(context.prefix, index, 0, level or FidelityLevel(epochs=1), parameters))
    return found


def make(document, count=1, attempt=0, **settings):
    context = context_of(document, **settings)
    return job_manifest(context, trials_of(context, count), attempt)


def pod_of(job):
    return job["spec"]["template"]["spec"]


def container_of(job):
    (container,) = pod_of(job)["containers"]
    return container


def environment_of(job):
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container_of(job)["env"]}


def order_of(job):
    return parse_work_order(environment_of(job)["NASCALE_WORK_ORDER"].replace("$$(", "$("))


def restricted_faults(pod):
    """Check Pod Security's restricted profile (kubernetes.io, "Pod Security Standards")."""
    safe = {"name", "configMap", "emptyDir", "persistentVolumeClaim", "downwardAPI"}
    found = [field for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    found += [f"volume {volume}" for volume in pod.get("volumes", ()) if set(volume) - safe]
    if pod["securityContext"].get("seccompProfile", {}).get("type") != "RuntimeDefault":
        found.append("seccompProfile")
    if pod["securityContext"].get("runAsNonRoot") is not True or pod["securityContext"]["runAsUser"] == 0:
        found.append("runAsNonRoot")
    for container in pod["containers"]:
        context = container["securityContext"]
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            found.append("privileges")
        if context["capabilities"] != {"drop": ["ALL"]}:
            found.append("capabilities")
    return found


@pytest.mark.parametrize(
    "document",
    [
        search(),
        search(trialTemplate=FULL_TEMPLATE),
        built_in_search(
            trainingData={"volumeClaim": {"claimName": "images", "path": "train"}},
            checkpoints={"claimName": "weights"},
        ),
    ],
)
def test_every_pod_is_restricted_and_has_no_token(document):
    job = make(document)
    pod = pod_of(job)
    assert restricted_faults(pod) == []
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["restartPolicy"] == "Never"


def test_the_check_of_the_restricted_profile_finds_faults():
    pod = pod_of(make(search()))
    pod["hostNetwork"] = True
    pod["volumes"] = [{"name": "root", "hostPath": {"path": "/"}}]
    pod["containers"][0]["securityContext"]["capabilities"] = {"add": ["SYS_ADMIN"]}
    assert len(restricted_faults(pod)) == 3


def test_a_job_runs_its_pod_once_and_lets_disruptions_be_replaced():
    spec = make(search(budget={"trialDeadlineSeconds": 77}), job_ttl_seconds=5)["spec"]
    assert spec["backoffLimit"] == 0
    assert spec["podReplacementPolicy"] == "Failed"
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "Ignore"
    assert rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (77, 5)
    assert "suspend" not in spec


def test_names_labels_and_owner_follow_from_search_trial_and_attempt():
    job = make(search(), attempt=2)
    metadata, pod = job["metadata"], job["spec"]["template"]["metadata"]
    assert metadata["name"] == "digits-27dfb-0-a2"
    assert metadata["labels"]["nascale.io/attempt"] == "2"
    assert pod["labels"]["nascale.io/trial"] == "digits-27dfb-0"
    assert pod["labels"]["nascale.io/owner-uid"] == "owner-uid"
    (owner,) = metadata["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == ("owner-uid", True)
    assert make(search(), attempt=2) == job, "the same again is the same"


def test_the_template_reaches_the_pod():
    job = make(search(trialTemplate=FULL_TEMPLATE))
    pod, container = pod_of(job), container_of(job)
    assert container["image"] == "example.com/trial:1"
    assert (container["command"], container["args"]) == (["measure"], ["--fast"])
    assert container["imagePullPolicy"] == "Always"
    assert environment_of(job)["LEVEL"] == "debug"
    assert pod["serviceAccountName"] == "trainer"
    assert pod["priorityClassName"] == "low"
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["schedulerName"] == "volcano"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["terminationGracePeriodSeconds"] == 5
    assert {volume["name"] for volume in pod["volumes"]} == {"scratch", "code", "set"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/scratch", "/code", "/set"}
    assert job["metadata"]["labels"]["team"] == "vision"
    assert job["spec"]["template"]["metadata"]["annotations"]["note"] == "short"


def test_the_template_cannot_replace_the_operators_labels():
    labels = {"nascale.io/owner-uid": "somebody-else", "nascale.io/trial": "other"}
    job = make(search(trialTemplate={**FULL_TEMPLATE, "labels": labels}))
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        assert metadata["labels"]["nascale.io/owner-uid"] == "owner-uid"
        assert metadata["labels"]["nascale.io/trial"] == "digits-27dfb-0"


def test_without_image_and_command_it_is_the_built_in_trainer():
    job = make(
        built_in_search(),
        trainer_image="trainer:9",
        trainer_command=("train", "-v"),
        image_pull_policy="Never",
    )
    container = container_of(job)
    assert (container["image"], container["command"]) == ("trainer:9", ["train", "-v"])
    assert container["imagePullPolicy"] == "Never"
    own = container_of(make(search(trialTemplate={"image": "mine"}), image_pull_policy="Never"))
    assert "command" not in own
    assert "imagePullPolicy" not in own


def test_targets_and_devices():
    target = {
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "resources": {"limits": {"nvidia.com/gpu": "2"}, "requests": {"cpu": "4"}},
    }
    document = search(target=target, trialTemplate=FULL_TEMPLATE)
    job = make(document)
    resources = container_of(job)["resources"]
    assert resources["limits"] == {"memory": "2Gi", "nvidia.com/gpu": "2"}
    assert resources["requests"] == {"cpu": "4", "memory": "1Gi", "nvidia.com/gpu": "2"}
    assert pod_of(job)["nodeSelector"] == {"gpu": "h100"}
    assert pod_of(job)["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert devices_per_pod(ArchitectureSearch.model_validate(document)) == 2
    assert devices_per_pod(ArchitectureSearch.model_validate(search())) == 1


def test_an_exclusive_pod_keeps_away_from_every_other_one_of_ours():
    limits = {"cpu": "1000m", "memory": "1Gi"}
    target = {"isolation": "ExclusiveNode", "resources": {"requests": {"cpu": "1"}, "limits": limits}}
    job = make(search(target=target))
    (others,) = pod_of(job)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert others["labelSelector"]["matchLabels"].items() <= labels.items()
    assert others["namespaceSelector"] == {}
    assert others["topologyKey"] == "kubernetes.io/hostname"
    assert "affinity" not in pod_of(make(search()))


def threads_of(resources, env=()):
    document = search(trialTemplate={"image": "x", "resources": resources, "env": list(env)})
    return [entry for entry in container_of(make(document))["env"] if entry["name"] == "OMP_NUM_THREADS"]


def test_a_request_without_a_limit_says_how_many_threads_to_use():
    (entry,) = threads_of({"requests": {"cpu": "1500m"}})
    asked = {"containerName": "trial", "resource": "requests.cpu", "divisor": "1"}
    assert entry["valueFrom"] == {"resourceFieldRef": asked}
    assert threads_of({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}) == []
    assert threads_of({"requests": {"memory": "1Gi"}}) == []
    own = {"name": "OMP_NUM_THREADS", "value": "3"}
    assert threads_of({"requests": {"cpu": "1"}}, [own]) == [own]


def test_the_exporter_is_found_by_prometheus():
    job = make(search())
    annotations = job["spec"]["template"]["metadata"]["annotations"]
    assert (annotations["prometheus.io/scrape"], annotations["prometheus.io/port"]) == ("true", "9464")
    assert container_of(job)["ports"] == [{"name": "metrics", "containerPort": 9464}]
    environment = environment_of(job)
    assert environment["NASCALE_METRICS_PORT"] == "9464"
    assert environment["NASCALE_BIND_ADDRESS"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert environment["NASCALE_POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_data_and_checkpoints_are_mounted():
    job = make(
        built_in_search(
            trainingData={"volumeClaim": {"claimName": "images", "path": "train/small"}},
            checkpoints={"claimName": "weights", "path": "runs/a"},
        )
    )
    mounts = {mount["name"]: mount for mount in container_of(job)["volumeMounts"]}
    assert mounts["nascale-data"]["readOnly"] is True
    volumes = {volume["name"]: volume for volume in pod_of(job)["volumes"]}
    assert volumes["nascale-data"]["persistentVolumeClaim"] == {"claimName": "images", "readOnly": True}
    data = order_of(job).data
    assert data is not None
    assert data.path == f"{mounts['nascale-data']['mountPath']}/train/small"
    folder = environment_of(job)["NASCALE_CHECKPOINT_DIRECTORY"]
    assert folder == f"{mounts['nascale-checkpoints']['mountPath']}/runs/a/digits-27dfb"


def test_the_work_order_says_everything_that_the_spec_says():
    document = built_in_search(
        objectives=[
            {"metric": "accuracy", "direction": "Maximize", "constraint": {"atLeast": "0.5"}},
            *from_prometheus(constraint={"atMost": "0.01"})[1:],
            {
                "metric": "flops",
                "direction": "Minimize",
                "constraint": {"atMost": "1e6", "enforcement": "Soft"},
            },
            {"metric": "joules", "direction": "Minimize", "source": "Prometheus", "query": 'e{pod="$pod"}'},
        ],
        target={"batchSize": 8, "precision": "BF16"},
        measurement={"minCalls": 50, "minMilliseconds": 250, "maxSpreadRatio": "0.05"},
        training={"batchSize": 32, "learningRate": "1e-2"},
        metricsCollection={"maxLingerSeconds": 7},
        algorithm={"name": "Random", "seed": 3},
    )
    order = order_of(make(document, count=2, attempt=1))
    assert [candidate.trial for candidate in order.candidates] == ["digits-27dfb-0", "digits-27dfb-1"]
    assert all(candidate.architecture is not None for candidate in order.candidates)
    assert order.candidates[0].seed == candidate_seed(3, 0)
    assert order.attempt == 1
    assert order.metrics == ("accuracy", "latency_p50_seconds", "flops")
    bounds = [(entry.metric, entry.at_most, entry.at_least) for entry in order.constraints]
    assert bounds == [("accuracy", None, 0.5), ("latency_p50_seconds", 0.01, None)], (
        "soft bounds end no trial"
    )
    assert order.exporter.wait_for == ("latency_p50_seconds",), "only what is read from its own series"
    assert order.exporter.max_linger_seconds == 7
    assert (order.target.batch_size, order.target.precision) == (8, "BF16")
    measurement = order.measurement
    assert (measurement.min_calls, measurement.min_seconds, measurement.max_spread_ratio) == (50, 0.25, 0.05)
    assert (order.training.batch_size, order.training.learning_rate) == (32, 0.01)
    assert order.data is not None
    assert order.data.name == "Digits"
    assert order.task is Task.TRAIN_AND_MEASURE


def test_no_scrape_is_waited_for_where_there_is_no_prometheus():
    order = order_of(make(search(objectives=from_prometheus()), prometheus=False))
    assert order.exporter.wait_for == ()


def test_a_fidelity_without_epochs_only_measures():
    context = context_of(search())
    trials = trials_of(context, level=FidelityLevel(epochs=0))
    assert order_of(job_manifest(context, trials, 0)).task is Task.MEASURE


def test_parameters_keep_their_kind():
    order = order_of(make(search()))
    assert order.candidates[0].parameters == {"width": 1, "activation": "relu"}


def test_text_that_looks_like_a_variable_is_not_expanded():
    space = {"parameters": [{"name": "x", "categorical": {"values": ["$(HOME)", "b"]}}]}
    job = make(search(space=space))
    text = environment_of(job)["NASCALE_WORK_ORDER"]
    assert '"$$(HOME)"' in text, "Kubernetes turns $$( into $("
    assert order_of(job).candidates[0].parameters == {"x": "$(HOME)"}


def test_a_long_order_goes_into_a_file(monkeypatch):
    values = [f"{'v' * 120}{index:02d}" for index in range(64)]
    space = {
        "parameters": [{"name": f"{'n' * 60}{n:02d}", "categorical": {"values": values}} for n in range(60)]
    }
    job = make(search(space=space), count=12)
    environment = environment_of(job)
    assert "NASCALE_WORK_ORDER" not in environment
    (mount,) = [m for m in container_of(job)["volumeMounts"] if m["name"] == "nascale-work-order"]
    assert environment["NASCALE_WORK_ORDER_FILE"].startswith(f"{mount['mountPath']}/")
    (volume,) = [v for v in pod_of(job)["volumes"] if v["name"] == "nascale-work-order"]
    (item,) = volume["downwardAPI"]["items"]
    assert environment["NASCALE_WORK_ORDER_FILE"].endswith(f"/{item['path']}")
    annotations = job["spec"]["template"]["metadata"]["annotations"]
    key = item["fieldRef"]["fieldPath"].removeprefix("metadata.annotations['").removesuffix("']")
    assert len(parse_work_order(annotations[key]).candidates) == 12
    assert restricted_faults(pod_of(job)) == []
    monkeypatch.setattr("nascale.reconcile.job_manifest.LARGEST_ORDER_BYTES", 100 * 1024)
    with pytest.raises(ValueError, match=r"spec\.budget\.trialsPerPod: must be lower"):
        make(search(space=space), count=12)


@pytest.mark.cluster
def test_a_real_api_server_takes_job_and_pod_under_the_restricted_profile(control_plane, tmp_path):
    namespace = "restricted-trials"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    documents = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}},
    ]
    control_plane.kubectl("apply", "-f", write(tmp_path, documents))
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    control_plane.kubectl(
        "apply",
        "-f",
        write(
            tmp_path,
            [
                {**account, "metadata": {"name": name, "namespace": namespace}}
                for name in ("default", "trainer")
            ],
        ),
    )
    template = {key: value for key, value in FULL_TEMPLATE.items() if not key.endswith("ClassName")}
    checkpoints = {"claimName": "weights"}
    for document in (search(), search(trialTemplate=template), built_in_search(checkpoints=checkpoints)):
        document["metadata"]["namespace"] = namespace
        job = make(document)
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "probe", "namespace": namespace},
            "spec": pod_of(job),
        }
        for manifest in (job, pod):
            path = write(tmp_path, [manifest])
            control_plane.kubectl("create", "--dry-run=server", "-f", path)


def write(directory, documents):
    path = directory / "documents.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
    return str(path)
