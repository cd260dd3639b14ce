"""A checkpoint's tensors written by several processes together (torch.distributed.checkpoint).

Every process writes its part; any number of processes reads what it needs. Only tensors are held: what else a
checkpoint says stands in its manifest. The format's own table of contents is a pickle. It is read here by an
unpickler that knows the few classes it is made of and refuses all others, so that reading runs no code.
"""

from __future__ import annotations

import json
import pathlib
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import distributed
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint import metadata as contents
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.serialization import _get_layout

CONTENTS_FILE: Final = ".metadata"
MAX_CONTENTS_BYTES: Final = 1 << 28

State = Mapping[str, Any]
"""Tensors in mappings of any depth."""
Placement = Callable[[tuple[str, ...], torch.Size], torch.Tensor | None]
"""From a tensor's path and shape to one that it should lie like (a DTensor); ``None``: whole, on the CPU."""

_DTYPES: Final = frozenset(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))
_ALLOWED: Final[Mapping[tuple[str, str], Any]] = {
    **{
        (contents.__name__, kind.__name__): kind
        for kind in (
            contents.Metadata,
            contents.MetadataIndex,
            contents.TensorStorageMetadata,
            contents.TensorProperties,
            contents.ChunkStorageMetadata,
            contents.StorageMeta,
            contents._MEM_FORMAT_ENCODING,  # noqa: SLF001  # part of every table of contents
        )
    },
    (filesystem.__name__, "_StorageInfo"): filesystem._StorageInfo,  # noqa: SLF001  # likewise
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): _get_layout,
    **{("torch", name): getattr(torch, name) for name in _DTYPES},
    # Newer Pythons name the module of these classes differently.
    **{
        (module, name): getattr(pathlib, name)
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath")
    },
}


class UnsafeCheckpoint(Exception):  # noqa: N818  # a finding
    """A table of contents that holds what no checkpoint of ours does."""


def write(folder: Path, state: State, group: distributed.ProcessGroup | None) -> None:
    """Write tensors; all processes of the group do so together, each its part.

    What all of them hold whole is written once.

    Args:
        folder: An existing folder that all of them see.
        state: The tensors, DTensors among them; the same names everywhere.
        group: A group that works on the CPU; ``None``: this process writes alone.

    Raises:
        TypeError: the state holds what is no tensor.
        OSError: a process can't write its part; all of them raise it.
    """
    with _telling():
        save(
            flatten(state),
            storage_writer=filesystem.FileSystemWriter(folder, single_file_per_rank=True, sync_files=True),
            process_group=group,
            no_dist=group is None,
        )


def read(
    folder: Path, placement: Placement | None = None, group: distributed.ProcessGroup | None = None
) -> dict[str, Any]:
    """Read tensors, whatever number of processes has written them.

    Args:
        folder: What ``write`` has filled.
        placement: How each tensor should lie; ``None``: all whole, on the CPU.
        group: The processes that read together; ``None``: this one reads alone.

    Raises:
        UnsafeCheckpoint: it holds anything but tensors, names files elsewhere, or is damaged.
        OSError: a file is absent or can't be read.
    """
    flat: dict[str, torch.Tensor] = {}
    for name, entry in read_contents(folder).state_dict_metadata.items():
        if not isinstance(entry, contents.TensorStorageMetadata):
            raise UnsafeCheckpoint(f"{name}: must be a tensor, not {type(entry).__name__}")
        template = placement(_path(name), entry.size) if placement is not None else None
        dtype = entry.properties.dtype
        flat[name] = (
            torch.empty(entry.size, dtype=dtype)
            if template is None
            else torch.empty_like(template, dtype=dtype, requires_grad=False)
        )
    with _telling():
        load(flat, storage_reader=_Reader(folder), process_group=group, no_dist=group is None)
    return unflatten(flat)


def read_contents(folder: Path) -> contents.Metadata:
    """Read the table of contents.

    Raises:
        UnsafeCheckpoint: it is damaged, holds anything but what tensors need, or names files elsewhere.
        OSError: it is absent or can't be read.
    """
    with (folder / CONTENTS_FILE).open("rb") as file:
        if file.seek(0, 2) > MAX_CONTENTS_BYTES:
            raise UnsafeCheckpoint(f"{CONTENTS_FILE}: must be at most {MAX_CONTENTS_BYTES} bytes")
        file.seek(0)
        try:
            found = _Unpickler(file).load()
        except UnsafeCheckpoint:
            raise
        except Exception as error:  # a damaged pickle raises nearly anything
            raise UnsafeCheckpoint(f"{CONTENTS_FILE}: {error}") from error
    if not isinstance(found, contents.Metadata) or not isinstance(found.state_dict_metadata, dict):
        raise UnsafeCheckpoint(f"{CONTENTS_FILE}: must be a table of contents, not {type(found).__name__}")
    for index, stored in (found.storage_data or {}).items():
        name = getattr(stored, "relative_path", None)
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise UnsafeCheckpoint(f"{CONTENTS_FILE}: {index}: must lie in this folder, not at {name!r}")
        if getattr(stored, "transform_descriptors", None):
            raise UnsafeCheckpoint(f"{CONTENTS_FILE}: {index}: must be stored as it is")
    return found


def flatten(state: State) -> dict[str, torch.Tensor]:
    """Return all tensors of nested mappings by their paths.

    Raises:
        TypeError: something is no tensor.
    """
    flat: dict[str, torch.Tensor] = {}
    _gather(state, (), flat)
    return flat


def unflatten(flat: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Undo ``flatten``; a mapping without a tensor below it is not there any more."""
    state: dict[str, Any] = {}
    for name, value in flat.items():
        *above, last = _path(name)
        place = state
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return state


@contextmanager
def _telling() -> Iterator[None]:
    """Raise what a process has met with instead of torch's ``BaseException`` that gathers them all."""
    try:
        with warnings.catch_warnings():
            # Torch warns where a process is alone, which is meant.
            warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
            yield
    except CheckpointException as error:
        rank, (first, _) = min(error.failures.items())
        if isinstance(first, UnsafeCheckpoint):
            raise first from error
        if isinstance(first, OSError):
            raise OSError(first.errno, f"process {rank}: {first}") from error
        raise UnsafeCheckpoint(f"process {rank}: {first}") from error


def _gather(state: State, above: tuple[str, ...], flat: dict[str, torch.Tensor]) -> None:
    for name, value in state.items():
        path = (*above, name)
        if isinstance(value, torch.Tensor):
            flat[json.dumps(path)] = value.detach()
        elif isinstance(value, Mapping):
            _gather(value, path, flat)
        else:
            raise TypeError(f"{'.'.join(path)}: must be a tensor, not {type(value).__name__}")


def _path(name: str) -> tuple[str, ...]:
    try:
        found = json.loads(name)
    except ValueError:
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(part, str) for part in found):
        raise UnsafeCheckpoint(f"{CONTENTS_FILE}: must name tensors by their paths, not {name[:80]!r}")
    return tuple(found)


class _Unpickler(pickle.Unpickler):
    """Knows what a table of contents is made of; nothing of it does anything when it is made."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise UnsafeCheckpoint(
                f"{CONTENTS_FILE}: must be made of a checkpoint's own classes, not {module}.{name}"
            ) from None


class _Reader(filesystem.FileSystemReader):
    """Reads tensors alone: torch's own reader would unpickle its table of contents whatever it holds."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> contents.Metadata:  # noqa: ARG002  # torch's signature
        found = read_contents(Path(self.path))
        found.storage_meta = contents.StorageMeta(load_id=self.load_id)
        return found
