"""How often the node speaks to the API server: every trial pays for it."""

from __future__ import annotations

import pytest
from tests.node.running_node import Pods, RunningNode, wait_until

pytestmark = pytest.mark.cluster


def test_a_plain_pod_costs_two_status_patches_and_nothing_else(pods: Pods, node: RunningNode):
    names = [f"plain-{index}" for index in range(3)]
    before = len(node.requests(pods.cluster))
    for name in names:
        pods.create(name, "sleep 0.5")
        pods.await_phase(name, "Succeeded")
    pods.kubectl("delete", "pod", *names)
    wait_until("pods gone", lambda: not pods.get(names[-1]))
    new = node.requests(pods.cluster)[before:]
    about_pods = sorted((verb, uri) for verb, uri in new if f"/namespaces/{pods.namespace}/" in uri)
    expected = [("patch", f"/api/v1/namespaces/{pods.namespace}/pods/{name}/status") for name in names]
    assert about_pods == sorted(2 * expected)
