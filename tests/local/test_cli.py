"""What ``nascale local`` prints and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nascale.cli.main import app
from nascale.local.instance import LocalCluster

RUNNER = CliRunner()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without clusters."""
    monkeypatch.setenv("NASCALE_STATE", str(tmp_path / "clusters"))
    return tmp_path / "clusters"


@pytest.fixture
def running(control_plane: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    """The shared control plane, as the command line finds it."""
    monkeypatch.setenv("NASCALE_STATE", str(control_plane.directory.parent))
    return control_plane


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("command", [["status"], ["kubeconfig"], ["logs", "etcd"]])
def test_commands_on_a_cluster_that_is_not_there_say_so(command: list[str]):
    result = RUNNER.invoke(app, ["local", *command, "--name", "absent"])

    assert result.exit_code == 1
    assert "there is no cluster 'absent'" in result.stderr


@pytest.mark.usefixtures("state")
def test_down_of_a_cluster_that_is_not_there_is_no_error():
    result = RUNNER.invoke(app, ["local", "down"])

    assert result.exit_code == 0
    assert "there is no cluster 'default'" in result.stdout


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "No"], "name 'No' must be 1 to 32 characters"),
        (["--capacity", "cpu=2"], "capacity: memory: must be given"),
        (["--capacity", "cpu=-2,memory=1Gi"], "cpu: must be at least 0, not -2"),
        (["--scrape-interval", "0"], "scrape interval: must be from 0.1 to 3600 seconds, not 0"),
        (["--operator-env", "novalue"], "--operator-env 'novalue' must be NAME=VALUE"),
    ],
)
def test_bad_options_of_up_are_refused_before_anything_starts(state: Path, options: list[str], message: str):
    result = RUNNER.invoke(app, ["local", "up", *options])

    assert result.exit_code != 0
    assert message in result.stderr
    assert not state.exists() or list(state.iterdir()) == []


@pytest.mark.usefixtures("state")
def test_an_unknown_extra_or_component_is_named_with_what_there_is():
    extra = RUNNER.invoke(app, ["local", "binaries", "--with", "minikube"])
    component = RUNNER.invoke(app, ["local", "logs", "kubelet"])

    assert (extra.exit_code, component.exit_code) == (1, 1)
    assert "--with 'minikube' must be one of helm, kubeconform, kubelet, kueue" in extra.stderr
    assert "component 'kubelet' must be one of etcd, kube-apiserver" in component.stderr


@pytest.mark.cluster
def test_status_lists_each_process_and_succeeds_while_all_run(running: LocalCluster):
    table = RUNNER.invoke(app, ["local", "status", "--name", running.name])
    document = RUNNER.invoke(app, ["local", "status", "--name", running.name, "--json"])

    assert (table.exit_code, document.exit_code) == (0, 0)
    rows = json.loads(document.stdout)
    assert [row["name"] for row in rows] == [status.name for status in running.status()]
    for row in rows:
        assert row["state"] == "running"
        line = next(line for line in table.stdout.splitlines() if line.startswith(f"{row['name']} "))
        assert line.split()[1:3] == ["running", str(row["pid"])]


@pytest.mark.cluster
def test_kubeconfig_prints_one_path_and_nothing_else(running: LocalCluster):
    result = RUNNER.invoke(app, ["local", "kubeconfig", "--name", running.name])

    assert result.stdout == f"{running.kubeconfig}\n"
    assert running.kubeconfig.stat().st_mode & 0o077 == 0


@pytest.mark.cluster
def test_binaries_lists_each_program_with_its_place():
    result = RUNNER.invoke(app, ["local", "binaries"])

    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert {row[0] for row in rows} >= {"kube-apiserver", "kubectl", "etcd", "prometheus", "promtool"}
    assert all(Path(row[-1]).is_file() for row in rows)


def test_the_version_is_the_packages():
    result = RUNNER.invoke(app, ["--version"])

    assert result.exit_code == 0
    assert result.stdout.strip().count(".") == 2
