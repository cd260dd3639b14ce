"""The one entry from ``spec.space``, whichever kind of space it holds."""

from __future__ import annotations

from nascale.api.space import Space
from nascale.contract.architecture import Architecture
from nascale.search.errors import InvalidSpaceError
from nascale.search.space import Assignment, SearchSpace
from nascale.search.spaces.mbconv import mbconv_architecture, mbconv_space, resolution_fault
from nascale.search.spaces.parameters import parameter_space


def build_space(space: Space) -> SearchSpace:
    """Build the search space of ``spec.space``.

    Raises:
        InvalidSpaceError: it holds none or both of mbconv and parameters, or the one it holds contradicts
            itself; the message names field, value and allowed range.
    """
    if space.mbconv is not None and space.parameters is None:
        return mbconv_space(space.mbconv)
    if space.parameters is not None and space.mbconv is None:
        return parameter_space(space.parameters)
    given = "neither" if space.mbconv is None else "both"
    raise InvalidSpaceError(f"space: must hold exactly one of mbconv, parameters, not {given}")


def architecture(space: Space, assignment: Assignment) -> Architecture | None:
    """Describe a candidate as a network; ``None`` in a space of the user's own parameters."""
    return None if space.mbconv is None else mbconv_architecture(space.mbconv, assignment)


def check_resolution(space: Space, field: str, resolution: int | None) -> None:
    """Refuse a resolution that overrides the candidates' own and that their network can't take.

    Raises:
        InvalidSpaceError: it is below the network's total stride.
    """
    if space.mbconv is None or resolution is None:
        return
    fault = resolution_fault(space.mbconv, field, resolution)
    if fault is not None:
        raise InvalidSpaceError(fault)
