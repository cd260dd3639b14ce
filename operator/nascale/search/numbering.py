"""Numbers for the candidates of a finite space: from a number to its candidate and back.

With them, a uniform draw among the candidates that have not been tried yet costs no listing of the space.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from nascale.search.errors import InvalidSpaceError
from nascale.search.space import Assignment, Parameter, ParameterValue, SearchSpace


@dataclass(frozen=True)
class _Opening:
    """A value under which other parameters become active, and the numbers that its candidates have."""

    position: int
    start: int
    ways: int


class Numbering:
    """Numbers 0 to ``size - 1``, one per candidate.

    Raises:
        InvalidSpaceError: at construction, where the space has a continuous range.
    """

    def __init__(self, space: SearchSpace) -> None:
        if space.count is None:
            raise InvalidSpaceError("space: a continuous range can't be numbered")
        self.size = space.count
        self._space = space
        self._ways = {name: ways or 0 for name, ways in space.branches.items()}
        self._roots = tuple(parameter for parameter in space.parameters if parameter.when is None)
        self._openings = {parameter.name: self._openings_of(parameter) for parameter in space.parameters}

    def candidate(self, number: int) -> dict[str, ParameterValue]:
        """Return the candidate of a number.

        Raises:
            IndexError: the number is not in 0 to ``size - 1``.
        """
        if not 0 <= number < self.size:
            raise IndexError(f"number: must be from 0 to {self.size - 1}, not {number}")
        chosen: dict[str, ParameterValue] = {}
        self._choose(self._roots, number, chosen)
        return self._space.canonical(chosen)

    def number(self, assignment: Assignment) -> int:
        """Return the number of a candidate.

        Raises:
            KeyError: an active parameter has no value.
            ValueError: a value is not of the space.
        """
        return self._number(self._roots, assignment)

    def untried(self, tried: Iterable[int], ordinal: int) -> int:
        """Return the number of the ``ordinal``-th candidate (from 0) that is not among those tried.

        Raises:
            IndexError: fewer candidates are left.
        """
        taken = sorted(set(tried))
        if not 0 <= ordinal < self.size - len(taken):
            raise IndexError(f"ordinal: must be from 0 to {self.size - len(taken) - 1}, not {ordinal}")
        free_below = [number - position for position, number in enumerate(taken)]
        return ordinal + bisect_right(free_below, ordinal)

    def _openings_of(self, parameter: Parameter) -> tuple[_Opening, ...]:
        below = self._space.children[parameter.name]
        choices = parameter.choices or ()
        values = {value for child in below if child.when for value in child.when.values}
        openings: list[_Opening] = []
        surplus = 0
        for position, value in sorted((choices.index(value), value) for value in values):  # type: ignore[arg-type]
            ways = self._space.ways_below(parameter, value, self._ways) or 0
            openings.append(_Opening(position, position + surplus, ways))
            surplus += ways - 1
        return tuple(openings)

    def _choose(self, trees: tuple[Parameter, ...], number: int, chosen: dict[str, ParameterValue]) -> None:
        for parameter in reversed(trees):
            number, within = divmod(number, self._ways[parameter.name])
            position, rest = self._position(parameter, within)
            value = (parameter.choices or ())[position]
            chosen[parameter.name] = value
            self._choose(self._active(parameter, value), rest, chosen)

    def _number(self, trees: tuple[Parameter, ...], assignment: Assignment) -> int:
        number = 0
        for parameter in trees:
            value = assignment[parameter.name]
            within = self._start(parameter, value) + self._number(self._active(parameter, value), assignment)
            number = number * self._ways[parameter.name] + within
        return number

    def _active(self, parameter: Parameter, value: ParameterValue) -> tuple[Parameter, ...]:
        below = self._space.children[parameter.name]
        return tuple(child for child in below if child.when is not None and value in child.when.values)

    def _position(self, parameter: Parameter, within: int) -> tuple[int, int]:
        """Split a number within a parameter's tree into its value's position and the rest below it."""
        openings = self._openings[parameter.name]
        last = bisect_right(openings, within, key=lambda opening: opening.start) - 1
        if last < 0:
            return within, 0
        opening = openings[last]
        rest = within - opening.start
        if rest < opening.ways:
            return opening.position, rest
        return opening.position + 1 + rest - opening.ways, 0

    def _start(self, parameter: Parameter, value: ParameterValue) -> int:
        position = (parameter.choices or ()).index(value)  # type: ignore[arg-type]
        openings = self._openings[parameter.name]
        before = bisect_right(openings, position, key=lambda opening: opening.position)
        if before == 0:
            return position
        opening = openings[before - 1]
        if opening.position == position:
            return opening.start
        return opening.start + opening.ways + position - opening.position - 1
