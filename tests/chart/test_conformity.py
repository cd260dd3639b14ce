"""kubeconform over all that the chart renders, with the schemas of a real API server and no network."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart import json_schemas
from tests.chart.values_matrix import EVERYTHING, MATRIX

from nascale.local.binaries import ensure
from nascale.local.instance import LocalCluster
from nascale.local.products import KUBECONFORM

Manifest = dict[str, Any]
Change = Callable[[Manifest], object]
Verdict = dict[str, Any]
Kubeconform = Callable[[str], Verdict]
NOTHING_WRONG = {"invalid": 0, "errors": 0, "skipped": 0}

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def schemas(
    control_plane: LocalCluster,
    prometheus_operator_crds: list[Manifest],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return a folder with the schemas of the server's kinds and of the Prometheus Operator's."""
    folder = tmp_path_factory.mktemp("schemas")
    openapi = json.loads(control_plane.kubectl("get", "--raw", "/openapi/v2"))
    kinds = json_schemas.write_schemas(folder, openapi, prometheus_operator_crds)
    assert {"apps/deployment_v1.json", "v1/pod_v1.json", "monitoring.coreos.com/podmonitor_v1.json"} <= kinds
    return folder


@pytest.fixture(scope="module")
def kubeconform(schemas: Path) -> Kubeconform:
    """Return a function that has manifests compared with their schemas."""
    program = ensure([KUBECONFORM])["kubeconform"]

    def run(text: str) -> Verdict:
        location = f"-schema-location={schemas}/{json_schemas.LOCATION}"
        done = subprocess.run(
            [str(program), "-strict", "-summary", "-output=json", location, "-"],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        verdict: Verdict = json.loads(done.stdout)
        assert (done.returncode == 0) is (verdict["resources"] == []), done.stderr
        return verdict

    return run


@pytest.mark.parametrize("case", MATRIX)
def test_every_object_is_what_its_kind_s_schema_describes(
    case: str, template: Callable[..., str], kubeconform: Kubeconform
):
    text = template(**MATRIX[case])
    documents = [document for document in yaml.safe_load_all(text) if document]

    verdict = kubeconform(text)

    assert verdict["resources"] == []
    assert verdict["summary"] == {**NOTHING_WRONG, "valid": len(documents)}


def test_the_matrix_renders_each_kind_that_the_chart_has(render: Callable[..., list[Manifest]]):
    """And a case of it the least that can be."""
    rendered = {case: {manifest["kind"] for manifest in render(**values)} for case, values in MATRIX.items()}

    assert set().union(*rendered.values()) == {
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "CustomResourceDefinition",
        "Deployment",
        "NetworkPolicy",
        "Pod",
        "PodDisruptionBudget",
        "PodMonitor",
        "PrometheusRule",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
    }
    assert rendered["least"] == {"Deployment"}


@pytest.fixture(scope="module")
def all_manifests(render: Callable[..., list[Manifest]]) -> str:
    """Return what all optional parts render to, as JSON: YAML as long as the CRDs takes seconds to read."""
    return json.dumps(render(**EVERYTHING))


def _rename(mapping: Manifest, old: str, new: str) -> None:
    mapping[new] = mapping.pop(old)


def _container(deployment: Manifest) -> Manifest:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize(
    ("kind", "change", "complaint"),
    [
        ("Deployment", lambda it: _rename(it["spec"], "replicas", "replcas"), "'replcas' not allowed"),
        ("Deployment", lambda it: it["spec"].update(replicas="two"), "got string, want integer"),
        ("Deployment", lambda it: it["spec"].pop("selector"), "missing property 'selector'"),
        (
            "Deployment",
            lambda it: _rename(_container(it)["securityContext"], "readOnlyRootFilesystem", "readOnlyRoot"),
            "'readOnlyRoot' not allowed",
        ),
        (
            "Deployment",
            lambda it: _container(it)["livenessProbe"]["httpGet"].update(port=True),
            "got boolean, want integer or string",
        ),
        ("ClusterRole", lambda it: it["rules"][0].update(verbs="get"), "got string, want array"),
        (
            "CustomResourceDefinition",
            lambda it: _rename(
                it["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"],
                "properties",
                "propertys",
            ),
            "'propertys' not allowed",
        ),
        ("NetworkPolicy", lambda it: it["metadata"].update(lables={}), "'lables' not allowed"),
        ("Service", lambda it: it.update(apiVersion="v2"), "could not find schema for Service"),
        (
            "PodMonitor",
            lambda it: _rename(it["spec"], "podMetricsEndpoints", "podMetricEndpoints"),
            "'podMetricEndpoints' not allowed",
        ),
        ("PodMonitor", lambda it: it["metadata"].update(lables={}), "'lables' not allowed"),
        (
            "PodMonitor",
            lambda it: it["spec"]["podMetricsEndpoints"][0].update(interval="soon"),
            "'soon' does not match pattern",
        ),
        (
            "ServiceMonitor",
            lambda it: it["spec"]["endpoints"][0].update(honorLabels="yes"),
            "got string, want boolean",
        ),
        (
            "PrometheusRule",
            lambda it: _rename(it["spec"]["groups"][0]["rules"][0], "expr", "expression"),
            "'expression' not allowed",
        ),
    ],
)
def test_a_wrong_object_is_refused_by_name(
    kind: str,
    change: Change,
    complaint: str,
    all_manifests: str,
    kubeconform: Kubeconform,
):
    manifests = json.loads(all_manifests)
    changed = next(manifest for manifest in manifests if manifest["kind"] == kind)
    change(changed)

    verdict = kubeconform("\n---\n".join(json.dumps(manifest) for manifest in manifests))

    (refused,) = verdict["resources"]
    assert (refused["kind"], refused["name"]) == (kind, changed["metadata"]["name"])
    assert complaint in refused["msg"]
    assert verdict["summary"]["valid"] == len(manifests) - 1


def test_a_key_given_twice_is_refused(template: Callable[..., str], kubeconform: Kubeconform):
    text = template()
    doubled = text.replace("\n  replicas: ", "\n  replicas: 3\n  replicas: ")
    assert doubled.count("replicas: 3\n") == 1

    verdict = kubeconform(doubled)

    (refused,) = verdict["resources"]
    assert '"replicas" already set' in refused["msg"]
