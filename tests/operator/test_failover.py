"""Two operators on one cluster: one works, the other takes over when it is killed, stopped or told to end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tests.operator.searches import WRITES, AuditTrail, Namespace, shell_search, wait_until

from nascale.handlers.leadership import EXIT_LEASE_LOST
from nascale.local.instance import LocalCluster
from nascale.local.kubeconfig import with_token

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

RULES = Path(__file__).parents[2] / "charts" / "nascale" / "files" / "operator-rules.yaml"
LEASE_RULES = [
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": ["nascale"],
        "verbs": ["get", "patch"],
    },
]
TRIALS = 24
AS_IN_A_POD = """
import getpass

def nobody():
    raise KeyError("getpwuid(): uid not found: 65532")

getpass.getuser = nobody
from nascale.handlers.run import main
main()
"""
"""Starts an operator whose user has a number and no name."""


@dataclass
class Replica:
    """One operator's process, under an account of its own that tells its requests from others'."""

    user: str
    process: subprocess.Popen[bytes]
    log: Path

    def messages(self) -> list[str]:
        """Return what it has logged."""
        return [json.loads(line)["message"] for line in self.log.read_text().splitlines() if line]


class Replicas:
    """Operators of one namespace with one Lease."""

    def __init__(self, namespace: Namespace, cluster: LocalCluster, folder: Path) -> None:
        self._namespace = namespace
        self._cluster = cluster
        self._folder = folder
        self.all: list[Replica] = []
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "operator"},
        }
        namespace.apply({**role, "rules": yaml.safe_load(RULES.read_text()) + LEASE_RULES})

    def start(self, name: str) -> Replica:
        """Start one more."""
        namespace = self._namespace.name
        self._namespace.kubectl("create", "serviceaccount", name)
        self._namespace.kubectl(
            "create", "rolebinding", name, "--role=operator", f"--serviceaccount={namespace}:{name}"
        )
        kubeconfig = self._folder / f"{name}.kubeconfig"
        with_token(
            kubeconfig,
            name=name,
            server=f"https://127.0.0.1:{self._cluster.port('kube-apiserver')}",
            authority=self._cluster.layout.pki / "ca.crt",
            token=self._namespace.kubectl("create", "token", name).strip(),
            namespace=namespace,
        )
        environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "NASCALE_NAMESPACES": namespace,
            "NASCALE_OPERATOR_PORT": "0",
            "NASCALE_LOG_FORMAT": "json",
            "NASCALE_LEASE": f"{namespace}/nascale",
            "NASCALE_LEASE_SECONDS": "12",
        }
        log = self._folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", AS_IN_A_POD], env=environment, stdout=output, stderr=output
            )
        replica = Replica(f"system:serviceaccount:{namespace}:{name}", process, log)
        self.all.append(replica)
        return replica

    def holder(self) -> str:
        """Return who holds the Lease; empty: nobody."""
        lease = json.loads(self._namespace.kubectl("get", "lease", "nascale", "-o", "json"))
        return str(lease["spec"].get("holderIdentity") or "")


@pytest.fixture
def replicas(namespace: Namespace, operator_cluster: LocalCluster, tmp_path: Path) -> Iterator[Replicas]:
    operator_cluster.stop("operator")
    started = Replicas(namespace, operator_cluster, tmp_path)
    yield started
    for replica in started.all:
        if replica.process.poll() is None:
            replica.process.kill()
            replica.process.wait(30)
    operator_cluster.up()


def _wait_for(replica: Replica, message: str) -> None:
    wait_until(
        lambda: any(message in said for said in replica.messages()),
        what=f"{message!r} in {replica.log.read_text()[-2000:]}",
    )


def _writers(trail: AuditTrail, namespace: Namespace, replicas: Replicas) -> list[str]:
    """Return who wrote, in order, repeats left out; the Lease itself is not work."""
    order: list[str] = []
    users = {replica.user for replica in replicas.all}
    for entry in trail.entries():
        if entry.user not in users or entry.verb not in WRITES or entry.resource == "leases":
            continue
        assert entry.namespace == namespace.name
        if order[-1:] != [entry.user]:
            order.append(entry.user)
    return order


def test_one_works_at_a_time_and_another_one_goes_on_where_it_was_killed_stopped_or_ended(
    replicas: Replicas, namespace: Namespace, operator_cluster: LocalCluster
):
    trail = AuditTrail(operator_cluster.audit_log)
    first = replicas.start("first")
    _wait_for(first, "ready")
    second = replicas.start("second")
    _wait_for(second, "standing by")
    namespace.apply(shell_search("s", trials=TRIALS, parallel=2, sleep="0.3"))

    # Killed: the second one takes over.
    wait_until(lambda: len(namespace.items("trials")) >= 3, what="trials of the first operator")
    first.process.kill()
    first.process.wait(30)
    _wait_for(second, "ready")

    # Stopped for longer than the Lease lasts: a third one takes over, and the second one must not go on.
    third = replicas.start("third")
    before = len(namespace.items("trials"))
    wait_until(lambda: len(namespace.items("trials")) > before, what="trials of the second operator")
    second.process.send_signal(signal.SIGSTOP)
    _wait_for(third, "ready")
    second.process.send_signal(signal.SIGCONT)
    assert second.process.wait(30) == EXIT_LEASE_LOST

    # Told to end: it gives the Lease back, and ends cleanly; so does one that only stands by.
    idle = replicas.start("idle")
    _wait_for(idle, "standing by")
    idle.process.terminate()
    assert idle.process.wait(30) == 0
    third.process.terminate()
    assert third.process.wait(60) == 0
    assert replicas.holder() == "", third.log.read_text()[-2000:]
    namespace.apply(shell_search("later", trials=2))
    fourth = replicas.start("fourth")

    namespace.wait_for("s", "Succeeded")
    namespace.wait_for("later", "Succeeded")
    assert fourth.process.poll() is None
    trials = namespace.trials()
    assert sorted(trial["spec"]["index"] for trial in trials) == sorted([*range(TRIALS), *range(2)])
    assert {trial["status"]["outcome"] for trial in trials} == {"Succeeded"}
    # Nobody did another one's work again: one Job a trial.
    jobs = namespace.items("jobs")
    assert len(jobs) == len({job["metadata"]["labels"]["nascale.io/trial"] for job in jobs}) == TRIALS + 2
    # And nobody wrote after somebody else had begun to.
    workers = [first.user, second.user, third.user, fourth.user]
    assert _writers(trail, namespace, replicas) == workers
    for replica in (third, idle, fourth):
        assert "Traceback" not in replica.log.read_text()
