"""The status that the node computes, and whether a pod fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nascale.local.node.admission import check_fit, pod_requests
from nascale.local.node.devices import assign_devices
from nascale.local.node.status import ContainerView, PodView, build_status, pod_phase, restarts, same_status

NOW, EARLIER = "2030-01-01T00:01:00Z", "2030-01-01T00:00:00Z"
WAITING = {"waiting": {"reason": "ContainerCreating"}}
RUNNING = {"running": {"startedAt": NOW}}


def ended(code: int) -> dict:
    return {"terminated": {"exitCode": code, "startedAt": EARLIER, "finishedAt": NOW}}


def view(*states: dict, init: tuple[dict, ...] = (), ready: bool = False, **fields: object) -> PodView:
    pod = {"metadata": {"name": "p", "generation": 2}, "spec": {}}
    defaults = {"host_address": "127.0.0.1", "address": "127.88.0.1", "start_time": EARLIER, "now": NOW}
    return PodView(
        pod=pod,
        init=[ContainerView({"name": f"i{n}"}, state) for n, state in enumerate(init)],
        containers=[ContainerView({"name": f"c{n}"}, state, ready=ready) for n, state in enumerate(states)],
        **{**defaults, **fields},
    )


@pytest.mark.parametrize(
    ("pod", "phase"),
    [
        (view(WAITING), "Pending"),
        (view(RUNNING, WAITING), "Pending"),
        (view(RUNNING), "Running"),
        (view(RUNNING, ended(1)), "Running"),
        (view(WAITING, init=(RUNNING,)), "Pending"),
        (view(ended(0)), "Running"),
        (view(ended(0), ended=True), "Succeeded"),
        (view(ended(0), ended(1), ended=True), "Failed"),
        (view(WAITING, init=(ended(1),), ended=True), "Failed"),
        (view(WAITING, ended=True, failure={"reason": "OutOfcpu", "message": "m"}), "Failed"),
        (view(RUNNING, failure={"reason": "DeadlineExceeded", "message": "m"}), "Running"),
    ],
)
def test_phase(pod: PodView, phase: str):
    assert pod_phase(pod) == phase


def test_a_container_that_waits_for_its_next_run_keeps_the_pod_running():
    waiting = ContainerView(
        {"name": "c"}, {"waiting": {"reason": "CrashLoopBackOff"}}, last=ended(1)["terminated"]
    )
    pod = view(RUNNING)
    assert pod_phase(PodView(**{**pod.__dict__, "containers": [waiting]})) == "Running"


def test_a_condition_keeps_its_time_until_its_status_changes():
    first = build_status(view(RUNNING, ready=True, prepared=True))["conditions"]
    old = [{**condition, "lastTransitionTime": EARLIER} for condition in first]
    same = build_status(view(RUNNING, ready=True, prepared=True, previous=old))["conditions"]
    assert {c["lastTransitionTime"] for c in same} == {EARLIER}
    over = build_status(view(ended(0), ended=True, prepared=True, previous=old))["conditions"]
    assert {c["type"]: c["lastTransitionTime"] for c in over if c["lastTransitionTime"] == EARLIER} == {
        "Initialized": EARLIER
    }


def test_a_readiness_gate_holds_ready_back_but_not_the_containers():
    pod = view(RUNNING, ready=True)
    gated = {**pod.pod, "spec": {"readinessGates": [{"conditionType": "example.com/gate"}]}}
    found = build_status(PodView(**{**pod.__dict__, "pod": gated}))["conditions"]
    assert {c["type"]: c["status"] for c in found}["ContainersReady"] == "True"
    assert {c["type"]: c["reason"] for c in found}["Ready"] == "ReadinessGatesNotReady"


def test_what_the_api_server_adds_is_no_difference():
    status = build_status(view(RUNNING, ready=True))
    stored = {
        **status,
        "qosClass": "BestEffort",
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": EARLIER, "lastProbeTime": None},
            *(
                {k: v for k, v in c.items() if v is not None} | {"lastProbeTime": None}
                for c in status["conditions"]
            ),
        ],
    }
    assert same_status(status, stored)
    assert not same_status(build_status(view(ended(0), ended=True)), stored)


@pytest.mark.parametrize(
    ("policy", "code", "init", "again"),
    [
        ("Never", 1, False, False),
        ("OnFailure", 1, False, True),
        ("OnFailure", 0, False, False),
        ("Always", 0, False, True),
        ("Always", 0, True, False),
        ("Always", 1, True, True),
        ("Never", 1, True, False),
    ],
)
def test_restart_policies(policy: str, code: int, init: bool, again: bool):  # noqa: FBT001  test table
    assert restarts(policy, code, init=init) is again


def requesting(**requests: str) -> dict:
    named = {name.replace("gpu", "nvidia.com/gpu"): quantity for name, quantity in requests.items()}
    return {"name": "c", "resources": {"requests": named}}


def test_a_pod_needs_its_containers_together_or_its_largest_init_container():
    pod = {
        "spec": {
            "containers": [requesting(cpu="500m"), requesting(cpu="1", memory="1Gi")],
            "initContainers": [requesting(cpu="1"), requesting(cpu="2")],
            "overhead": {"cpu": "100m"},
        }
    }
    found = pod_requests(pod)
    assert {name: str(value.normalize()) for name, value in found.items() if name != "memory"} == {
        "cpu": "2.1",
        "pods": "1",
    }
    assert found["memory"] == 2**30


def test_a_pod_that_does_not_fit_is_refused_in_a_kubelets_words():
    capacity = {"cpu": "2", "memory": "1Gi", "pods": "110"}
    present = [{"spec": {"containers": [requesting(cpu="1500m")]}}]
    refusal = check_fit({"spec": {"containers": [requesting(cpu="1")]}}, present, capacity)
    assert refusal is not None
    assert refusal.reason == "OutOfcpu"
    assert refusal.message.endswith("cpu, requested: 1000, used: 1500, capacity: 2000")
    assert check_fit({"spec": {"containers": [requesting(cpu="500m")]}}, present, capacity) is None
    gpu = check_fit({"spec": {"containers": [requesting(gpu="1")]}}, [], capacity)
    assert gpu is not None
    assert gpu.reason == "OutOfnvidia.com/gpu"
    full = check_fit({"spec": {"containers": [requesting()]}}, present, {**capacity, "pods": "1"})
    assert full is not None
    assert full.reason == "OutOfpods"


@given(st.lists(st.integers(0, 3), max_size=6))
def test_no_gpu_is_given_twice(wanted: list[int]):
    given_out: list[dict[str, list[int]]] = []
    for count in wanted:
        given_out.append(assign_devices([requesting(gpu=str(count))], given_out, sum(wanted)))
    indexes = [index for pod in given_out for found in pod.values() for index in found]
    assert sorted(indexes) == list(range(sum(wanted)))
