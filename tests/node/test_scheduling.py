"""Resource requests: the scheduler counts what the node declares."""

from __future__ import annotations

import pytest
from tests.node.running_node import Pods, container_state, wait_until

pytestmark = pytest.mark.cluster


def requesting(**resources: str) -> dict:
    return {
        "resources": {"limits": {name.replace("gpu", "nvidia.com/gpu"): q for name, q in resources.items()}}
    }


def unschedulable(pods: Pods, name: str) -> str | None:
    conditions = pods.get(name).get("status", {}).get("conditions") or []
    return next((c["message"] for c in conditions if c.get("reason") == "Unschedulable"), None)


def test_a_pod_that_asks_for_more_than_the_node_has_stays_pending(pods: Pods):
    pods.create("large", "true", requesting(cpu="64"))
    message = wait_until("Unschedulable", lambda: unschedulable(pods, "large"))
    assert "Insufficient cpu" in message
    assert pods.phase("large") == "Pending"


def test_gpus_are_counted_and_each_pod_gets_its_own(pods: Pods):
    show = "echo gpus=$CUDA_VISIBLE_DEVICES; exec sleep 600"
    for name in ("first", "second", "third"):
        pods.create(name, show, requesting(gpu="1"), terminationGracePeriodSeconds=1)
        if name != "third":
            pods.await_phase(name, "Running")
    assert "Insufficient nvidia.com/gpu" in wait_until("third waits", lambda: unschedulable(pods, "third"))
    pods.create("none", "echo gpus=$CUDA_VISIBLE_DEVICES")
    pods.await_phase("none", "Succeeded")
    assert pods.kubectl("logs", "none") == "gpus=\n"
    logs = {name: pods.await_log(name, "gpus=").strip() for name in ("first", "second")}
    assert sorted(logs.values()) == ["gpus=0", "gpus=1"]
    pods.kubectl("delete", "pod", "first")
    assert pods.await_log("third", "gpus=").strip() == logs["first"]


def test_a_pod_that_was_bound_past_the_scheduler_is_refused_like_by_a_kubelet(pods: Pods, node):
    pods.create("bound", "true", requesting(cpu="64"), nodeName=node.name)
    status = pods.await_phase("bound", "Failed")["status"]
    assert status["reason"] == "OutOfcpu"
    assert "requested: 64000" in status["message"]
    assert "capacity: 4000" in status["message"]
    assert "waiting" in container_state({"status": status})
