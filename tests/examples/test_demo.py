"""Every numbered example runs to its end, through the command that a newcomer runs first."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nascale.cli.demo import NAMESPACE
from nascale.cli.demo_cluster import CLUSTER_NAME
from nascale.contract.architecture import Architecture
from nascale.local.instance import LocalCluster
from nascale.local.places import STATE_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9][0-9]-*.yaml"))
NASCALE = Path(sys.executable).with_name("nascale")
OWN_CONTAINER = ROOT / "examples" / "02-own-container.yaml"


@pytest.fixture(scope="module")
def demo_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Refer to the cluster that the demo brings up; it is taken down in the end, whatever happened."""
    root = tmp_path_factory.mktemp("state")
    cluster = LocalCluster(CLUSTER_NAME, root=root)
    yield cluster
    if cluster.exists():
        cluster.down()


def run_demo(
    cluster: LocalCluster, *arguments: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, STATE_VARIABLE: str(cluster.directory.parent), "COLUMNS": "160", **variables}
    return subprocess.run(
        [NASCALE, "demo", *arguments],
        env=environment,
        cwd=cluster.directory.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def search_of(cluster: LocalCluster, example: Path) -> dict:
    name = re.search(r"^  name: (\S+)$", example.read_text(), re.MULTILINE)
    assert name is not None
    return json.loads(cluster.kubectl("get", "nas", name[1], "-n", NAMESPACE, "-o", "json"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_demo_runs_the_example_to_its_end(demo_cluster: LocalCluster, example: Path) -> None:
    ended = run_demo(demo_cluster, "--example", example)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for shown in ("Pareto front", "Base network: ", "Go on with kubectl", demo_cluster.prometheus_url):
        assert shown in ended.stdout
    search = search_of(demo_cluster, example)
    name = search["metadata"]["name"]
    waited = demo_cluster.kubectl(
        "wait", "--for=condition=Succeeded", f"nas/{name}", "-n", NAMESPACE, "--timeout=5s"
    )
    assert waited.strip() == f"architecturesearch.nascale.io/{name} condition met"
    status, budget = search["status"], search["spec"]["budget"]
    assert status["finished"] == budget["maxTrials"]
    assert 1 <= status["frontSize"] == len(status["front"])
    base = status["baseNetwork"]
    assert base["trial"] in [point["trial"] for point in status["front"]]
    assert base["trial"] in ended.stdout
    if "mbconv" in search["spec"]["space"]:
        assert Architecture.model_validate(base["architecture"]).total_stride >= 1


def test_latency_of_the_first_example_is_read_from_prometheus(demo_cluster: LocalCluster) -> None:
    """Prometheus scrapes each second, so that the trainer's exit is acknowledged and no value is missed."""
    status = search_of(demo_cluster, EXAMPLES[0])["status"]
    sources = {value["name"]: value["source"] for point in status["front"] for value in point["metrics"]}
    assert sources == {"accuracy": "Report", "latency_p50_seconds": "Prometheus"}


@pytest.mark.timeout(600)
def test_demo_uses_the_cluster_of_the_kubeconfig(demo_cluster: LocalCluster) -> None:
    demo_cluster.up({"operator": False})
    kubeconfig = {"KUBECONFIG": str(demo_cluster.kubeconfig)}
    options = ("--cluster", "current", "--prometheus-url", demo_cluster.prometheus_url)
    ended = run_demo(demo_cluster, *options, "--example", OWN_CONTAINER, **kubeconfig)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "no operator is installed there" in ended.stdout
    assert "Base network: " in ended.stdout
    commands = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(demo_cluster.directory.parent) not in "\n".join(
        line for line in commands.splitlines() if "nascale.handlers.run" in line
    )


def test_demo_says_what_it_can_not_run(demo_cluster: LocalCluster, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("kind: Trial\n")
    ended = run_demo(demo_cluster, "--example", wrong)
    assert ended.returncode == 1
    assert "kind must be ArchitectureSearch" in ended.stdout
    ended = run_demo(demo_cluster, "--cluster", "mine")
    assert ended.returncode == 1
    assert "must be embedded or current, not 'mine'" in ended.stdout
