"""What the benchmarks share: rows, their page, the finding of the scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Import the scripts' modules as the scripts do, with results in a folder of the test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import render  # noqa: PLC0415 - only importable with the folder on the path
    import rows  # noqa: PLC0415
    import run_all  # noqa: PLC0415

    for module in (rows, render, run_all):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    return rows, render, run_all


def figure(rows, name: str, samples, **more):
    return rows.measured(name, samples, unit="s", command="true", environment="here", **more)


def test_interval_is_students(modules):
    rows, *_ = modules
    samples = [3.1, 2.9, 4.0, 3.3, 2.7]
    expected = ttest_1samp(samples, 0.0).confidence_interval(0.95)

    mean, interval = rows.mean_with_ci95(samples)

    assert mean == pytest.approx(np.mean(samples))
    assert interval == pytest.approx((expected.low, expected.high))


def test_single_sample_has_no_interval(modules):
    rows, *_ = modules
    row = figure(rows, "a", 2)

    assert (row.value, row.n, row.ci95, row.aim, row.holds) == (2.0, 1, None, None, None)


def test_what_is_not_measured_anew_keeps_its_rows(modules):
    rows, *_ = modules
    rows.write_rows_about("one", "a", [figure(rows, "a: time", 1.0)])
    assert [row.figure for row in rows.read_rows("one")] == ["a: time"]
    rows.write_rows("one", [figure(rows, name, 1.0) for name in ("a: time", "ab: time", "b: a: time")])

    rows.write_rows_about("one", "a", [figure(rows, "a: time", 2.0)])

    found = rows.read_rows("one")
    assert [row.figure for row in found] == ["ab: time", "b: a: time", "a: time"]
    assert {row.figure: row.value for row in found}["a: time"] == 2.0


@pytest.mark.parametrize(
    ("relation", "value", "met"),
    [
        ("at most", 1.0, True),
        ("at most", 1.01, False),
        ("at least", 1.0, True),
        ("at least", 0.99, False),
        ("at most", float("nan"), False),
        ("at most", float("inf"), False),
    ],
)
def test_aim_is_compared_with_the_measured_value(modules, relation, value, met):
    rows, *_ = modules

    row = figure(rows, "a", value, aim=rows.Aim(relation, 1.0))

    assert row.holds is met
    assert row.aim == f"{relation} 1"


def test_rows_survive_their_file(modules, tmp_path):
    rows, *_ = modules
    written = [
        figure(rows, "a", [1.0, 2.0, 4.0], aim=rows.Aim("at most", 2.0), baseline=3.0),
        figure(rows, "b", float("inf"), aim=rows.Aim("at most", 2.0)),
    ]

    path = rows.write_rows("some", written)

    assert path == tmp_path / "some.json"
    assert rows.read_rows("some") == written
    assert set(json.loads(path.read_text())[0]) == {
        "figure", "value", "unit", "aim", "holds", "n", "ci95", "baseline", "environment", "command",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["some.json"]


def test_figure_stands_once(modules):
    rows, *_ = modules

    with pytest.raises(ValueError, match=r"must be unique within some, not repeated: .*'a'"):
        rows.write_rows("some", [figure(rows, "a", 1.0), figure(rows, "a", 2.0)])


def test_page_shows_unmet_aims(modules):
    rows, render, _ = modules
    rows.write_rows("some", [figure(rows, "slow | thing", [3.0, 3.0], aim=rows.Aim("at most", 2.0))])

    page = render.render()

    assert "| slow \\| thing | 3 | s | 3 to 3 | 2 |  | at most 2 | **no** |" in page
    assert "Measured with `true`." in page


def test_scripts_are_found_by_their_names(modules):
    *_, run_all = modules

    found = run_all.find_benchmarks()

    assert found["search-quality"] == FOLDER / "search_quality.py"
    assert not {"rows", "render", "run_all"} & {path.stem for path in found.values()}


def test_page_refers_from_another_device_s_figures_to_their_benchmark(modules):
    rows, render, _ = modules
    for name in ("search-quality", "search-quality-cuda"):
        rows.write_rows(name, [figure(rows, "a", 1.0)])

    page = render.render()

    assert "## search-quality-cuda\n\nThe same as search-quality, on a GPU.\n" in page


def test_summary_tells_the_aims_of_what_a_run_has_written(modules):
    rows, _, run_all = modules
    met, missed = rows.Aim("at most", 2.0), rows.Aim("at most", 0.5)
    old = rows.write_rows("some", [figure(rows, "elsewhere", 1.0, aim=missed)])
    os.utime(old, (1000.0, 1000.0))
    rows.write_rows("some-fp32-only", [figure(rows, "here", 1.0, aim=met), figure(rows, "no aim", 1.0)])

    assert run_all.aims("some", 2000.0) == ["  met     here: 1.0 s (aim: at most 2)"]
    assert run_all.aims("none", 2000.0) == []


def test_page_is_made_of_the_figures_checked_in():
    checked = subprocess.run(
        [sys.executable, str(FOLDER / "render.py"), "--check"], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr
