"""Specs of progressive trainings, from the fields that a test is about."""

from __future__ import annotations

from typing import Any

from nascale.api.progressive_training import ProgressiveTrainingSpec
from nascale.contract.architecture import Architecture

ARCHITECTURE = Architecture.model_validate(
    {
        "stem": {"channels": 16, "stride": 2},
        "stages": [{"block": "MBConv", "kernel": 3, "stride": 2, "expansion": 4, "channels": 16, "depth": 2}],
        "head": {"channels": 64},
        "resolution": 16,
    }
)
"""Its total stride is 4."""


def training_spec(**changes: Any) -> ProgressiveTrainingSpec:
    """Return a spec with its required fields, and these over them."""
    fields: dict[str, Any] = {
        "model": {"searchName": "digits"},
        "trainingData": {"embedded": "Digits"},
        "length": "4ep",
        "stages": [{"name": "all"}],
        "volume": {"claimName": "runs"},
    }
    return ProgressiveTrainingSpec.model_validate({**fields, **changes})


def one_stage(model: dict[str, Any] | None = None, hardware: dict[str, Any] | None = None) -> list[Any]:
    """Return the stages of a spec with one stage of these settings."""
    return [{"name": "all", "model": model or {}, "hardware": hardware or {}}]
