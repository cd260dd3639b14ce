"""What a pod on the embedded node sees and does, against a real API server and scheduler."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.node.running_node import Pods, RunningNode, container_state, processes_of, wait_until

pytestmark = pytest.mark.cluster


def test_a_job_completes_with_the_termination_message_of_its_pod(pods: Pods):
    script = "echo working; printf '{\"accuracy\": 0.5}' > /dev/termination-log"
    template = {
        "restartPolicy": "Never",
        "containers": [{"name": "trial", "image": "none", "command": ["sh", "-c", script]}],
    }
    pods.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "job"},
            "spec": {"backoffLimit": 0, "template": {"spec": template}},
        }
    )
    pods.kubectl("wait", "--for=condition=Complete", "job/job", "--timeout=60s")
    found = json.loads(pods.kubectl("get", "pods", "-l", "job-name=job", "-o", "json"))["items"]
    assert [pod["status"]["phase"] for pod in found] == ["Succeeded"]
    ended = container_state(found[0])["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (0, "Completed")
    assert json.loads(ended["message"]) == {"accuracy": 0.5}
    conditions = {c["type"]: (c["status"], c.get("reason")) for c in found[0]["status"]["conditions"]}
    assert conditions["Initialized"] == ("True", "PodCompleted")
    assert conditions["Ready"] == conditions["ContainersReady"] == ("False", "PodCompleted")
    assert conditions["PodScheduled"][0] == "True"


def test_a_failed_container_reports_exit_code_and_the_end_of_its_log(pods: Pods):
    pods.create(
        "failing",
        "echo first; echo the reason >&2; exit 7",
        {"terminationMessagePolicy": "FallbackToLogsOnError"},
    )
    pod = pods.await_phase("failing", "Failed")
    ended = container_state(pod)["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (7, "Error")
    assert ended["message"] == "first\nthe reason\n"


def test_a_termination_message_is_cut_to_its_last_4096_bytes(pods: Pods):
    pods.create("talkative", "seq 1 5000 > /dev/termination-log")
    message = container_state(pods.await_phase("talkative", "Succeeded"))["terminated"]["message"]
    assert len(message.encode()) == 4096
    assert message.endswith("4999\n5000\n")


def test_the_environment_is_the_pods_and_not_the_hosts(pods: Pods, node: RunningNode):
    container = {
        "env": [
            {"name": "A", "value": "one"},
            {"name": "B", "value": "$(A)-two $(UNKNOWN) $$(A)"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "UID_", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['color']"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {
                "name": "MEM",
                "valueFrom": {"resourceFieldRef": {"resource": "requests.memory", "divisor": "1Mi"}},
            },
        ],
        "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
    }
    pods.create("env", "env; echo in $(pwd)", container, metadata={"labels": {"color": "blue"}})
    pod = pods.await_phase("env", "Succeeded")
    lines = pods.kubectl("logs", "env").splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    assert found["B"] == "one-two $(UNKNOWN) $(A)"
    assert (found["NAME"], found["UID_"], found["LABEL"]) == ("env", pod["metadata"]["uid"], "blue")
    assert (found["NODE"], found["IP"]) == (node.name, pod["status"]["podIP"])
    assert (found["CPU"], found["MEM"], found["OMP_NUM_THREADS"]) == ("2", "64", "2")
    assert found["KUBERNETES_SERVICE_PORT"] in pods.cluster.kubectl("config", "view")
    assert found["HOSTNAME"] == "env"
    assert not {"USER", "PYTEST_CURRENT_TEST", "VIRTUAL_ENV", "KUBEBUILDER_ASSETS"} & set(found)
    assert lines[-1] == f"in {found['HOME']}"


def test_every_pod_has_an_address_of_its_own_that_it_can_listen_on(pods: Pods):
    server = """
import http.server, os
address = (os.environ["IP"], 9464)
http.server.ThreadingHTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
"""
    container = {
        "command": ["python", "-c", server],
        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "readinessProbe": {"httpGet": {"port": 9464}, "periodSeconds": 1},
    }
    for name in ("first", "second"):
        pods.create(name, "", container)
    pods.kubectl("wait", "--for=condition=Ready", "pod/first", "pod/second", "--timeout=60s")
    addresses = {pods.get(name)["status"]["podIP"] for name in ("first", "second")}
    assert len(addresses) == 2
    assert all(address.startswith("127.99.") for address in addresses)


def test_config_maps_reach_environment_and_files_and_files_follow_changes(pods: Pods):
    pods.kubectl("create", "configmap", "settings", "--from-literal=level=one", "--from-literal=other=x")
    container = {
        "env": [{"name": "LEVEL", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "level"}}}],
        "envFrom": [{"configMapRef": {"name": "settings"}, "prefix": "ALL_"}],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/config"}],
    }
    script = (
        "echo $LEVEL $ALL_other $(cat /etc/config/level);"
        "until grep -q two /etc/config/level; do sleep 0.05; done; echo changed $LEVEL"
    )
    volume = {"name": "config", "configMap": {"name": "settings"}}
    pods.create("reader", script, container, volumes=[volume])
    pods.await_log("reader", "one x one")
    pods.kubectl("patch", "configmap", "settings", "-p", '{"data":{"level":"two"}}')
    pods.await_phase("reader", "Succeeded")
    assert pods.kubectl("logs", "reader").splitlines()[-1] == "changed one"


def test_a_pod_waits_for_a_config_map_that_comes_later(pods: Pods):
    container = {"envFrom": [{"configMapRef": {"name": "later"}}]}
    pods.create("waiting", "echo value $A", container)

    def waits() -> bool:
        status = pods.get("waiting").get("status", {}).get("containerStatuses")
        return bool(
            status and status[0]["state"].get("waiting", {}).get("reason") == "CreateContainerConfigError"
        )

    wait_until("CreateContainerConfigError", waits)
    pods.kubectl("create", "configmap", "later", "--from-literal=A=b")
    pods.await_phase("waiting", "Succeeded")
    assert pods.kubectl("logs", "waiting") == "value b\n"


def test_secrets_reach_environment_and_files(pods: Pods):
    pods.kubectl("create", "secret", "generic", "key", "--from-literal=word=sesame")
    container = {
        "env": [{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "key", "key": "word"}}}],
        "volumeMounts": [{"name": "key", "mountPath": "/etc/key"}],
    }
    pods.create(
        "secret",
        "echo $WORD; cat /etc/key/pass",
        container,
        volumes=[
            {"name": "key", "secret": {"secretName": "key", "items": [{"key": "word", "path": "pass"}]}}
        ],
    )
    pods.await_phase("secret", "Succeeded")
    assert pods.kubectl("logs", "secret") == "sesame\nsesame"


def test_an_annotation_becomes_a_file_that_follows_the_annotation(pods: Pods):
    items = [
        {"path": "stage", "fieldRef": {"fieldPath": "metadata.annotations['nascale.io/stage']"}},
        {"path": "all", "fieldRef": {"fieldPath": "metadata.annotations"}},
    ]
    container = {"volumeMounts": [{"name": "info", "mountPath": "/etc/podinfo"}]}
    script = (
        "cat /etc/podinfo/stage;until grep -q 2 /etc/podinfo/stage; do sleep 0.02; done; cat /etc/podinfo/all"
    )
    pods.create(
        "staged",
        script,
        container,
        metadata={"annotations": {"nascale.io/stage": "1"}},
        volumes=[{"name": "info", "downwardAPI": {"items": items}}],
    )
    pods.await_log("staged", "1")
    pods.kubectl("annotate", "pod", "staged", "nascale.io/stage=2", "--overwrite")
    pods.await_phase("staged", "Succeeded")
    assert pods.kubectl("logs", "staged").endswith('nascale.io/stage="2"')


def test_containers_of_a_pod_share_an_empty_folder_and_init_containers_come_first(pods: Pods):
    mount = [{"name": "shared", "mountPath": "/shared"}]
    init = [
        {
            "name": name,
            "image": "none",
            "command": ["sh", "-c", f"echo {name} >> /shared/order"],
            "volumeMounts": mount,
        }
        for name in ("one", "two")
    ]
    pods.create(
        "sharing",
        "echo main >> /shared/order; cat /shared/order",
        {"volumeMounts": mount},
        initContainers=init,
        volumes=[{"name": "shared", "emptyDir": {}}],
    )
    pod = pods.await_phase("sharing", "Succeeded")
    assert pods.kubectl("logs", "sharing").split() == ["one", "two", "main"]
    assert [s["state"]["terminated"]["exitCode"] for s in pod["status"]["initContainerStatuses"]] == [0, 0]


def test_a_failed_init_container_fails_the_pod_and_the_rest_never_runs(pods: Pods):
    init = [{"name": "bad", "image": "none", "command": ["sh", "-c", "exit 3"]}]
    pods.create("uninitialised", "echo never", initContainers=init)
    pod = pods.await_phase("uninitialised", "Failed")
    assert pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert "waiting" in container_state(pod)
    assert {c["type"]: c["status"] for c in pod["status"]["conditions"]}["Initialized"] == "False"


def test_a_service_account_token_opens_the_api_server(pods: Pods):
    pods.kubectl(
        "create", "rolebinding", "view", "--clusterrole=view", f"--serviceaccount={pods.namespace}:default"
    )
    script = """
import json, os, ssl, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
assert os.environ["NASCALE_SERVICE_ACCOUNT_DIRECTORY"] == folder
read = lambda name: open(f"{folder}/{name}").read()
server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
url = f"{server}/api/v1/namespaces/{read('namespace')}/pods"
request = urllib.request.Request(url, headers={"Authorization": f"Bearer {read('token')}"})
context = ssl.create_default_context(cafile=f"{folder}/ca.crt")
pods = json.load(urllib.request.urlopen(request, context=context))["items"]
print([pod["metadata"]["name"] for pod in pods])
"""
    pods.create("caller", "", {"command": ["python", "-c", script]}, automountServiceAccountToken=True)
    pods.await_phase("caller", "Succeeded", "Failed")
    assert pods.kubectl("logs", "caller") == "['caller']\n"


def test_host_path_and_claims_that_are_bound_to_one_are_folders_of_the_machine(pods: Pods, tmp_path: Path):
    (tmp_path / "input").write_text("from the host")
    name = f"volume-{pods.namespace}"
    pods.apply(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": name,
                "hostPath": {"path": str(tmp_path)},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "claim", "namespace": pods.namespace},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": name,
                "resources": {"requests": {"storage": "1Gi"}},
            },
        },
    )
    mounts = [
        {"name": "claim", "mountPath": "/data"},
        {"name": "host", "mountPath": "/host", "readOnly": True},
    ]
    pods.create(
        "writer",
        "cat /host/input > /data/output",
        {"volumeMounts": mounts},
        volumes=[
            {"name": "claim", "persistentVolumeClaim": {"claimName": "claim"}},
            {"name": "host", "hostPath": {"path": str(tmp_path), "type": "Directory"}},
        ],
    )
    pods.await_phase("writer", "Succeeded")
    assert (tmp_path / "output").read_text() == "from the host"
    pods.kubectl("delete", "pod", "writer")
    assert (tmp_path / "output").exists()
    pods.kubectl("delete", "pvc", "claim")
    pods.cluster.kubectl("delete", "pv", name)


@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"command": None}, "containers[main].command: must be given"),
        ({"command": ["no-such-program"]}, 'exec: "no-such-program": executable file not found in $PATH'),
        ({"workingDir": "/no/such/folder"}, "workingDir: must be an existing folder, not '/no/such/folder'"),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "x"}]},
            "containers[main].volumeMounts[v].subPath: must be absent on this node, not 'x'",
        ),
    ],
    ids=["no command", "unknown program", "unknown folder", "subPath"],
)
def test_what_the_node_can_not_run_fails_at_once_and_says_why(pods: Pods, container: dict, message: str):
    pods.create("refused", "true", container, volumes=[{"name": "v", "emptyDir": {}}])
    ended = container_state(pods.await_phase("refused", "Failed"))["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert message in ended["message"]


def test_a_volume_of_an_unsupported_kind_is_refused_by_name(pods: Pods):
    volume = {"name": "share", "nfs": {"server": "127.0.0.1", "path": "/"}}
    pods.create("nfs", "true", volumes=[volume])
    message = container_state(pods.await_phase("nfs", "Failed"))["terminated"]["message"]
    assert message.startswith("volumes[share]: must be one of configMap, secret,")
    assert message.endswith("not nfs")


def test_nothing_of_a_pod_survives_its_main_process(pods: Pods):
    pods.create("daemons", "sleep 600 & setsid sleep 600 & echo left")
    pod = pods.await_phase("daemons", "Succeeded")
    assert processes_of(pod["metadata"]["uid"]) == []
