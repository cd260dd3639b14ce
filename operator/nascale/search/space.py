"""Search spaces: named parameters, some of which exist only under a condition on another one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from nascale.search.errors import InvalidSpaceError

ParameterValue: TypeAlias = str | int | float
Assignment: TypeAlias = Mapping[str, ParameterValue]
"""Values of the *active* parameters of a candidate, by name."""
Key: TypeAlias = tuple[tuple[str, ParameterValue], ...]


@dataclass(frozen=True)
class Condition:
    """A parameter is active only where ``parameter`` is active and has one of ``values``."""

    parameter: str
    values: tuple[ParameterValue, ...]


@dataclass(frozen=True)
class Categorical:
    """Unordered choices."""

    name: str
    values: tuple[ParameterValue, ...]
    when: Condition | None = None

    @property
    def choices(self) -> tuple[ParameterValue, ...]:
        """All values."""
        return self.values

    def draw(self, rng: np.random.Generator) -> ParameterValue:
        """Draw a value uniformly."""
        return self.values[int(rng.integers(len(self.values)))]

    def unit(self, value: ParameterValue) -> float:
        """Map a value to 0..1 (its position: only good for equality)."""
        return self.values.index(value) / max(1, len(self.values) - 1)


@dataclass(frozen=True)
class Integer:
    """Whole numbers from low to high, both included, in steps."""

    name: str
    low: int
    high: int
    step: int = 1
    log: bool = False
    when: Condition | None = None

    @property
    def choices(self) -> range:
        """All values, ascending (a range: a wide one costs no memory)."""
        return range(self.low, self.high + 1, self.step)

    def draw(self, rng: np.random.Generator) -> ParameterValue:
        """Draw a value: uniformly, or uniformly in the logarithm."""
        count = (self.high - self.low) // self.step + 1
        if not self.log:
            return self.low + self.step * int(rng.integers(count))
        exact = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
        position = min(count - 1, max(0, round((exact - self.low) / self.step)))
        return self.low + self.step * position

    def unit(self, value: ParameterValue) -> float:
        """Map a value to 0..1 on the parameter's scale."""
        return _unit(float(value), self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Real:
    """Decimals from low to high, both included, rounded to nine significant digits.

    The rounding makes a value survive its round trip through text unchanged.
    """

    name: str
    low: float
    high: float
    log: bool = False
    when: Condition | None = None

    @property
    def choices(self) -> tuple[float, ...] | None:
        """``None``: a continuous range can't be listed, unless it is one point."""
        return (self.low,) if self.low == self.high else None

    def draw(self, rng: np.random.Generator) -> ParameterValue:
        """Draw a value: uniformly, or uniformly in the logarithm."""
        return self.at(float(rng.uniform()))

    def at(self, unit: float) -> float:
        """Map 0..1 to a value of the range, on the parameter's scale."""
        if self.log:
            value = math.exp(math.log(self.low) + unit * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + unit * (self.high - self.low)
        return self.rounded(value)

    def rounded(self, value: float) -> float:
        """Round a value to nine significant digits, inside the range."""
        return min(self.high, max(self.low, float(f"{value:.9g}")))

    def unit(self, value: ParameterValue) -> float:
        """Map a value to 0..1 on the parameter's scale."""
        return _unit(float(value), self.low, self.high, log=self.log)


Parameter: TypeAlias = Categorical | Integer | Real


def _unit(value: float, low: float, high: float, *, log: bool) -> float:
    if high == low:
        return 0.0
    if log:
        return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


@dataclass(frozen=True)
class SearchSpace:
    """Parameters in order; a condition names a parameter that stands before.

    Raises:
        InvalidSpaceError: at construction, where names repeat, a range is empty, a condition names an
            unknown or later parameter or a value that it can't have.
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        """Check the space as a whole and report every fault at once."""
        faults = list(_faults(self.parameters))
        if faults:
            raise InvalidSpaceError("; ".join(faults))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all parameters."""
        return tuple(parameter.name for parameter in self.parameters)

    @cached_property
    def _has_conditions(self) -> bool:
        return any(parameter.when is not None for parameter in self.parameters)

    def is_active(self, parameter: Parameter, assignment: Assignment) -> bool:
        """Say whether a parameter exists under the values of those before it."""
        when = parameter.when
        return when is None or (when.parameter in assignment and assignment[when.parameter] in when.values)

    def canonical(self, assignment: Assignment) -> dict[str, ParameterValue]:
        """Keep the active parameters, in the space's order.

        Raises:
            KeyError: an active parameter has no value.
        """
        if not self._has_conditions:
            return {name: assignment[name] for name in self.names}
        kept: dict[str, ParameterValue] = {}
        for parameter in self.parameters:
            if self.is_active(parameter, kept):
                kept[parameter.name] = assignment[parameter.name]
        return kept

    def key(self, assignment: Assignment) -> Key:
        """Return what makes two candidates the same."""
        return tuple(self.canonical(assignment).items())

    def draw(self, rng: np.random.Generator, fixed: Assignment | None = None) -> dict[str, ParameterValue]:
        """Draw a candidate; values in ``fixed`` are kept where they are active."""
        drawn: dict[str, ParameterValue] = {}
        for parameter in self.parameters:
            # One draw per parameter whatever is active: what is drawn later does not depend on it.
            value = parameter.draw(rng)
            if self.is_active(parameter, drawn):
                drawn[parameter.name] = (fixed or {}).get(parameter.name, value)
        return drawn

    @cached_property
    def children(self) -> Mapping[str, tuple[Parameter, ...]]:
        """Parameters whose condition names a parameter, by that parameter's name."""
        below: dict[str, list[Parameter]] = {name: [] for name in self.names}
        for parameter in self.parameters:
            if parameter.when is not None:
                below[parameter.when.parameter].append(parameter)
        return {name: tuple(parameters) for name, parameters in below.items()}

    @cached_property
    def branches(self) -> Mapping[str, int | None]:
        """Ways to choose a parameter and all that depends on it, by name; ``None`` without limit.

        A parameter depends on at most one other, so that the parameters form trees and nothing needs to
        be listed: the ways of a tree are the sum over its root's values of the product of its branches.
        """
        ways: dict[str, int | None] = {}
        for parameter in reversed(self.parameters):
            below = self.children[parameter.name]
            branch = [ways[child.name] for child in below]
            if parameter.choices is None or None in branch:
                ways[parameter.name] = None
                continue
            opening = {value for child in below if child.when for value in child.when.values}
            total = len(parameter.choices) - len(opening)
            total += sum(self.ways_below(parameter, value, ways) or 0 for value in opening)
            ways[parameter.name] = total
        return ways

    def ways_below(
        self, parameter: Parameter, value: ParameterValue, ways: Mapping[str, int | None]
    ) -> int | None:
        """Count the ways to choose what depends on a parameter that has this value."""
        counts = [ways[child.name] for child in self.children[parameter.name] if _opens(child, value)]
        return None if None in counts else math.prod(count for count in counts if count is not None)

    @cached_property
    def count(self) -> int | None:
        """Number of candidates, exact and without listing them; ``None`` where a range is continuous."""
        counts = [self.branches[parameter.name] for parameter in self.parameters if parameter.when is None]
        return None if None in counts else math.prod(count for count in counts if count is not None)

    def size(self, limit: int = 1_000_000) -> int | None:
        """Count the candidates; ``None`` where there are more than ``limit`` or a range is continuous."""
        return None if self.count is None or self.count > limit else self.count

    def enumerate(self) -> Iterator[dict[str, ParameterValue]]:
        """List all candidates in a fixed order.

        Raises:
            InvalidSpaceError: an active parameter is continuous.
        """
        yield from self._enumerate(0, {})

    def _enumerate(
        self, position: int, chosen: dict[str, ParameterValue]
    ) -> Iterator[dict[str, ParameterValue]]:
        if position == len(self.parameters):
            yield dict(chosen)
            return
        parameter = self.parameters[position]
        if not self.is_active(parameter, chosen):
            yield from self._enumerate(position + 1, chosen)
            return
        choices: Sequence[ParameterValue] | None = parameter.choices
        if choices is None:
            raise InvalidSpaceError(f"{parameter.name}: a continuous range can't be listed")
        for value in choices:
            chosen[parameter.name] = value
            yield from self._enumerate(position + 1, chosen)
            del chosen[parameter.name]


def _opens(child: Parameter, value: ParameterValue) -> bool:
    return child.when is not None and value in child.when.values


def _faults(parameters: tuple[Parameter, ...]) -> Iterator[str]:
    if not parameters:
        yield "space: must have at least one parameter"
    seen: dict[str, Parameter] = {}
    for parameter in parameters:
        name = parameter.name
        if name in seen:
            yield f"{name}: names must be unique"
        if isinstance(parameter, Categorical):
            if not parameter.values or len(set(parameter.values)) != len(parameter.values):
                yield f"{name}: values must be one or more, each once, not {list(parameter.values)}"
        else:
            if parameter.low > parameter.high:
                yield f"{name}: min must be at most max, not {parameter.low} > {parameter.high}"
            if parameter.log and parameter.low <= 0:
                yield f"{name}: min must be above 0 on a logarithmic scale, not {parameter.low}"
        yield from _condition_faults(parameter, seen)
        seen[name] = parameter


def _condition_faults(parameter: Parameter, before: Mapping[str, Parameter]) -> Iterator[str]:
    when = parameter.when
    if when is None:
        return
    if when.parameter not in before:
        yield (
            f"{parameter.name}: when.parameter must be one of the parameters before it "
            f"({', '.join(before) or 'none'}), not {when.parameter}"
        )
        return
    choices = before[when.parameter].choices
    if choices is None:
        yield f"{parameter.name}: when.parameter must have listed values, not the range of {when.parameter}"
        return
    # A range looks for anything but a whole number by comparing one by one: never ask it for text.
    whole = isinstance(choices, range)
    foreign = [
        value for value in when.values if (whole and not isinstance(value, int)) or value not in choices
    ]
    if foreign or not when.values:
        yield f"{parameter.name}: when.values must be among {list(choices[:16])}, not {foreign}"
