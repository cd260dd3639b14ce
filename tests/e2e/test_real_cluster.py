"""The chart and both images on a real kubelet: all three kinds run to their end, within the rights granted.

The tests follow one another on one cluster.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from charts import dashboard_data
from tests.e2e import built_images, image_contents, machine, small_examples
from tests.e2e.installation import ACCOUNT, RELEASE, SYSTEM, TEAM, Installation, condition, holds

from nascale.local.errors import ClusterError

Json = dict[str, Any]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
LONG_SECONDS = 2400
GOLDEN = Path(__file__).parents[1] / "chart" / "golden-rights.txt"
OPERATOR_PODS = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=operator"
ROLES = re.compile(rf"(ClusterRole {RELEASE}(-nodes)?|Role {RELEASE}-lease): ")


def _requests(log: Path) -> tuple[set[str], set[str]]:
    """Return what the chart's account asked for, as the golden list writes it, and what it was refused.

    What everybody may do (discovery, the server's version) has no object and is left out.
    """
    asked, refused = set(), set()
    for line in log.read_text().splitlines():
        event = json.loads(line)
        target = event.get("objectRef")
        if event["user"]["username"] != ACCOUNT or target is None:
            continue
        resource = "/".join(
            filter(None, [target.get("apiGroup", "core"), target["resource"], target.get("subresource")])
        )
        named = (
            f" named {target['name']}" if resource.endswith("/leases") and event["verb"] != "create" else ""
        )
        asked.add(f"{event['verb']} {resource}{named}")
        if event.get("responseStatus", {}).get("code") == 403:
            refused.add(f"{event['verb']} {resource}{named}")
    return asked, refused


def test_both_namespaces_refuse_pods_that_are_not_restricted(installation: Installation) -> None:
    pod: Json = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root"},
        "spec": {"hostNetwork": True, "containers": [{"name": "root", "image": "root"}]},
    }
    for namespace in (SYSTEM, TEAM):
        with pytest.raises(ClusterError, match='violates PodSecurity "restricted'):
            installation.kubectl("create", "-n", namespace, "-f", "-", stdin=pod)


def test_operator_runs_without_torch_root_and_a_writable_image(installation: Installation) -> None:
    pods = installation.items("pods", OPERATOR_PODS, SYSTEM)
    assert len(pods) == 2
    inside = ("exec", "-n", SYSTEM, pods[0]["metadata"]["name"], "--", "python", "-c")
    look = "import importlib.util, os; print(os.getuid(), importlib.util.find_spec('torch'))"
    assert installation.kubectl(*inside, look).split() == ["65532", "None"]
    with pytest.raises(ClusterError, match="Read-only file system"):
        installation.kubectl(*inside, "open('/opt/nascale/new', 'w')")
    installation.kubectl(*inside, "import tempfile; tempfile.TemporaryFile()")
    assert sum(installation.leader() == pod["metadata"]["name"] for pod in pods) == 1


@pytest.mark.parametrize(
    ("image", "part"),
    [(built_images.OPERATOR, "operator"), (built_images.TRAINER, "trainer-without-torch")],
    ids=["operator", "trainer"],
)
def test_sbom_lists_what_the_image_holds(
    installation: Installation, image: str, part: str, tmp_path: Path
) -> None:
    # The images have this Python, see machine.py.
    command = ["make", "sbom", f"SBOM={tmp_path}", f"SBOM_PARTS={part}", f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    document = json.loads((tmp_path / f"{part}.cdx.json").read_text())
    listed = {component["purl"] for component in document["components"]}
    assert len(listed) >= 10
    assert listed == image_contents.packages(installation.images[image])


def test_search_with_own_container_runs_on_pretended_gpus(installation: Installation) -> None:
    installation.apply(small_examples.search_on_gpus())
    found = installation.wait_for_end("nas", "own-container", LONG_SECONDS)

    assert found["status"]["trials"]["succeeded"] == found["spec"]["budget"]["maxTrials"]
    assert found["status"]["baseNetwork"]["trial"] in [point["trial"] for point in found["status"]["front"]]
    pods = installation.items("pods", "nascale.io/search=own-container")
    assert pods
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert pod["spec"]["nodeName"] == installation.node.name
    # That node says that it hands out shares of its GPUs.
    said = condition(found, "DevicesExclusive")
    assert (said["status"], said["reason"]) == ("False", "SharedNodes")
    assert f"in up to {machine.GPUS} shares by time-slicing" in said["message"]


def test_search_reads_latency_from_the_prometheus_that_scrapes_its_pods(installation: Installation) -> None:
    installation.apply(small_examples.search())
    found = installation.wait_for_end("nas", "digits", LONG_SECONDS)

    assert found["status"]["finished"] == found["spec"]["budget"]["maxTrials"]
    sources = {
        value["name"]: value["source"] for point in found["status"]["front"] for value in point["metrics"]
    }
    assert sources == {"accuracy": "Report", "latency_p50_seconds": "Prometheus"}
    (series,) = installation.query('count(count by (nascale_io_trial) ({nascale_io_search="digits"}))')
    assert int(series["value"][1]) >= 1
    assert installation.query('nascale_build_info{namespace="nascale-system"}')


def test_sweep_scales_the_base_network_into_a_family(installation: Installation) -> None:
    installation.apply(*small_examples.sweep())
    found = installation.wait_for_end("sweep", "digits-family", LONG_SECONDS)

    wanted = [member["name"] for member in found["spec"]["family"]]
    assert [member["name"] for member in found["status"]["family"]] == wanted
    base = installation.get("nas", "digits")["status"]["baseNetwork"]
    assert found["status"]["baseArchitecture"] == base["architecture"]


def test_training_goes_on_and_is_edited_while_another_operator_takes_over(installation: Installation) -> None:
    installation.apply(*small_examples.training())

    def begun() -> bool:
        return bool(installation.get("ptrain", "digits-training").get("status", {}).get("stages"))

    installation.wait_until("the first stage begins", begun, LONG_SECONDS)
    leader = installation.leader()
    installation.kubectl("delete", "pod", leader, "-n", SYSTEM, "--wait=false")
    installation.wait_until("another one leads", lambda: installation.leader() not in {"", leader}, 300)
    spec = installation.get("ptrain", "digits-training")["spec"]
    spec["stages"][3]["model"]["dropout"] = "0.12"
    patch = json.dumps({"spec": {"stages": spec["stages"]}})
    installation.kubectl("patch", "ptrain", "digits-training", "--type=merge", f"--patch={patch}")
    found = installation.wait_for_end("ptrain", "digits-training", LONG_SECONDS)

    status = found["status"]
    stages = status["stages"]
    assert [stage["name"] for stage in stages] == [stage["name"] for stage in spec["stages"]]
    assert [stage.get("switchClass") for stage in stages[1:]] == ["Live", "Recompile", "Reschedule"]
    assert status["revision"] == status["appliedRevision"] >= 1
    # Its Reschedule led to the node that has what the last stage asks for.
    assert [stage["generation"] for stage in stages] == [1, 1, 1, 2]
    assert _nodes_of_training(installation) == {
        "1": {installation.node.name},
        "2": {installation.second.name},
    }
    # It went on from the checkpoint: each stage begins with the sample at which the one before ended.
    assert stages[0].get("beginSamples", 0) == status.get("lostSteps", 0) == 0
    for before, after in itertools.pairwise(stages):
        assert after["beginSamples"] == before["endSamples"] > before.get("beginSamples", 0)
    assert status["progressPercentage"] == 100
    in_force = {setting["name"]: setting["value"] for setting in stages[3]["settings"]}
    assert in_force["dropout"] == "0.12"


def _nodes_of_training(installation: Installation) -> dict[str, set[str]]:
    """Return the nodes of the training's pods by generation."""
    found: dict[str, set[str]] = {}
    for pod in installation.items("pods", "nascale.io/training=digits-training"):
        generation = pod["metadata"]["labels"]["nascale.io/generation"]
        found.setdefault(generation, set()).add(pod["spec"]["nodeName"])
    return found


def test_helm_test_finds_the_installation_whole_and_says_what_is_missing(installation: Installation) -> None:
    said = installation.helm("test", RELEASE, "--logs", "--timeout=5m")
    assert re.search(r"Phase:\s+Succeeded", said)
    assert "the kinds are served, the operator is ready" in said

    deployment = f"deployment/{RELEASE}"
    installation.kubectl("scale", "-n", SYSTEM, deployment, "--replicas=0")
    gone = ("wait", "-n", SYSTEM, "--for=delete", "pod", "-l", OPERATOR_PODS, "--timeout=120s")
    installation.kubectl(*gone)
    failed = installation.try_helm("test", RELEASE, "--logs", "--timeout=5m")
    assert failed.returncode != 0
    assert "the operator does not answer" in failed.stdout + failed.stderr

    installation.kubectl("scale", "-n", SYSTEM, deployment, "--replicas=2")
    installation.kubectl("rollout", "status", "-n", SYSTEM, deployment, "--timeout=300s")
    assert re.search(r"Phase:\s+Succeeded", installation.helm("test", RELEASE, "--timeout=5m"))


@pytest.mark.parametrize("path", dashboard_data.FILES, ids=lambda path: path.stem)
def test_every_panel_of_the_dashboards_shows_something_of_these_runs(
    installation: Installation, path: Path
) -> None:
    begun = installation.get("nas", "own-container")["metadata"]["creationTimestamp"]
    span = dashboard_data.Span(datetime.fromisoformat(begun).timestamp(), time.time(), step=1.0)
    url = installation.cluster.prometheus_url
    values = dashboard_data.offered(url, path, span)
    assert values["namespace"] == [TEAM]
    assert all(values.values()), values
    assert dashboard_data.empty_panels(url, path, dashboard_data.all_of(values), span) == []


def test_every_request_of_the_operator_is_within_the_rights_granted(installation: Installation) -> None:
    granted = {line.partition(": ")[2] for line in GOLDEN.read_text().splitlines() if ROLES.match(line)}
    asked, refused = _requests(installation.cluster.audit_log)

    assert refused == set()
    assert asked - granted == set()
    # So that an empty log does not pass.
    for used in ("create batch/jobs", "patch core/pods", "patch nascale.io/trials/status"):
        assert used in asked


def test_uninstall_leaves_kinds_and_objects(installation: Installation) -> None:
    installation.helm("uninstall", RELEASE, "--wait", "--timeout=3m")

    assert installation.items("deployments", namespace=SYSTEM) == []
    assert installation.kubectl("get", "clusterroles", "-l", f"app.kubernetes.io/instance={RELEASE}") == ""
    for kind, name in (("nas", "digits"), ("sweep", "digits-family"), ("ptrain", "digits-training")):
        assert holds(installation.get(kind, name), "Succeeded")
