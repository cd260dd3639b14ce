"""Dropping the checkpoints of trials that shall not stay."""

from __future__ import annotations

import sys

import pytest

from nascale_trainer import __main__ as program
from nascale_trainer.retention import keep_only


@pytest.fixture
def folders(tmp_path):
    root = tmp_path / "search"
    for trial in ("a-0", "a-1", "a-2"):
        (root / trial / "deep").mkdir(parents=True)
        (root / trial / "deep" / "weights.safetensors").write_bytes(b"w")
    (root / "notes.txt").write_text("kept")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    (root / "link").symlink_to(outside)
    return root


def test_only_named_trials_stay(folders):
    assert keep_only(folders, ["a-1", "unknown"]) == ["a-0", "a-2"]
    assert sorted(entry.name for entry in folders.iterdir()) == ["a-1", "link", "notes.txt"]
    assert (folders / "a-1" / "deep" / "weights.safetensors").read_bytes() == b"w"
    assert (folders.parent / "outside" / "file").read_text() == "kept"


def test_the_same_again_drops_nothing(folders):
    keep_only(folders, [])
    assert keep_only(folders, []) == []


def test_a_folder_that_is_not_there_is_empty(tmp_path):
    assert keep_only(tmp_path / "missing", ["a"]) == []


def test_the_trainers_program_does_it(folders, monkeypatch):
    monkeypatch.setenv("NASCALE_CHECKPOINT_DIRECTORY", str(folders))
    monkeypatch.setattr(sys, "argv", ["nascale-trainer", "keep-checkpoints", "a-0"])
    assert program.main() == 0
    assert {entry.name for entry in folders.iterdir() if not entry.is_symlink()} == {"a-0", "notes.txt"}


def test_without_a_folder_it_refuses(monkeypatch):
    monkeypatch.delenv("NASCALE_CHECKPOINT_DIRECTORY", raising=False)
    monkeypatch.setattr(sys, "argv", ["nascale-trainer", "keep-checkpoints"])
    assert program.main() == 2
