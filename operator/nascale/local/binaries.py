"""Find the cluster's programs on this machine, or build them once and keep them.

For each product the first place that has all its programs in a fitting version wins:

1. the cache (``$NASCALE_CACHE/bin/PRODUCT-VERSION``), where only versions of our choice lie;
2. the folder ``$KUBEBUILDER_ASSETS``. Who sets it has chosen: a program there that names no version is taken;
3. ``PATH``;
4. built from their Go modules, into the cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from nascale.local import go_builds
from nascale.local.errors import LocalError
from nascale.local.go_builds import Report
from nascale.local.locks import exclusive
from nascale.local.places import ASSETS_VARIABLE, cache_root
from nascale.local.products import CLUSTER, Product, Version

VERSION_SECONDS: Final = 20
"""How long a program may take to print its version, on a busy machine."""


class Origin(StrEnum):
    """Where a program was found."""

    CACHE = "cache"
    ASSETS = ASSETS_VARIABLE
    PATH = "PATH"
    BUILT = "built"


@dataclass(frozen=True)
class Binary:
    """A program that can be started."""

    program: str
    path: Path
    version: str
    """As its project writes it, or "unknown"."""
    origin: Origin


class Binaries(Mapping[str, Path]):
    """Paths of programs by name."""

    def __init__(self, binaries: Iterable[Binary]) -> None:
        """Hold the binaries, in their order."""
        self._binaries = {binary.program: binary for binary in binaries}

    def __getitem__(self, program: str) -> Path:
        """Return the program's path."""
        return self._binaries[program].path

    def __iter__(self) -> Iterator[str]:
        """Iterate over the programs' names."""
        return iter(self._binaries)

    def __len__(self) -> int:
        """Count the programs."""
        return len(self._binaries)

    def details(self) -> tuple[Binary, ...]:
        """Return what is known of each program."""
        return tuple(self._binaries.values())


def ensure(products: Iterable[Product] = CLUSTER, *, report: Report | None = None) -> Binaries:
    """Find or build the products' programs.

    Args:
        products: What is needed.
        report: Takes a line about each step that takes time.

    Raises:
        BuildError: a program was not found and could not be built.
    """
    say = report if report is not None else _silent
    binaries: list[Binary] = []
    for product in products:
        binaries += find(product) or _build(product, say)
    return Binaries(binaries)


def find(product: Product) -> tuple[Binary, ...] | None:
    """Find all programs of a product in one place of this machine; None if no place has them all."""
    if (cached := _in_cache(product, Origin.CACHE)) is not None:
        return cached
    if assets := os.environ.get(ASSETS_VARIABLE):
        folder = Path(assets).expanduser().absolute()
        paths = {program: folder / program for program in product.programs}
        if (found := _fitting(product, paths, Origin.ASSETS)) is not None:
            return found
    on_path = {program: shutil.which(program) for program in product.programs}
    return _fitting(product, {name: Path(path) for name, path in on_path.items() if path}, Origin.PATH)


def cache_directory(product: Product) -> Path:
    """Return the folder in which a product's built programs are kept."""
    return cache_root() / "bin" / f"{product.name}-{product.version_text}"


def probe(product: Product, path: Path) -> Version | None:
    """Ask a program for its version; None if it does not start or names none."""
    # Programs such as kubectl read a kubeconfig even for their own version; theirs is of no interest here.
    environment = {**os.environ, "KUBECONFIG": os.devnull}
    try:
        result = subprocess.run(
            [str(path), *product.version_arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_SECONDS,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return product.read_version(result.stdout + result.stderr)


def _fitting(product: Product, paths: Mapping[str, Path], origin: Origin) -> tuple[Binary, ...] | None:
    """Return the programs at ``paths`` if all are there and of fitting versions of one minor release.

    What lies beside our own builds must lie beside them too: who asks for the product reads it there.
    """
    if not all(program in paths and _is_program(paths[program]) for program in product.programs):
        return None
    beside = {paths[program].parent for program in product.programs}
    if not all((place / folder).is_dir() for place in beside for folder in product.module.folders.values()):
        return None
    versions = {program: probe(product, paths[program]) for program in product.programs}
    known = [version for version in versions.values() if version is not None]
    trusted = origin is Origin.ASSETS
    if len(known) < len(versions) and not trusted:
        return None
    if not all(product.fits(version) for version in known) or len({v[:2] for v in known}) > 1:
        return None
    return tuple(
        Binary(program, paths[program], _text(version), origin) for program, version in versions.items()
    )


def _in_cache(product: Product, origin: Origin) -> tuple[Binary, ...] | None:
    folder = cache_directory(product)
    if not all(_is_program(folder / program) for program in product.programs):
        return None
    return tuple(
        Binary(program, folder / program, product.version_text, origin) for program in product.programs
    )


def _build(product: Product, say: Report) -> tuple[Binary, ...]:
    folder = cache_directory(product)

    def waiting() -> None:
        say(f"{product.name} {product.version_text}: another process is building it; waiting")

    with exclusive(folder.with_name(f"{folder.name}.lock"), waiting=waiting):
        # Who waited for the lock finds it built.
        if (cached := _in_cache(product, Origin.CACHE)) is not None:
            return cached
        go_builds.build(product, folder, say)
    built = _in_cache(product, Origin.BUILT)
    if built is None:
        raise LocalError(f"{product.name} was built, but {folder} does not hold all its programs")
    return built


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _text(version: Version | None) -> str:
    return "unknown" if version is None else "v" + ".".join(str(number) for number in version)


def _silent(_line: str) -> None:
    """Report nothing."""
