"""The folder that a member is exported to: network, weights, measured values, and how to use them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from nascale.api.scaling_sweep import ScaledMember, ScalingSweep
from nascale.cli.kept_weights import KeptWeights

ARCHITECTURE: Final = "architecture.json"
PARAMETERS: Final = "parameters.json"
WEIGHTS: Final = "model.safetensors"
NETWORK: Final = "network.py"
METRICS: Final = "metrics.json"
README: Final = "README.md"

_EMBEDDED_IMAGES: Final = (1, 10)
"""Channels and classes of both embedded data sets."""
_IMAGENET: Final = (3, 1000)

_OWN_MODEL: Final = """\
import json
parameters = json.load(open("parameters.json"))
model = YourModel(**parameters)  # the class that your container builds
"""


class FolderInUseError(ValueError):
    """The folder holds something already."""


def write_member(
    folder: Path, sweep: ScalingSweep, member: ScaledMember, weights: KeptWeights
) -> tuple[Path, ...]:
    """Write everything that is needed to use a member, and return the files.

    Args:
        folder: A new or empty folder.
        sweep: The sweep.
        member: One of its family.
        weights: Of the member.

    Raises:
        FolderInUseError: the folder is not empty, so that files of two members would mix.
        OSError: a file can't be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderInUseError(f"--to: must be a new or empty folder, not {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    if member.architecture is not None:
        _write_json(folder / ARCHITECTURE, member.architecture.model_dump(mode="json", by_alias=True))
        (folder / NETWORK).write_text(network_source())
    else:
        _write_json(folder / PARAMETERS, {entry.name: int(entry.value) for entry in member.parameters})
    if weights.path is not None:
        shutil.copyfile(weights.path, folder / WEIGHTS)
    _write_json(folder / METRICS, metrics_document(sweep, member))
    (folder / README).write_text(readme(sweep, member, weights))
    return tuple(sorted(folder.iterdir()))


def network_source() -> str:
    """Return the text of the trainer's module that builds networks; it needs nothing of nascale.

    Found without importing the trainer: the control plane never loads torch.
    """
    package = find_spec("nascale_trainer")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("nascale_trainer: must be installed; it comes with nascale")
    return (Path(package.submodule_search_locations[0]) / NETWORK).read_text()


def metrics_document(sweep: ScalingSweep, member: ScaledMember) -> dict[str, Any]:
    """Return what was measured, with numbers as JSON numbers."""
    return {
        "sweep": {"name": sweep.metadata.name, "namespace": sweep.metadata.namespace},
        "member": member.name,
        "budgetSeconds": float(member.budget_seconds),
        "multipliers": {
            "depth": float(member.depth),
            "width": float(member.width),
            "resolution": float(member.resolution),
        },
        "trial": member.trial,
        "trainings": member.trainings,
        "metrics": {value.name: float(value.value) for value in member.metrics},
        "gainOverEfficientNet": None if member.gain is None else float(member.gain),
    }


def readme(sweep: ScalingSweep, member: ScaledMember, weights: KeptWeights) -> str:
    """Return the page that says what the folder holds and how to use it."""
    depth, width, side = (float(each) for each in (member.depth, member.width, member.resolution))
    lines = [
        f"# {member.name} of {sweep.metadata.name}",
        "",
        f"Scaled by nascale for a latency of at most {float(member.budget_seconds):.4g} seconds:",
        f"depth x {depth:.4g}, width x {width:.4g}, resolution x {side:.4g}.",
        "",
        "| metric | value |",
        "| --- | --- |",
        *(f"| `{value.name}` | {float(value.value):.6g} |" for value in member.metrics),
        "",
        *(_network_part(sweep, member, weights) if member.architecture else _own_part()),
    ]
    if weights.path is None:
        lines += ["", f"There are no weights here: {weights.missing}."]
    elif member.architecture is None:
        lines += ["", f"`{WEIGHTS}` holds the weights that your container kept."]
    return "\n".join([*lines, ""])


def usage(sweep: ScalingSweep, weights: KeptWeights) -> str:
    """Return the three lines that load a network and call it."""
    given = ""
    if weights.path is None:
        channels, classes = _shape(sweep)
        given = f"channels={channels}, classes={classes}"
    return (
        "from network import load_network\n"
        f"network = load_network({given})\n"
        "logits = network(network.normalised(images))\n"
    )


def _network_part(sweep: ScalingSweep, member: ScaledMember, weights: KeptWeights) -> Sequence[str]:
    side = member.architecture.resolution if member.architecture else 0
    channels = weights.about["channels"] if weights.about else _shape(sweep)[0]
    lines = [
        "In this folder, with `pip install timm`:",
        "",
        "```python",
        *usage(sweep, weights).splitlines(),
        "```",
        "",
        f"`images` is a float tensor of shape (batch, {channels}, {side}, {side}) with values from 0 to 1.",
    ]
    if weights.path is None:
        lines += ["Its `channels` and `classes` are those of your data; mean and deviation of the images",
                  "are `network.mean` and `network.deviation`, 0 and 1 until you set them."]  # fmt: skip
    return lines


def _own_part() -> Sequence[str]:
    return ["Your own model, with these sizes:", "", "```python", *_OWN_MODEL.splitlines(), "```"]


def _shape(sweep: ScalingSweep) -> tuple[int, int]:
    """Return channels and classes where no weights state them."""
    data = sweep.spec.training_data
    return _EMBEDDED_IMAGES if data is not None and data.embedded is not None else _IMAGENET


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")
