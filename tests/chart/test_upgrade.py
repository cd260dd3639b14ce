"""helm upgrade, uninstall and a new install, with objects of all kinds at work: none of them is touched.

The chart's operator runs as a pod of the embedded node, under the chart's own account.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.chart import earlier_release
from tests.chart.conftest import CHART
from tests.conftest import CAPACITY
from tests.operator import sweeps, trainings
from tests.operator.searches import CLAIM, SHELL_TRIAL, Namespace, shell_search, wait_until

from nascale.local.errors import ClusterError
from nascale.local.instance import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

Helm = Callable[..., "subprocess.CompletedProcess[str]"]
Json = dict[str, Any]

SYSTEM = "nascale-system"
TEAM = "vision"
RELEASE = "nascale"
KINDS = ("architecturesearches", "scalingsweeps", "progressivetrainings", "trials", "jobs", "pods")
OWNERS = KINDS[:3]
CRDS = Path(__file__).parents[2] / "crds"
RESYNC_SECONDS = 5
VALUES = {
    # As somebody has set them for the earlier release.
    "namespaces": [TEAM],
    "operator": {"resyncSeconds": RESYNC_SECONDS},
    "leaderElection": {"leaseSeconds": 60},
    "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}},
}
LONG = "600"
"""Seconds for which pods that shall be at work all the time sleep."""


@dataclass
class Course:
    """What has been seen, step by step."""

    team: Namespace
    release_file: Path
    earlier_crds: Json
    refused_before: str
    before: Json
    operator_before: str
    after: Json
    operator_after: Json
    upgraded_crds: Json


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    cluster = LocalCluster("upgrade", root=tmp_path_factory.mktemp("clusters"))
    try:
        options = {"prometheus": False, "operator": False, "capacity": CAPACITY}
        cluster.up(options, owner=os.getpid(), report=print)
        yield cluster
    finally:
        cluster.down()


def _objects(team: Namespace) -> Json:
    """Return every object of the team, whole: uid, generation, version, spec and status, by kind and name."""
    return {f"{kind}/{found['metadata']['name']}": found for kind in KINDS for found in team.items(kind)}


def _crds(cluster: LocalCluster) -> Json:
    found = json.loads(cluster.kubectl("get", "crds", "-o", "json"))["items"]
    return {each["metadata"]["name"]: each for each in found if each["spec"]["group"] == "nascale.io"}


def _operator(cluster: LocalCluster) -> Json:
    """Return the operator's pod that is not about to end."""
    system = Namespace(cluster, SYSTEM)

    def one() -> list[Json]:
        pods = [pod for pod in system.items("pods") if "deletionTimestamp" not in pod["metadata"]]
        return pods if len(pods) == 1 else []

    (pod,) = wait_until(one, what="one pod of the operator")
    return dict(pod)


def _running(team: Namespace, *names: str) -> bool:
    """Say whether each of these has a pod whose container runs, and a status."""
    labels = ("nascale.io/search", "nascale.io/sweep", "nascale.io/training")
    served = {
        pod["metadata"]["labels"].get(label)
        for pod in team.items("pods")
        if pod["status"].get("phase") == "Running"
        for label in labels
    }
    return set(names) <= served


def _looks(cluster: LocalCluster) -> Counter[str]:
    """Return how often the present operator has reconciled objects of each kind."""
    pod = _operator(cluster)["status"].get("podIP")
    counted: Counter[str] = Counter()
    try:
        with urllib.request.urlopen(f"http://{pod}:9465/metrics", timeout=10) as answer:
            text = answer.read().decode()
    except OSError:  # it starts
        return counted
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "nascale_reconcile_duration_seconds_count":
                counted[sample.labels["kind"]] += int(sample.value)
    return counted


def _settled(cluster: LocalCluster, team: Namespace) -> Json:
    """Return the objects when the operator has looked twice at all that goes on and changed nothing."""
    while True:
        found = _objects(team)
        going = {
            each["kind"]
            for name, each in found.items()
            if name.partition("/")[0] in OWNERS and "completionTime" not in each["status"]
        }
        looks = _looks(cluster)

        def looked_twice(kinds: set[str] = going, before: Counter[str] = looks) -> bool:
            now = _looks(cluster)
            return all(now[kind] >= before[kind] + 2 for kind in kinds)

        wait_until(looked_twice, what="two looks at what goes on")
        if going and _objects(team) == found:
            return found


@pytest.fixture(scope="module")
def course(cluster: LocalCluster, helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Course:
    folder = tmp_path_factory.mktemp("upgrade")
    earlier_release.write(CHART, folder / "earlier")
    for chart in (folder / "earlier", CHART):
        helm("package", str(chart), f"--destination={folder}")
    values = folder / "values.json"
    values.write_text(json.dumps(VALUES))
    cluster.kubectl("create", "namespace", TEAM)
    access = (f"--kubeconfig={cluster.kubeconfig}", f"--namespace={SYSTEM}", "--wait", "--timeout=3m")

    helm(
        "install",
        RELEASE,
        str(folder / f"nascale-{earlier_release.VERSION}.tgz"),
        *access,
        "--create-namespace",
        f"--values={values}",
    )
    team, release_file = Namespace(cluster, TEAM), folder / "go-on"
    earlier = _crds(cluster)
    refused = _refusal(team, shell_search("later", trials=1, ttlSecondsAfterFinished=3600))
    _begin(team, release_file)
    before, operator_before = _settled(cluster, team), _operator(cluster)["metadata"]["uid"]

    # Not --reuse-values: that one leaves out the defaults of new values.
    present = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    helm("upgrade", RELEASE, str(folder / f"nascale-{present}.tgz"), *access, "--reset-then-reuse-values")
    operator_after = _operator(cluster)
    after = _settled(cluster, team)
    return Course(
        team,
        release_file,
        earlier,
        refused,
        before,
        operator_before,
        after,
        operator_after,
        _crds(cluster),
    )


def _refusal(team: Namespace, manifest: Json) -> str:
    try:
        team.kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(manifest))
    except ClusterError as error:
        return str(error)
    return ""


def _begin(team: Namespace, release_file: Path) -> None:
    """Create objects of all kinds: a search that has ended, and one of each kind that is at work."""
    team.apply(CLAIM)
    team.apply(shell_search("ended", trials=2))
    team.wait_for("ended", "Succeeded")
    waiting = shell_search("at-work", trials=2)
    until = f'while [ ! -e "{release_file}" ]; do sleep 0.2; done\n'
    waiting["spec"]["trialTemplate"]["args"] = [until + SHELL_TRIAL]
    team.apply(waiting)
    team.apply(sweeps.formula_sweep("family", sleep=LONG, budget={"parallelTrials": 1}))
    stages = (trainings.stage("first", 100), trainings.stage("second", 100))
    team.apply(trainings.scripted_training("training", *stages, pace=LONG))
    wait_until(lambda: _running(team, "at-work", "family", "training"), what="one of each kind at work")


def test_the_upgrade_replaces_the_operator(course: Course) -> None:
    assert course.operator_after["metadata"]["uid"] != course.operator_before
    labels = course.operator_after["metadata"]["labels"]
    assert labels["app.kubernetes.io/version"] != earlier_release.VERSION
    (container,) = course.operator_after["spec"]["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert variables["NASCALE_RESYNC_SECONDS"] == str(RESYNC_SECONDS)


def test_no_object_is_touched_by_it(course: Course) -> None:
    kinds = [name.partition("/")[0] for name in course.before]
    assert {kind: kinds.count(kind) for kind in KINDS} == {
        "architecturesearches": 2,
        "scalingsweeps": 1,
        "progressivetrainings": 1,
        "trials": 2 + 1 + 3,
        "jobs": 2 + 1 + 1 + 1,
        "pods": 2 + 1 + 1 + 1,
    }
    for name, found in course.before.items():
        assert course.after[name] == found, name
    assert set(course.after) == set(course.before)


def test_it_brings_the_present_crds(course: Course) -> None:
    assert course.refused_before.count('unknown field "spec.ttlSecondsAfterFinished"') == 1
    later = shell_search("later", trials=1, ttlSecondsAfterFinished=3600)
    assert _refusal(course.team, later) == ""
    paths = sorted(CRDS.glob("*.yaml"))
    assert len(paths) == len(course.upgraded_crds) == 4
    for path in paths:
        crd = yaml.safe_load(path.read_text())
        (wanted,), name = crd["spec"]["versions"], crd["metadata"]["name"]
        (earlier,), (present,) = (
            found[name]["spec"]["versions"] for found in (course.earlier_crds, course.upgraded_crds)
        )
        for part in ("schema", "additionalPrinterColumns"):
            assert present[part] == wanted[part], (name, part)
            assert earlier[part] != wanted[part], (name, part)
        uids = {found[name]["metadata"]["uid"] for found in (course.earlier_crds, course.upgraded_crds)}
        assert len(uids) == 1


def test_what_was_at_work_goes_on_to_its_end(course: Course) -> None:
    team = course.team
    course.release_file.touch()
    team.wait_for("at-work", "Succeeded")

    trials = team.items("trials")
    own = [each for each in trials if each["metadata"]["labels"].get("nascale.io/search") == "at-work"]
    assert [each["status"]["outcome"] for each in own] == ["Succeeded"] * 2
    # The one that ran during the upgrade ended in the same pod.
    jobs = {each["metadata"]["name"]: each["metadata"]["uid"] for each in team.items("jobs")}
    began = [name for name in course.before if name.startswith("jobs/at-work-")]
    assert len(began) == 1
    assert jobs[began[0].removeprefix("jobs/")] == course.before[began[0]]["metadata"]["uid"]
    assert all(each["status"].get("attempt", 0) == 0 for each in own)


def test_uninstall_leaves_kinds_and_objects_and_a_new_install_goes_on_with_them(
    course: Course, cluster: LocalCluster, helm: Helm
) -> None:
    team, before, crds = course.team, _settled(cluster, course.team), _crds(cluster)
    access = (f"--kubeconfig={cluster.kubeconfig}", f"--namespace={SYSTEM}", "--wait", "--timeout=3m")

    said = helm("uninstall", RELEASE, *access)
    assert "customresourcedefinition" in (said.stdout + said.stderr).lower()  # what is kept is named
    assert Namespace(cluster, SYSTEM).items("deployments") == []
    assert _objects(team) == before
    assert {name: each["metadata"]["uid"] for name, each in _crds(cluster).items()} == {
        name: each["metadata"]["uid"] for name, each in crds.items()
    }

    options = [f"--set-json={key}={json.dumps(value)}" for key, value in VALUES.items()]
    helm("install", RELEASE, str(CHART), *access, *options)
    assert _settled(cluster, team) == before
