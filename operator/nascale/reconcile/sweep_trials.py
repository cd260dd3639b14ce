"""Trials of a sweep, as its engine and their containers see them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from nascale.api.scaling import MULTIPLIERS
from nascale.api.trial import TrialPurpose
from nascale.reconcile.owner_context import STATES
from nascale.reconcile.snapshot import TrialView
from nascale.scaling.networks import ScaledNetwork
from nascale.scaling.problem import Multipliers, Purpose, ScalingRecord

MEASURED: Final = frozenset({TrialPurpose.REFERENCE, TrialPurpose.LATENCY})
TRAINED: Final = frozenset(
    {TrialPurpose.TRAINING, TrialPurpose.VERIFICATION, TrialPurpose.BASELINE, TrialPurpose.CONFIRMATION}
)


def trial_parameters(network: ScaledNetwork, multipliers: Multipliers) -> tuple[tuple[str, str], ...]:
    """Return a trial's parameters: the multipliers with four decimals, then the scaled sizes."""
    factors = (multipliers.depth, multipliers.width, multipliers.resolution)
    written = tuple((name, f"{value:.4f}") for name, value in zip(MULTIPLIERS, factors, strict=True))
    return written + tuple((name, str(size)) for name, size in network.parameters)


def multipliers_of(view: TrialView) -> Multipliers | None:
    """Read a trial's multipliers; ``None`` where they are no numbers of at least 1."""
    parameters = dict(view.parameters)
    try:
        depth, width, resolution = (float(parameters[name]) for name in MULTIPLIERS)
    except (KeyError, ValueError):
        return None
    if not all(math.isfinite(factor) and factor >= 1 for factor in (depth, width, resolution)):
        return None
    return Multipliers(depth, width, resolution)


def values_of(view: TrialView) -> Mapping[str, float]:
    """Return all values of a trial."""
    return {metric.name: float(metric.value) for metric in view.status.metrics}


def scaling_record(view: TrialView) -> ScalingRecord | None:
    """Return a trial as the engine sees it; ``None`` where it is not one of a sweep."""
    multipliers = multipliers_of(view)
    if multipliers is None or view.purpose is None:
        return None
    return ScalingRecord(
        index=view.index,
        lead=view.lead,
        purpose=Purpose(view.purpose.value),
        multipliers=multipliers,
        state=STATES[view.outcome],
        rung=view.rung,
        repeat=view.repeat,
        remeasures=view.remeasures,
        values=values_of(view),
        member=view.member,
        origin=view.origin,
        device_seconds=float(view.status.device_seconds),
    )
