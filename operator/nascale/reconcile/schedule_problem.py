"""``spec.schedule.generate`` as the generator's problem; and the generated stages in place of the spec's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic.alias_generators import to_camel

from nascale.api.generation import (
    AUTO,
    Generation,
    ScheduleFloor,
    SettingsSource,
)
from nascale.api.progressive_training import ProgressiveTraining, ProgressiveTrainingSpec
from nascale.api.schedule_ranges import HardwareRanges, ModelRanges
from nascale.api.stages import TrainingStage
from nascale.contract.architecture import Architecture
from nascale.contract.errors import ContractError
from nascale.contract.run_order import Goal, StageOrder
from nascale.contract.spans import SpanUnit, parts, samples_of
from nascale.contract.stage_settings import BETWEEN_PROCESSES, ModelSettings
from nascale.progressive.data_size import training_samples
from nascale.progressive.generation.grid import batches, combine, hardware_settings, hardwares
from nascale.progressive.generation.problem import (
    GenerationProblem,
    Growth,
    Optimize,
    QualityFloor,
    Ramp,
    Risk,
    faults,
)
from nascale.progressive.schedule import pod_limits, runs_built_in_trainer, schedule_faults
from nascale.progressive.settings import parameter_value, stage_order
from nascale.reconcile import pod_parts
from nascale.search.problem import Direction

LAST_STAGE: Final = "final"
_FIELD: Final = "spec.schedule.generate"
_HARDWARE_FIELDS: Final = (
    "precision",
    "matmul_precision",
    "compilation",
    "memory_format",
    "gradient_checkpointing",
    "accumulation",
    "threads",
    *BETWEEN_PROCESSES,
)


def constant_recipe(spec: ProgressiveTrainingSpec) -> ProgressiveTrainingSpec:
    """Return the spec with one stage in place of a schedule: the settings of its defaults throughout."""
    return spec.model_copy(update={"stages": (TrainingStage(name=LAST_STAGE),)})


def with_generated_stages(training: ProgressiveTraining) -> ProgressiveTraining:
    """Return a training whose spec has the stages that were generated for it, where there are some.

    Its length in optimizer steps counts at the batch of the defaults, whatever the first stage's is.
    """
    generated = training.status.generated
    if training.spec.schedule is None or generated is None or not generated.stages:
        return training
    spec, update = training.spec, dict[str, Any](stages=generated.stages)
    length, unit = parts(spec.length)
    if unit is SpanUnit.BATCHES:
        batch = stage_order(spec, TrainingStage(name=LAST_STAGE)).model.global_batch
        update["length"] = f"{int(length * batch)}sp"
    return training.model_copy(update={"spec": spec.model_copy(update=update)})


def generation_faults(spec: ProgressiveTrainingSpec, architecture: Architecture | None) -> tuple[str, ...]:
    """Return everything that is wrong with a spec whose schedule is to be generated.

    Args:
        spec: The spec.
        architecture: The network; ``None``: not known yet, or the user's own container builds it.
    """
    if spec.schedule is None:
        return (f"{_FIELD}: must be set where there are no stages",)
    found = list(schedule_faults(constant_recipe(spec), architecture))
    if found:
        return tuple(found)
    try:
        problem = generation_problem(spec, architecture)
    except (ContractError, ValueError) as error:
        return (f"{_FIELD}: {error}",)
    own = spec.schedule.generate
    unset = _generated_model(own).resolution is not None and problem.base.model.resolution is None
    if unset and (architecture is not None or not runs_built_in_trainer(spec.pod_template)):
        return ("spec.defaults.model.resolution: must be set where the resolution is to grow",)
    found = [
        *_own_faults(own, problem),
        *_thread_faults(spec, own, problem),
        *_group_faults(spec, own, problem),
        *faults(problem),
    ]
    return tuple(f"{_FIELD}.{fault}" for fault in found)


def generation_problem(spec: ProgressiveTrainingSpec, architecture: Architecture | None) -> GenerationProblem:
    """Translate a spec.

    Raises:
        ScheduleError: a setting of the defaults is out of its range.
        ValueError: the spec has no ``schedule``, or a length that can't be.
    """
    if spec.schedule is None:
        raise ValueError(f"{_FIELD}: must be set")
    own = spec.schedule.generate
    base = _base(spec, architecture)
    samples = training_samples(spec)
    length, epochs = _length(spec, base, samples)
    ranges = own.hardware or HardwareRanges()
    return GenerationProblem(
        base=base,
        length=length,
        epochs=epochs,
        growing=tuple(_growing(_generated_model(own), base.model)),
        batches=_generated_model(own).global_batch or (),
        ramps=tuple(_ramps(_generated_model(own))),
        hardware=hardware_settings(base.hardware, _hardware_ranges(ranges)),
        most_micro_batch=_most_micro_batch(spec, ranges),
        stages=None if own.stages == AUTO else int(own.stages),
        final_share=float(own.final_share),
        optimize=Optimize(own.optimize.value),
        batch_rule=spec.optimizer.batch_rule,
        learning_rate_course=spec.optimizer.course,
        warm_up=float(spec.optimizer.warm_up),
        allowed_late=frozenset(Risk(entry.value) for entry in own.allow_late),
        fixed_hardware=own.hardware_settings is SettingsSource.FIXED,
        fixed_model=own.model_settings is SettingsSource.FIXED,
        most_deviation=float(own.profile.max_loss_deviation),
        max_trials=own.profile.max_trials,
        per_batch=own.profile.trials_per_pod * own.profile.parallel_trials,
        evaluation_every=_evaluation_every(spec, samples, length),
        quality_floor=None if own.quality_floor is None else _floor(own.quality_floor),
        devices_per_worker=pod_parts.devices(pod_parts.stage_resources(spec, base)),
        seed=spec.seed,
    )


def _generated_model(own: Generation) -> ModelRanges:
    return own.model or ModelRanges()


def _base(spec: ProgressiveTrainingSpec, architecture: Architecture | None) -> StageOrder:
    base = stage_order(spec, TrainingStage(name=LAST_STAGE))
    if base.model.resolution is not None or architecture is None:
        return base
    model = base.model.model_copy(update={"resolution": architecture.resolution})
    return base.model_copy(update={"model": model})


def _length(
    spec: ProgressiveTrainingSpec, base: StageOrder, samples: int | None
) -> tuple[int | None, float | None]:
    value, unit = parts(spec.length)
    if unit is SpanUnit.EPOCHS and samples is None:
        return None, float(value)
    batch = base.model.global_batch
    return samples_of(spec.length, samples_per_epoch=samples or 1, batch=batch, whole=None), None


def _evaluation_every(spec: ProgressiveTrainingSpec, samples: int | None, length: int | None) -> int | None:
    unit = parts(spec.evaluation.every).unit
    # An optimizer step has another size in each stage: their evaluations are not foreseen.
    if unit is SpanUnit.BATCHES or (unit is SpanUnit.EPOCHS and samples is None):
        return None
    if unit is SpanUnit.FRACTION and length is None:
        return None
    return samples_of(spec.evaluation.every, samples_per_epoch=samples or 1, batch=1, whole=length)


def _growing(ranges: ModelRanges, base: ModelSettings) -> Iterator[Growth]:
    """Yield what grows; the value of the defaults ends each range."""
    sides = ranges.resolution
    if ranges.resolution_range is not None:
        steps = ranges.resolution_range
        sides = tuple(range(steps.min, steps.max + 1, steps.step))
    if sides is not None and base.resolution is not None:
        yield Growth("resolution", _ended(sides, base.resolution))
    if ranges.depth is not None:
        yield Growth("depth", _ended(tuple(float(text) for text in ranges.depth), base.depth))
    for own in ranges.parameters or ():
        values = tuple(parameter_value(text) for text in own.values)
        full = base.parameters.get(own.name)
        yield Growth(own.name, values if full is None else _ended(values, full), own=True)


def _ended(values: tuple[Any, ...], full: Any) -> tuple[Any, ...]:
    return values if full in values else (*values, full)


def _ramps(ranges: ModelRanges) -> Iterator[Ramp]:
    first = ranges.regularization
    if first is None:
        return
    for name in type(first).model_fields:
        value = getattr(first, name)
        if value is not None:
            yield Ramp(name, float(value))


def _hardware_ranges(ranges: HardwareRanges) -> Mapping[str, tuple[Any, ...]]:
    stated = {name: getattr(ranges, name) for name in _HARDWARE_FIELDS}
    return {name: values for name, values in stated.items() if values}


def _most_micro_batch(spec: ProgressiveTrainingSpec, ranges: HardwareRanges) -> int | None:
    if ranges.accumulation is not None:
        return None
    own = spec.defaults.hardware
    return ranges.max_micro_batch or (None if own is None else own.max_micro_batch)


def _floor(floor: ScheduleFloor) -> QualityFloor:
    goal = floor.goal or (Goal.MAXIMIZE if floor.at_most is None else Goal.MINIMIZE)
    bound = floor.at_least if floor.at_least is not None else floor.at_most
    return QualityFloor(
        metric=floor.metric,
        direction=Direction(goal.value),
        bound=None if bound is None else float(bound),
        within=None if floor.within_of_constant is None else float(floor.within_of_constant),
    )


def _thread_faults(
    spec: ProgressiveTrainingSpec, own: Generation, problem: GenerationProblem
) -> Iterator[str]:
    """Say where a pod's processes would have more threads than it has processors.

    More threads than that only wait for each other: a range that holds them is a slip, or belongs to another
    template. A part of a processor counts as one.
    """
    limit = pod_limits(spec).get("cpu")
    ranges = own.hardware or HardwareRanges()
    threads = ranges.threads or ()
    if limit is None or not threads or problem.fixed_hardware:
        return
    processes = min(ranges.processes_per_worker or (problem.base.hardware.processes_per_worker,))
    most = max(1, math.ceil(limit) // processes)
    shared = "" if processes == 1 else f" for {processes} processes"
    for value in threads:
        if value > most:
            yield (
                f"hardware.threads: must be at most {most}: podTemplate and placement limit each pod to "
                f"{limit.normalize():f} CPUs{shared}, not {value}"
            )


def _own_faults(own: Generation, problem: GenerationProblem) -> Iterator[str]:
    """Say what an older CRD may have let through."""
    if own.optimize.value == Optimize.ENERGY.value and own.energy_query is None:
        yield "energyQuery: must be set where optimize is Energy"
    if own.quality_floor is not None and own.proxy is None:
        yield "proxy: must be set where qualityFloor is: quality is measured by proxies"
    if problem.fixed_hardware and problem.fixed_model:
        yield "must be Generated for at least one of modelSettings, hardwareSettings"
    for name in ("resolution", "depth"):
        full = getattr(problem.base.model, name)
        for growth in problem.growing:
            if growth.name == name and full is not None and max(growth.values) > full:
                most = max(growth.values)
                yield f"model.{name}: must be at most that of the defaults ({full:g}), not {most:g}"


def _group_faults(
    spec: ProgressiveTrainingSpec, own: Generation, problem: GenerationProblem
) -> Iterator[str]:
    """Say which workers, processes and ways to talk can't be, or would mean nothing."""
    ranges, settings = own.hardware or HardwareRanges(), hardwares(problem)
    gpus = pod_parts.gpus(pod_parts.stage_resources(spec, problem.base))
    most = max(ranges.processes_per_worker or (1,))
    if gpus and most > gpus:
        yield f"hardware.processesPerWorker: must be at most the GPUs of each pod, {gpus}, not {most}"
    sizes = batches(problem)
    models = [problem.base.model.model_copy(update={"global_batch": batch}) for batch in sizes]
    for name in ("workers", "processes_per_worker"):
        for value in getattr(ranges, name) or ():
            sharing = [entry for entry in settings if getattr(entry, name) == value]
            if sharing and not any(combine(problem, model, entry) for model in models for entry in sharing):
                listed = ", ".join(str(batch) for batch in sizes)
                field = f"hardware.{to_camel(name)}"
                yield f"{field}: must divide one of the global batches ({listed}), not {value}"
    if all(entry.world == 1 for entry in settings):
        for name in ("parallelism", "communication_hook"):
            if getattr(ranges, name):
                yield (
                    f"hardware.{to_camel(name)}: must be left out where one process trains alone: "
                    "workers or processesPerWorker must have 2 or more"
                )
