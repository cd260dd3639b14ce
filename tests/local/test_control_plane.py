"""The embedded control plane is a real one: RBAC, tokens, an audit log of every request."""

from __future__ import annotations

import json

import pytest

from nascale.local.api_server import ApiServer
from nascale.local.components import API_SERVER
from nascale.local.instance import LocalCluster
from nascale.local.processes import ProcessState

pytestmark = pytest.mark.cluster

UNSIGNED = "eyJhbGciOiJFUzI1NiJ9.e30.AAAA"
SECRETS = "/api/v1/namespaces/kube-system/secrets"


def _server(cluster: LocalCluster, *, token: str | None) -> ApiServer:
    return ApiServer(cluster.port(API_SERVER), cluster.layout.pki / "ca.crt", token=token)


def test_every_process_that_was_asked_for_runs_and_no_other(control_plane: LocalCluster):
    states = {status.name: status.state for status in control_plane.status()}

    assert states == dict.fromkeys(
        ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"], ProcessState.RUNNING
    )


def test_an_account_without_rights_is_refused(control_plane: LocalCluster):
    token = control_plane.kubectl("create", "token", "default").strip()

    answer = _server(control_plane, token=token).request("GET", SECRETS)

    assert answer.status == 403
    assert "system:serviceaccount:default:default" in answer.body


def test_a_token_that_nobody_signed_is_refused(control_plane: LocalCluster):
    answer = _server(control_plane, token=UNSIGNED).request("GET", SECRETS)

    assert answer.status == 401


def test_nobody_reads_secrets_without_credentials(control_plane: LocalCluster):
    assert _server(control_plane, token=None).request("GET", SECRETS).status == 403


def test_the_audit_log_names_who_did_what_and_holds_no_bodies(control_plane: LocalCluster):
    control_plane.kubectl("create", "configmap", "audited", "--from-literal=word=unmistakable")

    text = control_plane.audit_log.read_text()
    entries = [json.loads(line) for line in text.splitlines()]
    creations = [
        entry
        for entry in entries
        if entry["verb"] == "create" and entry.get("objectRef", {}).get("name") == "audited"
    ]

    assert len(creations) == 1
    assert creations[0]["user"]["username"] == "nascale-admin"
    assert creations[0]["level"] == "Metadata"
    assert "unmistakable" not in text


def test_kubernetes_controllers_act_on_what_is_created(control_plane: LocalCluster):
    control_plane.kubectl("create", "job", "real", "--image=none", "--", "/bin/true")

    control_plane.kubectl("wait", "--for=create", "pod", "--selector=job-name=real", "--timeout=60s")
    owner = control_plane.kubectl(
        "get", "pods", "-l", "job-name=real", "-o", "jsonpath={.items[0].metadata.ownerReferences[0].kind}"
    )

    assert owner == "Job"
