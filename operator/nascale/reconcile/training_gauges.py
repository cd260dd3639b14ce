"""A training's figures on the operator's own exporter."""

from __future__ import annotations

from collections.abc import Mapping

from nascale.api.progressive_training import ProgressiveTraining
from nascale.api.training_status import ProgressiveTrainingStatus


def gauges(training: ProgressiveTraining, status: ProgressiveTrainingStatus) -> Mapping[str, float]:
    """Return the figures of the operator's own exporter."""
    found = {
        "generation": float(status.run_generation),
        "desired_revision": float(status.revision),
        "applied_revision": float(status.applied_revision),
        "samples": float(status.samples),
        "device_seconds": float(status.device_seconds),
        "lost_steps": float(status.lost_steps),
        "workers": float(status.workers or 0),
        "suspended": float(training.spec.suspend),
    }
    if status.whole_samples:
        found["progress"] = status.samples / status.whole_samples
    found |= _planned(status)
    for condition in status.conditions:
        found[f"condition/{condition.type}"] = float(condition.status == "True")
    for stage in status.stages:
        if stage.switch_seconds is not None:
            found[f"switch_seconds/{stage.name}"] = float(stage.switch_seconds)
    return found


def _planned(status: ProgressiveTrainingStatus) -> dict[str, float]:
    """Return the figures of a generated schedule."""
    generated = status.generated
    if generated is None:
        return {}
    found = {
        "plan": float(generated.plan),
        "profile_seconds/profile": float(generated.profile_device_seconds),
        "profile_seconds/proxies": float(generated.proxy_device_seconds),
    }
    stated = {
        "planned_seconds": generated.seconds,
        "constant_seconds": generated.constant_seconds,
        "prediction_error": generated.prediction_error,
    }
    stated |= {f"planned_ratio/{row.name}": row.observed_ratio for row in generated.table}
    return found | {name: float(text) for name, text in stated.items() if text is not None}
