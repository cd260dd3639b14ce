"""The operator's configuration: every fault is named with variable, value and what is allowed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nascale.handlers.settings import LeaseSettings, Settings, SettingsError, read_settings


def test_an_empty_environment_gives_the_defaults():
    assert read_settings({}) == Settings()
    assert read_settings({"NASCALE_WORKERS": "", "NASCALE_PROMETHEUS_URL": " "}) == Settings()


def test_every_variable_arrives():
    settings = read_settings(
        {
            "KUBECONFIG": "/somewhere/config",
            "NASCALE_SERVICE_ACCOUNT_DIRECTORY": "/tokens",
            "NASCALE_NAMESPACES": "a, b,a",
            "NASCALE_PROMETHEUS_URL": "https://prometheus.example:9090/path",
            "NASCALE_QUERY_SCOPE": "Namespace",
            "NASCALE_OPERATOR_PORT": "0",
            "NASCALE_BIND_ADDRESS": "127.0.0.5",
            "NASCALE_TRAINER_IMAGE": "registry/trainer:1",
            "NASCALE_TRAINER_COMMAND": "python -m 'my trainer'",
            "NASCALE_TRAINER_IMAGE_PULL_POLICY": "Never",
            "NASCALE_TRIAL_SERVICE_ACCOUNTS": "trainer",
            "NASCALE_JOB_TTL_SECONDS": "60",
            "NASCALE_RESYNC_SECONDS": "30",
            "NASCALE_READ_NODES": "Always",
            "NASCALE_WORKERS": "8",
            "NASCALE_LEASE": "nascale-system/nascale",
            "NASCALE_LEASE_SECONDS": "30",
            "NASCALE_LOG_FORMAT": "json",
            "NASCALE_LOG_LEVEL": "debug",
        }
    )
    assert settings.kubeconfig == "/somewhere/config"
    assert settings.service_account_directory == Path("/tokens")
    assert settings.namespaces == ("a", "b")
    assert settings.confined_queries
    assert (settings.bind_address, settings.port, settings.workers) == ("127.0.0.5", 0, 8)
    assert (settings.log_format, settings.verbose) == ("json", True)
    assert settings.lease == LeaseSettings("nascale-system", "nascale", 30)
    installation = settings.installation
    assert installation.prometheus
    assert installation.trainer_image == "registry/trainer:1"
    assert installation.trainer_command == ("python", "-m", "my trainer")
    assert installation.service_accounts == ("trainer",)
    assert installation.image_pull_policy == "Never"
    assert installation.reads_nodes
    assert (installation.job_ttl_seconds, installation.resync_seconds) == (60, 30)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("NASCALE_OPERATOR_PORT", "65536", "a whole number from 0 to 65535"),
        ("NASCALE_QUERY_SCOPE", "Own", "one of Any, Namespace"),
        ("NASCALE_READ_NODES", "yes", "one of Never, Always"),
        ("NASCALE_OPERATOR_PORT", "-1", "a whole number from 0 to 65535"),
        ("NASCALE_WORKERS", "0", "a whole number from 1 to 64"),
        ("NASCALE_WORKERS", "many", "a whole number from 1 to 64"),
        ("NASCALE_RESYNC_SECONDS", "0", "a whole number from 1 to 86400"),
        ("NASCALE_LEASE", "nascale", "NAMESPACE/NAME of lower-case letters"),
        ("NASCALE_LEASE", "a/b/c", "NAMESPACE/NAME of lower-case letters"),
        ("NASCALE_LEASE_SECONDS", "4", "a whole number from 5 to 300"),
        ("NASCALE_JOB_TTL_SECONDS", "1.5", "a whole number from 0 to 31536000"),
        ("NASCALE_PROMETHEUS_URL", "prometheus:9090", "a URL like http://prometheus:9090"),
        ("NASCALE_PROMETHEUS_URL", "http://host:port", "a URL like http://prometheus:9090"),
        ("NASCALE_NAMESPACES", "team,Not_A_Name", "a comma-separated list of names"),
        ("NASCALE_TRIAL_SERVICE_ACCOUNTS", "a;b", "a comma-separated list of names"),
        ("NASCALE_LOG_FORMAT", "xml", "one of text, json"),
        ("NASCALE_LOG_LEVEL", "loud", "one of info, debug"),
        ("NASCALE_TRAINER_IMAGE_PULL_POLICY", "Sometimes", "one of Always, IfNotPresent, Never"),
        ("NASCALE_TRAINER_COMMAND", "sh -c 'open", "a command line with balanced quotes"),
        ("NASCALE_SERVICE_ACCOUNT_DIRECTORY", "relative/path", "an absolute path"),
    ],
)
def test_a_fault_names_variable_value_and_what_is_allowed(name, value, allowed):
    with pytest.raises(SettingsError) as caught:
        read_settings({name: value})
    (fault,) = caught.value.faults
    assert fault.startswith(f"{name}: must be {allowed}")
    assert fault.endswith(f"not {value!r}")


def test_all_faults_are_told_at_once():
    with pytest.raises(SettingsError) as caught:
        read_settings({"NASCALE_WORKERS": "x", "NASCALE_OPERATOR_PORT": "y"})
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"NASCALE_WORKERS": "0"}, "NASCALE_WORKERS: must be a whole number from 1 to 64, not '0'"),
        ({"KUBECONFIG": "/does/not/exist"}, "KUBECONFIG: must be a readable kubeconfig"),
        (
            {"NASCALE_BIND_ADDRESS": "192.0.2.1"},
            "must be an address and port that can be bound, not '192.0.2.1' and 9465",
        ),
    ],
)
def test_the_process_refuses_bad_configuration_with_exit_2(environment, said, kubeconfig):
    environment = {"KUBECONFIG": kubeconfig("http://127.0.0.1:1"), **environment}
    result = subprocess.run(
        [sys.executable, "-m", "nascale.handlers.run"],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_the_page_about_the_process_names_exactly_the_variables_that_are_read():
    class Recorder(dict):
        def get(self, name, default=None):
            self.setdefault(name, "")
            return default

    read = Recorder()
    read_settings(read)
    page = (Path(__file__).parents[2] / "docs" / "operator.md").read_text()
    documented = re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)
    assert sorted(documented) == sorted(read)
