"""Candidates as rows of numbers: thousands of them are drawn, varied and compared at once.

There are two forms. A *genome* has one number per parameter: the position among its choices, or 0 to 1 on
the scale of a continuous range; ``INACTIVE`` where the parameter does not exist. A row of *features* is what
a surrogate sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nascale.search.samplers.variation import LOCAL_SPREAD
from nascale.search.space import Assignment, Categorical, Integer, Parameter, ParameterValue, SearchSpace

Floats: TypeAlias = NDArray[np.float64]

INACTIVE = -1.0
_ONE_HOT = 0.5**0.5
"""Two different values of a categorical parameter then lie at squared distance 1."""


@dataclass(frozen=True)
class _Column:
    """How a parameter's place in a genome is read.

    Attributes:
        parameter: The parameter.
        choices: Number of its choices; 0 for a continuous range.
        parent: Position of the parameter that the condition names.
        openings: Positions of that parameter's choices under which this one is active.
    """

    parameter: Parameter
    choices: int
    parent: int | None = None
    openings: tuple[int, ...] = ()

    def at(self, units: Floats) -> Floats:
        """Return the numbers at 0 to 1; each choice has the share of the range that ``draw`` gives it."""
        if not self.choices:
            return units
        parameter = self.parameter
        if isinstance(parameter, Integer) and parameter.log:
            low, high = math.log(parameter.low - 0.5), math.log(parameter.high + 0.5)
            places = np.round((np.exp(low + units * (high - low)) - parameter.low) / parameter.step)
        else:
            places = np.floor(units * self.choices)
        return np.clip(places, 0, self.choices - 1)

    def units(self, numbers: Floats) -> Floats:
        """Return where numbers lie on an ordered parameter's scale, 0 to 1."""
        parameter = self.parameter
        if not isinstance(parameter, Integer) or self.choices == 1:
            return numbers
        values = parameter.low + parameter.step * numbers
        if not parameter.log:
            return (values - parameter.low) / (parameter.high - parameter.low)
        return np.log(values / parameter.low) / math.log(parameter.high / parameter.low)


def _column(parameter: Parameter, space: SearchSpace) -> _Column:
    count = 0 if parameter.choices is None else len(parameter.choices)
    when = parameter.when
    if when is None:
        return _Column(parameter, count)
    parent = space.names.index(when.parameter)
    among = list(space.parameters[parent].choices or ())
    return _Column(parameter, count, parent, tuple(among.index(value) for value in when.values))


class Encoding:
    """A space's genomes and features.

    In the features a categorical parameter has a column per value, an ordered one a column with its position
    on its own scale, 0 to 1. A parameter with a condition has one more, which says whether it is inactive.
    Each parameter's columns contribute about 1 to the squared distance of two very different candidates,
    whatever its kind: all parameters start with equal rights.

    Attributes:
        space: The space.
        groups: For each column of the features, the position of its parameter.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._columns = tuple(_column(parameter, space) for parameter in space.parameters)
        widths = [
            (column.choices if isinstance(column.parameter, Categorical) else 1) + (column.parent is not None)
            for column in self._columns
        ]
        self._starts = np.cumsum([0, *widths])
        self.groups = tuple(position for position, width in enumerate(widths) for _ in range(width))

    def genomes(self, assignments: Sequence[Assignment]) -> Floats:
        """Return one genome per candidate.

        Raises:
            ValueError: A value is not one of the parameter's choices.
        """
        result = np.full((len(assignments), len(self._columns)), INACTIVE)
        for position, column in enumerate(self._columns):
            parameter = column.parameter
            for row, assignment in enumerate(assignments):
                value = assignment.get(parameter.name)
                if value is not None:
                    result[row, position] = _place(parameter, value)
        return result

    def assignment(self, genome: Floats) -> dict[str, ParameterValue]:
        """Return the candidate of a genome."""
        values: dict[str, ParameterValue] = {}
        for column, number in zip(self._columns, genome, strict=True):
            parameter = column.parameter
            if number == INACTIVE:
                continue
            choices = parameter.choices
            if choices is not None:
                values[parameter.name] = choices[int(number)]
            elif not isinstance(parameter, Categorical | Integer):
                values[parameter.name] = parameter.at(float(number))
        return self.space.canonical(values)

    def features(self, genomes: Floats) -> Floats:
        """Return one row of features per genome."""
        rows = np.zeros((len(genomes), len(self.groups)))
        every = np.arange(len(genomes))
        for position, column in enumerate(self._columns):
            start, numbers = int(self._starts[position]), genomes[:, position]
            absent = numbers == INACTIVE
            if isinstance(column.parameter, Categorical):
                offset = np.where(absent, column.choices, numbers).astype(np.int64)
                rows[every, start + offset] = _ONE_HOT
                continue
            rows[:, start] = np.where(absent, 0.5, column.units(np.maximum(numbers, 0.0)))
            if column.parent is not None:
                rows[:, start + 1] = absent
        return rows

    def at(self, units: Floats) -> Floats:
        """Return the genomes at positions 0 to 1 in every parameter, each choice with its share of the range.

        Uniform positions give the distribution that ``SearchSpace.draw`` has.
        """
        every = [column.at(units[:, position]) for position, column in enumerate(self._columns)]
        return self._without_inactive(np.column_stack(every))

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw genomes uniformly."""
        return self.at(rng.uniform(size=(count, len(self._columns))))

    def cross(self, left: Floats, right: Floats, rng: np.random.Generator) -> Floats:
        """Take each parameter from one of two parents; where that one lacks it, from the other."""
        mixed = np.where(rng.uniform(size=left.shape) < 1 / 2, left, right)
        mixed = np.where(mixed == INACTIVE, np.maximum(left, right), mixed)
        return self._completed(mixed, rng)

    def mutate(self, genomes: Floats, rng: np.random.Generator, changes: NDArray[np.int64]) -> Floats:
        """Change so many active parameters of each genome, as ``variation.mutate`` does.

        An ordered parameter takes a nearby value half of the time, any other parameter any other value.
        """
        fixed = np.array([column.choices == 1 for column in self._columns])
        lottery = np.where((genomes == INACTIVE) | fixed, 2.0, rng.uniform(size=genomes.shape))
        place = np.argsort(np.argsort(lottery, axis=1), axis=1)
        picked = (place < changes[:, None]) & (lottery < 2.0)  # noqa: PLR2004 - above any drawn number
        near = rng.uniform(size=genomes.shape) < 1 / 2
        steps = rng.normal(0.0, LOCAL_SPREAD, size=genomes.shape)
        leaps = rng.uniform(size=genomes.shape)
        changed = genomes.copy()
        for position, column in enumerate(self._columns):
            rows = np.flatnonzero(picked[:, position])
            changed[rows, position] = _varied(
                column,
                genomes[rows, position],
                near[rows, position],
                steps[rows, position],
                leaps[rows, position],
            )
        return self._completed(changed, rng)

    def _completed(self, genomes: Floats, rng: np.random.Generator) -> Floats:
        """Draw what a change has made active, drop what it has made inactive."""
        drawn = rng.uniform(size=genomes.shape)
        filled = genomes.copy()
        for position, column in enumerate(self._columns):
            absent = genomes[:, position] == INACTIVE
            filled[absent, position] = column.at(drawn[absent, position])
        return self._without_inactive(filled)

    def _without_inactive(self, genomes: Floats) -> Floats:
        """Mark the parameters whose condition does not hold; parents stand before their children."""
        for position, column in enumerate(self._columns):
            if column.parent is not None:
                active = np.isin(genomes[:, column.parent], column.openings)
                genomes[~active, position] = INACTIVE
        return genomes


def _place(parameter: Parameter, value: ParameterValue) -> float:
    choices = parameter.choices
    if choices is None:
        return min(1.0, max(0.0, parameter.unit(value)))
    return float(choices.index(value))  # type: ignore[arg-type]


def _varied(
    column: _Column, numbers: Floats, near: NDArray[np.bool_], steps: Floats, leaps: Floats
) -> Floats:
    """Return another value for each number of one column."""
    if not column.choices:
        return np.where(near, np.clip(numbers + steps, 0.0, 1.0), leaps)
    count = column.choices
    elsewhere = (numbers + 1.0 + np.floor(leaps * (count - 1))) % count
    if isinstance(column.parameter, Categorical):
        return elsewhere
    moved = np.sign(steps) * np.maximum(1.0, np.round(np.abs(steps) * (count - 1)))
    inside = (numbers + moved >= 0) & (numbers + moved < count)
    return np.where(near, np.clip(numbers + np.where(inside, moved, -moved), 0, count - 1), elsewhere)


@lru_cache(maxsize=16)
def encoding_of(space: SearchSpace) -> Encoding:
    """Return a space's encoding, made once."""
    return Encoding(space)
