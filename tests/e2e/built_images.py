"""Both images, built from the Containerfiles as docs/install.md says, with buildah and a store of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.e2e.machine import BASE_VARIABLE

from nascale.local.locks import exclusive
from nascale.local.places import cache_root

ROOT: Final = Path(__file__).parents[2]
SUITE: Final = "bookworm"
PACKAGES: Final = ("python3", "python3-venv", "python3-pip", "ca-certificates")
TAG: Final = "e2e"
OPERATOR: Final = "localhost/nascale/operator"
TRAINER: Final = "localhost/nascale/trainer"
MACHINE_FILES: Final = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
"""How this machine reaches its package registry: mounted while pip runs, and not part of the image."""


def build(folder: Path) -> dict[str, Path]:
    """Build both images; return an archive (docker-archive) of each, in ``folder``, by the image's name.

    The operator's is the one that people get. The trainer's has all but torch, by the lock that is meant for
    base images with a torch of their own. Layers are kept in the cache, so that the next build is quick.
    """
    store = cache_root() / "images"
    store.mkdir(parents=True, exist_ok=True)
    with exclusive(store / ".lock"):
        base = os.environ.get(BASE_VARIABLE) or _debian(store)
        _bud(store, OPERATOR, "operator", base, [])
        _bud(store, TRAINER, "trainer", base, ["LOCK=requirements/trainer-without-torch.txt"])
        archives = {OPERATOR: folder / "operator.tar", TRAINER: folder / "trainer.tar"}
        for name, archive in archives.items():
            _buildah(store, "push", f"{name}:{TAG}", f"docker-archive:{archive}:{name}:{TAG}")
    return archives


def _debian(store: Path) -> str:
    """Return the name of a minimal Debian with Python, made at first use (about two minutes)."""
    name = f"localhost/nascale/base:{SUITE}"
    archive = store / f"base-{SUITE}.tar"
    if not archive.exists():
        rootfs = store / "rootfs"
        shutil.rmtree(rootfs, ignore_errors=True)
        included = f"--include={','.join(PACKAGES)}"
        _run("debootstrap", "--variant=minbase", included, SUITE, rootfs)
        for downloads in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(rootfs / downloads)
        partial = archive.with_suffix(".partial")
        _run("tar", "-C", rootfs, "-cf", partial, ".")
        partial.replace(archive)
        shutil.rmtree(rootfs)
    context = store / "base"
    context.mkdir(exist_ok=True)
    (context / "Containerfile").write_text(f"FROM scratch\nADD {archive.name} /\n")
    if not (context / archive.name).exists():
        (context / archive.name).hardlink_to(archive)
    _buildah(store, "bud", "--layers", "--isolation", "chroot", "--tag", name, context)
    return name


def _bud(store: Path, name: str, part: str, base: str, arguments: list[str]) -> None:
    options = [option for value in (f"BASE={base}", *arguments) for option in ("--build-arg", value)]
    mounts = [
        option
        for path in MACHINE_FILES
        if Path(path).exists()
        for option in ("--volume", f"{path}:{path}:ro")
    ]
    file = ROOT / "images" / f"{part}.Containerfile"
    fixed = ("--layers", "--isolation", "chroot", "--network", "host", "--file", str(file))
    _buildah(store, "bud", *fixed, *options, *mounts, "--tag", f"{name}:{TAG}", ROOT)


def _buildah(store: Path, *arguments: str | Path) -> None:
    places = ("--root", store / "storage", "--runroot", store / "run", "--storage-driver", "overlay")
    _run("buildah", *places, *arguments)


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{(done.stdout + done.stderr)[-3000:]}"
