"""Restarts, deadlines, grace periods, deletion, eviction, probes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from tests.node.running_node import Json, Pods, RunningNode, container_state, processes_of, wait_until

pytestmark = pytest.mark.cluster


def test_on_failure_starts_again_until_success_and_keeps_the_last_state(pods: Pods):
    script = "test -e /shared/once && exit 0; touch /shared/once; exit 4"
    pods.create(
        "retrying",
        script,
        {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]},
        restartPolicy="OnFailure",
        volumes=[{"name": "shared", "emptyDir": {}}],
    )
    status = pods.await_phase("retrying", "Succeeded")["status"]["containerStatuses"][0]
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 4
    assert status["state"]["terminated"]["exitCode"] == 0


def test_a_container_that_ends_again_and_again_waits_in_back_off(pods: Pods):
    pods.create("crashing", "echo attempt; exit 5", restartPolicy="Always")

    def backs_off() -> Json | None:
        status = (pods.get("crashing")["status"].get("containerStatuses") or [{}])[0]
        waits = status.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
        return status if waits else None

    status = wait_until("CrashLoopBackOff", backs_off)
    # As with a kubelet: the first restart comes at once, the second waits 10 s.
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["exitCode"] == 5
    assert status["state"]["waiting"]["message"].startswith("back-off 10s restarting failed container=main")
    assert pods.phase("crashing") == "Running"
    assert pods.kubectl("logs", "crashing", "--previous") == "attempt\n"
    pods.kubectl("delete", "pod", "crashing")
    assert pods.get("crashing") == {}


def test_never_fails_at_the_first_error(pods: Pods):
    pods.create("once", "exit 9")
    status = pods.await_phase("once", "Failed")["status"]["containerStatuses"][0]
    assert status["restartCount"] == 0
    assert status["state"]["terminated"]["exitCode"] == 9


def test_a_pod_past_its_deadline_fails_as_a_whole(pods: Pods):
    pods.create("slow", "exec sleep 600", activeDeadlineSeconds=1)
    pod = pods.await_phase("slow", "Failed")
    assert pod["status"]["reason"] == "DeadlineExceeded"
    assert container_state(pod)["terminated"]["exitCode"] == 143
    assert processes_of(pod["metadata"]["uid"]) == []


def test_deletion_sends_sigterm_to_the_main_process_and_waits_for_it(pods: Pods, tmp_path: Path):
    # A child in the same group must not get the signal: in a real container only the main process does.
    script = (
        f"sh -c 'trap \"echo child >> {tmp_path}/signals\" TERM; while :; do sleep 0.05; done' & "
        f"trap 'echo main >> {tmp_path}/signals; sleep 0.3; exit 0' TERM;"
        "echo ready; while :; do sleep 0.05; done"
    )
    pods.create("polite", script)
    pods.await_log("polite", "ready")
    uid = pods.get("polite")["metadata"]["uid"]
    pods.kubectl("delete", "pod", "polite")
    assert (tmp_path / "signals").read_text() == "main\n"
    assert processes_of(uid) == []


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_period(pods: Pods):
    pods.create(
        "stubborn",
        "trap '' TERM; echo ready; while :; do sleep 0.05; done",
        terminationGracePeriodSeconds=2,
        metadata={"finalizers": ["nascale.io/test"]},
    )
    pods.await_log("stubborn", "ready")
    uid = pods.get("stubborn")["metadata"]["uid"]
    asked = time.time()
    pods.kubectl("delete", "pod", "stubborn", "--wait=false")
    pod = pods.await_phase("stubborn", "Failed")
    assert time.time() - asked >= 2.0
    assert container_state(pod)["terminated"]["exitCode"] == 137
    assert processes_of(uid) == []
    pods.kubectl("patch", "pod", "stubborn", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    wait_until("pod gone", lambda: not pods.get("stubborn"))


def test_deletion_by_force_leaves_no_process_and_no_folder(pods: Pods, node: RunningNode):
    pods.create("forced", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    pods.await_log("forced", "ready")
    uid = pods.get("forced")["metadata"]["uid"]
    assert processes_of(uid)
    pods.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")
    wait_until("processes gone", lambda: not processes_of(uid))
    wait_until("folder gone", lambda: not list(node.state.glob(f"pods/*{uid}")))


def test_an_evicted_pod_ends_with_its_disruption_noted(pods: Pods):
    script = (
        "trap 'printf saved > /dev/termination-log; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    )
    pods.create("evicted", script, metadata={"finalizers": ["nascale.io/test"]})
    pods.await_log("evicted", "ready")
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": "evicted", "namespace": pods.namespace},
    }
    path = f"/api/v1/namespaces/{pods.namespace}/pods/evicted/eviction"
    pods.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    pod = pods.await_phase("evicted", "Failed")
    ended = container_state(pod)["terminated"]
    assert (ended["exitCode"], ended["message"]) == (3, "saved")
    reasons = {c["type"]: c.get("reason") for c in pod["status"]["conditions"] if c["status"] == "True"}
    assert reasons["DisruptionTarget"] == "EvictionByEvictionAPI"
    pods.kubectl("patch", "pod", "evicted", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    wait_until("pod gone", lambda: not pods.get("evicted"))


def test_readiness_follows_its_probe(pods: Pods):
    probe = {"exec": {"command": ["test", "-e", "/state/ready"]}, "periodSeconds": 1, "failureThreshold": 1}
    script = "sleep 1.5; touch /state/ready; sleep 3; rm /state/ready; exec sleep 600"
    pods.create(
        "probed",
        script,
        {"readinessProbe": probe, "volumeMounts": [{"name": "state", "mountPath": "/state"}]},
        volumes=[{"name": "state", "emptyDir": {}}],
        terminationGracePeriodSeconds=1,
    )
    pod = pods.await_phase("probed", "Running")
    assert pod["status"]["containerStatuses"][0]["ready"] is False
    pods.kubectl("wait", "--for=condition=Ready", "pod/probed", "--timeout=60s")
    pods.kubectl("wait", "--for=condition=Ready=False", "pod/probed", "--timeout=60s")


def test_a_failed_liveness_probe_restarts_the_container(pods: Pods):
    probe = {"tcpSocket": {"host": "127.0.0.1", "port": 1}, "periodSeconds": 1, "failureThreshold": 1}
    pods.create("dead", "echo up; exec sleep 600", {"livenessProbe": probe}, restartPolicy="Always")

    def restarted() -> Json | None:
        status = (pods.get("dead")["status"].get("containerStatuses") or [{}])[0]
        return status if status.get("restartCount", 0) >= 1 else None

    status = wait_until("restart", restarted)
    assert status["lastState"]["terminated"]["exitCode"] == 143
    events = pods.kubectl(
        "get", "events", "--field-selector=reason=Unhealthy", "-o", "jsonpath={.items[*].message}"
    )
    assert "Container main failed liveness probe, will be restarted" in events
    pods.kubectl("delete", "pod", "dead", "--grace-period=1")


def test_a_liveness_probe_waits_for_the_startup_probe(pods: Pods):
    startup = {"exec": {"command": ["test", "-e", "/state/up"]}, "periodSeconds": 1, "failureThreshold": 30}
    liveness = {"exec": {"command": ["test", "-e", "/state/up"]}, "periodSeconds": 1, "failureThreshold": 1}
    pods.create(
        "starting",
        "sleep 2.5; touch /state/up; sleep 2; exit 0",
        {
            "startupProbe": startup,
            "livenessProbe": liveness,
            "volumeMounts": [{"name": "state", "mountPath": "/state"}],
        },
        volumes=[{"name": "state", "emptyDir": {}}],
    )
    status = pods.await_phase("starting", "Succeeded", "Failed")["status"]
    assert status["phase"] == "Succeeded"
    assert status["containerStatuses"][0]["restartCount"] == 0
