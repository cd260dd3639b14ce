"""Candidates as text, the way ``Trial.spec.parameters`` holds them: exact in both directions."""

from __future__ import annotations

from collections.abc import Mapping

from nascale.search.errors import SearchError
from nascale.search.space import Assignment, Categorical, Parameter, ParameterValue, Real, SearchSpace


def encode(assignment: Assignment) -> tuple[tuple[str, str], ...]:
    """Write a candidate as names and texts, in its order; a decimal as its shortest exact form."""
    return tuple((name, text_of(value)) for name, value in assignment.items())


def decode(space: SearchSpace, texts: Mapping[str, str]) -> dict[str, ParameterValue]:
    """Read a candidate: its active parameters in the space's order.

    Raises:
        SearchError: a text is no value of its parameter, an active parameter is missing, or a name is
            not of the space; every fault is named.
    """
    found: list[str] = []
    chosen: dict[str, ParameterValue] = {}
    for parameter in space.parameters:
        if not space.is_active(parameter, chosen):
            continue
        text = texts.get(parameter.name)
        try:
            chosen[parameter.name] = _value(parameter, text)
        except ValueError:
            given = "absent" if text is None else repr(text)
            found.append(f"parameters: {parameter.name}: must be {_allowed(parameter)}, not {given}")
    names = set(space.names)
    found.extend(
        f"parameters: the name must be one of the space's ({', '.join(space.names[:16])}), not {name!r}"
        for name in sorted(set(texts) - names)
    )
    if found:
        raise SearchError("; ".join(found))
    return chosen


def text_of(value: ParameterValue) -> str:
    """Write one value."""
    return value if isinstance(value, str) else repr(value)


def _value(parameter: Parameter, text: str | None) -> ParameterValue:
    if text is None:
        raise ValueError(parameter.name)
    if isinstance(parameter, Categorical):
        for choice in parameter.values:
            if text_of(choice) == text:
                return choice
        raise ValueError(text)
    if isinstance(parameter, Real):
        value = float(text)
        if not parameter.low <= value <= parameter.high:
            raise ValueError(text)
        return value
    whole = int(text)
    if whole not in parameter.choices:
        raise ValueError(text)
    return whole


def _allowed(parameter: Parameter) -> str:
    if isinstance(parameter, Categorical):
        return f"one of {', '.join(text_of(value) for value in parameter.values[:16])}"
    if isinstance(parameter, Real):
        return f"a decimal from {parameter.low!r} to {parameter.high!r}"
    step = f" in steps of {parameter.step}" if parameter.step > 1 else ""
    return f"a whole number from {parameter.low} to {parameter.high}{step}"
