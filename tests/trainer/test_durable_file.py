"""The report's file: whole or absent, and written even where a rename is refused."""

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nascale_trainer.durable_file import write_atomically, write_termination_message

WRITE_THROUGH = """
import pathlib, sys
from nascale_trainer.durable_file import write_termination_message
write_termination_message(pathlib.Path(sys.argv[1]), b"through")
"""


def _may_mount():
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode == 0


def test_a_file_is_replaced_as_a_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"before" * 100)
    inode = path.stat().st_ino
    write_termination_message(path, b"after")
    assert path.read_bytes() == b"after"
    assert path.stat().st_ino != inode, "a new file took the name"
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"]


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EROFS])
def test_a_bind_mounted_file_is_written_in_place(tmp_path, monkeypatch, code):
    """The kubelet mounts /dev/termination-log: there a rename over it is refused with EBUSY."""
    path = tmp_path / "log"
    path.write_bytes(b"old and longer")
    inode = path.stat().st_ino
    refused = []

    def refuse(_path, target):
        refused.append(target)
        raise OSError(code, os.strerror(code), str(target))

    monkeypatch.setattr(Path, "replace", refuse)
    write_termination_message(path, b"new")
    assert refused == [path]
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino == inode
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"], "the temporary file is gone"


@pytest.mark.skipif(not _may_mount(), reason="this user may make no mount namespace")
def test_a_real_bind_mount_is_written_through(tmp_path):
    path, source = tmp_path / "log", tmp_path / "source"
    path.touch()
    source.touch()
    mounted = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            'mount --bind "$1" "$2" && exec "$3" -c "$4" "$2"',
            "sh",
            str(source),
            str(path),
            sys.executable,
            WRITE_THROUGH,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert mounted.returncode == 0, mounted.stderr
    assert source.read_bytes() == b"through"
    assert path.read_bytes() == b"", "outside the mount's namespace the file is untouched"


def test_any_other_error_is_not_hidden(tmp_path, monkeypatch):
    def refuse(_path, _target):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="input/output error"):
        write_termination_message(tmp_path / "log", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_to_not_replaced(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    write_termination_message(path, b"line")
    reader.join(timeout=10)
    assert got == [b"line"]
    assert stat.S_ISFIFO(path.lstat().st_mode)


def test_a_link_is_followed_not_replaced(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"something longer")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_termination_message(link, b"short")
    assert link.is_symlink()
    assert target.read_bytes() == b"short"


def test_a_reader_never_sees_a_part(tmp_path):
    path = tmp_path / "log"
    contents = [bytes([letter]) * 4096 for letter in b"ab"]
    path.write_bytes(contents[0])
    seen = set()
    stop = threading.Event()

    def read():
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        write_atomically(path, contents[number % 2])
    stop.set()
    reader.join(timeout=10)
    assert seen <= set(contents)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "file", b"x")
