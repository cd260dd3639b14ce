"""Files that are whole or absent, whenever the process is killed."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

# A rename is refused with EBUSY where the target is itself a mount: the kubelet bind-mounts the file
# /dev/termination-log. The others mean that this user may write the file but not its folder, that the
# folder is read-only, or that it takes no further file.
_WRITE_IN_PLACE: Final = frozenset(
    {errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOENT}
)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or what was there before, even after a power cut.

    Raises:
        OSError: the folder doesn't exist or takes no file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            _write_all(descriptor, content)
            _synchronise(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    synchronise_folder(path.parent)


def write_termination_message(path: Path, content: bytes) -> None:
    """Write a pod's termination message: by rename where that is possible, else in place.

    Anything but a regular file (a terminal, a pipe, a link such as ``/dev/stdout``) is written to, never
    replaced.

    Raises:
        OSError: the file can't be written either way.
    """
    try:
        replaceable = stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        replaceable = True
    if replaceable:
        try:
            write_atomically(path, content)
        except OSError as error:
            if error.errno not in _WRITE_IN_PLACE:
                raise
        else:
            return
    _write_in_place(path, content)


def synchronise_folder(folder: Path) -> None:
    """Make a rename in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _synchronise(descriptor)
    finally:
        os.close(descriptor)


def _write_in_place(path: Path, content: bytes) -> None:
    """Overwrite first and cut afterwards: a kill in between never leaves an empty file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _write_all(descriptor, content)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.ftruncate(descriptor, len(content))
        _synchronise(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _synchronise(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Terminals, pipes and some network file systems' folders can't be synchronised.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
