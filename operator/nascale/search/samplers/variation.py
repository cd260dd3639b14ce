"""Changing one candidate into another one: mutation."""

from __future__ import annotations

import numpy as np

from nascale.search.space import Assignment, Categorical, Parameter, ParameterValue, Real, SearchSpace

LOCAL_SPREAD = 0.15
"""Standard deviation of a local step, as a share of the parameter's range."""


def changeable(space: SearchSpace, assignment: Assignment) -> list[Parameter]:
    """List the active parameters that have another value."""
    return [
        parameter
        for parameter in space.parameters
        if parameter.name in assignment and (parameter.choices is None or len(parameter.choices) > 1)
    ]


def mutate(
    space: SearchSpace, assignment: Assignment, rng: np.random.Generator, changes: int = 1
) -> dict[str, ParameterValue]:
    """Change some active parameters; parameters that become active by it are drawn.

    Args:
        space: The search space.
        assignment: The parent.
        rng: Random numbers.
        changes: Parameters to change (fewer where fewer can be changed).
    """
    candidates = changeable(space, assignment)
    fixed = dict(assignment)
    if candidates:
        picked = rng.choice(len(candidates), size=min(changes, len(candidates)), replace=False)
        for position in sorted(int(index) for index in picked):
            parameter = candidates[position]
            fixed[parameter.name] = other_value(parameter, fixed[parameter.name], rng)
    return space.draw(rng, fixed)


def other_value(parameter: Parameter, value: ParameterValue, rng: np.random.Generator) -> ParameterValue:
    """Draw another value: any other choice, or on a numeric scale half the time one nearby."""
    if isinstance(parameter, Categorical):
        others = [choice for choice in parameter.values if choice != value]
        return others[int(rng.integers(len(others)))]
    if isinstance(parameter, Real):
        if rng.uniform() < 1 / 2:
            return parameter.draw(rng)
        unit = parameter.unit(value) + rng.normal(0.0, LOCAL_SPREAD)
        return parameter.at(float(np.clip(unit, 0.0, 1.0)))
    choices = parameter.choices
    position = choices.index(int(value))
    if rng.uniform() < 1 / 2:
        shifted = int(rng.integers(len(choices) - 1))
        return choices[shifted + (shifted >= position)]
    step = max(1, round(abs(float(rng.normal(0.0, LOCAL_SPREAD))) * (len(choices) - 1)))
    signed = step if rng.uniform() < 1 / 2 else -step
    if not 0 <= position + signed < len(choices):
        signed = -signed
    return choices[min(len(choices) - 1, max(0, position + signed))]
