"""Combinations of settings: all that the ranges allow, and which of them can be run.

Only what counts for the step time spans the grid (``Combination``): regularisation and the learning rate
are no part of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Final

import numpy as np

from nascale.contract.schedule import ScheduleError
from nascale.contract.stage_settings import (
    CommunicationHook,
    HardwareSettings,
    ModelSettings,
    Parallelism,
    micro_batch,
)
from nascale.progressive.generation.problem import (
    Combination,
    GenerationProblem,
    Growth,
    Value,
)
from nascale.progressive.settings import smallest_accumulation

LARGEST_GRID: Final = 4096
"""Most combinations that are looked at; of more a sample is drawn."""
LARGEST_HARDWARE: Final = 512
"""Most combinations of hardware-level settings; of more a sample is drawn."""


@dataclass(frozen=True)
class Grid:
    """Combinations that can be asked for.

    Attributes:
        combinations: The constant recipe first, each once.
        size: How many the ranges hold.
        refused: What can't be run whatever the device is, each with its reason.
    """

    combinations: tuple[Combination, ...]
    size: int
    refused: tuple[str, ...] = ()


def hardware_settings(
    base: HardwareSettings, ranges: Mapping[str, Sequence[Any]]
) -> tuple[HardwareSettings, ...]:
    """Return the combinations of ranges of hardware-level settings; the base comes first.

    Args:
        base: Settings of the constant recipe.
        ranges: Values by field of ``HardwareSettings``; the base's own value belongs to each range.
    """
    axes = [
        [getattr(base, name), *(v for v in values if v != getattr(base, name))]
        for name, values in ranges.items()
    ]
    size = math.prod(len(axis) for axis in axes)
    if size <= LARGEST_HARDWARE:
        chosen: Iterable[tuple[Any, ...]] = product(*axes)
    else:
        chosen = [_decode(number, axes) for number in _numbers(size, LARGEST_HARDWARE, seed=0)]
    found: dict[str, HardwareSettings] = {}
    for values in chosen:
        own = _sensible(base, base.model_copy(update=dict(zip(ranges, values, strict=True))))
        found.setdefault(own.to_json(), own)
    return tuple(found.values())


def _sensible(base: HardwareSettings, own: HardwareSettings) -> HardwareSettings:
    """Return settings without what changes nothing, or can't be.

    A process alone talks to nobody; hooks are DDP's.
    """
    if own.world == 1:
        alone = {"parallelism": base.parallelism, "communication_hook": base.communication_hook}
        return own.model_copy(update=alone)
    if own.parallelism is Parallelism.FSDP:
        return own.model_copy(update={"communication_hook": CommunicationHook.NONE})
    return own


def hardwares(problem: GenerationProblem) -> tuple[HardwareSettings, ...]:
    """Return the hardware-level settings that may be used, the base's first, each once."""
    found = [problem.base.hardware]
    if not problem.fixed_hardware:
        found += [settings for settings in problem.hardware if settings not in found]
    seen: dict[str, HardwareSettings] = {}
    for settings in found:
        seen.setdefault(settings.to_json(), settings)
    return tuple(seen.values())


def batches(problem: GenerationProblem) -> tuple[int, ...]:
    """Return the global batches that may be used, ascending."""
    base = problem.base.model.global_batch
    return (base,) if problem.fixed_model else tuple(sorted({base, *problem.batches}))


def growing(problem: GenerationProblem) -> tuple[Growth, ...]:
    """Return the settings that grow: none where the model-level ones are fixed, or there is one value."""
    return (
        () if problem.fixed_model else tuple(growth for growth in problem.growing if len(growth.values) > 1)
    )


def with_values(problem: GenerationProblem, values: Mapping[str, Value], batch: int) -> ModelSettings:
    """Return the base's model-level settings with other values of what grows, and another batch."""
    update: dict[str, Any] = {"global_batch": batch}
    parameters = dict(problem.base.model.parameters)
    for growth in growing(problem):
        if growth.own:
            parameters[growth.name] = values[growth.name]
        else:
            update[growth.name] = values[growth.name]
    return problem.base.model.model_copy(update=update | {"parameters": parameters})


def combine(
    problem: GenerationProblem, model: ModelSettings, hardware: HardwareSettings
) -> Combination | None:
    """Bring two halves together; ``None`` where the processes can't share the batch.

    With a largest micro-batch the accumulation follows from the batch.
    """
    if problem.most_micro_batch is not None:
        try:
            count = smallest_accumulation(model.global_batch, hardware.world, problem.most_micro_batch)
        except ScheduleError:
            return None
        hardware = hardware.model_copy(update={"accumulation": count})
    return None if micro_batch(model, hardware) is None else Combination(model, hardware)


def make_grid(problem: GenerationProblem) -> Grid:
    """List the combinations of the ranges: all of them, or a sample with what matters most in it.

    The sample holds the constant recipe and all that differs from it in one half alone (as far as it has
    room), and draws the rest.
    """
    axes: list[Sequence[Any]] = [hardwares(problem), batches(problem)]
    axes += [tuple(reversed(growth.values)) for growth in growing(problem)]
    size = math.prod(len(axis) for axis in axes)
    found: dict[str, Combination] = {}
    refused: dict[str, None] = {}
    for choice in islice(_choices(problem, axes, size), LARGEST_GRID):
        hardware, batch, *values = choice
        names = [growth.name for growth in growing(problem)]
        model = with_values(problem, dict(zip(names, values, strict=True)), batch)
        own = combine(problem, model, hardware)
        if own is None:
            refused[_division(model, hardware)] = None
        else:
            found.setdefault(own.key, own)
    return Grid(tuple(found.values()), size, tuple(refused))


def _choices(
    problem: GenerationProblem, axes: Sequence[Sequence[Any]], size: int
) -> Iterator[tuple[Any, ...]]:
    base = (axes[0][0], problem.base.model.global_batch, *(axis[0] for axis in axes[2:]))
    yield base
    if size <= LARGEST_GRID:
        yield from product(*axes)
        return
    for hardware in islice(axes[0], LARGEST_GRID // 4):
        yield (hardware, *base[1:])
    for values in islice(product(*axes[1:]), LARGEST_GRID // 4):
        yield (base[0], *values)
    for number in _numbers(size, LARGEST_GRID, problem.seed):
        yield _decode(number, axes)


def _numbers(size: int, count: int, seed: int) -> list[int]:
    """Draw numbers of combinations, 0 (the base) first; a few may come twice."""
    rng = np.random.default_rng(seed)
    return [0, *(int(share * size) % size for share in rng.random(count - 1).tolist())]


def _decode(number: int, axes: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    chosen: list[Any] = []
    for axis in reversed(axes):
        number, place = divmod(number, len(axis))
        chosen.append(axis[place])
    return tuple(reversed(chosen))


def _division(model: ModelSettings, hardware: HardwareSettings) -> str:
    parts = hardware.accumulation * hardware.world
    return (
        f"model.globalBatch: must be a multiple of {parts} (accumulation times processes), "
        f"not {model.global_batch}"
    )
