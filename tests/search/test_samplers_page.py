"""The page on samplers says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from nascale.search.samplers import registry

PAGE = Path(__file__).parents[2] / "docs" / "samplers.md"


def documented() -> set[tuple[str, str, str, str]]:
    """Rows of the table of settings: sampler, setting, default, range."""
    text = PAGE.read_text(encoding="utf-8").split("## Settings")[1].split("\n## ")[0]
    rows: set[tuple[str, str, str, str]] = set()
    samplers: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        setting = re.fullmatch(r"`(\w+)`", cells[1]) if len(cells) == 5 else None
        if setting is None:
            continue
        samplers = re.findall(r"`(\w+)`", cells[0]) or samplers
        rows |= {(sampler, setting[1], cells[2], cells[3]) for sampler in samplers}
    return rows


def test_table_of_settings_equals_the_code():
    code = {
        (
            name,
            setting.name,
            str(setting.default).lower(),
            setting.allowed.removeprefix("a whole number from ").removeprefix("a decimal from "),
        )
        for name in registry.names()
        for setting in registry.settings_of(name)
    }

    assert documented() == code
    assert len(code) > 10


def test_every_sampler_has_a_row():
    text = PAGE.read_text(encoding="utf-8")

    assert all(f"| `{name}`" in text for name in registry.names())
