"""What the dashboards' panels ask, and what a Prometheus answers to them.

Read from the JSON that Grafana gets, so that tests and pictures are about what people see.
"""

from __future__ import annotations

import json
import math
import re
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "nascale" / "files" / "dashboards"
FILES: Final = tuple(sorted(FOLDER.glob("*.json")))
TIMEOUT_SECONDS: Final = 30.0
_CHOICES: Final = re.compile(r"label_values\((?P<series>.+), (?P<label>\w+)\)")
_ROW: Final = "row"


@dataclass(frozen=True)
class Query:
    """One expression of a panel.

    Attributes:
        expression: PromQL, with the dashboard's variables.
        legend: How its series are called, with labels in double braces.
    """

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel, or the title of a row of them.

    Attributes:
        title: What it shows.
        kind: ``timeseries``, ``stat`` or ``row``.
        place: Left edge, top edge, width and height in units of Grafana's grid of 24 columns.
        unit: Grafana's name of the unit; empty for a row.
        steps: Value and colour of each threshold; the first value is minus infinity.
        queries: What is drawn; empty for a row.
    """

    title: str
    kind: str
    place: tuple[int, int, int, int]
    unit: str
    steps: tuple[tuple[float, str], ...]
    queries: tuple[Query, ...]


@dataclass(frozen=True)
class Series:
    """One series of an answer.

    Attributes:
        name: By its query's legend.
        points: Unix time in seconds, and a value; what is no number is left out.
    """

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Span:
    """A time range, Unix time in seconds, and the seconds between two points of it."""

    begin: float
    end: float
    step: float


def title_of(path: Path) -> str:
    """Return a dashboard's title."""
    return str(json.loads(path.read_text())["title"])


def panels(path: Path) -> list[Panel]:
    """Return a dashboard's rows and panels in their order."""
    return [_panel(found) for found in json.loads(path.read_text())["panels"]]


def _panel(found: Mapping[str, Any]) -> Panel:
    grid = found["gridPos"]
    place = (grid["x"], grid["y"], grid["w"], grid["h"])
    if found["type"] == _ROW:
        return Panel(found["title"], _ROW, place, "", (), ())
    defaults = found["fieldConfig"]["defaults"]
    steps = tuple(
        (-math.inf if step["value"] is None else float(step["value"]), str(step["color"]))
        for step in defaults["thresholds"]["steps"]
    )
    queries = tuple(Query(target["expr"], target["legendFormat"]) for target in found["targets"])
    return Panel(found["title"], found["type"], place, defaults["unit"], steps, queries)


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return a query with its variables replaced.

    Raises:
        KeyError: one of them has no value.
    """
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], text)


def named(legend: str, labels: Mapping[str, str]) -> str:
    """Return a series' name: the legend with labels in place of what is in double braces."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend).strip()


def offered(url: str, path: Path, span: Span) -> dict[str, list[str]]:
    """Return the values that a dashboard's variables offer, each restricted by those before it."""
    found: dict[str, list[str]] = {}
    for variable in json.loads(path.read_text())["templating"]["list"]:
        if variable["type"] != "query":
            continue
        parts = _CHOICES.fullmatch(filled(variable["query"], all_of(found)))
        if parts is None:
            message = f"{variable['name']}: must be label_values(series, label), not {variable['query']}"
            raise ValueError(message)
        asked = {"match[]": parts["series"], "start": span.begin, "end": span.end}
        found[variable["name"]] = sorted(_get(url, f"label/{parts['label']}/values", asked))
    return found


def all_of(values: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return each variable's value where "All" is chosen, as Grafana makes it."""
    return {name: f"({'|'.join(each)})" for name, each in values.items()}


def answer(url: str, query: Query, values: Mapping[str, str], span: Span) -> list[Series]:
    """Ask a Prometheus one query over a time range; series without any number are left out."""
    asked = {
        "query": filled(query.expression, values),
        "start": span.begin,
        "end": span.end,
        "step": span.step,
    }
    found = [
        Series(named(query.legend, each["metric"]), _numbers(each["values"]))
        for each in _get(url, "query_range", asked)["result"]
    ]
    return [series for series in found if series.points]


def empty_panels(url: str, path: Path, values: Mapping[str, str], span: Span) -> list[str]:
    """Return the titles of those panels that have a query without any number in the time range.

    NVIDIA's series are left out: they come from an exporter of nodes with GPUs.
    """
    return [
        panel.title
        for panel in panels(path)
        if any(
            "DCGM_" not in query.expression and not answer(url, query, values, span)
            for query in panel.queries
        )
    ]


def _numbers(values: Sequence[tuple[float, str]]) -> tuple[tuple[float, float], ...]:
    points = ((float(moment), float(value)) for moment, value in values)
    return tuple((moment, value) for moment, value in points if math.isfinite(value))


def _get(url: str, path: str, asked: Mapping[str, Any]) -> Any:
    address = f"{url}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
    with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answered:  # noqa: S310 - http alone
        return json.load(answered)["data"]
