"""A folder whose files change all at once, laid out as the kubelet does it.

The files lie in a folder of their own, ``..data`` is a symbolic link to that folder, and each visible name is
a link into ``..data``. A change writes a new folder and swaps the one link, so a reader sees all of the old
or all of the new.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DATA: Final = "..data"
PARTIAL: Final = "..data_tmp"
DEFAULT_MODE: Final = 0o644


@dataclass(frozen=True)
class FileContent:
    """One file."""

    content: bytes
    mode: int = DEFAULT_MODE


def write_files(directory: Path, files: Mapping[str, FileContent]) -> bool:
    """Make ``directory`` hold exactly ``files`` (relative path to content); return whether that changed it.

    Raises:
        ValueError: a path is absolute or leads out of the folder.
    """
    for path in files:
        if path.startswith(("/", "..")) or ".." in Path(path).parts:
            raise ValueError(f"path: must be relative and stay inside the volume, not {path!r}")
    directory.mkdir(parents=True, exist_ok=True)
    link = directory / DATA
    old = link.resolve() if link.is_symlink() else None
    if old is not None and _read(old) == dict(files):
        return False

    fresh = Path(tempfile.mkdtemp(prefix="..", dir=directory))
    fresh.chmod(0o755)
    for path, file in files.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.content)
        target.chmod(file.mode)
    partial = directory / PARTIAL
    partial.unlink(missing_ok=True)
    partial.symlink_to(fresh.name)
    partial.replace(link)

    wanted = {Path(path).parts[0] for path in files}
    for name in wanted:
        visible = directory / name
        if not visible.is_symlink():
            visible.symlink_to(Path(DATA) / name)
    for entry in directory.iterdir():
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink()
    if old is not None and old.parent == directory.resolve():
        shutil.rmtree(old, ignore_errors=True)
    return True


def _read(directory: Path) -> dict[str, FileContent]:
    return {
        str(path.relative_to(directory)): FileContent(path.read_bytes(), path.stat().st_mode & 0o777)
        for path in directory.rglob("*")
        if path.is_file()
    }
