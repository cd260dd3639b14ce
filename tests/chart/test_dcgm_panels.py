"""The dashboards' panels of NVIDIA's series, on series as its exporter and a training's pod give them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import dashboard_data

from nascale.local.binaries import ensure
from nascale.local.products import PROMETHEUS

NAMES = ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_PROF_DRAM_ACTIVE", "DCGM_FI_DEV_POWER_USAGE")
VARIABLES = {"namespace": "(team)", "training": "(long|short)"}
OWN = 'namespace="team", pod="long-g1-0"'
STRANGERS = ('namespace="team", pod="notebook"', 'namespace="other", pod="long-g1-0"')
"""Pods that are not of the chosen trainings: none of our series in the namespace, and another namespace."""


def panels() -> dict[str, str]:
    """Return the expressions of all panels of NVIDIA's series, by their title."""
    return {
        panel.title: dashboard_data.filled(query.expression, VARIABLES)
        for path in dashboard_data.FILES
        for panel in dashboard_data.panels(path)
        for query in panel.queries
        if "DCGM_" in query.expression
    }


def recorded(name: str) -> list[dict[str, str]]:
    """Return a series for each of the pod's two devices, and those of strangers' devices."""
    labels = 'device="nvidia{0}", gpu="{0}", modelName="NVIDIA H100 80GB HBM3"'
    own = [
        {"series": f"{name}{{{OWN}, {labels.format(0)}}}", "values": "0.25x10 0.75x10"},
        {"series": f"{name}{{{OWN}, {labels.format(1)}}}", "values": "0.5x20"},
    ]
    return own + [{"series": f"{name}{{{of}, {labels.format(2)}}}", "values": "9x20"} for of in STRANGERS]


def stages() -> list[dict[str, str]]:
    """Return the pod's stage, and that of a training that is not of the chosen ones."""
    series = 'nascale_training_stage{{{}, nascale_io_training="{}"}}'
    return [
        {"series": series.format(OWN, "long"), "values": "0x10 1x10"},
        {"series": series.format('namespace="other", pod="long-g1-0"', "long"), "values": "3x20"},
    ]


def test_these_panels_are_the_ones_that_are_checked():
    assert set(panels()) == {"Tensor cores", "Memory traffic", "Power"}
    assert {name for name in NAMES for expression in panels().values() if name in expression} == set(NAMES)


@pytest.mark.cluster  # promtool comes with the embedded cluster's Prometheus
@pytest.mark.parametrize("title", ["Tensor cores", "Memory traffic", "Power"])
def test_they_show_the_devices_of_the_chosen_training_s_pods_and_no_others(title: str, tmp_path: Path):
    before, after = (0.75, 1.25) if title == "Power" else (0.375, 0.625)
    expression = panels()[title]

    def checked(minutes: int, value: float) -> dict[str, Any]:
        return {
            "expr": expression,
            "eval_time": f"{minutes}m",
            "exp_samples": [{"labels": f"{{{OWN}}}", "value": value}],
        }

    case = {
        "interval": "1m",
        "input_series": [*stages(), *(each for name in NAMES for each in recorded(name))],
        "promql_expr_test": [checked(5, before), checked(15, after)],
    }
    file = tmp_path / "dcgm-test.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "rule_files": [], "tests": [case]}))
    promtool = ensure([PROMETHEUS])["promtool"]

    done = subprocess.run(
        [str(promtool), "test", "rules", str(file)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
