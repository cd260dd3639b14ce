"""What a sweep scales: the base network, from a search, the spec or the user's own sizes."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from nascale.api.architecture_search import ArchitectureSearchStatus
from nascale.api.scaling_sweep import ScalingSweep, SweepBase
from nascale.contract.architecture import Architecture
from nascale.reconcile.actions import Manifest
from nascale.reconcile.conditions import OwnerCondition, find, is_true
from nascale.scaling.problem import Axis, ScaledParameter

_FIELD = "spec.base.searchName"


@dataclass(frozen=True)
class Base:
    """The base of a sweep.

    Attributes:
        scaled: The network, or the sizes of the user's own model; ``None``: not known.
        trial: Trial of the search that found it.
        waiting: What is waited for; empty: nothing.
        fault: Why it will not be known; empty: it is, or may be.
    """

    scaled: Architecture | tuple[ScaledParameter, ...] | None = None
    trial: str | None = None
    waiting: str = ""
    fault: str = ""

    @property
    def architecture(self) -> Architecture | None:
        """The network; ``None`` where it is the user's own, or not known."""
        return self.scaled if isinstance(self.scaled, Architecture) else None


def base_of(sweep: ScalingSweep, search: Manifest | None) -> Base:
    """Find the base of a sweep.

    Args:
        sweep: The custom resource. A base in its status counts: the search no longer matters then.
        search: The search that it names.
    """
    base, status = sweep.spec.base, sweep.status
    if base.parameters is not None:
        return Base(own_sizes(base))
    if base.architecture is not None:
        return Base(base.architecture)
    if status.base_architecture is not None:
        return Base(status.base_architecture, status.base_trial)
    if base.search_name is None:
        return Base(
            fault="spec.base: must hold exactly one of searchName, architecture, parameters, not none"
        )
    return network_of_search(_FIELD, base.search_name, search)


def own_sizes(base: SweepBase) -> tuple[ScaledParameter, ...]:
    """Return the sizes of the user's own model."""
    return tuple(
        ScaledParameter(
            name=entry.name,
            value=entry.value,
            axis=Axis(entry.scaled_by.value),
            multiple_of=entry.multiple_of,
        )
        for entry in base.parameters or ()
    )


def network_of_search(field: str, name: str, search: Manifest | None) -> Base:
    """Find the base network of a search.

    Args:
        field: Field that names the search, for messages.
        name: Name of the search.
        search: The search, where there is one.
    """
    if search is None:
        return Base(fault=f"{field}: must name an ArchitectureSearch of this namespace, and {name} is none")
    try:
        status = ArchitectureSearchStatus.model_validate(search.get("status") or {})
    except ValidationError:
        return Base(fault=f"{field}: must name a search whose status can be read, not {name}")
    failed = find(status.conditions, OwnerCondition.FAILED)
    if failed is not None and is_true(status.conditions, OwnerCondition.FAILED):
        why = f"{failed.reason}: {failed.message}"
        return Base(fault=f"{field}: must name a search that finds a base network, and {name} failed: {why}")
    if status.completion_time is not None:
        return _of_ended(field, name, status)
    if search["metadata"].get("deletionTimestamp"):
        return Base(fault=f"{field}: must name a search that stays, and {name} is being deleted")
    return Base(waiting=f"search {name} has not ended")


def _of_ended(field: str, name: str, status: ArchitectureSearchStatus) -> Base:
    if status.base_network is None:
        return Base(fault=f"{field}: must name a search with a base network, and {name} ended without one")
    if status.base_network.architecture is None:
        return Base(
            fault=(
                f"{field}: must name a search of the built-in space, and {name} has the user's own "
                f"parameters: give their sizes in {field.rpartition('.')[0]}.parameters instead"
            )
        )
    return Base(status.base_network.architecture, status.base_network.trial)
