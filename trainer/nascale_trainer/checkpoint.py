"""What a trial keeps in a folder that outlives its pod: checkpoints, weights, the exact result.

Every file appears whole or not at all. A checkpoint counts only with its manifest, which holds its digest
and the fingerprint of the work that it belongs to; a damaged or foreign one is skipped.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save as to_safetensors
from torch import nn

from nascale.contract.architecture import Architecture
from nascale.contract.report import CandidateReport, DeviceReport
from nascale.contract.work_order import CandidateOrder, WorkOrder
from nascale_trainer.durable_file import write_atomically
from nascale_trainer.network import METADATA_KEY

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS: Final = 2
"""The last one, and one to fall back on."""

WEIGHTS: Final = "weights.safetensors"
ARCHITECTURE: Final = "architecture.json"
RESULT: Final = "result.json"
STATE_FORMAT: Final = 1
"""Raised when the state of a training or its course changes: older checkpoints are then other work."""

_MANIFESTS: Final = "epoch-*.json"
_UNREADABLE: Final = (
    *(OSError, EOFError, ValueError, TypeError, LookupError),  # the manifest, or the file's absence
    *(RuntimeError, pickle.UnpicklingError),  # torch refuses the content
)


class ExactResult(BaseModel):
    """What is known of a candidate at its end, without the bounds of a report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    result: CandidateReport
    device: DeviceReport
    measurement: dict[str, float | int | str | None]
    order: dict[str, Any]


def fingerprint(order: WorkOrder, candidate: CandidateOrder) -> str:
    """Return a digest of all that decides a candidate's result: only the same work may be continued."""
    work = order.model_dump(
        mode="json",
        include={"run", "task", "metrics", "constraints", "data", "fidelity", "target", "training"},
    )
    work["candidate"] = candidate.model_dump(mode="json")
    work["format"] = STATE_FORMAT
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()


def weights_file(
    state: Mapping[str, torch.Tensor],
    architecture: Architecture,
    classes: int,
    channels: int,
    normalisation: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> bytes:
    """Return a safetensors file that says what its weights are of; ``network.load_network`` reads it.

    Args:
        state: The network's tensors.
        architecture: What it was built from.
        classes: Number of logits.
        channels: Channels of an image.
        normalisation: Mean and standard deviation by channel of the images that it was trained on; whoever
            uses the network needs them.
    """
    about: dict[str, Any] = {
        "architecture": architecture.model_dump(mode="json", by_alias=True),
        "channels": channels,
        "classes": classes,
    }
    if normalisation is not None:
        about["mean"], about["deviation"] = (each.flatten().tolist() for each in normalisation)
    # One entry: safetensors writes several in an order that differs from run to run.
    metadata = {METADATA_KEY: json.dumps(about)}
    # A copy on the processor: safetensors refuses tensors that share memory.
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return to_safetensors(weights, metadata)


class CandidateFolder:
    """One candidate's folder."""

    def __init__(self, root: Path, trial: str, work: str) -> None:
        """Open or make it.

        Args:
            root: ``NASCALE_CHECKPOINT_DIRECTORY``.
            trial: The trial's name; the folder's too.
            work: Fingerprint of the work; checkpoints and results of other work are not seen.

        Raises:
            OSError: it can't be made.
        """
        self.path = root / trial
        self.work = work
        self.path.mkdir(parents=True, exist_ok=True)

    def save_checkpoint(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Keep the state after so many epochs, and drop the checkpoints that it makes needless."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        content = buffer.getvalue()
        name = f"epoch-{epoch:06d}"
        write_atomically(self.path / f"{name}.pt", content)
        manifest = {"epoch": epoch, "sha256": hashlib.sha256(content).hexdigest(), "work": self.work}
        write_atomically(self.path / f"{name}.json", json.dumps(manifest).encode())
        for old in sorted(self.path.glob(_MANIFESTS))[:-KEPT_CHECKPOINTS]:
            self._drop(old)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return the newest state that is whole and belongs to this work; ``None`` where there is none."""
        for manifest in sorted(self.path.glob(_MANIFESTS), reverse=True):
            try:
                return self._load(manifest)
            except _UNREADABLE as error:
                log.warning("checkpoint %s is skipped: %s", manifest.with_suffix(".pt"), error)
        return None

    def save_weights(
        self,
        network: nn.Module,
        architecture: Architecture,
        classes: int,
        channels: int,
        normalisation: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        """Keep the weights as safetensors, and the architecture's JSON beside them; see ``weights_file``."""
        content = weights_file(network.state_dict(), architecture, classes, channels, normalisation)
        write_atomically(self.path / WEIGHTS, content)
        write_atomically(self.path / ARCHITECTURE, architecture.to_json().encode())

    def save_result(self, exact: ExactResult) -> None:
        """Keep the exact result; the checkpoints have served."""
        write_atomically(self.path / RESULT, exact.model_dump_json(indent=2).encode())
        for manifest in self.path.glob(_MANIFESTS):
            self._drop(manifest)

    def load_result(self) -> ExactResult | None:
        """Return the result where this very work was finished before, by a pod whose report was lost."""
        try:
            exact = ExactResult.model_validate_json((self.path / RESULT).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("result %s is skipped: %s", self.path / RESULT, error)
            return None
        return exact if exact.fingerprint == self.work else None

    def _load(self, manifest: Path) -> dict[str, Any]:
        stated = json.loads(manifest.read_bytes())
        if stated["work"] != self.work:
            raise ValueError("it belongs to other work")
        content = manifest.with_suffix(".pt").read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != stated["sha256"]:
            raise ValueError(f"its digest must be {stated['sha256']}, not {digest}")
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return state

    def _drop(self, manifest: Path) -> None:
        manifest.unlink(missing_ok=True)
        manifest.with_suffix(".pt").unlink(missing_ok=True)
