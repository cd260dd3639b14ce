"""A user's own parameters as a search space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nascale.api.space import Parameter as ApiParameter
from nascale.api.space import ParameterCondition, Scale
from nascale.search.errors import InvalidSpaceError
from nascale.search.space import Categorical, Condition, Integer, Parameter, ParameterValue, Real, SearchSpace


def parameter_space(parameters: Sequence[ApiParameter]) -> SearchSpace:
    """Build the space of ``spec.space.parameters``.

    Raises:
        InvalidSpaceError: a parameter has no or several kinds, a range is empty, a name repeats, a condition
            names a parameter that does not stand before or a value that it can't have; every fault is named.
    """
    found = [fault for parameter in parameters for fault in _kind_faults(parameter)]
    if found:
        raise InvalidSpaceError(f"space.parameters: {'; '.join(found)}")
    by_name = {parameter.name: parameter for parameter in parameters}
    try:
        return SearchSpace(tuple(_parameter(parameter, by_name) for parameter in parameters))
    except InvalidSpaceError as error:
        raise InvalidSpaceError(f"space.parameters: {error}") from error


def _kind_faults(parameter: ApiParameter) -> Iterator[str]:
    kinds = {
        "categorical": parameter.categorical,
        "integer": parameter.integer,
        "decimal": parameter.decimal,
    }
    given = [name for name, kind in kinds.items() if kind is not None]
    if len(given) != 1:
        yield (
            f"{parameter.name}: must have exactly one of categorical, integer, decimal, "
            f"not {' and '.join(given) or 'none'}"
        )


def _parameter(parameter: ApiParameter, by_name: Mapping[str, ApiParameter]) -> Parameter:
    when = _condition(parameter.when, by_name) if parameter.when is not None else None
    if parameter.integer is not None:
        whole = parameter.integer
        return Integer(parameter.name, whole.min, whole.max, whole.step, whole.scale is Scale.LOG, when)
    if parameter.decimal is not None:
        decimal = parameter.decimal
        low, high = float(decimal.min), float(decimal.max)
        return Real(parameter.name, low, high, decimal.scale is Scale.LOG, when)
    values = parameter.categorical.values if parameter.categorical is not None else ()
    return Categorical(parameter.name, values, when)


def _condition(when: ParameterCondition, by_name: Mapping[str, ApiParameter]) -> Condition:
    named = by_name.get(when.parameter)
    whole = named is not None and named.integer is not None
    return Condition(when.parameter, tuple(_whole(text) if whole else text for text in when.values))


def _whole(text: str) -> ParameterValue:
    """Read a whole number; other text stays, and is then refused as a value that can't be."""
    try:
        return int(text)
    except ValueError:
        return text
