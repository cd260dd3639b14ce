"""Make ``docs/benchmarks.md`` from ``benchmarks/results/*.json``; ``--check`` only compares.

Above each table stands the benchmark's own docstring, so that method and figures can't part.
"""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

from rows import RESULTS, VARIANTS, Row, read_rows
from run_all import find_benchmarks

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

Made by `benchmarks/render.py` from the raw figures in `benchmarks/results/`; don't edit.
Every figure can be measured again with the command under its table, all of them with `make bench`.
Intervals are 95 % confidence intervals of the mean (Student's t) over *n* independent runs.
An aim that is not met is shown as such.
"""


def render() -> str:
    """Render the page."""
    scripts = find_benchmarks()
    parts = [HEAD]
    for path in sorted(RESULTS.glob("*.json")):
        rows = read_rows(path.stem)
        parts.append(f"## {path.stem}\n")
        if path.stem in scripts:
            parts.append(_docstring(scripts[path.stem]) + "\n")
        for variant, where in VARIANTS.items():
            if path.stem.endswith(f"-{variant}"):
                parts.append(f"The same as {path.stem.removesuffix(f'-{variant}')}, {where}.\n")
        parts.append(_table(rows))
        parts += [f"Measured with `{command}`.\n" for command in dict.fromkeys(row.command for row in rows)]
        parts += [f"On: {where}.\n" for where in dict.fromkeys(row.environment for row in rows)]
    return "\n".join(parts)


def _docstring(script: Path) -> str:
    return ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""


def _table(rows: list[Row]) -> str:
    lines = [
        "| figure | value | unit | 95 % interval | n | baseline | aim | met |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            row.figure.replace("|", "\\|"),
            _number(row.value),
            row.unit,
            "" if row.ci95 is None else f"{_number(row.ci95[0])} to {_number(row.ci95[1])}",
            str(row.n),
            "" if row.baseline is None else _number(row.baseline),
            row.aim or "",
            {None: "", True: "yes", False: "**no**"}[row.holds],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 where it is not current"
    )
    text = render()
    if not parser.parse_args().check:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE.name} is not current: run python benchmarks/render.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
