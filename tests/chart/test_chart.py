"""The chart: what it renders to, what it refuses, and that a real API server takes it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.values_matrix import MATRIX

from nascale.handlers.settings import LeaseSettings, Settings, read_settings
from nascale.local.errors import ClusterError
from nascale.local.instance import LocalCluster
from nascale.reconcile.observed import OperatorSettings

REPOSITORY = Path(__file__).parents[2]
CHART = REPOSITORY / "charts" / "nascale"
RULES = yaml.safe_load((CHART / "files" / "operator-rules.yaml").read_text())
NAMESPACE = "nascale-system"
Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]
Helm = Callable[..., "subprocess.CompletedProcess[str]"]


def _kinds(manifests: list[Manifest]) -> list[str]:
    return sorted(f"{manifest['kind']}/{manifest['metadata']['name']}" for manifest in manifests)


def _one(manifests: list[Manifest], kind: str, name: str = "nascale") -> Manifest:
    found = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{kind}/{name}: {len(found)}"
    return found[0]


def _container(manifests: list[Manifest]) -> Manifest:
    (container,) = _one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(container)


def _settings(manifests: list[Manifest]) -> Settings:
    """Read the operator's settings as its process would in this Deployment's pod."""
    address = {"fieldPath": "status.podIP"}
    environment = {
        variable["name"]: variable.get("value") or _downward(variable, address)
        for variable in _container(manifests)["env"]
    }
    return read_settings(environment)


def _downward(variable: Manifest, address: Manifest) -> str:
    if "valueFrom" not in variable:
        return ""
    assert variable["valueFrom"]["fieldRef"] == address
    return "127.9.9.9"


def test_helm_finds_no_fault(helm: Helm):
    said = helm("lint", "--strict", str(CHART)).stdout

    assert "0 chart(s) failed" in said
    assert "[WARNING]" not in said


def test_the_defaults_render_to_these_objects(render: Render):
    assert _kinds(render()) == [
        "ClusterRole/nascale",
        "ClusterRole/nascale-edit",
        "ClusterRole/nascale-nodes",
        "ClusterRole/nascale-view",
        "ClusterRoleBinding/nascale",
        "ClusterRoleBinding/nascale-nodes",
        "CustomResourceDefinition/architecturesearches.nascale.io",
        "CustomResourceDefinition/progressivetrainings.nascale.io",
        "CustomResourceDefinition/scalingsweeps.nascale.io",
        "CustomResourceDefinition/trials.nascale.io",
        "Deployment/nascale",
        "Pod/nascale-test",
        "Role/nascale-lease",
        "RoleBinding/nascale-lease",
        "Service/nascale-metrics",
        "ServiceAccount/nascale",
    ]


@pytest.mark.parametrize(
    ("values", "gone"),
    [
        ({"crds__enabled": False}, {"CustomResourceDefinition"}),
        ({"metrics__service__enabled": False}, {"Service", "Pod"}),
        ({"leaderElection__enabled": False}, {"Role", "RoleBinding"}),
        (
            {"rbac__create": False, "rbac__aggregate": False},
            {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"},
        ),
        ({"serviceAccount__create": False, "serviceAccount__name": "own"}, {"ServiceAccount"}),
    ],
)
def test_a_part_can_be_switched_off(values: dict[str, Any], gone: set[str], render: Render):
    every = {manifest["kind"] for manifest in render()}

    assert every - {manifest["kind"] for manifest in render(**values)} == gone


def test_the_operator_gets_the_rights_of_the_list_and_no_others(render: Render):
    manifests = render()

    assert _one(manifests, "ClusterRole")["rules"] == RULES
    assert _one(manifests, "ClusterRoleBinding")["subjects"] == [
        {"kind": "ServiceAccount", "name": "nascale", "namespace": NAMESPACE}
    ]


def test_the_rights_hold_no_wildcard_no_secret_and_nothing_that_grants_rights():
    forbidden_verbs = {"*", "escalate", "bind", "impersonate", "deletecollection"}
    forbidden_resources = {"*", "secrets", "serviceaccounts", "serviceaccounts/token", "nodes", "pods/exec"}

    for rule in RULES:
        assert not forbidden_verbs & set(rule["verbs"])
        assert not forbidden_resources & set(rule["resources"])
        assert "*" not in rule["apiGroups"]
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"]
        assert set(rule) == {"apiGroups", "resources", "verbs"}


def test_with_namespaces_listed_the_operator_has_rights_there_alone(render: Render):
    manifests = render(namespaces=["vision", "speech"])

    roles = [m for m in manifests if m["kind"] == "Role" and m["metadata"]["name"] == "nascale"]
    bindings = [m for m in manifests if m["kind"] == "RoleBinding" and m["metadata"]["name"] == "nascale"]
    assert [role["metadata"]["namespace"] for role in roles] == ["vision", "speech"]
    assert all(role["rules"] == RULES for role in roles)
    assert [binding["metadata"]["namespace"] for binding in bindings] == ["vision", "speech"]
    assert all(binding["subjects"][0]["namespace"] == NAMESPACE for binding in bindings)
    assert all(binding["roleRef"]["kind"] == "Role" for binding in bindings)
    assert not [m for m in manifests if m["kind"] == "ClusterRoleBinding"]
    assert _settings(manifests).namespaces == ("vision", "speech")


@pytest.mark.parametrize(
    ("read", "namespaces", "kinds"),
    [
        ("Auto", [], ["ClusterRole", "ClusterRoleBinding"]),
        ("Auto", ["vision"], []),
        ("Always", ["vision"], ["ClusterRole", "ClusterRoleBinding"]),
        ("Never", [], []),
    ],
)
def test_nodes_are_only_read_where_that_is_granted(
    read: str, namespaces: list[str], kinds: list[str], render: Render
):
    manifests = render(rbac__readNodes=read, namespaces=namespaces)

    named = [m["kind"] for m in manifests if m["metadata"]["name"] == "nascale-nodes"]
    assert named == kinds
    assert _settings(manifests).installation.reads_nodes == bool(kinds)
    if kinds:
        rules = yaml.safe_load((CHART / "files" / "node-rules.yaml").read_text())
        assert _one(manifests, "ClusterRole", "nascale-nodes")["rules"] == rules
        assert [(rule["resources"], rule["verbs"]) for rule in rules] == [(["nodes"], ["list"])]


def test_the_chart_s_crds_are_those_of_the_repository(render: Render):
    expected = [yaml.safe_load(path.read_text()) for path in sorted((REPOSITORY / "crds").glob("*.yaml"))]

    kept = [m for m in render() if m["kind"] == "CustomResourceDefinition"]
    lost = [m for m in render(crds__keep=False) if m["kind"] == "CustomResourceDefinition"]

    assert lost == expected
    for crd, original in zip(kept, expected, strict=True):
        assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
        assert crd == original
    # Helm never upgrades what lies in a chart's crds/ folder.
    assert not (CHART / "crds").exists()


def test_the_operator_understands_the_environment_that_the_chart_gives_it(render: Render):
    defaults = _settings(render())
    changed = _settings(
        render(
            prometheus__url="http://prometheus.monitoring:9090",
            trials={
                "image": "example.com/trainer:2",
                "command": ["python", "-m", "nascale_trainer"],
                "imagePullPolicy": "Always",
                "serviceAccounts": ["trainer", "other"],
                "jobTtlSeconds": 31_536_000,
            },
            operator={
                "workers": 8,
                "resyncSeconds": 30,
                "seriesSeconds": 7,
                "logLevel": "debug",
                "logFormat": "text",
            },
            leaderElection={"enabled": False, "leaseSeconds": 60},
            rbac__readNodes="Never",
        )
    )

    lease = LeaseSettings(NAMESPACE, "nascale", 15)
    assert defaults == Settings(
        bind_address="127.9.9.9",
        log_format="json",
        lease=lease,
        installation=OperatorSettings(reads_nodes=True),
    )
    assert changed == Settings(
        bind_address="127.9.9.9",
        prometheus_url="http://prometheus.monitoring:9090",
        series_seconds=7,
        workers=8,
        log_format="text",
        verbose=True,
        installation=OperatorSettings(
            trainer_image="example.com/trainer:2",
            trainer_command=("python", "-m", "nascale_trainer"),
            service_accounts=("trainer", "other"),
            prometheus=True,
            image_pull_policy="Always",
            job_ttl_seconds=31_536_000,
            resync_seconds=30,
        ),
    )


def test_the_image_is_named_by_tag_or_by_digest(render: Render):
    digest = "sha256:" + "0a" * 32

    assert _container(render())["image"] == "nascale/operator:0.1.0"
    assert _container(render(image__tag="2"))["image"] == "nascale/operator:2"
    assert _container(render(image__tag="2", image__digest=digest))["image"] == f"nascale/operator@{digest}"


def test_one_operator_works_at_a_time(render: Render, helm: Helm):
    alone = _one(render(leaderElection__enabled=False), "Deployment")["spec"]
    several = _one(render(replicas=3), "Deployment")["spec"]
    refused = helm(
        "template", "x", str(CHART), "--set=replicas=2,leaderElection.enabled=false", check=False
    ).stderr

    # Without a Lease the old one ends before the new one starts.
    assert (alone["replicas"], alone["strategy"]) == (1, {"type": "Recreate"})
    assert (several["replicas"], several["strategy"]) == (3, {"type": "RollingUpdate"})
    assert "replicas: must be 1 where leaderElection.enabled is false" in refused
    (spread,) = several["template"]["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["labelSelector"] == several["selector"]
    assert "topologySpreadConstraints" not in alone["template"]["spec"]


def test_the_lease_s_rights_are_about_that_lease_in_the_operator_s_own_namespace(render: Render):
    manifests = render(namespaces=["vision"])

    role = _one(manifests, "Role", "nascale-lease")
    assert role["metadata"]["namespace"] == NAMESPACE
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in role["rules"]] == [
        (["create"], None),
        (["get", "patch"], ["nascale"]),
    ]
    assert {tuple(rule["resources"]) for rule in role["rules"]} == {("leases",)}
    assert _settings(manifests).lease == LeaseSettings(NAMESPACE, "nascale", 15)
    assert _one(manifests, "RoleBinding", "nascale-lease")["roleRef"]["name"] == "nascale-lease"


def test_the_operator_is_probed_for_progress(render: Render):
    spec = _one(render(), "Deployment")["spec"]
    container = _container(render())

    assert container["command"] == ["nascale-operator"]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "metrics"}
    assert container["ports"] == [{"name": "metrics", "containerPort": _settings(render()).port}]
    assert set(spec["selector"]["matchLabels"].items()) <= set(spec["template"]["metadata"]["labels"].items())


def test_the_service_finds_the_operator_s_pod(render: Render):
    manifests = render()
    service = _one(manifests, "Service", "nascale-metrics")["spec"]

    labels = _one(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert service["ports"] == [{"name": "metrics", "port": 9465, "targetPort": "metrics"}]


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("promtheus.url=http://a", "promtheus"),
        ("crds.kep=true", "kep"),
        ("operator.workers=0", "workers"),
        ("operator.workers=4.5", "workers"),
        ("operator.logLevel=loud", "logLevel"),
        ("prometheus.url=prometheus:9090", "url"),
        ("image.digest=sha256:12", "digest"),
        ("namespaces={Vision}", "namespaces"),
        ("trials.command=null", "command"),
        ("trials.jobTtlSeconds=-1", "jobTtlSeconds"),
        ("replicas=0", "replicas"),
        ("rbac.readNodes=Sometimes", "readNodes"),
        ("leaderElection.leaseSeconds=1", "leaseSeconds"),
        ("monitoring.podMonitor.interval=soon", "interval"),
        ("networkPolicy.apiServerPorts={0}", "apiServerPorts"),
        ("topologySpreadConstraints[0].maxSkew=1", "topologyKey"),
    ],
)
def test_a_wrong_value_is_refused_by_name(option: str, complaint: str, helm: Helm):
    done = helm("template", "nascale", str(CHART), f"--set={option}", check=False)

    assert done.returncode != 0
    assert complaint in done.stderr


def test_an_account_that_is_not_made_must_be_named(helm: Helm):
    done = helm("template", "nascale", str(CHART), "--set=serviceAccount.create=false", check=False)

    assert "serviceAccount.name must be set where serviceAccount.create is false" in done.stderr


def _leaves(values: Any, path: str = "") -> Iterator[str]:
    if (
        isinstance(values, dict)
        and values
        and path != ".resources"
        and not path.endswith(("annotations", ".labels"))
    ):
        for key, value in values.items():
            yield from _leaves(value, f"{path}.{key}")
    else:
        yield path


def _explained(text: str) -> set[str]:
    """Return the paths of the keys that stand below a comment."""
    found: set[str] = set()
    path: list[str] = []
    before = ""
    for line in text.splitlines():
        if match := re.match(r"( *)([A-Za-z]+):", line):
            path[len(match[1]) // 2 :] = [match[2]]
            if before.lstrip().startswith("# "):
                found.add("." + ".".join(path))
        before = line
    return found


def test_every_value_is_used_and_explained():
    text = (CHART / "values.yaml").read_text()
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    # monitoring.yaml looks at its part of the values alone.
    templates = templates.replace("{{ .podMonitor", "{{ .Values.monitoring.podMonitor")
    templates = re.sub(
        r"(?<=[ (])\.(podMonitor|serviceMonitor|prometheusRule)\.", r".Values.monitoring.\1.", templates
    )
    leaves = list(_leaves(yaml.safe_load(text)))
    explained = _explained(text)

    assert len(leaves) > 25
    for leaf in leaves:
        assert re.search(rf"\.Values{re.escape(leaf)}\b", templates), f"{leaf} is used by no template"
        assert leaf in explained, f"{leaf} has no comment"


def test_the_schema_of_the_values_names_each_of_them():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert schema["additionalProperties"] is False
    for leaf in _leaves(values):
        node = schema
        for key in leaf.strip(".").split("."):
            node = node["properties"][key]
        assert {"type", "enum"} & node.keys(), leaf


@pytest.mark.cluster
class TestOnARealApiServer:
    """The chart and a real API server."""

    @pytest.mark.parametrize("case", MATRIX)
    def test_it_takes_every_object(self, case: str, render: Render, monitored_control_plane: LocalCluster):
        monitored_control_plane.kubectl("create", "namespace", NAMESPACE, check=False)
        # helm test's pod comes later, when its account is there.
        manifests = [manifest for manifest in render(**MATRIX[case]) if manifest["kind"] != "Pod"]

        said = _dry_run(monitored_control_plane, manifests)

        assert len(said.splitlines()) == len(manifests)

    def test_it_knows_the_prometheus_operator_s_kinds(
        self, render: Render, monitored_control_plane: LocalCluster
    ):
        monitor = _one(render(monitoring__podMonitor__enabled=True), "PodMonitor", "nascale-trials")
        monitor["metadata"]["namespace"] = "default"
        monitor["spec"]["podMetricsEndpoints"][0]["intervall"] = "10s"

        with pytest.raises(ClusterError, match=r"podMetricsEndpoints\[0\]\.intervall: field not declared"):
            _dry_run(monitored_control_plane, [monitor])

    def test_its_pod_is_allowed_where_pods_are_restricted(self, render: Render, control_plane: LocalCluster):
        restricted = "pod-security.kubernetes.io/enforce=restricted"
        control_plane.kubectl("create", "namespace", "restricted", check=False)
        control_plane.kubectl("label", "namespace", "restricted", restricted, "--overwrite")
        manifests = render()
        spec = {**_one(manifests, "Deployment")["spec"]["template"]["spec"], "serviceAccountName": "default"}
        test_spec = {**_one(manifests, "Pod", "nascale-test")["spec"], "serviceAccountName": "default"}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "operator", "namespace": "restricted"},
            "spec": spec,
        }
        rooted = {**pod, "spec": {**spec, "hostNetwork": True}}

        said = _create(control_plane, pod)
        said_of_test = _create(control_plane, {**pod, "spec": test_spec})
        refused = _create(control_plane, rooted)

        assert "pod/operator created" in said
        assert "pod/operator created" in said_of_test
        assert 'violates PodSecurity "restricted' in refused

    def test_install_upgrade_uninstall(self, helm: Helm, control_plane: LocalCluster):
        access = (f"--kubeconfig={control_plane.kubeconfig}", "--namespace=chart-test")
        own = ("--create-namespace", "--take-ownership", "--set=fullnameOverride=chart-test")

        helm("install", "chart-test", str(CHART), *access, *own)
        account = "--as=system:serviceaccount:chart-test:chart-test"
        answers = {
            question: control_plane.kubectl("auth", "can-i", *question.split(), account, check=False).split()[
                -1
            ]
            for question in (
                "create trials.nascale.io",
                "patch architecturesearches.nascale.io --subresource=status",
                "patch scalingsweeps.nascale.io --subresource=status",
                "delete scalingsweeps.nascale.io",
                "update scalingsweeps.nascale.io",
                "patch progressivetrainings.nascale.io --subresource=status",
                "update progressivetrainings.nascale.io",
                "patch pods",
                "create jobs.batch",
                "update trials.nascale.io",
                "create leases.coordination.k8s.io --namespace=chart-test",
                "patch leases.coordination.k8s.io/chart-test --namespace=chart-test",
                "patch leases.coordination.k8s.io/other --namespace=chart-test",
                "patch leases.coordination.k8s.io/chart-test --namespace=default",
                "get secrets",
                "create pods",
                "create clusterroles.rbac.authorization.k8s.io",
            )
        }
        search = yaml.safe_load((REPOSITORY / "examples" / "01-architecture-search.yaml").read_text())
        control_plane.kubectl("--namespace=chart-test", "apply", "--filename=-", stdin=yaml.safe_dump(search))
        before = control_plane.kubectl("--namespace=chart-test", "get", "nas", "--output=yaml")
        helm("upgrade", "chart-test", str(CHART), *access, "--reuse-values", "--set=operator.workers=2")
        after = control_plane.kubectl("--namespace=chart-test", "get", "nas", "--output=yaml")
        workers = control_plane.kubectl(
            "--namespace=chart-test", "get", "deployment", "chart-test", "--output=yaml"
        )
        helm("uninstall", "chart-test", *access)
        left = control_plane.kubectl("get", "crds", "--output=name")
        kept = control_plane.kubectl("--namespace=chart-test", "get", "nas", "--output=yaml")
        gone = control_plane.kubectl("get", "clusterroles", "--output=name")

        assert answers == {
            "create trials.nascale.io": "yes",
            "patch architecturesearches.nascale.io --subresource=status": "yes",
            "patch scalingsweeps.nascale.io --subresource=status": "yes",
            "delete scalingsweeps.nascale.io": "yes",
            "update scalingsweeps.nascale.io": "no",
            "patch progressivetrainings.nascale.io --subresource=status": "yes",
            "update progressivetrainings.nascale.io": "no",
            "patch pods": "yes",
            "create jobs.batch": "yes",
            "update trials.nascale.io": "no",
            "create leases.coordination.k8s.io --namespace=chart-test": "yes",
            "patch leases.coordination.k8s.io/chart-test --namespace=chart-test": "yes",
            "patch leases.coordination.k8s.io/other --namespace=chart-test": "no",
            "patch leases.coordination.k8s.io/chart-test --namespace=default": "no",
            "get secrets": "no",
            "create pods": "no",
            "create clusterroles.rbac.authorization.k8s.io": "no",
        }
        # Neither an upgrade nor the release's end touches a search.
        assert len(yaml.safe_load(before)["items"]) == 1
        assert before == after == kept
        environment = yaml.safe_load(workers)["spec"]["template"]["spec"]["containers"][0]["env"]
        assert {"name": "NASCALE_WORKERS", "value": "2"} in environment
        assert "customresourcedefinition.apiextensions.k8s.io/trials.nascale.io" in left
        assert "chart-test" not in gone


def _dry_run(cluster: LocalCluster, manifests: list[Manifest]) -> str:
    return cluster.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--filename=-",
        stdin=yaml.safe_dump_all(manifests),
    )


def _create(cluster: LocalCluster, pod: Manifest) -> str:
    """Try to create a pod; return what kubectl or, where it fails, the error says."""
    try:
        return cluster.kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(pod))
    except Exception as error:  # noqa: BLE001 - the text is what the test looks at
        return str(error)
