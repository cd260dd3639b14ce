"""Where the weights of a family's member lie, and whether they are really that network's.

The trainer keeps them on the volume of ``spec.checkpoints``, as ``PATH/PREFIX/TRIAL/weights.safetensors``.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nascale.api.scaling_sweep import ScaledMember, ScalingSweep
from nascale.api.training import CheckpointRetention, Checkpoints
from nascale.cli.kubectl import Kubectl, KubectlError
from nascale.contract.architecture import Architecture
from nascale.local.node.provisioner import PROVISIONED_BY, PROVISIONER
from nascale.reconcile.naming import child_prefix

WEIGHTS: Final = "weights.safetensors"
METADATA_KEY: Final = "nascale"
_LENGTH_BYTES: Final = 8
_LONGEST_HEADER: Final = 100_000_000
"""The bound of the safetensors format."""


class WeightsError(ValueError):
    """Weights that were asked for are not there, or are another network's."""


@dataclass(frozen=True)
class KeptWeights:
    """The weights of a member, or why there are none.

    Attributes:
        path: The safetensors file; ``None`` where it can't be had.
        about: What the trainer says of it: channels, classes, mean, deviation.
        missing: Why there is none, as a sentence without a full stop.
    """

    path: Path | None = None
    about: Mapping[str, Any] | None = None
    missing: str = ""


def weights_of(
    sweep: ScalingSweep, member: ScaledMember, folder: Path | None, kubectl: Kubectl
) -> KeptWeights:
    """Find a member's weights.

    Args:
        sweep: The sweep.
        member: One of its family.
        folder: Where the volume of ``spec.checkpoints`` can be read: its root, or a folder of it that holds
            the folders of the sweep or of its trials. ``None`` looks on this machine, where an embedded
            cluster keeps its volumes.
        kubectl: Finds the volume.

    Raises:
        WeightsError: a folder was given and the weights are not there, or the weights found are not of the
            member's network.
    """
    checkpoints = sweep.spec.checkpoints
    never = _never_kept(sweep, member, checkpoints)
    if never:
        if folder is not None:
            raise WeightsError(f"--checkpoints: there are no weights of {member.name}: {never}")
        return KeptWeights(missing=never)
    if checkpoints is None or member.trial is None:  # _never_kept has said so
        raise WeightsError(f"there are no weights of {member.name}")
    place = folder or _claim_folder(kubectl, sweep.metadata.namespace, checkpoints.claim_name)
    if place is None:
        return KeptWeights(
            missing=f"volume claim {checkpoints.claim_name} can't be read from here: name a folder where it "
            f"can with --checkpoints (the weights are those of trial {member.trial})"
        )
    looked = tuple(_folders(place, sweep, checkpoints, member.trial))
    found = next((each / WEIGHTS for each in looked if (each / WEIGHTS).is_file()), None)
    if found is None:
        sought = f"{member.trial}/{WEIGHTS} is not in {shlex.quote(str(place))}"
        if folder is not None:
            raise WeightsError(f"--checkpoints: {sought}, nor in {checkpoints.path}/ below it")
        return KeptWeights(missing=sought)
    about = read_metadata(found)
    if member.architecture is not None:
        _check_network(found, about, member.architecture)
    return KeptWeights(path=found, about=about)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what the trainer wrote into the head of a safetensors file; empty where it wrote nothing.

    Raises:
        WeightsError: the file is not one of that format.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            # A longer head is cut, and is then no JSON.
            header = json.loads(file.read(min(length, _LONGEST_HEADER)))
        about: dict[str, Any] = dict(json.loads(header.get("__metadata__", {}).get(METADATA_KEY, "{}")))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise WeightsError(f"{path}: must be a readable safetensors file: {error}") from error
    return about


def _never_kept(sweep: ScalingSweep, member: ScaledMember, checkpoints: Checkpoints | None) -> str:
    if member.trial is None:
        source = sweep.spec.reuse_trials_from
        taken = f" from sweep {source}: export it there" if source else ""
        return f"this sweep did not train it, its values were taken over{taken}"
    if checkpoints is None:
        return "they were not kept, because spec.checkpoints is not set"
    if checkpoints.retention is CheckpointRetention.NONE:
        return "they were not kept, because spec.checkpoints.retention is None"
    return ""


def _folders(place: Path, sweep: ScalingSweep, checkpoints: Checkpoints, trial: str) -> Iterator[Path]:
    """Yield where the trial's folder may be: whoever names a place may name any folder on the way to it."""
    prefix = child_prefix(sweep.metadata.name, sweep.metadata.uid)
    yield place / checkpoints.path / prefix / trial
    yield place / prefix / trial
    yield place / trial


def _claim_folder(kubectl: Kubectl, namespace: str, claim: str) -> Path | None:
    """Return the folder of an embedded cluster's volume; ``None`` for any other volume.

    A host path says nothing about this machine, unless the embedded cluster's node made it here.
    """
    try:
        bound = kubectl.get("persistentvolumeclaim", claim, f"--namespace={namespace}")
        name = bound.get("spec", {}).get("volumeName")
        volume = kubectl.get("persistentvolume", name) if name else {}
    except KubectlError:
        return None
    annotations = volume.get("metadata", {}).get("annotations", {})
    path = volume.get("spec", {}).get("hostPath", {}).get("path")
    if annotations.get(PROVISIONED_BY) != PROVISIONER or not path or not Path(path).is_dir():
        return None
    return Path(path)


def _check_network(path: Path, about: Mapping[str, Any], architecture: Architecture) -> None:
    stated = about.get("architecture")
    if stated != architecture.model_dump(mode="json", by_alias=True):
        raise WeightsError(
            f"{path}: must hold the weights of the member's network, but its metadata name another one"
        )
