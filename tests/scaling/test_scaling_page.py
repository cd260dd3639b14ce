"""The page for people says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from nascale.scaling.budget_search import MOST_MEASUREMENTS
from nascale.scaling.plan import GUARD, MOST_FAILED_NETWORKS, MOST_FAILED_REFERENCES
from nascale.scaling.problem import Vector
from nascale.scaling.vectors import PUBLISHED, normalised, shares

PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
ROW = re.compile(
    r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| (\d+) %, (\d+) %, (\d+) % \|", re.MULTILINE
)


class TestThePage:
    def test_lists_the_published_vectors(self):
        listed = {name: Vector(float(a), float(b), float(c)) for name, a, b, c, *_ in ROW.findall(PAGE)}
        assert listed == {name: normalised(vector) for name, vector in PUBLISHED.items()}

    def test_lists_their_directions(self):
        for name, _, _, _, *direction in ROW.findall(PAGE):
            assert [int(share) for share in direction] == [
                round(100 * share) for share in shares(PUBLISHED[name])
            ]

    def test_names_the_limits_of_the_code(self):
        assert (MOST_MEASUREMENTS, GUARD, MOST_FAILED_NETWORKS, MOST_FAILED_REFERENCES) == (6, 0.9, 3, 3)
        for text in ("six are the most", "nine tenths", "three per vector", "in three pods"):
            assert text in PAGE
