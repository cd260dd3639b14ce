"""Claims of the storage class ``nascale-local``: folders that outlive pods and go with their claim."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.node.running_node import Json, Pods, RunningNode, wait_until

from nascale.local.node.provisioner import STORAGE_CLASS

pytestmark = pytest.mark.cluster


def claim(name: str, storage_class: str | None = STORAGE_CLASS) -> Json:
    spec: Json = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def with_claim(name: str) -> Json:
    volume = {"name": "work", "persistentVolumeClaim": {"claimName": name}}
    return {"volumes": [volume]}


MOUNT = {"volumeMounts": [{"name": "work", "mountPath": "/data"}]}


def test_what_a_pod_writes_is_there_for_the_next_and_goes_with_the_claim(pods: Pods, node: RunningNode):
    pods.apply(claim("checkpoints"))
    pods.create("first", "echo step 7 > /data/checkpoint", MOUNT, **with_claim("checkpoints"))
    pods.await_phase("first", "Succeeded")
    pods.kubectl("delete", "pod", "first")
    pods.create("second", "cat /data/checkpoint", MOUNT, **with_claim("checkpoints"))
    pods.await_phase("second", "Succeeded")
    assert pods.kubectl("logs", "second") == "step 7\n"

    volume = pods.get("checkpoints", "pvc")["spec"]["volumeName"]
    folder = Path(pods.get(volume, "pv")["spec"]["hostPath"]["path"])
    assert folder.parent == node.claims
    assert (folder / "checkpoint").exists()
    pods.kubectl("delete", "pod", "second")
    pods.kubectl("delete", "pvc", "checkpoints")
    wait_until("folder gone", lambda: not folder.exists())
    wait_until("volume gone", lambda: not pods.get(volume, "pv"))


def test_a_claim_without_a_class_gets_the_nodes_and_one_of_another_class_waits(pods: Pods):
    pods.apply(claim("default", None), claim("foreign", "fast-disks"))
    wait_until("default is bound", lambda: pods.get("default", "pvc")["status"]["phase"] == "Bound")
    assert pods.get("foreign", "pvc")["status"]["phase"] == "Pending"
    pods.create("waiting", "true", MOUNT, **with_claim("foreign"))

    def unbound() -> bool:
        conditions = pods.get("waiting").get("status", {}).get("conditions") or []
        return any("unbound" in condition.get("message", "") for condition in conditions)

    wait_until("the pod waits for its claim", unbound)


def test_a_volume_that_points_elsewhere_never_makes_the_node_delete_that(pods: Pods, tmp_path: Path):
    pods.apply(claim("mine"))
    wait_until("bound", lambda: pods.get("mine", "pvc")["status"]["phase"] == "Bound")
    (tmp_path / "precious").touch()
    original = pods.get("mine", "pvc")["spec"]["volumeName"]
    forged = pods.get(original, "pv")
    forged = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"forged-{pods.namespace}", "annotations": forged["metadata"]["annotations"]},
        "spec": {
            **{key: forged["spec"][key] for key in ("capacity", "accessModes", "storageClassName")},
            "persistentVolumeReclaimPolicy": "Delete",
            "hostPath": {"path": str(tmp_path)},
            "claimRef": {
                "kind": "PersistentVolumeClaim",
                "apiVersion": "v1",
                "namespace": pods.namespace,
                "name": "gone",
                "uid": "00000000-0000-0000-0000-000000000000",
            },
        },
    }
    pods.apply(forged)
    wait_until("the forged volume is gone", lambda: not pods.get(forged["metadata"]["name"], "pv"))
    assert (tmp_path / "precious").exists()
