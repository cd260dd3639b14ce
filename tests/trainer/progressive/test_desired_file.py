"""The desired state is read from a file that the kubelet swaps; nothing in it can end a training."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from nascale.contract import environment
from nascale.contract.run_order import DesiredState
from nascale_trainer.progressive.desired_file import MAX_BYTES, DesiredFile


class Kubelet:
    """Writes a downward-API volume as the kubelet does: a new folder, then a swapped link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "desired-state"
        self._count = 0
        folder.mkdir()

    def write(self, text: str) -> None:
        self._count += 1
        new = self.folder / f"..2026_11_25.{self._count}"
        new.mkdir()
        (new / "desired-state").write_text(text)
        link = self.folder / "..data_tmp"
        link.symlink_to(new.name)
        link.replace(self.folder / "..data")
        if not self.path.is_symlink():
            self.path.symlink_to("..data/desired-state")


@pytest.fixture
def kubelet(tmp_path: Path) -> Kubelet:
    return Kubelet(tmp_path / "podinfo")


def state(revision: int, *, paused: bool = False) -> str:
    return DesiredState(revision=revision, paused=paused).to_json()


def test_a_swapped_file_is_read_again(kubelet: Kubelet) -> None:
    file = DesiredFile(kubelet.path, interval_seconds=0)
    assert file.newest() is None
    kubelet.write("")
    assert file.newest() is None
    kubelet.write(state(1))
    assert file.newest() == DesiredState(revision=1)
    kubelet.write(state(2, paused=True))
    assert file.newest() == DesiredState(revision=2, paused=True)
    assert file.broken == 0


def test_an_unchanged_file_is_not_opened_again(kubelet: Kubelet, monkeypatch: pytest.MonkeyPatch) -> None:
    file = DesiredFile(kubelet.path, interval_seconds=0)
    kubelet.write(state(1))
    file.newest()
    monkeypatch.setattr(Path, "open", lambda *_a, **_k: pytest.fail("opened"))
    assert file.newest() == DesiredState(revision=1)


def test_looks_have_a_distance(kubelet: Kubelet) -> None:
    now = [0.0]
    file = DesiredFile(kubelet.path, interval_seconds=1.0, clock=lambda: now[0])
    assert file.newest() is None
    kubelet.write(state(1))
    now[0] = 0.9
    assert file.newest() is None
    now[0] = 1.0
    assert file.newest() == DesiredState(revision=1)


def test_an_older_revision_never_replaces_a_newer_one(kubelet: Kubelet) -> None:
    file = DesiredFile(kubelet.path, interval_seconds=0)
    kubelet.write(state(5))
    file.newest()
    kubelet.write(state(4, paused=True))
    assert file.newest() == DesiredState(revision=5)
    kubelet.write(state(5, paused=True))
    assert file.newest() == DesiredState(revision=5)


@pytest.mark.parametrize(
    "garbage",
    [
        "{",
        "[]",
        '{"version": "nascale.io/desired-state/v2", "revision": 9}',
        '{"version": "nascale.io/desired-state/v1", "revision": -1}',
        '{"version": "nascale.io/desired-state/v1", "revision": 9, "unknown": 1}',
        "[" * 100_000,
        " " * MAX_BYTES + "{}",
    ],
)
def test_garbage_is_counted_told_once_and_ignored(
    kubelet: Kubelet, garbage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = DesiredFile(kubelet.path, interval_seconds=0)
    kubelet.write(state(1))
    file.newest()
    kubelet.write(garbage)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert file.newest() == DesiredState(revision=1)
    assert file.broken == 1
    assert len(caplog.records) == 1
    kubelet.write(state(2))
    assert file.newest() == DesiredState(revision=2)


def test_text_in_no_encoding_and_a_folder_are_ignored(kubelet: Kubelet, tmp_path: Path) -> None:
    kubelet.path.write_bytes(b"\xff\xfe")
    file = DesiredFile(kubelet.path, interval_seconds=0)
    assert file.newest() is None
    assert file.broken == 1
    folder = DesiredFile(tmp_path, interval_seconds=0)
    assert folder.newest() is None
    assert folder.broken == 1


def test_a_file_that_goes_and_comes_again_is_read(kubelet: Kubelet) -> None:
    file = DesiredFile(kubelet.path, interval_seconds=0)
    kubelet.write(state(1))
    file.newest()
    (kubelet.folder / "..data").rename(kubelet.folder / "away")
    assert file.newest() == DesiredState(revision=1)
    kubelet.write(state(3))
    assert file.newest() == DesiredState(revision=3)
    assert file.broken == 0


def test_without_the_variable_there_is_no_state(kubelet: Kubelet) -> None:
    assert DesiredFile.from_environment({}).newest() is None
    kubelet.write(state(1))
    file = DesiredFile.from_environment({environment.DESIRED_STATE_FILE: str(kubelet.path)})
    assert file.newest() == DesiredState(revision=1)
