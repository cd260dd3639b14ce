"""Parts that values switch on: monitoring, network policies, the disruption budget; and who may do what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.values_matrix import EVERYTHING

from nascale.api import names
from nascale.contract.environment import DEFAULT_METRICS_PORT
from nascale.local.monitoring import POD_LABELS
from nascale.reconcile import pod_parts

CHART = Path(__file__).parents[2] / "charts" / "nascale"
GOLDEN = Path(__file__).with_name("golden-rights.txt")
Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


def _of(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def _only(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = _of(manifests, kind)
    return found


def test_the_operator_s_rights_are_those_of_the_golden_list(render: Render):
    """A right more or less is a change of that file, for reviewers to see."""
    rights = [
        f"{manifest['kind']} {manifest['metadata']['name']}: {verb} {group or 'core'}/{resource}"
        + "".join(f" named {name}" for name in rule.get("resourceNames", ()))
        for manifest in render()
        if manifest["kind"] in {"Role", "ClusterRole"}
        for rule in manifest["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    ]

    assert len(rights) == len(set(rights))
    assert sorted(rights) == GOLDEN.read_text().splitlines()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("monitoring__podMonitor__enabled", "PodMonitor"),
        ("monitoring__serviceMonitor__enabled", "ServiceMonitor"),
        ("monitoring__prometheusRule__enabled", "PrometheusRule"),
        ("networkPolicy__enabled", "NetworkPolicy"),
        ("podDisruptionBudget__enabled", "PodDisruptionBudget"),
    ],
)
def test_a_part_can_be_switched_on(value: str, kind: str, render: Render):
    without, having = render(), render(**{value: True})

    assert not _of(without, kind)
    assert [each["kind"] for each in having if each not in without] == [kind]


@pytest.mark.parametrize("part", ["podMonitor", "serviceMonitor", "prometheusRule"])
def test_without_the_prometheus_operator_its_kinds_are_refused_by_value(part: str, helm: Any):
    done = helm("template", "x", str(CHART), f"--set=monitoring.{part}.enabled=true", check=False)

    assert f"monitoring.{part}.enabled: must be false where the Prometheus Operator's CRDs" in done.stderr


def test_the_pod_monitor_finds_trials_pods_and_keeps_the_labels_that_queries_use(render: Render):
    spec = _only(render(**EVERYTHING), "PodMonitor")["spec"]
    listed = _only(render(**EVERYTHING, namespaces=["vision"]), "PodMonitor")["spec"]

    assert spec["selector"] == {"matchLabels": {names.LABEL_MANAGED_BY: "nascale"}}
    assert set(spec["podTargetLabels"]) == set(POD_LABELS)
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint == {"port": names.METRICS_PORT_NAME, "path": "/metrics", "interval": "10s"}
    assert spec["namespaceSelector"] == {"any": True}
    assert listed["namespaceSelector"] == {"matchNames": ["vision"]}
    # Prometheus installations without the Prometheus Operator find the same pods by their annotations.
    assert pod_parts.scrape_annotations()["prometheus.io/port"] == str(DEFAULT_METRICS_PORT)


def test_the_service_monitor_finds_the_operator_s_service(render: Render):
    manifests = render(**EVERYTHING)
    spec = _only(manifests, "ServiceMonitor")["spec"]
    service = _only(manifests, "Service")

    assert spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert spec["namespaceSelector"]["matchNames"] == [service["metadata"]["namespace"]]
    assert [endpoint["port"] for endpoint in spec["endpoints"]] == [service["spec"]["ports"][0]["name"]]
    # Else a search's namespace would be overwritten with the operator's.
    assert spec["endpoints"][0]["honorLabels"] is True


def test_the_prometheus_rule_holds_the_rules_unchanged(render: Render):
    rule = _only(
        render(**EVERYTHING, monitoring__prometheusRule__labels={"release": "kube"}), "PrometheusRule"
    )

    assert rule["spec"] == yaml.safe_load((CHART / "files" / "prometheus-rules.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "kube"


def test_the_operator_s_network_policy_opens_metrics_dns_the_api_server_and_prometheus(render: Render):
    readers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    (open_policy,) = _of(render(**EVERYTHING), "NetworkPolicy")
    (policy,) = _of(
        render(
            **EVERYTHING,
            networkPolicy__metricsFrom=readers,
            prometheus__url="http://prometheus.monitoring:9090",
        ),
        "NetworkPolicy",
    )

    def ports(rules: list[Manifest]) -> set[Any]:
        return {port["port"] for rule in rules for port in rule["ports"]}

    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert ports(open_policy["spec"]["ingress"]) == ports(policy["spec"]["ingress"]) == {"metrics"}
    assert ports(open_policy["spec"]["egress"]) == {53, 443, 6443}
    assert ports(policy["spec"]["egress"]) == {53, 443, 6443, 9090}
    assert policy["spec"]["ingress"][0]["from"] == readers
    # helm test's pod may read as well.
    test_pod = policy["spec"]["ingress"][1]["from"][0]["podSelector"]["matchLabels"]
    assert test_pod.items() <= _only(render(), "Pod")["metadata"]["labels"].items()


def test_in_listed_namespaces_trials_are_closed_but_for_metrics_and_their_peers(render: Render):
    policies = _of(render(**EVERYTHING, namespaces=["vision", "speech"]), "NetworkPolicy")
    ours = [policy for policy in policies if policy["metadata"]["name"] == "nascale-trials"]

    assert [policy["metadata"]["namespace"] for policy in ours] == ["vision", "speech"]
    for policy in ours:
        managed = {"matchLabels": {names.LABEL_MANAGED_BY: "nascale"}}
        assert policy["spec"]["podSelector"] == managed
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        assert policy["spec"]["ingress"] == [
            {"ports": [{"port": "metrics", "protocol": "TCP"}]},
            {"from": [{"podSelector": managed}]},
        ]


def test_a_drain_may_take_one_replica_and_a_single_one_is_not_in_its_way(render: Render):
    manifests = render(**EVERYTHING, replicas=1)
    spec = _only(manifests, "PodDisruptionBudget")["spec"]

    assert (spec["maxUnavailable"], "minAvailable" in spec) == (1, False)
    assert spec["selector"] == _only(manifests, "Deployment")["spec"]["selector"]


def test_common_labels_are_on_every_object_but_the_crds(render: Render):
    manifests = render(**EVERYTHING, commonLabels={"owner": "platform"})
    labelled = {each["kind"] for each in manifests if each["metadata"].get("labels", {}).get("owner")}

    assert {each["kind"] for each in manifests} - labelled == {"CustomResourceDefinition", "Pod"}
    # A selector can't change at an upgrade.
    assert "owner" not in str(_only(manifests, "Deployment")["spec"]["selector"])


def test_helm_test_runs_what_the_operator_s_image_holds(render: Render):
    manifests = render(fullnameOverride="nascale")
    pod, service = _only(manifests, "Pod"), _only(manifests, "Service")
    (container,) = pod["spec"]["containers"]
    (operator,) = _only(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]

    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert container["image"] == operator["image"]
    assert container["command"] == ["python", "-m", "nascale.handlers.check_installation"]
    (variable,) = container["env"]
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert variable == {"name": "NASCALE_OPERATOR_URL", "value": f"http://{host}:9465"}
    assert container["securityContext"] == operator["securityContext"]
