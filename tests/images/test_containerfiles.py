"""The Containerfiles: what they promise, and that what they copy is enough. Nothing is built here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template

import pytest
import yaml

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "images"
PARTS = ("operator", "trainer")
CHART_USER = "65532:65532"


def _instructions(part: str) -> list[str]:
    text = (IMAGES / f"{part}.Containerfile").read_text()
    lines = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    return [re.sub(r"\s+", " ", line).strip() for line in lines.splitlines() if line.strip()]


def _all(part: str, instruction: str) -> list[str]:
    prefix = f"{instruction} "
    return [line.removeprefix(prefix) for line in _instructions(part) if line.startswith(prefix)]


def _arguments(part: str) -> dict[str, str]:
    """Return the build's arguments with their defaults."""
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in _all(part, "ARG"))}


def _copied(part: str) -> list[tuple[Path, str]]:
    """Return what is copied from the checkout, and where to."""
    copies = [Template(line).substitute(_arguments(part)) for line in _all(part, "COPY")]
    pairs = [line.split() for line in copies if not line.startswith("--from")]
    assert all(len(pair) == 2 for pair in pairs)
    return [(ROOT / source, target) for source, target in pairs]


def test_every_file_of_the_folder_belongs_to_an_image():
    assert sorted(path.name for path in IMAGES.iterdir()) == sorted(
        [f"{part}.Containerfile" for part in PARTS] + [f"nascale-{part}" for part in PARTS]
    )


@pytest.mark.parametrize("part", PARTS)
def test_the_base_is_an_argument_without_a_registry_and_used_by_every_stage(part: str):
    assert _all(part, "ARG")[0].startswith("BASE=")  # before the first stage, so that all of them see it
    assert re.fullmatch(r"python:3\.\d+-slim", _arguments(part)["BASE"])
    assert [line.partition(" AS ")[0] for line in _all(part, "FROM")] == ["${BASE}", "${BASE}"]


def _locked(lock: str) -> list[str]:
    """Return a lock's packages as ``name==version``; some have one version for each Python."""
    return re.findall(r"^[a-z0-9][\w.-]*==[\w.+!]+", lock, re.MULTILINE | re.IGNORECASE)


@pytest.mark.parametrize("part", PARTS)
def test_packages_are_installed_by_hash_and_without_sources(part: str):
    (run,) = _all(part, "RUN")
    lock = (ROOT / "requirements" / f"{part}.txt").read_text()
    packages = _locked(lock)

    for option in ("--require-hashes", "--no-deps", "--only-binary :all:", "--no-cache-dir"):
        assert option in run
    # What makes an image differ from one build to the next, or open to others.
    assert not re.search(r"curl|wget|apt|latest|chmod|--index-url|--trusted-host|sudo", run)
    assert len(packages) >= 10
    assert lock.count("--hash=sha256:") >= len(packages)
    assert any(package.startswith("torch==") for package in packages) == (part == "trainer")


def test_lock_for_bases_with_a_torch_of_their_own_lacks_what_comes_with_torch_and_nothing_else():
    whole, without = (
        set(_locked((ROOT / "requirements" / f"{name}.txt").read_text()))
        for name in ("trainer", "trainer-without-torch")
    )

    assert without < whole
    left_out = {package.partition("==")[0] for package in whole - without}
    assert {"torch", "torchvision", "triton"} <= left_out
    others = {name for name in left_out if not re.match("cuda-|nvidia-|torch|triton", name)}
    assert others == {"mpmath", "networkx", "sympy"}
    for package in ("numpy", "safetensors", "timm"):
        assert any(each.startswith(f"{package}==") for each in without)


@pytest.mark.parametrize("part", PARTS)
def test_it_runs_as_the_chart_s_user_and_starts_the_chart_s_command(part: str):
    values = yaml.safe_load((ROOT / "charts" / "nascale" / "values.yaml").read_text())
    deployment = (ROOT / "charts" / "nascale" / "templates" / "deployment.yaml").read_text()

    assert _all(part, "USER") == [CHART_USER]
    assert _instructions(part)[-1] == f'ENTRYPOINT ["nascale-{part}"]'
    user, _, group = CHART_USER.partition(":")
    assert f"runAsUser: {user}" in deployment
    assert f"runAsGroup: {group}" in deployment
    if part == "trainer":
        assert values["trials"]["command"] == ["nascale-trainer"]
    else:
        assert "command: [nascale-operator]" in deployment


@pytest.mark.parametrize("part", PARTS)
def test_what_is_copied_exists_and_reaches_the_build(part: str):
    rules = (ROOT / ".containerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in rules if line.startswith("!")}

    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()
    assert "*" in rules
    for source, _ in _copied(part):
        assert source.exists()
        assert source.relative_to(ROOT).parts[0] in allowed
    assert os.access(IMAGES / f"nascale-{part}", os.X_OK)


@pytest.mark.parametrize(
    ("part", "arguments", "code", "said"),
    [
        ("operator", {"NASCALE_WORKERS": "0"}, 2, "NASCALE_WORKERS: must be a whole number from 1 to 64"),
        ("trainer", {}, 2, "NASCALE_WORK_ORDER"),
    ],
)
def test_what_is_copied_is_enough_to_start(
    part: str, arguments: dict[str, str], code: int, said: str, tmp_path: Path
):
    for source, target in _copied(part):
        place = tmp_path / target.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place)
        else:
            shutil.copy(source, place)
    launcher = tmp_path / "opt" / "nascale" / "bin" / f"nascale-{part}"
    # The checkout itself is installed in this interpreter: the copy must win, and be all that is used.
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(tmp_path / "opt/nascale/source"),
        "NASCALE_TERMINATION_LOG": str(tmp_path / "report"),
    }
    check = "import nascale, sys; assert nascale.__file__.startswith(sys.argv[1]), nascale.__file__"
    subprocess.run([sys.executable, "-c", check, str(tmp_path)], env=environment, check=True)

    done = subprocess.run(
        [sys.executable, str(launcher)],
        env={**environment, **arguments},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == code, done.stderr
    assert said in done.stderr
