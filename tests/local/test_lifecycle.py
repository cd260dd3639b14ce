"""A cluster comes up, is repaired after a crash, lives beside others, and goes without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nascale.local import ports, processes
from nascale.local.components import DIRECTORY_VARIABLE
from nascale.local.errors import ClusterError
from nascale.local.instance import LocalCluster
from nascale.local.processes import ProcessState
from nascale.local.supervision import ProcessStatus

pytestmark = pytest.mark.cluster

NewCluster = Callable[[str], LocalCluster]
CONTROL_PLANE = {"node": False, "prometheus": False}
PROCESSES = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"]


def _by_name(cluster: LocalCluster) -> dict[str, ProcessStatus]:
    return {status.name: status for status in cluster.status()}


def _pids(cluster: LocalCluster) -> dict[str, int | None]:
    return {status.name: status.pid for status in cluster.status()}


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    _wait(lambda: processes.identify(pid) is None)


def _remains(cluster: LocalCluster) -> list[processes.ProcessIdentity]:
    return processes.processes_marked(DIRECTORY_VARIABLE, str(cluster.directory))


@pytest.mark.slow
@pytest.mark.parametrize("victim", PROCESSES)
def test_a_killed_process_shows_as_crashed_and_up_repairs_it(new_cluster: NewCluster, victim: str):
    cluster = new_cluster("crash")
    cluster.up(CONTROL_PLANE)
    cluster.kubectl("create", "configmap", "kept", "--from-literal=answer=42")
    before, address = _pids(cluster), cluster.kubectl("cluster-info")

    _kill(before[victim])
    # The watcher writes down the exit right after.
    _wait(lambda: _by_name(cluster)[victim].exit is not None)

    broken = _by_name(cluster)
    assert broken[victim].state is ProcessState.CRASHED
    assert str(broken[victim].exit) == "killed by SIGKILL"
    assert [name for name, status in broken.items() if status.state is not ProcessState.RUNNING] == [victim]

    said: list[str] = []
    cluster.up(report=said.append)

    assert said == [f"{victim}: not running; starting it again"]
    after = _pids(cluster)
    assert [name for name in PROCESSES if after[name] != before[name]] == [victim]
    assert cluster.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.answer}") == "42"
    assert cluster.kubectl("cluster-info") == address


@pytest.mark.slow
def test_up_changes_nothing_where_all_runs(new_cluster: NewCluster):
    cluster = new_cluster("same")
    cluster.up(CONTROL_PLANE)
    before = _pids(cluster)

    said: list[str] = []
    cluster.up(report=said.append)

    assert _pids(cluster) == before
    assert said == []


@pytest.mark.slow
def test_two_clusters_live_side_by_side_and_down_leaves_nothing(new_cluster: NewCluster):
    one, other = new_cluster("one"), new_cluster("other")
    first, second = one.up(CONTROL_PLANE), other.up(CONTROL_PLANE)
    assert not set(first.ports.values()) & set(second.ports.values())
    assert first.pod_range != second.pod_range

    one.kubectl("create", "namespace", "only-here")
    assert "only-here" not in other.kubectl("get", "namespaces")

    one.down()

    assert not one.directory.exists()
    assert _remains(one) == []
    assert all(ports.is_free(port) for port in first.ports.values())
    assert {status.state for status in other.status()} == {ProcessState.RUNNING}
    with pytest.raises(ClusterError, match="there is no cluster 'one'"):
        one.status()

    other.down()
    assert list(other.directory.parent.iterdir()) == []


@pytest.mark.slow
def test_down_can_keep_the_data_for_the_next_up(new_cluster: NewCluster):
    cluster = new_cluster("kept")
    cluster.up(CONTROL_PLANE)
    cluster.kubectl("create", "configmap", "kept", "--from-literal=answer=42")

    cluster.down(keep_data=True)

    assert _remains(cluster) == []
    assert {status.state for status in cluster.status()} == {ProcessState.STOPPED}
    cluster.up()
    assert cluster.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.answer}") == "42"


@pytest.mark.slow
def test_a_cluster_goes_with_the_process_that_it_belongs_to(new_cluster: NewCluster):
    cluster = new_cluster("owned")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        cluster.up(CONTROL_PLANE, owner=owner.pid)
        assert {status.state for status in cluster.status()} == {ProcessState.RUNNING}
        owner.kill()

    _wait(lambda: not cluster.directory.exists())
    _wait(lambda: _remains(cluster) == [])


@pytest.mark.slow
def test_a_process_that_the_state_does_not_know_is_replaced(new_cluster: NewCluster):
    cluster = new_cluster("untold")
    state = cluster.up(CONTROL_PLANE)
    # As if "up" had been killed right after it started the scheduler.
    known = {name: record for name, record in state.processes.items() if name != "kube-scheduler"}
    cluster.layout.write_state(state.model_copy(update={"processes": known}))
    unknown = state.processes["kube-scheduler"].identity
    assert unknown is not None

    after = cluster.up()

    assert not unknown.is_alive()
    assert after.processes["kube-scheduler"].identity != unknown
    assert {status.state for status in cluster.status()} == {ProcessState.RUNNING}


def test_a_process_that_ends_at_once_is_named_with_the_end_of_its_log(new_cluster: NewCluster):
    cluster = new_cluster("broken")
    cluster.directory.mkdir(parents=True)
    # etcd refuses a data folder that is a file.
    (cluster.directory / "etcd").write_text("in the way")

    with pytest.raises(
        ClusterError, match=r"(?s)etcd ended while it started \(exit code 1\).*etcd\.log:\n.*etcd"
    ):
        cluster.up(CONTROL_PLANE)


def test_a_pid_that_belongs_to_another_process_by_now_is_never_signalled():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        current = processes.identify(bystander.pid)
        assert current is not None
        earlier = current.model_copy(update={"start_ticks": current.start_ticks - 1})

        assert not earlier.is_alive()
        processes.stop(earlier, grace_seconds=0)

        assert current.is_alive()
        bystander.kill()


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "x" * 33])
def test_a_name_that_is_no_label_is_refused(name: str, tmp_path: Path):
    with pytest.raises(ValueError, match="must be 1 to 32 characters"):
        LocalCluster(name, root=tmp_path)
