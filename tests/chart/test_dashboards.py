"""The dashboards: as the code writes them, about series that exist, with everything a reader needs."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard
from tests.chart.exported import operator_series, pod_series

from nascale.local.binaries import ensure
from nascale.local.products import PROMETHEUS

CHART = Path(__file__).parents[2] / "charts" / "nascale"
FILES = sorted((CHART / "files" / "dashboards").glob("*.json"))
SCRIPT = CHART.parent / "dashboards.py"
DCGM = {"DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_PROF_DRAM_ACTIVE", "DCGM_FI_DEV_POWER_USAGE"}
"""Series of NVIDIA's exporter, by the names of its default list."""
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("dashboards", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["dashboards"] = module  # dataclasses look there
    specification.loader.exec_module(module)
    return module


def _panels(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in document["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels") or ()
        else:
            yield panel


def _queries(document: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in _panels(document) for target in panel["targets"]]


def test_the_files_are_what_the_code_writes(script: ModuleType):
    assert [path.stem for path in FILES] == sorted(script.DASHBOARDS)
    for path in FILES:
        assert path.read_text() == script.render(path.stem), f"run python {SCRIPT.name}"


@each_file
def test_it_loads_through_the_sdk_s_types_without_loss(path: Path, script: ModuleType):
    document = json.loads(path.read_text())

    loaded = Dashboard.from_json(document)

    assert json.loads(script.JSONEncoder(sort_keys=True).encode(loaded)) == document


@each_file
def test_every_panel_has_what_a_reader_needs(path: Path):
    document = json.loads(path.read_text())
    panels = list(_panels(document))

    assert len(panels) >= 7
    assert document["title"].startswith("nascale / ")
    assert document["description"]
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        defaults = panel["fieldConfig"]["defaults"]
        assert len(panel["description"]) > 15, panel["title"]
        assert defaults["unit"], panel["title"]
        assert defaults["thresholds"]["steps"], panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert target["legendFormat"]


@each_file
def test_its_variables_are_data_source_namespace_and_object(path: Path):
    document = json.loads(path.read_text())
    variables = [variable["name"] for variable in document["templating"]["list"]]
    queries = " ".join(_queries(document))

    own = [] if path.stem == "fleet" else [{"scaling": "sweep"}.get(path.stem, path.stem)]
    assert variables == ["datasource", "namespace", *own]
    for variable in variables[1:]:
        assert f"${variable}" in queries


@each_file
def test_no_query_is_about_a_series_that_no_code_exports(path: Path):
    document = json.loads(path.read_text())
    variables = [str(variable.get("query") or "") for variable in document["templating"]["list"]]
    text = " ".join([*_queries(document), *variables])
    used = {
        name
        for name in re.findall(r"\b(?:nascale|DCGM)_[a-zA-Z0-9_:]+", text)
        if not name.startswith("nascale_io_")  # target labels, made of the pods' labels
    }

    assert len(used) >= 6
    assert used - operator_series() - pod_series() - DCGM == set()


@pytest.mark.cluster  # promtool comes with the embedded cluster's Prometheus
@each_file
def test_promtool_reads_every_query(path: Path, tmp_path: Path):
    queries = [re.sub(r"\$\w+", "x", query) for query in _queries(json.loads(path.read_text()))]
    rules = [{"record": f"query:{place}", "expr": query} for place, query in enumerate(queries)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    promtool = ensure([PROMETHEUS])["promtool"]

    done = subprocess.run(
        [str(promtool), "check", "rules", str(file)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_chart_ships_them_to_grafana_s_sidecar(render: Callable[..., list[dict[str, Any]]]):
    shipped = [m for m in render(monitoring__dashboards__enabled=True) if m["kind"] == "ConfigMap"]
    elsewhere = [
        m
        for m in render(
            monitoring__dashboards={"enabled": True, "namespace": "grafana", "labels": {"a": "b"}}
        )
        if m["kind"] == "ConfigMap"
    ]

    assert [m["metadata"]["name"] for m in shipped] == [f"nascale-dashboard-{path.stem}" for path in FILES]
    for manifest, path in zip(shipped, FILES, strict=True):
        assert manifest["data"] == {f"nascale-{path.name}": path.read_text().rstrip()}
        assert manifest["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert manifest["metadata"]["annotations"] == {"grafana_folder": "nascale"}
        assert manifest["metadata"]["namespace"] == "nascale-system"
    assert {m["metadata"]["namespace"] for m in elsewhere} == {"grafana"}
    assert all(m["metadata"]["labels"]["a"] == "b" for m in elsewhere)
    assert not [m for m in render() if m["kind"] == "ConfigMap"]
