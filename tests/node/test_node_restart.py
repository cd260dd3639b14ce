"""The node agent may be killed at any moment: containers go on, and nothing of what they did is lost."""

from __future__ import annotations

import signal

import pytest
from tests.node.running_node import (
    CAPACITY,
    Json,
    Pods,
    RunningNode,
    container_state,
    processes_of,
    wait_until,
)

pytestmark = pytest.mark.cluster


def waiting_for(folder: str) -> str:
    wait = f"until test -e {folder}/go; do sleep 0.02; done"
    return f"echo begun; {wait}; printf done > /dev/termination-log; exit 6"


def await_running(pods: Pods, name: str) -> Json:
    """Wait until a container has begun, and the API server knows it: what it logs may be seen before that."""
    pods.await_log(name, "begun")
    return pods.await_phase(name, "Running")


def main_process(uid: str) -> int:
    """Return the container's first process: not what comes and goes."""
    return min(processes_of(uid))


def test_a_container_goes_on_while_the_node_is_dead_and_is_found_again(
    pods: Pods, node: RunningNode, tmp_path
):
    pods.create("survivor", waiting_for(str(tmp_path)))
    before = await_running(pods, "survivor")
    running = main_process(before["metadata"]["uid"])
    node.end(signal.SIGKILL)
    try:
        assert main_process(before["metadata"]["uid"]) == running
    finally:
        node.start()
    pods.await_log("survivor", "begun")
    assert main_process(before["metadata"]["uid"]) == running
    (tmp_path / "go").touch()
    pod = pods.await_phase("survivor", "Failed")
    ended = container_state(pod)["terminated"]
    assert (ended["exitCode"], ended["message"]) == (6, "done")
    assert ended["startedAt"] == container_state(before)["running"]["startedAt"]
    assert pod["status"]["podIP"] == before["status"]["podIP"]
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    assert pods.kubectl("logs", "survivor") == "begun\n"


def test_an_end_that_the_node_did_not_see_is_reported_with_code_and_message(
    pods: Pods, node: RunningNode, tmp_path
):
    pods.create("unseen", waiting_for(str(tmp_path)))
    pods.await_log("unseen", "begun")
    uid = pods.get("unseen")["metadata"]["uid"]
    node.end(signal.SIGKILL)
    try:
        (tmp_path / "go").touch()
        wait_until("the container's end", lambda: not processes_of(uid))
    finally:
        node.start()
    ended = container_state(pods.await_phase("unseen", "Failed"))["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (6, "Error", "done")


def test_pods_that_come_and_go_while_the_node_is_down_are_dealt_with(pods: Pods, node: RunningNode):
    pods.create("doomed", "echo begun; exec sleep 600")
    pods.create("leaving", "echo begun; exec sleep 600", terminationGracePeriodSeconds=1)
    for name in ("doomed", "leaving"):
        pods.await_log(name, "begun")
    uids = {name: pods.get(name)["metadata"]["uid"] for name in ("doomed", "leaving")}
    node.end(signal.SIGKILL)
    try:
        pods.kubectl("delete", "pod", "doomed", "--force", "--grace-period=0")
        pods.kubectl("delete", "pod", "leaving", "--wait=false")
        pods.create("new", "echo here")
    finally:
        node.start()
    pods.await_phase("new", "Succeeded")
    wait_until("leaving is gone", lambda: not pods.get("leaving"))
    for uid in uids.values():
        wait_until("processes gone", lambda uid=uid: not processes_of(uid))
        wait_until("folder gone", lambda uid=uid: not list(node.state.glob(f"pods/*{uid}")))


def test_a_restart_writes_no_status_that_did_not_change(pods: Pods, node: RunningNode):
    pods.create("steady", "echo begun; exec sleep 600", terminationGracePeriodSeconds=1)
    pods.create("finished", "true")
    await_running(pods, "steady")
    pods.await_phase("finished", "Succeeded")
    before = {name: pods.get(name)["metadata"]["resourceVersion"] for name in ("steady", "finished")}
    node.end(signal.SIGTERM)
    asked = len(node.requests(pods.cluster))
    node.start()
    # The node takes pods up in order, so a pod that has run shows that the older ones were looked at.
    pods.create("later", "sleep 0.5")
    pods.await_phase("later", "Succeeded")
    assert {name: pods.get(name)["metadata"]["resourceVersion"] for name in before} == before
    # Nor does it try to: the API server would refuse to bring a finished container back.
    ours = f"/namespaces/{pods.namespace}/pods/"
    patched = [uri for verb, uri in node.requests(pods.cluster)[asked:] if verb == "patch" and ours in uri]
    assert {uri.split("/")[-2] for uri in patched} == {"later"}


def test_pods_that_ended_before_a_restart_hold_no_resources(pods: Pods, node: RunningNode):
    for name in ("first", "second"):
        pods.create(name, "true", {"resources": {"requests": {"cpu": "3"}}})
        pods.await_phase(name, "Succeeded")
    node.end(signal.SIGKILL)
    node.start()
    pods.create("third", "true", {"resources": {"requests": {"cpu": "3"}}})
    assert pods.await_phase("third", "Succeeded", "Failed")["status"]["phase"] == "Succeeded"


def test_the_capacity_may_change_at_a_restart(pods: Pods, node: RunningNode):
    def capacity() -> str:
        return pods.cluster.kubectl("get", "node", node.name, "-o", "jsonpath={.status.allocatable}")

    node.end(signal.SIGTERM)
    node.start("cpu=3,memory=8Gi")
    try:
        wait_until("3 processors", lambda: '"cpu":"3"' in capacity())
        assert "nvidia.com/gpu" not in capacity()
    finally:
        node.end(signal.SIGTERM)
        node.start()
    wait_until("GPUs are back", lambda: '"nvidia.com/gpu":"2"' in capacity())
    assert "nvidia.com/gpu=2" in CAPACITY
