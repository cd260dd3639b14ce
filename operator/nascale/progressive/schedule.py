"""What makes a schedule impossible, found before a pod is made; and what makes its end doubtful.

The API server refuses some of it already (CEL); what depends on several stages, on defaults or on the network
is found here. What depends on the size of data that the operator can't read is left to the trainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Final

from nascale.api.pod_template import Resources, TrialTemplate
from nascale.api.progressive_training import ProgressiveTrainingSpec
from nascale.api.quantity import parse_quantity
from nascale.api.stages import COMMUNICATION_PREFIXES
from nascale.contract.architecture import Architecture
from nascale.contract.run_order import StageOrder
from nascale.contract.schedule import ScheduleError, resolve
from nascale.contract.spans import SpanUnit, parts
from nascale.contract.stage_settings import (
    QUALITY_SAFE_PRECISIONS,
    CommunicationHook,
    Parallelism,
    micro_batch,
)
from nascale.progressive.data_size import training_samples
from nascale.progressive.settings import stage_orders

__all__ = ["pod_limits", "quality_warnings", "runs_built_in_trainer", "schedule_faults", "stage_orders"]

LARGEST_DEVIATION: Final = Decimal("0.001")
"""Relative difference of the stages' sum from the whole that rounding of written shares may leave."""


def schedule_faults(
    spec: ProgressiveTrainingSpec,
    architecture: Architecture | None = None,
    samples_per_epoch: int | None = None,
) -> tuple[str, ...]:
    """Return everything that is wrong with a spec, each with field, value and allowed range.

    Args:
        spec: The spec.
        architecture: The network; ``None``: not known yet, or the user's own container builds it.
        samples_per_epoch: Size of the training part; ``None``: that of an embedded data set, where it is one.
    """
    found = [*_parts_faults(spec), *_stage_faults(spec)]
    try:
        stages = stage_orders(spec)
    except ScheduleError as error:
        return (*found, str(error))
    for place, stage in enumerate(stages):
        field = f"spec.stages[{place}] ({stage.name})"
        found += [f"{field}: {fault}" for fault in _settings_faults(stage)]
        found += [f"{field}: {fault}" for fault in _resource_faults(spec, stage)]
        if architecture is not None:
            found += [f"{field}: {fault}" for fault in _resolution_faults(stage, architecture)]
    known = training_samples(spec) if samples_per_epoch is None else samples_per_epoch
    return tuple(found) or tuple(_length_faults(spec, stages, known))


def quality_warnings(
    stages: Sequence[StageOrder], architecture: Architecture | None = None
) -> tuple[str, ...]:
    """Say what in the last stage may cost the result quality; none: its settings are quality-safe."""
    last, field = stages[-1], f"spec.stages[{len(stages) - 1}] ({stages[-1].name})"
    found: list[str] = []
    if last.hardware.precision not in QUALITY_SAFE_PRECISIONS:
        safe = ", ".join(sorted(QUALITY_SAFE_PRECISIONS))
        found.append(
            f"{field}: hardware.precision: should be one of {safe} in the last stage, "
            f"not {last.hardware.precision.value}"
        )
    if last.hardware.communication_hook is CommunicationHook.FP16 and last.hardware.world > 1:
        found.append(f"{field}: hardware.communicationHook: should not be FP16 in the last stage")
    if last.model.depth < 1:
        found.append(
            f"{field}: model.depth: should be 1 in the last stage, not {last.model.depth:g}: "
            "blocks would stay untrained"
        )
    own = None if architecture is None else architecture.resolution
    if own is not None and last.model.resolution is not None and last.model.resolution < own:
        found.append(
            f"{field}: model.resolution: should be at least the network's own, {own} pixels, in the last "
            f"stage, not {last.model.resolution}"
        )
    return tuple(found)


def runs_built_in_trainer(template: TrialTemplate) -> bool:
    """Say whether pods of this template run the built-in trainer."""
    return template.image is None and template.command is None


def _parts_faults(spec: ProgressiveTrainingSpec) -> Iterator[str]:
    """Say what is wrong between the spec's parts, in case an older CRD let it through."""
    model, built_in = spec.model, runs_built_in_trainer(spec.pod_template)
    given = [part for part in (model.search_name, model.member, model.architecture, model.parameters) if part]
    if len(given) != 1:
        yield (
            "spec.model: must have exactly one of searchName, member, architecture, parameters, "
            f"not {len(given)}"
        )
    own_container = "unless podTemplate has an image or a command of its own"
    if built_in and model.parameters:
        yield f"spec.model: must be searchName, member or architecture, not parameters, {own_container}"
    data = spec.training_data
    if built_in and data is None:
        yield f"spec.trainingData: must be set, {own_container}"
    if data is not None:
        sources = [kind for kind in (data.embedded, data.folder, data.volume_claim) if kind is not None]
        if len(sources) != 1:
            yield (
                "spec.trainingData: must have exactly one of embedded, folder, volumeClaim, "
                f"not {len(sources)}"
            )
        if not 0 < float(data.validation_fraction) < 1:
            yield (
                "spec.trainingData.validationFraction: must be above 0 and below 1, "
                f"not {data.validation_fraction}"
            )
    settings = [spec.defaults.model, *(stage.model for stage in spec.stages)]
    if built_in and any(own is not None and own.parameters for own in settings):
        yield f"spec.stages: must not have model.parameters, {own_container}"
    if parts(spec.length).unit is SpanUnit.FRACTION:
        yield f"spec.length: must have the unit ep, sp or ba, not {spec.length}"


def _stage_faults(spec: ProgressiveTrainingSpec) -> Iterator[str]:
    """Say what is wrong with stages as they are written."""
    stages = spec.stages
    names = [stage.name for stage in stages]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"spec.stages: must have each name once, not {name} {names.count(name)} times"
    for place, stage in enumerate(stages):
        field = f"spec.stages[{place}] ({stage.name})"
        if stage.length is None and place < len(stages) - 1:
            yield f"{field}: length: must be given for every stage but the last one"
        if stage.until is None:
            continue
        if stage.length is None:
            yield f"{field}: length: must be given beside until: a metric may never get there"
        ends = (stage.until.metric, stage.until.plateau, stage.until.query)
        if sum(end is not None for end in ends) != 1:
            yield f"{field}: until: must have exactly one of metric, plateau, query"
        reached = stage.until.metric
        if reached is not None and (reached.at_least is None) == (reached.at_most is None):
            yield f"{field}: until.metric: must have exactly one of atLeast, atMost"


def _settings_faults(stage: StageOrder) -> Iterator[str]:
    model, hardware = stage.model, stage.hardware
    if micro_batch(model, hardware) is None:
        yield (
            f"model.globalBatch: must be a multiple of {hardware.accumulation * hardware.world} "
            f"({hardware.workers} workers times {hardware.processes_per_worker} processes times "
            f"accumulation {hardware.accumulation}), not {model.global_batch}"
        )
    for name in hardware.environment:
        if not name.startswith(COMMUNICATION_PREFIXES):
            yield (
                f"hardware.environment: must have names that start with one of "
                f"{', '.join(COMMUNICATION_PREFIXES)}, not {name}"
            )
    hook = hardware.communication_hook
    if hardware.world > 1 and hardware.parallelism is Parallelism.FSDP and hook is not CommunicationHook.NONE:
        yield f"hardware.communicationHook: must be None with parallelism FSDP, not {hook.value}"


def _resolution_faults(stage: StageOrder, architecture: Architecture) -> Iterator[str]:
    side = stage.model.resolution
    if side is not None and side < architecture.total_stride:
        yield (
            f"model.resolution: must be at least the network's total stride, {architecture.total_stride} "
            f"pixels, not {side}"
        )


def _resource_faults(spec: ProgressiveTrainingSpec, stage: StageOrder) -> Iterator[str]:
    """Say where a stage asks for more than the template allows, or has more processes than GPUs."""
    limits = pod_limits(spec)
    for name, text in stage.hardware.resources.items():
        wanted = _quantity(text)
        if wanted is None:
            yield f"hardware.resources: must have quantities such as 500m or 4Gi, not {text} for {name}"
        elif name in limits and wanted > limits[name]:
            yield (
                f"hardware.resources: must be at most the limit of podTemplate and placement for {name}, "
                f"{limits[name].normalize():f}, not {text}"
            )
        else:
            limits[name] = wanted
    gpus = sum(count for name, count in limits.items() if name.endswith("/gpu"))
    if gpus and stage.hardware.processes_per_worker > gpus:
        yield (
            f"hardware.processesPerWorker: must be at most the GPUs of each pod, {gpus.normalize():f}, "
            f"not {stage.hardware.processes_per_worker}"
        )


def pod_limits(spec: ProgressiveTrainingSpec) -> dict[str, Decimal]:
    """Return what each pod may use at most, by resource, where template or placement say it."""
    return _limits(spec.pod_template.resources) | _limits(spec.placement.resources)


def _limits(resources: Resources) -> dict[str, Decimal]:
    devices = {name: text for name, text in resources.requests.items() if name.endswith("/gpu")}
    read = {name: _quantity(text) for name, text in {**devices, **resources.limits}.items()}
    return {name: value for name, value in read.items() if value is not None}


def _quantity(text: str) -> Decimal | None:
    try:
        return parse_quantity(text)
    except ValueError:
        return None


def _length_faults(
    spec: ProgressiveTrainingSpec, stages: Sequence[StageOrder], samples_per_epoch: int | None
) -> Iterator[str]:
    """Say where lengths don't sum to the whole, as far as that can be told without the data."""
    spans = [spec.length, *(stage.length for stage in stages if stage.length is not None)]
    in_epochs = any(parts(span).unit is SpanUnit.EPOCHS for span in spans)
    if samples_per_epoch is not None or not in_epochs:
        try:
            resolve(spec.length, stages, samples_per_epoch or 1)
        except ScheduleError as error:
            yield f"spec.{error}"
        return
    yield from _relative_faults(spec.length, [stage.length for stage in stages])


def _relative_faults(length: str, lengths: Sequence[str | None]) -> Iterator[str]:
    """Compare epochs and shares of a length in epochs; with any other unit among them nothing is said."""
    whole = parts(length)
    each: Mapping[SpanUnit, Decimal] = {SpanUnit.EPOCHS: Decimal(1), SpanUnit.FRACTION: whole.value}
    given = [parts(span) for span in lengths if span is not None]
    if whole.unit is not SpanUnit.EPOCHS or any(span.unit not in each for span in given):
        return
    total = sum((span.value * each[span.unit] for span in given), Decimal(0))
    if len(given) < len(lengths):
        if total >= whole.value:
            yield (
                f"spec.stages[{len(lengths) - 1}].length: must be left something of the {length}, "
                f"but the stages before take {total.normalize():f}ep"
            )
    elif abs(total - whole.value) > whole.value * LARGEST_DEVIATION:
        yield f"spec.stages: lengths must sum to the whole length, {length}, not {total.normalize():f}ep"
