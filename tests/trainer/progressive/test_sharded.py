"""A sharded checkpoint holds tensors alone, and reading one runs no code, whatever it holds."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import metadata as contents
from torch.distributed.checkpoint.state_dict_saver import save

from nascale_trainer.progressive import sharded
from nascale_trainer.progressive.sharded import CONTENTS_FILE, UnsafeCheckpoint

STATE = {
    "network": {
        "blocks.0.weight": torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last),
        "count": torch.tensor(7),
        "half": torch.ones(3, dtype=torch.bfloat16),
    },
    "optimizer": {"blocks.0.weight": {"step": torch.tensor(4.0), "average": torch.arange(12.0)[::2]}},
}


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "checkpoint"
    made.mkdir()
    sharded.write(made, STATE, None)
    return made


def change(folder: Path, **fields: Any) -> None:
    file = folder / CONTENTS_FILE
    file.write_bytes(pickle.dumps(replace(sharded.read_contents(folder), **fields)))


def test_what_is_written_is_read(folder: Path) -> None:
    found = sharded.read(folder)
    flat, expected = sharded.flatten(found), sharded.flatten(STATE)
    assert flat.keys() == expected.keys()
    for name, value in flat.items():
        assert value.dtype == expected[name].dtype
        assert torch.equal(value, expected[name])


def test_files_are_of_this_folder_alone(folder: Path) -> None:
    names = {entry.name for entry in folder.iterdir()}
    assert names == {CONTENTS_FILE, "__0_0.distcp"}


@pytest.mark.parametrize("field", ["planner_data", "storage_data", "state_dict_metadata", "version"])
def test_a_hostile_table_of_contents_is_refused(folder: Path, tmp_path: Path, field: str) -> None:
    mark = tmp_path / "mark"
    change(folder, **{field: Hostile(mark)})
    with pytest.raises(UnsafeCheckpoint, match="must be made of a checkpoint's own classes, not"):
        sharded.read(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "os.system", "torch.load", "torch.hub.load", "pathlib.Path"]
)
def test_other_names_are_unknown(folder: Path, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    (folder / CONTENTS_FILE).write_bytes(f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(UnsafeCheckpoint, match="own classes"):
        sharded.read_contents(folder)


def test_hostile_tensors_are_refused(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    data = folder / "__0_0.distcp"
    torch.save(Hostile(mark), data)
    table = sharded.read_contents(folder)
    change(
        folder,
        storage_data={
            index: replace(stored, offset=0, length=data.stat().st_size)
            for index, stored in table.storage_data.items()
        },
    )
    with pytest.raises(UnsafeCheckpoint, match="Weights only load failed"):
        sharded.read(folder)
    assert not mark.exists()


def test_what_is_no_tensor_is_refused(folder: Path) -> None:
    with pytest.raises(TypeError, match=r"optimizer\.rate: must be a tensor, not float"):
        sharded.write(folder, {"optimizer": {"rate": 0.1}}, None)
    (folder / CONTENTS_FILE).unlink()
    with pytest.warns(UserWarning, match="single process"):
        save({'["rate"]': 0.1}, checkpoint_id=folder, no_dist=True)
    with pytest.raises(UnsafeCheckpoint, match="BytesStorageMetadata"):
        sharded.read(folder)


@pytest.mark.parametrize("elsewhere", ["../other", "/etc/passwd", "a/b", "..", 7])
def test_files_elsewhere_are_refused(folder: Path, elsewhere: Any) -> None:
    table = sharded.read_contents(folder)
    moved = {index: replace(stored, relative_path=elsewhere) for index, stored in table.storage_data.items()}
    change(folder, storage_data=moved)
    with pytest.raises(UnsafeCheckpoint, match="must lie in this folder"):
        sharded.read(folder)


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({}), pickle.dumps([1])[:-3]])
def test_damage_is_refused(folder: Path, content: bytes) -> None:
    (folder / CONTENTS_FILE).write_bytes(content)
    with pytest.raises(UnsafeCheckpoint):
        sharded.read(folder)


@pytest.mark.parametrize("name", ["weight", "[]", "[1]", "{}"])
def test_names_that_are_no_paths_are_refused(folder: Path, name: str) -> None:
    table = sharded.read_contents(folder)
    entry = next(iter(table.state_dict_metadata.values()))
    change(folder, state_dict_metadata={name: entry})
    with pytest.raises(UnsafeCheckpoint, match="must name tensors by their paths"):
        sharded.read(folder, lambda _path, _shape: None)


def test_a_folder_that_takes_no_file_is_told_as_such(folder: Path) -> None:
    with pytest.raises(OSError, match="process 0"):
        sharded.write(folder / CONTENTS_FILE, STATE, None)
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(FileNotFoundError, match="process 0"):
        sharded.read(folder)


def test_a_missing_table_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sharded.read(tmp_path)


def test_the_allowed_names_hold_nothing_that_acts() -> None:
    """Data classes, enums, numbers' types, paths: whatever else torch adds must be looked at first."""
    acting = [
        name
        for name, value in sharded._ALLOWED.items()  # the list itself is what is tested
        if not isinstance(value, (type, torch.dtype)) and name != ("torch.serialization", "_get_layout")
    ]
    assert acting == []
    assert ("torch.distributed.checkpoint.metadata", "Metadata") in sharded._ALLOWED  # likewise
    assert isinstance(contents.Metadata, type)
