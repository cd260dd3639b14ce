"""Recording rules and alerts: promtool takes them, alerts fire and keep silent, no query is about nothing."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.exported import operator_series, pod_series

from nascale.local.binaries import ensure
from nascale.local.products import PROMETHEUS

HERE = Path(__file__).parent
RULES = HERE.parents[1] / "charts" / "nascale" / "files" / "prometheus-rules.yaml"
TESTS = HERE / "prometheus-rules-test.yaml"
DCGM = {"DCGM_FI_DEV_GPU_UTIL"}
"""Series of NVIDIA's exporter that the rules use."""


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def _alerts() -> list[dict[str, Any]]:
    return [rule for rule in _rules() if "alert" in rule]


@pytest.mark.cluster  # promtool comes with the embedded cluster's Prometheus
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "--lint=all", "--lint-fatal", str(RULES)), ("test", "rules", str(TESTS))],
    ids=["check", "test"],
)
def test_promtool_finds_no_fault(arguments: tuple[str, ...]):
    promtool = ensure([PROMETHEUS])["promtool"]

    done = subprocess.run([str(promtool), *arguments], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_every_alert_is_shown_to_fire_and_to_keep_silent():
    seen: dict[str, set[bool]] = defaultdict(set)
    for case in yaml.safe_load(TESTS.read_text())["tests"]:
        for check in case["alert_rule_test"]:
            seen[check["alertname"]].add(bool(check.get("exp_alerts")))

    assert dict(seen) == {rule["alert"]: {True, False} for rule in _alerts()}
    assert len(seen) == 10


def test_every_alert_says_what_is_wrong_and_how_bad():
    for rule in _alerts():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["alert"].startswith("Nascale")


def test_rules_ask_for_series_that_some_code_exports():
    exported = operator_series() | pod_series() | DCGM
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    used = set()
    for rule in _rules():
        used |= set(re.findall(r"\b(?:nascale|DCGM)[a-zA-Z0-9_:]+", rule["expr"]))
    # Target labels, made of the pod's labels.
    used = {name for name in used if not name.startswith("nascale_io_")}

    assert used - exported - recorded == set()
    assert recorded <= used
    assert len(used) > 12
