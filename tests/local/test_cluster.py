"""The whole embedded cluster: pods run and are scraped, the operator runs with its own rights."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from nascale.local import operator_process, processes
from nascale.local.api_server import ApiServer
from nascale.local.components import API_SERVER, NODE, OPERATOR, PROMETHEUS
from nascale.local.instance import LocalCluster
from nascale.local.node.process import marked_processes
from nascale.local.processes import ProcessState

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

NewCluster = Callable[[str], LocalCluster]
EXPORTER = """
import os, prometheus_client, signal
gauge = prometheus_client.Gauge("answer", "What a pod exports.", ["trial"])
gauge.labels("of-the-pod").set(42)
prometheus_client.start_http_server(9464, addr=os.environ["POD_IP"])
signal.pause()
"""


def _pod(name: str, script: str, *, scrape: bool = True) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {"nascale.io/search": "of-pod", "nascale.io/trial": name},
                "annotations": {"prometheus.io/scrape": json.dumps(scrape), "prometheus.io/port": "9464"},
            },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "trial",
                        "image": "none",
                        "command": ["python", "-c", script],
                        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                        "ports": [{"name": "metrics", "containerPort": 9464}],
                    }
                ],
            },
        }
    )


def _wait(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


def _query(cluster: LocalCluster, query: str) -> list[dict[str, Any]]:
    url = f"{cluster.prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url) as response:  # noqa: S310 - our own http URL
        document = json.load(response)
    assert document["status"] == "success"
    found: list[dict[str, Any]] = document["data"]["result"]
    return found


def _pid(cluster: LocalCluster, component: str) -> int:
    pid = next(status.pid for status in cluster.status() if status.name == component)
    assert pid is not None
    return pid


def _kill(cluster: LocalCluster, component: str) -> None:
    pid = _pid(cluster, component)
    os.kill(pid, signal.SIGKILL)
    _wait(lambda: processes.identify(pid) is None)


def _api(cluster: LocalCluster, token: str) -> ApiServer:
    return ApiServer(cluster.port(API_SERVER), cluster.layout.pki / "ca.crt", token=token)


def test_prometheus_finds_annotated_pods_and_says_whose_each_value_is(embedded_cluster: LocalCluster):
    embedded_cluster.kubectl("apply", "-f", "-", stdin=_pod("scraped", EXPORTER))
    embedded_cluster.kubectl("apply", "-f", "-", stdin=_pod("not-scraped", EXPORTER, scrape=False))

    series = _wait(lambda: _query(embedded_cluster, 'answer{pod="scraped"}'))

    assert len(series) == 1
    labels = series[0]["metric"]
    assert series[0]["value"][1] == "42"
    assert labels.pop("instance").endswith(":9464")
    assert labels == {
        "__name__": "answer",
        "job": "pods",
        "namespace": "default",
        "pod": "scraped",
        "node": "nascale-full",
        "nascale_io_search": "of-pod",
        "nascale_io_trial": "scraped",
        # The exporter's own label stays as it is.
        "trial": "of-the-pod",
    }
    embedded_cluster.kubectl("wait", "--for=condition=Ready", "pod/not-scraped", "--timeout=60s")
    assert _query(embedded_cluster, 'up{job="pods", pod="not-scraped"}') == []

    embedded_cluster.kubectl("delete", "pod", "scraped", "not-scraped")
    _wait(lambda: not _query(embedded_cluster, 'up{job="pods", pod="scraped"}'))


def test_prometheus_may_watch_pods_and_nothing_else(embedded_cluster: LocalCluster):
    api = _api(embedded_cluster, embedded_cluster.layout.prometheus_token.read_text())

    assert api.request("GET", "/api/v1/pods").status == 200
    for path in ("/api/v1/secrets", "/api/v1/nodes", "/api/v1/configmaps", "/apis/batch/v1/jobs"):
        assert api.request("GET", path).status == 403


def test_logs_of_a_pod_are_read_through_the_api(embedded_cluster: LocalCluster):
    embedded_cluster.kubectl("apply", "-f", "-", stdin=_pod("talks", "print('a word', flush=True)"))
    embedded_cluster.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/talks", "--timeout=60s")

    assert embedded_cluster.kubectl("logs", "talks") == "a word\n"


def test_pods_survive_the_nodes_crash_and_end_with_the_cluster(new_cluster: NewCluster):
    cluster = new_cluster("pods")
    cluster.up({"prometheus": False})
    cluster.kubectl("apply", "-f", "-", stdin=_pod("lives", "import signal; signal.pause()"))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/lives", "--timeout=60s")
    uid = cluster.kubectl("get", "pod", "lives", "-o", "jsonpath={.metadata.uid}")

    def container_pids() -> set[int]:
        return {pid for pid, value in marked_processes() if value.startswith(uid)}

    before = container_pids()
    assert len(before) == 1

    _kill(cluster, NODE)
    assert container_pids() == before
    cluster.up()
    cluster.kubectl("wait", "--for=condition=Ready", "pod/lives", "--timeout=60s")
    assert container_pids() == before
    restarts = "jsonpath={.status.containerStatuses[0].restartCount}"
    assert cluster.kubectl("get", "pod", "lives", "-o", restarts) == "0"

    # The worst case for "down": the node is dead, and nobody but the folder knows its pods.
    _kill(cluster, NODE)
    cluster.down()
    assert container_pids() == set()
    assert not cluster.directory.exists()


def test_the_operator_runs_under_its_own_account_and_is_repaired(new_cluster: NewCluster):
    cluster = new_cluster("operated")
    cluster.up({"operator": True, "node": False})
    token = yaml.safe_load(cluster.layout.operator_kubeconfig.read_text())["users"][0]["user"]["token"]
    api = _api(cluster, token)
    kinds = "/apis/nascale.io/v1alpha1/architecturesearches"

    assert api.request("GET", kinds).status == 200
    assert api.request("GET", "/api/v1/secrets").status == 403
    role = json.loads(cluster.kubectl("get", "clusterrole", operator_process.ACCOUNT, "-o", "json"))
    assert role["rules"] == operator_process.operator_rules(operator_process.source_directory())
    _wait(lambda: _query(cluster, 'up{job="nascale-operator"} == 1'))

    _kill(cluster, OPERATOR)
    states = {status.name: status.state for status in cluster.status()}
    assert [name for name, state in states.items() if state is ProcessState.CRASHED] == [OPERATOR]

    # Its account goes too, and with it the token.
    cluster.kubectl("delete", "namespace", "nascale-system", "--wait=false")
    cluster.kubectl("wait", "--for=delete", "namespace/nascale-system", "--timeout=60s")

    cluster.up()
    assert {status.state for status in cluster.status()} == {ProcessState.RUNNING}
    renewed = yaml.safe_load(cluster.layout.operator_kubeconfig.read_text())["users"][0]["user"]["token"]
    assert renewed != token
    # The API server remembers for some seconds whom it took.
    _wait(lambda: api.request("GET", kinds).status == 401)
    assert _api(cluster, renewed).request("GET", kinds).status == 200


def test_an_option_that_changed_restarts_what_depends_on_it_and_nothing_else(new_cluster: NewCluster):
    cluster = new_cluster("changed")
    cluster.up({"node": False, "scrape_seconds": 15})
    before = {status.name: status.pid for status in cluster.status()}

    said: list[str] = []
    cluster.up({"scrape_seconds": 1}, report=said.append)

    after = {status.name: status.pid for status in cluster.status()}
    assert [name for name in after if after[name] != before[name]] == [PROMETHEUS]
    assert said == [f"{PROMETHEUS}: its settings changed; restarting it"]
    cluster.up({"prometheus": False})
    assert PROMETHEUS not in {status.name for status in cluster.status()}
