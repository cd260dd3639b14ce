"""Run every benchmark that this machine can run, then say which aims hold.

Exit status 1 where a benchmark broke; an aim that does not hold is a figure, not an error.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from pathlib import Path

from rows import CANNOT_MEASURE, RESULTS, VARIANTS, read_rows

FOLDER = Path(__file__).parent


def find_benchmarks() -> dict[str, Path]:
    """Find the scripts with a constant NAME, by that name, without importing them."""
    found: dict[str, Path] = {}
    for path in sorted(FOLDER.glob("*.py")):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Constant):
                continue
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            if names == ["NAME"]:
                found[str(statement.value.value)] = path
    return found


def main() -> int:
    """Run what was asked for, print a summary."""
    benchmarks = find_benchmarks()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(benchmarks)}; default all")
    names = parser.parse_args().names or list(benchmarks)
    unknown = [name for name in names if name not in benchmarks]
    if unknown:
        parser.error(f"NAME: must be one of {', '.join(benchmarks)}, not {', '.join(unknown)}")
    summary: list[str] = []
    broken = False
    for name in names:
        print(f"== {name}", flush=True)
        started, since = time.monotonic(), time.time()
        status = subprocess.run([sys.executable, str(benchmarks[name])], check=False).returncode
        took = f"{time.monotonic() - started:.0f} s"
        if status == CANNOT_MEASURE:
            summary.append(f"{name}: not measured, this machine lacks what it needs")
        elif status:
            broken = True
            summary.append(f"{name}: broke with status {status} after {took}")
        else:
            summary += [f"{name}: measured in {took}", *aims(name, since)]
    print("\n" + "\n".join(summary))
    return 1 if broken else 0


def aims(name: str, since: float) -> list[str]:
    """Say which aims hold, of the figures that a benchmark has written since then, seconds of the epoch."""
    names = [name, *(f"{name}-{variant}" for variant in VARIANTS)]
    written = [own for own in names if _written(own) >= since]
    return [
        f"  {'met    ' if row.holds else 'NOT MET'} {row.figure}: {row.value} {row.unit} (aim: {row.aim})"
        for own in written
        for row in read_rows(own)
        if row.holds is not None
    ]


def _written(name: str) -> float:
    """Return when a benchmark's figures were written, seconds of the epoch; 0: never."""
    path = RESULTS / f"{name}.json"
    return path.stat().st_mtime if path.exists() else 0.0


if __name__ == "__main__":
    sys.exit(main())
