"""The repository's own promises: layout, imports, what an install brings, what a text may say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = ("operator", "trainer")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def test_source_roots_are_no_packages() -> None:
    for name in SOURCE_ROOTS:
        assert not (ROOT / name / "__init__.py").exists()
    assert not (ROOT / "operator.py").exists()


def test_standard_operator_module_wins_from_the_repository_root() -> None:
    # Without -S some Pythons hide the fault: something loaded at start-up has imported the module already.
    code = "import collections, operator; print(operator.__file__)"
    found = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ROOT not in Path(found.stdout.strip()).parents


def test_no_module_below_a_source_root_shadows_the_standard_library() -> None:
    for name in SOURCE_ROOTS:
        for entry in (ROOT / name).iterdir():
            assert entry.stem not in sys.stdlib_module_names


def test_import_contracts_hold() -> None:
    linted = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout


def test_import_contracts_can_fail() -> None:
    # A contract that names a module that does not exist, or lists nothing, would hold for ever.
    code = (
        "import tomllib, pathlib, importlib.util, sys\n"
        "settings = tomllib.loads(pathlib.Path('pyproject.toml').read_text())['tool']\n"
        "contracts = settings['importlinter']['contracts']\n"
        "names = {m for c in contracts for key in ('source_modules', 'layers') for entry in c.get(key, ())\n"
        "         for m in map(str.strip, entry.split('|'))}\n"
        "sys.exit(', '.join(sorted(m for m in names if importlib.util.find_spec(m) is None)) or None)\n"
    )
    checked = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.slow
def test_operator_install_brings_no_torch_and_starts(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    uv = _uv()
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    subprocess.run(
        [
            uv,
            "pip",
            "sync",
            "--quiet",
            "--require-hashes",
            "--python",
            python,
            ROOT / "requirements" / "operator.txt",
        ],
        check=True,
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('torch') is None, 'torch came with the operator'\n"
        "import nascale.handlers.run, nascale.search.samplers.registry\n"
        "print(len(sys.modules))\n"
    )
    subprocess.run([python, "-c", code, ROOT / "operator"], cwd=tmp_path, check=True)


def _uv() -> Path:
    cache = Path(
        os.environ.get("NASCALE_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nascale"
    )
    return cache / "bootstrap" / "bin" / "uv"


FORBIDDEN = {
    "a registry's host": re.compile(
        r"\b(pypi\.org|files\.pythonhosted|registry\.npmjs|proxy\.golang|sum\.golang|crates\.io|docker\.io|ghcr\.io|quay\.io"
        r"|registry\.k8s\.io|gcr\.io|deb\.debian\.org|repo1?\.maven)\b"
    ),
    "a path of one machine": re.compile(r"(/work/|/root/|/home/[a-z]+/|/tmp/[a-z])"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_text_names(what: str) -> None:
    pattern = FORBIDDEN[what]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in tracked_files()
        if path != Path(__file__).resolve() and path.suffix not in {".png", ".gz", ".npz", ".lock"}
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def test_no_module_is_named_after_nothing() -> None:
    vague = {"utils", "helpers", "manager", "misc", "common"}
    assert [path for path in tracked_files() if path.stem in vague and path.suffix == ".py"] == []


def test_no_module_outgrows_a_reader() -> None:
    sources = [path for name in SOURCE_ROOTS for path in (ROOT / name).rglob("*.py")]
    assert len(sources) > 30
    long = {path.name: count for path in sources if (count := len(path.read_text().splitlines())) > 600}
    assert long == {}
