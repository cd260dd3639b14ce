"""``spec.reuseTrialsFrom``: trainings of another sweep, which don't depend on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pydantic import ValidationError

from nascale.api.scaling_sweep import ScalingSweep
from nascale.api.trial import TrialOutcome
from nascale.contract.document import describe
from nascale.reconcile.observed import Related
from nascale.reconcile.snapshot import TrialView, read_children
from nascale.reconcile.sweep_base import Base, own_sizes
from nascale.reconcile.sweep_trials import TRAINED, multipliers_of, values_of
from nascale.scaling.errors import ScalingError
from nascale.scaling.networks import scaled

KnownTrainings: TypeAlias = Mapping[tuple[str, int, int], Mapping[str, float]]
"""Values by network, rung and repeat."""

_FIELD: Final = "spec.reuseTrialsFrom"


@dataclass(frozen=True)
class Reuse:
    """What a sweep takes over.

    Attributes:
        known: The other sweep's trainings.
        fault: Why nothing can be taken over; empty: it can, or nothing is asked for.
    """

    known: KnownTrainings = field(default_factory=dict)
    fault: str = ""


def reuse_of(sweep: ScalingSweep, base: Base, related: Related) -> Reuse:
    """Find the trainings that a sweep takes over.

    A sweep that has begun trains by itself what it can't find any more: the other one may be deleted.

    Args:
        sweep: The custom resource.
        base: Its base.
        related: The other sweep, and its trials.
    """
    name = sweep.spec.reuse_trials_from
    if name is None or base.scaled is None:
        return Reuse()
    begun = sweep.status.start_time is not None
    if related.sweep is None:
        fault = f"{_FIELD}: must name a ScalingSweep of this namespace, and {name} is none"
        return Reuse(fault="" if begun else fault)
    try:
        other = ScalingSweep.model_validate(related.sweep)
    except ValidationError as error:
        return Reuse(fault=f"{_FIELD}: must name a sweep that can be read, not {name}: {describe(error)}")
    fault = _fault(sweep, base, other)
    if fault:
        return Reuse(fault=f"{_FIELD}: {fault}")
    return Reuse(_trainings(base, read_children(related.trials, (), ()).trials))


def _fault(sweep: ScalingSweep, base: Base, other: ScalingSweep) -> str:
    name, ours, theirs = other.metadata.name, sweep.spec, other.spec
    if other.status.completion_time is None:
        return f"must name a sweep that has ended, and {name} has not"
    same = {
        "base": base.scaled == (other.status.base_architecture or own_sizes(theirs.base)),
        "trainingData": ours.training_data == theirs.training_data,
        "training": ours.training == theirs.training,
        "fidelities.levels": ours.fidelities.levels == theirs.fidelities.levels,
        "exploration.seed": ours.exploration.seed == theirs.exploration.seed,
        "trialTemplate.image": ours.trial_template.image == theirs.trial_template.image,
        "trialTemplate.command": ours.trial_template.command == theirs.trial_template.command,
        "trialTemplate.args": ours.trial_template.args == theirs.trial_template.args,
    }
    different = [field for field, equal in same.items() if not equal]
    if not different:
        return ""
    fields = ", ".join(f"spec.{field}" for field in different)
    return f"must name a sweep that trains the same networks in the same way, and {name} differs in {fields}"


def _trainings(base: Base, trials: tuple[TrialView, ...]) -> KnownTrainings:
    known: dict[tuple[str, int, int], Mapping[str, float]] = {}
    for view in trials:
        network = _network(base, view)
        if network is None or view.purpose not in TRAINED:
            continue
        if view.outcome is TrialOutcome.SUCCEEDED:
            known.setdefault((network, view.rung, view.repeat), values_of(view))
    return known


def _network(base: Base, view: TrialView) -> str | None:
    """Return the key of a trial's network; ``None`` where it is not one of this base."""
    multipliers = multipliers_of(view)
    if base.scaled is None or multipliers is None:
        return None
    try:
        return scaled(base.scaled, multipliers).key
    except ScalingError:
        return None
