"""Draws the dashboards for the documentation: ``python -m charts.dashboard_pictures URL FOLDER BEGIN END``.

Grafana is no dependency: this is a renderer of our own. It reads the dashboards' JSON (titles, places, units,
thresholds), asks a Prometheus what the panels ask, and writes one SVG for each dashboard. The same answers
give the same bytes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Final

from charts.dashboard_data import FILES, Panel, Query, Series, Span, all_of, answer, offered, panels, title_of

Answers = Mapping[str, Sequence[Series]]
"""Series by the title of their panel."""

COLUMN: Final = 40
"""Width of one of the grid's 24 columns, pixels."""
LINE: Final = 28
"""Height of one unit of the grid, pixels."""
GAP: Final = 4
HEAD: Final = 44
LEFT, RIGHT, TOP, LEGEND_LINE = 62, 14, 30, 15
MARGIN: Final = 12.0
LETTER: Final = 6.2
"""Mean width of a letter of a legend, pixels."""
MOST_NAMES: Final = 9
POINTS: Final = 150
COLOURS: Final = (
    "#2f6fb5",
    "#d9822b",
    "#3a8f4d",
    "#b5428f",
    "#7a5fc4",
    "#008a92",
    "#a8763e",
    "#c23b3b",
    "#62707d",
    "#8f9a1f",
)
THRESHOLDS: Final = {"green": "#3a8f4d", "orange": "#d9822b", "red": "#c23b3b"}
_SECONDS: Final = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES: Final = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
_LARGE: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_SUFFIXES: Final = {"cps": "/s", "reqps": " req/s", "watt": " W"}


def text_of(value: float, unit: str) -> str:
    """Write a value with its unit, as Grafana names units."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if value == 0:
        return f"0{_SUFFIXES.get(unit, '')}"
    if unit in {"s", "bytes"}:
        return _scaled(value, _SECONDS if unit == "s" else _BYTES, " ")
    small = abs(value) < 1
    return (f"{value:.3g}" if small else _scaled(value, _LARGE, "")) + _SUFFIXES.get(unit, "")


def _scaled(value: float, scale: Sequence[tuple[float, str]], between: str) -> str:
    size, name = next((entry for entry in scale if abs(value) >= entry[0]), scale[-1])
    return f"{value / size:.4g}{between}{name}".rstrip()


def ticks(lowest: float, highest: float, most: int = 5) -> list[float]:
    """Return round values that enclose a range: 1, 2 or 5 times a power of ten apart."""
    if highest - lowest < 1e-12 * max(1.0, abs(highest)):
        pad = abs(highest) or 1.0
        lowest, highest = min(0.0, lowest), highest + pad * 0.2
    rough = (highest - lowest) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(lowest / step + 1e-9), math.ceil(highest / step - 1e-9)
    return [float(f"{place * step:.9g}") for place in range(first, last + 1)]


def _size(largest: float, unit: str) -> float:
    """Return the unit that ticks are round in: minutes for minutes, MiB for MiB."""
    scale = {"s": _SECONDS, "bytes": _BYTES}.get(unit, ())
    return next((size for size, _ in scale if largest >= 2 * size), 1.0)


@dataclass(frozen=True)
class _Frame:
    """Where a panel's curves lie, and what its axes stand for."""

    left: float
    top: float
    width: float
    height: float
    span: Span
    low: float
    high: float

    def x(self, moment: float) -> float:
        return self.left + self.width * (moment - self.span.begin) / (self.span.end - self.span.begin)

    def y(self, value: float) -> float:
        return self.top + self.height * (1 - (value - self.low) / (self.high - self.low))


def draw(path: Path, answers: Answers, span: Span) -> str:
    """Return a dashboard as SVG.

    Args:
        path: The dashboard's JSON.
        answers: What Prometheus answered to each panel.
        span: The time range of the answers.
    """
    found = panels(path)
    width = 24 * COLUMN + 2 * GAP
    height = HEAD + max(panel.place[1] + panel.place[3] for panel in found) * LINE + GAP
    title = escape(title_of(path))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"',
        f'height="{height}" font-family="DejaVu Sans, Verdana, sans-serif" font-size="11" role="img">',
        f"<title>{title}</title>",
        f'<rect width="{width}" height="{height}" fill="#f3f4f6"/>',
        f'<text x="12" y="28" font-size="18" font-weight="bold" fill="#1f2933">{title}</text>',
    ]
    for panel in found:
        parts += _panel(panel, answers.get(panel.title, ()), span)
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel, series: Sequence[Series], span: Span) -> list[str]:
    column, line, columns, lines = panel.place
    x, y = GAP + column * COLUMN, HEAD + line * LINE
    if panel.kind == "row":
        return [f'<text x="{x + 8}" y="{y + 19}" font-size="14" fill="#3e4c59">{escape(panel.title)}</text>']
    width, height = columns * COLUMN - GAP, lines * LINE - GAP
    parts = [
        f'<g transform="translate({x},{y})">',
        f'<rect width="{width}" height="{height}" rx="3" fill="#fff" stroke="#d5dae1"/>',
        f'<text x="10" y="19" font-size="12" font-weight="bold" fill="#1f2933">{escape(panel.title)}</text>',
    ]
    if not series:
        parts.append(_text(width / 2, height / 2 + 8, "no data", anchor="middle"))
    elif panel.kind == "stat":
        parts += _number(panel, series, width, height)
    else:
        parts += _curves(panel, series, span, width, height)
    return [*parts, "</g>"]


def _number(panel: Panel, series: Sequence[Series], width: float, height: float) -> list[str]:
    value = series[0].points[-1][1]
    colour = next(colour for limit, colour in reversed(panel.steps) if value >= limit)
    place = f'x="{width / 2:g}" y="{height / 2 + 24:g}" font-size="36" text-anchor="middle"'
    return [f'<text {place} fill="{THRESHOLDS[colour]}">{text_of(value, panel.unit)}</text>']


def _curves(panel: Panel, series: Sequence[Series], span: Span, width: float, height: float) -> list[str]:
    names = sorted({each.name for each in series})
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    legend, lines = _legend(names, colours, width, height)
    values = [value for each in series for _, value in each.points]
    size = _size(max(map(abs, values)), panel.unit)
    marks = [mark * size for mark in ticks(min(values) / size, max(values) / size)]
    below = 24 + LEGEND_LINE * lines
    frame = _Frame(LEFT, TOP, width - LEFT - RIGHT, height - TOP - below, span, min(marks), max(marks))
    parts = [*_axes(frame, marks, panel.unit), *_limits(frame, panel)]
    for each in sorted(series, key=lambda found: (found.name, found.points)):
        parts += _curve(frame, each, colours[each.name], alone=len(series) == 1)
    return parts + legend


def _axes(frame: _Frame, marks: Iterable[float], unit: str) -> list[str]:
    right, bottom = frame.left + frame.width, frame.top + frame.height
    parts = []
    for mark in marks:
        y = frame.y(mark)
        parts.append(f'<path d="M{frame.left:g} {y:.1f}H{right:g}" stroke="#e4e7eb"/>')
        parts.append(_text(frame.left - 6, y + 4, text_of(mark, unit), anchor="end"))
    minutes = (frame.span.end - frame.span.begin) / 60
    for mark in ticks(0.0, minutes, 6):
        if mark > minutes:
            continue
        x = frame.x(frame.span.begin + mark * 60)
        parts.append(f'<path d="M{x:.1f} {bottom:g}v4" stroke="#9aa5b1"/>')
        parts.append(_text(x, bottom + 16, f"{mark:g} min", anchor="middle"))
    return parts


def _limits(frame: _Frame, panel: Panel) -> list[str]:
    return [
        f'<path d="M{frame.left:g} {frame.y(limit):.1f}h{frame.width:g}" stroke="{THRESHOLDS[colour]}" '
        'stroke-dasharray="5 4"/>'
        for limit, colour in panel.steps
        if frame.low <= limit <= frame.high
    ]


def _curve(frame: _Frame, series: Series, colour: str, *, alone: bool) -> list[str]:
    parts = []
    for run in _unbroken(series.points, frame.span.step * 1.5):
        places = [f"{frame.x(moment):.1f} {frame.y(value):.1f}" for moment, value in run]
        if len(places) == 1:
            x, y = places[0].split()
            parts.append(f'<circle cx="{x}" cy="{y}" r="2.2" fill="{colour}"/>')
            continue
        line = f"M{'L'.join(places)}"
        if alone:
            floor = frame.top + frame.height
            area = f"{line}L{frame.x(run[-1][0]):.1f} {floor:g}L{frame.x(run[0][0]):.1f} {floor:g}Z"
            parts.append(f'<path d="{area}" fill="{colour}" fill-opacity=".1"/>')
        parts.append(f'<path d="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    return parts


def _unbroken(points: Sequence[tuple[float, float]], longest: float) -> list[list[tuple[float, float]]]:
    runs: list[list[tuple[float, float]]] = []
    for point in points:
        if runs and point[0] - runs[-1][-1][0] <= longest:
            runs[-1].append(point)
        else:
            runs.append([point])
    return runs


def _legend(
    names: Sequence[str], colours: Mapping[str, str], width: float, height: float
) -> tuple[list[str], int]:
    shown = [(name, colours[name]) for name in names[:MOST_NAMES]]
    if len(names) > MOST_NAMES:
        shown.append((f"and {len(names) - MOST_NAMES} more", ""))
    x, line, places = MARGIN, 0, []
    for name, colour in shown:
        needed = 24 + len(name) * LETTER
        if x > MARGIN and x + needed > width - 8:
            x, line = MARGIN, line + 1
        places.append((x, line, name, colour))
        x += needed
    parts = []
    for x, place, name, colour in places:
        y = height - 8 - LEGEND_LINE * (line - place)
        if colour:
            parts.append(f'<path d="M{x:.1f} {y - 4:g}h12" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 16:.1f}" y="{y:g}" font-size="10" fill="#3e4c59">{escape(name)}</text>')
    return parts, line + 1


def _text(x: float, y: float, text: str, *, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#616e7c">{escape(text)}</text>'


def asked(url: str, path: Path, span: Span) -> dict[str, list[Series]]:
    """Ask a Prometheus what a dashboard's panels ask, with "All" for each variable."""
    values = all_of(offered(url, path, span))

    def answers(queries: Iterable[Query]) -> list[Series]:
        return [series for query in queries for series in answer(url, query, values, span)]

    return {panel.title: answers(panel.queries) for panel in panels(path)}


def main(arguments: Sequence[str]) -> int:
    """Draw every dashboard (or those that are named in the end) from a Prometheus' answers."""
    url, folder, *moments = arguments[:4]
    begin, end = (datetime.fromisoformat(moment).timestamp() for moment in moments)
    span = Span(begin, end, float(max(1, math.ceil((end - begin) / POINTS))))
    chosen = arguments[4:] or [path.stem for path in FILES]
    for path in FILES:
        if path.stem in chosen:
            target = Path(folder) / f"dashboard-{path.stem}.svg"
            target.write_text(draw(path, asked(url, path, span), span))
            print(f"{target}: {target.stat().st_size // 1000} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
