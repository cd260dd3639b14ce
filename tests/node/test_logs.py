"""``kubectl logs``, through the API server and the node's own server."""

from __future__ import annotations

import ssl
import subprocess
import urllib.error
import urllib.request

import pytest
from tests.node.running_node import Pods, RunningNode

pytestmark = pytest.mark.cluster


def test_logs_of_a_finished_pod_whole_and_in_part(pods: Pods):
    pods.create("counting", "seq 1 1000; echo to stderr >&2")
    pods.await_phase("counting", "Succeeded")
    whole = pods.kubectl("logs", "counting").splitlines()
    assert whole == [*map(str, range(1, 1001)), "to stderr"]
    assert pods.kubectl("logs", "counting", "--tail=2").splitlines() == ["1000", "to stderr"]
    assert pods.kubectl("logs", "counting", "--tail=0") == ""
    assert pods.kubectl("logs", "counting", "--limit-bytes=5") == "1\n2\n3"


def test_following_ends_with_the_container(pods: Pods):
    pods.create("slow", "for i in 1 2 3; do echo line $i; sleep 0.4; done")
    pods.await_phase("slow", "Running", "Succeeded")
    log = pods.kubectl("logs", "--follow", "slow")
    assert log.splitlines() == ["line 1", "line 2", "line 3"]


def test_what_the_node_can_not_answer_is_said(pods: Pods):
    pods.create("plain", "echo line")
    pods.await_phase("plain", "Succeeded")
    assert "must be absent: logs of this node carry no times" in _failure(pods, "plain", "--since=1m")
    assert "has not started" in _failure(pods, "plain", "--previous")


def test_a_client_without_a_certificate_or_without_rights_sees_nothing(pods: Pods, node: RunningNode):
    pods.create("private", "echo secret")
    pods.await_phase("private", "Succeeded")
    port = pods.cluster.kubectl(
        "get", "node", node.name, "-o", "jsonpath={.status.daemonEndpoints.kubeletEndpoint.Port}"
    )
    url = f"https://127.0.0.1:{port}/containerLogs/{pods.namespace}/private/main"
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with pytest.raises((ssl.SSLError, urllib.error.URLError, OSError)):
        urllib.request.urlopen(url, context=context).read()

    # The scheduler's certificate is of the cluster's authority, but the scheduler may not read logs.
    pair = pods.cluster.layout.pki / "scheduler"
    context.load_cert_chain(f"{pair}.crt", f"{pair}.key")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, context=context)
    assert refused.value.code == 403
    assert "must be allowed to get nodes/proxy" in refused.value.read().decode()


def _failure(pods: Pods, *arguments: str) -> str:
    command = ["logs", "-n", pods.namespace, *arguments]
    result = subprocess.run(
        [str(pods.cluster._kubectl), f"--kubeconfig={pods.cluster.kubeconfig}", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    return result.stderr
