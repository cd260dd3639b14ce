"""Every numbered example runs to its end, through the command that a newcomer runs first."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from charts import dashboard_data

from nascale.cli.demo import EXAMPLES, NAMESPACE
from nascale.cli.demo_cluster import CLUSTER_NAME
from nascale.contract.architecture import Architecture
from nascale.local.instance import LocalCluster
from nascale.local.places import STATE_VARIABLE

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
NUMBERED = sorted((ROOT / "examples").glob("[0-9][0-9]-*.yaml"))
BY_DEFAULT = [ROOT / name for name in EXAMPLES]
NASCALE = Path(sys.executable).with_name("nascale")
OWN_CONTAINER = ROOT / "examples" / "02-own-container.yaml"
OWN_MODEL = ROOT / "examples" / "04-scale-own-model.yaml"
OWN_TRAINING = ROOT / "examples" / "06-train-own-model.yaml"
GENERATED = ROOT / "examples" / "07-generated-training.yaml"


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


def object_of(cluster: LocalCluster, example: Path, resource: str) -> dict[str, Any]:
    names = re.findall(r"^  name: (\S+)$", example.read_text(), re.MULTILINE)
    found: dict[str, Any] = json.loads(
        cluster.kubectl("get", resource, names[-1], "-n", NAMESPACE, "-o", "json")
    )
    return found


def check_search(search: dict[str, Any], printed: str) -> None:
    status, budget = search["status"], search["spec"]["budget"]
    assert status["finished"] == budget["maxTrials"]
    assert 1 <= status["frontSize"] == len(status["front"])
    base = status["baseNetwork"]
    assert base["trial"] in [point["trial"] for point in status["front"]]
    assert base["trial"] in printed
    if "mbconv" in search["spec"]["space"]:
        assert Architecture.model_validate(base["architecture"]).total_stride >= 1


def check_sweep(sweep: dict[str, Any], printed: str) -> None:
    """Every member keeps its budget and has been measured; the baselines stand beside it."""
    spec, status = sweep["spec"], sweep["status"]
    wanted = [member["name"] for member in spec["family"]]
    assert [member["name"] for member in status["family"]] == wanted
    excess = 1 + float(spec["exploration"]["toleranceRatio"])
    for member in status["family"]:
        values = {value["name"]: float(value["value"]) for value in member["metrics"]}
        assert values["latency_p50_seconds"] <= float(member["budgetSeconds"]) * excess
        assert 0 < values["accuracy"] <= 1
        assert f"{member['name']}: at most" in printed
    assert [each["name"] for each in status["baselines"]] == spec["baselines"]
    for each in status["baselines"]:
        assert each["name"] in printed
    spent = status["phaseSeconds"]
    assert spent["measuring"] > 0
    assert spent["training"] > 0
    assert f"measuring {spent['measuring']}, training {spent['training']}" in printed


def check_training(training: dict[str, Any], printed: str) -> None:
    """Every stage is trained from where the one before ended, and nothing is lost on the way."""
    spec, status = training["spec"], training["status"]
    stages = status["stages"]
    wanted = spec["stages"] if "stages" in spec else status["generated"]["stages"]
    assert [stage["name"] for stage in stages] == [stage["name"] for stage in wanted]
    assert [stage["beginSamples"] for stage in stages] == [0, *(stage["endSamples"] for stage in stages[:-1])]
    assert stages[-1]["endSamples"] == status["samples"] >= status["wholeSamples"]
    assert status.get("lostSteps", 0) == 0
    assert status["progressPercentage"] == 100
    for stage in stages:
        assert stage["name"] in printed
    assert f"{spec['volume']['claimName']}:{status['result']['path']}" in printed


def test_every_numbered_example_is_run_here() -> None:
    assert sorted([*BY_DEFAULT, OWN_CONTAINER, OWN_MODEL, OWN_TRAINING, GENERATED]) == NUMBERED


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_demo_goes_from_nothing_to_a_family_and_a_trained_member(demo_cluster: LocalCluster) -> None:
    ended = run_demo(demo_cluster)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for shown in ("Pareto front", "Base network: ", "Go on with kubectl", demo_cluster.prometheus_url):
        assert shown in ended.stdout
    searched, scaled, trained = (
        object_of(demo_cluster, example, resource)
        for example, resource in zip(BY_DEFAULT, ("nas", "sweep", "ptrain"), strict=True)
    )
    check_search(searched, ended.stdout)
    check_sweep(scaled, ended.stdout)
    base = searched["status"]["baseNetwork"]
    assert scaled["status"]["baseArchitecture"] == base["architecture"]
    check_training(trained, ended.stdout)
    assert trained["status"]["model"]["architecture"] == scaled["status"]["family"][-1]["architecture"]
    classes = [stage.get("switchClass") for stage in trained["status"]["stages"][1:]]
    assert classes == ["Live", "Recompile", "Reschedule"]
    values = {value["name"]: float(value["value"]) for value in trained["status"]["result"]["metrics"]}
    assert values["accuracy"] > 0.8

    command = next(line for line in ended.stdout.splitlines() if " family export " in line)
    exported = subprocess.run(
        shlex.split(command.partition("#")[0]),
        env={**os.environ, "KUBECONFIG": str(demo_cluster.kubeconfig)},
        cwd=demo_cluster.directory.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert exported.returncode == 0, exported.stderr
    member = scaled["status"]["family"][-1]
    folder = demo_cluster.directory.parent / member["name"]
    assert json.loads((folder / "architecture.json").read_text()) == member["architecture"]
    assert (folder / "model.safetensors").stat().st_size > 0


def test_latency_of_the_first_example_is_read_from_prometheus(demo_cluster: LocalCluster) -> None:
    """Prometheus scrapes each second, so that the trainer's exit is acknowledged and no value is missed."""
    status = object_of(demo_cluster, BY_DEFAULT[0], "nas")["status"]
    sources = {value["name"]: value["source"] for point in status["front"] for value in point["metrics"]}
    assert sources == {"accuracy": "Report", "latency_p50_seconds": "Prometheus"}


@pytest.mark.parametrize("path", dashboard_data.FILES, ids=lambda path: path.stem)
def test_every_panel_of_the_dashboards_shows_something_of_that_run(
    demo_cluster: LocalCluster, path: Path
) -> None:
    begun = object_of(demo_cluster, BY_DEFAULT[0], "nas")["metadata"]["creationTimestamp"]
    span = dashboard_data.Span(datetime.fromisoformat(begun).timestamp(), time.time(), step=1.0)
    values = dashboard_data.offered(demo_cluster.prometheus_url, path, span)
    assert NAMESPACE in values["namespace"]
    assert all(values.values()), values
    empty = dashboard_data.empty_panels(
        demo_cluster.prometheus_url, path, dashboard_data.all_of(values), span
    )
    assert empty == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_runs_one_search_alone(demo_cluster: LocalCluster) -> None:
    ended = run_demo(demo_cluster, "--example", OWN_CONTAINER)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Pareto front" in ended.stdout
    assert "ScalingSweep" not in ended.stdout
    check_search(object_of(demo_cluster, OWN_CONTAINER, "nas"), ended.stdout)


def apply_script(cluster: LocalCluster, name: str, script: Path) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    code = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "data": {script.name: script.read_text()},
    }
    for needed in (namespace, code):
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(needed))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_demo_scales_a_model_of_ones_own(demo_cluster: LocalCluster) -> None:
    demo_cluster.up({"operator": True})
    apply_script(demo_cluster, "transformer", ROOT / "examples" / "trials" / "transformer" / "train.py")
    ended = run_demo(demo_cluster, "--example", OWN_MODEL)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    sweep = object_of(demo_cluster, OWN_MODEL, "sweep")
    check_sweep(sweep, ended.stdout)
    for member in sweep["status"]["family"]:
        sizes = {entry["name"]: int(entry["value"]) for entry in member["parameters"]}
        assert sizes.keys() == {"layers", "width", "context"}
        assert sizes["width"] % 8 == sizes["context"] % 8 == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_trains_a_model_of_ones_own(demo_cluster: LocalCluster) -> None:
    demo_cluster.up({"operator": True})
    apply_script(demo_cluster, "characters", ROOT / "examples" / "trainings" / "characters" / "train.py")
    ended = run_demo(demo_cluster, "--example", OWN_TRAINING)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    training = object_of(demo_cluster, OWN_TRAINING, "ptrain")
    check_training(training, ended.stdout)
    accuracies = []
    for stage in training["status"]["stages"]:
        assert stage.get("switchClass") in (None, "None", "Recompile")
        accuracies += [float(value["value"]) for value in stage["metrics"] if value["name"] == "accuracy"]
    assert len(accuracies) == len(training["spec"]["stages"])
    assert accuracies[-1] > 0.3  # the most frequent character alone gives 0.2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_demo_generates_a_schedule_and_trains_by_it(demo_cluster: LocalCluster) -> None:
    ended = run_demo(demo_cluster, "--example", GENERATED)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    training = object_of(demo_cluster, GENERATED, "ptrain")
    check_training(training, ended.stdout)
    generated = training["status"]["generated"]
    asked = training["spec"]["schedule"]["generate"]
    assert generated["measured"] <= asked["profile"]["maxTrials"] < generated["gridSize"]
    assert float(generated["seconds"]) <= float(generated["constantSeconds"])
    assert generated["reason"][:40] in ended.stdout


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
    assert "kind must be ArchitectureSearch or ScalingSweep or ProgressiveTraining" in ended.stdout
    ended = run_demo(demo_cluster, "--cluster", "mine")
    assert ended.returncode == 1
    assert "must be embedded or current, not 'mine'" in ended.stdout
