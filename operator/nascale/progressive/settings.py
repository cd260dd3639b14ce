"""Complete stages: what a stage states, then the spec's defaults, then the contract's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from nascale.api.progressive_training import ProgressiveTrainingSpec
from nascale.api.stages import (
    MetricReached,
    ModelParameter,
    Plateau,
    StageHardware,
    StageModel,
    TrainingStage,
)
from nascale.contract.document import describe
from nascale.contract.run_order import MetricEnd, PlateauEnd, StageOrder
from nascale.contract.schedule import ScheduleError
from nascale.contract.stage_settings import HardwareSettings, ModelSettings
from nascale.contract.work_order import ParameterValue

LARGEST_ACCUMULATION: Final = 65_536

_WHOLE: Final = re.compile(r"^-?(0|[1-9][0-9]{0,14})$")
_DECIMAL: Final = re.compile(r"^-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?(e-?[0-9]{1,2})?$")
DECIMAL_SETTINGS: Final = (
    "depth",
    "stochastic_depth",
    "dropout",
    "augmentation",
    "mixup",
    "label_smoothing",
    "learning_rate_factor",
    "weight_decay",
    "momentum",
)
"""Model-level settings that the API holds as text: it has no floats."""


def stage_orders(spec: ProgressiveTrainingSpec) -> tuple[StageOrder, ...]:
    """Return the stages with every setting that the spec leaves out filled in.

    Raises:
        ScheduleError: a setting is out of its range, or no accumulation keeps to ``maxMicroBatch``; every
            fault is named with the stage's place.
    """
    orders: list[StageOrder] = []
    faults: list[str] = []
    for place, stage in enumerate(spec.stages):
        try:
            orders.append(stage_order(spec, stage))
        except ScheduleError as error:
            faults.append(f"spec.stages[{place}] ({stage.name}): {error}")
    if faults:
        raise ScheduleError("; ".join(faults))
    return tuple(orders)


def stage_order(spec: ProgressiveTrainingSpec, stage: TrainingStage) -> StageOrder:
    """Return one stage, complete.

    Raises:
        ScheduleError: as ``stage_orders``, without the stage's place.
    """
    defaults = spec.defaults
    values = _hardware(stage.hardware, defaults.hardware)
    most = values.pop("max_micro_batch", None)
    until = stage.until
    try:
        model = ModelSettings(**_numbers(_given(defaults.model) | _given(stage.model)))
        hardware = HardwareSettings(**_texts(values))
        if most is not None:
            accumulation = smallest_accumulation(model.global_batch, hardware.world, most)
            hardware = hardware.model_copy(update={"accumulation": accumulation})
        return StageOrder(
            name=stage.name,
            length=stage.length,
            until_metric=None if until is None else _metric_end(until.metric),
            until_plateau=None if until is None else _plateau_end(until.plateau),
            model=model,
            hardware=hardware,
        )
    except ValidationError as error:
        raise ScheduleError(describe(error)) from error


def smallest_accumulation(global_batch: int, world: int, most: int) -> int:
    """Return the fewest micro-batches per step that divide a process's share and keep to its memory.

    Args:
        global_batch: Samples per optimizer step over all processes.
        world: Number of processes.
        most: Largest micro-batch, samples.

    Raises:
        ScheduleError: the processes can't share the batch evenly, or more than 65,536 would be needed.
    """
    share, rest = divmod(global_batch, world)
    if rest or not share:
        raise ScheduleError(
            f"model.globalBatch: must be a multiple of {world} (workers times processesPerWorker), "
            f"not {global_batch}"
        )
    small = [count for count in range(1, math.isqrt(share) + 1) if share % count == 0]
    found = min(count for low in small for count in (low, share // low) if share // count <= most)
    if found > LARGEST_ACCUMULATION:
        raise ScheduleError(
            f"hardware.maxMicroBatch: must be larger for a global batch of {global_batch} samples, "
            f"not {most}: {found} micro-batches would be needed, and {LARGEST_ACCUMULATION} are the most"
        )
    return found


def parameter_values(parameters: Iterable[ModelParameter]) -> dict[str, ParameterValue]:
    """Return the values of the user's own parameters by name: what reads as a number is one."""
    return {parameter.name: parameter_value(parameter.value) for parameter in parameters}


def parameter_value(text: str) -> ParameterValue:
    """Return a parameter's value: a whole number, a decimal, or the text itself."""
    if _WHOLE.match(text):
        return int(text)
    return float(text) if _DECIMAL.match(text) else text


def _given(settings: StageModel | StageHardware | None) -> dict[str, Any]:
    """Return the settings that are stated, as they are."""
    if settings is None:
        return {}
    stated = ((name, getattr(settings, name)) for name in type(settings).model_fields)
    return {name: value for name, value in stated if value is not None}


def _hardware(own: StageHardware | None, defaults: StageHardware | None) -> dict[str, Any]:
    """Return the stage's own settings over the defaults; accumulation and maxMicroBatch are one setting."""
    stated, fallback = _given(own), _given(defaults)
    division = {"accumulation", "max_micro_batch"}
    if division & stated.keys():
        fallback = {name: value for name, value in fallback.items() if name not in division}
    return fallback | stated


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    written: dict[str, Any] = {
        name: float(value) if name in DECIMAL_SETTINGS else value for name, value in values.items()
    }
    if "parameters" in written:
        written["parameters"] = parameter_values(written["parameters"])
    return written


def _texts(values: Mapping[str, Any]) -> dict[str, Any]:
    written = dict(values)
    if "environment" in written:
        written["environment"] = {variable.name: variable.value for variable in written["environment"]}
    return written


def _metric_end(given: MetricReached | None) -> MetricEnd | None:
    if given is None:
        return None
    return MetricEnd(
        metric=given.name,
        at_least=None if given.at_least is None else float(given.at_least),
        at_most=None if given.at_most is None else float(given.at_most),
    )


def _plateau_end(given: Plateau | None) -> PlateauEnd | None:
    if given is None:
        return None
    return PlateauEnd(
        metric=given.metric,
        goal=given.goal,
        evaluations=given.evaluations,
        min_change=float(given.min_change),
    )
