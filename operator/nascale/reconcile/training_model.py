"""What a training trains: a search's base network, a member of a sweep, the spec's own, the user's own."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from nascale.api.progressive_training import ProgressiveTraining, SweepMember
from nascale.api.resource import Condition
from nascale.api.scaling_sweep import ScalingSweepStatus
from nascale.api.training_status import PinnedModel
from nascale.reconcile.actions import Manifest
from nascale.reconcile.conditions import OwnerCondition, find, is_true
from nascale.reconcile.observed import Related
from nascale.reconcile.sweep_base import network_of_search


@dataclass(frozen=True)
class Model:
    """The model of a training.

    Attributes:
        pinned: What the status keeps of it; ``None``: not known.
        waiting: What is waited for; empty: nothing.
        fault: Why it will not be known; empty: it is, or may be.
    """

    pinned: PinnedModel | None = None
    waiting: str = ""
    fault: str = ""


def model_of(  # noqa: PLR0911 - a decision list: the first answer that fits
    training: ProgressiveTraining, related: Related
) -> Model:
    """Find the model of a training; one in its status counts, whatever has become of its source."""
    spec, status = training.spec.model, training.status
    if status.model is not None:
        return Model(status.model)
    if spec.parameters is not None:
        return Model(PinnedModel())
    if spec.architecture is not None:
        return Model(PinnedModel(architecture=spec.architecture))
    if spec.member is not None:
        return _of_sweep(spec.member, related.sweep)
    if spec.search_name is not None:
        base = network_of_search("spec.model.searchName", spec.search_name, related.search)
        if base.architecture is None:
            return Model(waiting=base.waiting, fault=base.fault)
        origin = f"search {spec.search_name}"
        return Model(PinnedModel(origin=origin, trial=base.trial, architecture=base.architecture))
    return Model(
        fault="spec.model: must hold exactly one of searchName, member, architecture, parameters, not none"
    )


def _of_sweep(member: SweepMember, sweep: Manifest | None) -> Model:
    name, field = member.sweep_name, "spec.model.member"
    if sweep is None:
        return Model(
            fault=f"{field}.sweepName: must name a ScalingSweep of this namespace, and {name} is none"
        )
    try:
        status = ScalingSweepStatus.model_validate(sweep.get("status") or {})
    except ValidationError:
        return Model(fault=f"{field}.sweepName: must name a sweep whose status can be read, not {name}")
    # A sweep that failed for one member may have trained the other ones.
    if status.completion_time is not None:
        return _of_family(member, status)
    failed = failure_of(status.conditions)
    if failed is not None:
        return Model(
            fault=f"{field}.sweepName: must name a sweep that finds a family, and {name} failed: {failed}"
        )
    if sweep["metadata"].get("deletionTimestamp"):
        return Model(fault=f"{field}.sweepName: must name a sweep that stays, and {name} is being deleted")
    return Model(waiting=f"sweep {name} has not ended")


def _of_family(member: SweepMember, status: ScalingSweepStatus) -> Model:
    field = "spec.model.member"
    found = next((entry for entry in status.family if entry.name == member.name), None)
    if found is None:
        known = ", ".join(entry.name for entry in status.family) or "none"
        return Model(
            fault=(
                f"{field}.name: must be a member of the family of {member.sweep_name} ({known}), "
                f"not {member.name}"
            )
        )
    if found.architecture is None:
        return Model(
            fault=(
                f"{field}: must be of a sweep of the built-in space, and {member.sweep_name} has the user's "
                "own parameters: give their sizes in spec.model.parameters instead"
            )
        )
    origin = f"sweep {member.sweep_name}, member {member.name}"
    return Model(PinnedModel(origin=origin, trial=found.trial, architecture=found.architecture))


def failure_of(conditions: tuple[Condition, ...]) -> str | None:
    """Return reason and message of a failure; ``None`` without one."""
    failed = find(conditions, OwnerCondition.FAILED)
    if failed is None or not is_true(conditions, OwnerCondition.FAILED):
        return None
    return f"{failed.reason}: {failed.message}"
