"""Pictures of the dashboards: every panel is drawn, and those in the docs are of today's panels."""

from __future__ import annotations

import math
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from charts.dashboard_data import FILES, Panel, Query, Series, Span, filled, named, panels, title_of
from charts.dashboard_pictures import draw, text_of, ticks

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
PAGE = Path(__file__).parents[2] / "docs" / "dashboards.md"
SPAN = Span(1000.0, 1600.0, 10.0)
LARGEST_BYTES = 150_000
SVG = "{http://www.w3.org/2000/svg}"
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def answers(path: Path) -> dict[str, list[Series]]:
    """Return two series for each query, one of which has a gap, as a restart leaves it."""
    moments = [SPAN.begin + SPAN.step * place for place in range(61)]
    even = tuple((moment, 0.2 + moment / 10_000) for moment in moments)
    broken = tuple((moment, 0.1) for moment in moments if not 1200 < moment < 1300)
    return {
        panel.title: [
            Series(f"{name} & {place}", points)
            for place, _ in enumerate(panel.queries)
            for name, points in (("even", even), ("broken", broken))
        ]
        for panel in panels(path)
        if panel.kind != "row"
    }


def words(svg: str) -> list[str]:
    return [found.text or "" for found in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - our own


@each_file
def test_every_panel_is_drawn_with_title_curves_units_and_legend(path: Path):
    svg = draw(path, answers(path), SPAN)
    shown = words(svg)
    drawn = [panel for panel in panels(path) if panel.kind == "timeseries"]

    assert [shown.count(panel.title) for panel in panels(path)] == [1] * len(panels(path))
    assert "no data" not in shown
    assert shown.count("10 min") == len(drawn)
    assert shown.count("even & 0") == shown.count("broken & 0") == len(drawn)
    assert svg.count('fill="none"') == 3 * sum(len(panel.queries) for panel in drawn)
    assert svg == draw(path, answers(path), SPAN)


@each_file
def test_what_has_no_answer_says_so(path: Path):
    shown = words(draw(path, {}, SPAN))
    assert shown.count("no data") == len([panel for panel in panels(path) if panel.kind != "row"])


@each_file
def test_the_docs_show_today_s_panels_with_data(path: Path):
    picture = PICTURES / f"dashboard-{path.stem}.svg"
    shown = words(picture.read_text())
    without_data = [p for p in panels(path) if any("DCGM_" in query.expression for query in p.queries)]

    assert shown[0] == title_of(path)
    assert {panel.title for panel in panels(path)} <= set(shown), "draw it again: docs/dashboards.md says how"
    assert shown.count("no data") == len(without_data)
    assert picture.stat().st_size < LARGEST_BYTES
    assert f"pictures/{picture.name}" in PAGE.read_text()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.25, "percentunit", "25 %"),
        (0.0, "s", "0"),
        (0.0021, "s", "2.1 ms"),
        (90.0, "s", "1.5 min"),
        (2**21, "bytes", "2 MiB"),
        (1500.0, "cps", "1.5k/s"),
        (0.05, "reqps", "0.05 req/s"),
        (350.0, "watt", "350 W"),
        (32.0, "none", "32"),
    ],
)
def test_values_have_their_units(value: float, unit: str, text: str):
    assert text_of(value, unit) == text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.4, 0.97), (-3e-3, 2e-3), (5.0, 5.0), (0.0, 0.0)])
def test_ticks_are_round_and_enclose_all_values(low: float, high: float):
    marks = ticks(low, high)
    assert marks[0] <= low <= high <= marks[-1]
    assert 2 <= len(marks) <= 8
    step = marks[1] - marks[0]
    leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(leading - factor) for factor in (1, 2, 5, 10)) < 1e-6


def test_queries_and_legends_are_filled_as_grafana_does():
    query = Query('x{namespace=~"$namespace", y=~"$search"}', "{{search}} q{{ quantile }}")
    found = filled(query.expression, {"namespace": "(a|b)", "search": "(s)"})
    assert found == 'x{namespace=~"(a|b)", y=~"(s)"}'
    assert named(query.legend, {"search": "s", "quantile": "0.5"}) == "s q0.5"
    with pytest.raises(KeyError):
        filled(query.expression, {"namespace": "(a)"})


def test_thresholds_that_lie_within_the_curve_s_range_are_lines():
    (path,) = (path for path in FILES if path.stem == "fleet")
    (panel,) = (panel for panel in panels(path) if panel.title == "Reconciles that fail")
    assert isinstance(panel, Panel)
    assert [limit for limit, _ in panel.steps] == [-math.inf, 0.01, 0.1]
    high = Series("all", ((1000.0, 0.0), (1010.0, 0.05)))
    svg = draw(path, {panel.title: [high]}, SPAN)
    assert len(re.findall("stroke-dasharray", svg)) == 1
