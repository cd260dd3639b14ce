"""Trials of a training that is to be generated: settings as parameters, and back as records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic.alias_generators import to_camel, to_snake

from nascale.api.trial import TrialOutcome, TrialPurpose
from nascale.contract.metric_names import PEAK_MEMORY, TRAINING_THROUGHPUT
from nascale.contract.profile_order import (
    EPOCH_SAMPLES,
    LOSS_DEVIATION,
    NON_FINITE_LOSS,
    SETTLE,
    START,
    STEP_P50,
    STEP_SPREAD,
)
from nascale.contract.stage_settings import BETWEEN_PROCESSES, HardwareSettings, ModelSettings
from nascale.progressive.generation.problem import (
    Combination,
    GenerationProblem,
    ProfileRecord,
    ProxyRecord,
)
from nascale.progressive.settings import parameter_value
from nascale.reconcile.owner_context import STATES
from nascale.reconcile.snapshot import TrialView
from nascale.reconcile.training_revisions import Schedule
from nascale.reconcile.training_schedule import OWN_PARAMETER, digest

POWER: Final = "power_watts"
"""Mean power while a trial was measured, watts: what ``energyQuery`` yields."""
GUARDED: Final = "guarded"
"""Parameter: whether the settings are also tried against those of the defaults for their loss."""
SCHEDULE: Final = "schedule"
"""Parameter of a proxy: name of the candidate."""
DIGEST: Final = "digest"
"""Parameter of a proxy: digest of the candidate's stages."""
_MODEL: Final = ("resolution", "depth", "global_batch")
_HARDWARE: Final = (
    "precision",
    "matmul_precision",
    "compilation",
    "memory_format",
    "gradient_checkpointing",
    "accumulation",
    "threads",
)
_WHOLE: Final = frozenset(
    {"resolution", "global_batch", "accumulation", "threads", "workers", "processes_per_worker"}
)

Parameters = tuple[tuple[str, str], ...]


def settings_as_parameters(combination: Combination, base: HardwareSettings, *, guarded: bool) -> Parameters:
    """Return the settings that are measured as a trial's parameters, by the names that the spec uses.

    Args:
        combination: The settings.
        base: Hardware-level settings of the constant recipe.
        guarded: Whether they are also tried for their loss.
    """
    model, hardware = combination.model, combination.hardware
    texts = {name: getattr(model, name) for name in _MODEL}
    texts |= {name: getattr(hardware, name) for name in _HARDWARE}
    # Stated where they are other ones than the constant recipe's.
    between = {name: getattr(hardware, name) for name in BETWEEN_PROCESSES}
    texts |= {name: value for name, value in between.items() if value != getattr(base, name)}
    written = {to_camel(name): _text(value) for name, value in texts.items() if value is not None}
    written |= {f"{OWN_PARAMETER}{name}": _text(value) for name, value in model.parameters.items()}
    if guarded:
        written[GUARDED] = "true"
    return tuple(sorted(written.items()))


def combination_of(problem: GenerationProblem, parameters: Mapping[str, str]) -> Combination | None:
    """Return the settings of a trial's parameters; ``None`` where they are not some of this training's.

    What they don't state is that of the constant recipe.
    """
    model, hardware = dict[str, Any](), dict[str, Any]()
    own = dict(problem.base.model.parameters)
    for key, text in parameters.items():
        name = to_snake(key)
        if key.startswith(OWN_PARAMETER):
            own[key.removeprefix(OWN_PARAMETER)] = parameter_value(text)
        elif name in _MODEL:
            model[name] = text
        elif name in _HARDWARE or name in BETWEEN_PROCESSES:
            hardware[name] = text
        elif key != GUARDED:
            return None
    try:
        return Combination(
            ModelSettings.model_validate(
                {**problem.base.model.model_dump(), **_read(model), "parameters": own}
            ),
            HardwareSettings.model_validate({**problem.base.hardware.model_dump(), **_read(hardware)}),
        )
    except (ValidationError, ValueError):
        return None


def profile_records(problem: GenerationProblem, trials: Iterable[TrialView]) -> list[ProfileRecord]:
    """Return the measurements of a training, by index."""
    found = [profile_record(problem, view) for view in trials if view.purpose is TrialPurpose.PROFILE]
    return [record for record in found if record is not None]


def profile_record(problem: GenerationProblem, view: TrialView) -> ProfileRecord | None:
    """Return a measurement as the generator sees it; ``None`` where it is none of this training's."""
    combination = combination_of(problem, dict(view.parameters))
    if combination is None:
        return None
    values = {entry.name: float(entry.value) for entry in view.status.metrics}
    step, power, samples = _step_seconds(combination, values), values.get(POWER), values.get(EPOCH_SAMPLES)
    energy = None
    if step is not None and power is not None:
        energy = power * step / combination.model.global_batch
    return ProfileRecord(
        model=combination.model,
        hardware=combination.hardware,
        state=STATES[view.outcome],
        step_seconds=step or 0.0,
        step_spread=values.get(STEP_SPREAD),
        settle_seconds=values.get(SETTLE),
        start_seconds=values.get(START),
        pod_seconds=_pod_seconds(view),
        peak_memory=values.get(PEAK_MEMORY),
        epoch_samples=None if samples is None else int(samples),
        loss_deviation=_loss_deviation(view, values),
        energy_per_sample=energy,
        reason=reason_of(view),
    )


def _step_seconds(own: Combination, values: Mapping[str, float]) -> float | None:
    """Return the mean step: a training's time is a sum, and a loader that is often late shows in it."""
    rate = values.get(TRAINING_THROUGHPUT)
    return own.model.global_batch / rate if rate is not None and rate > 0 else values.get(STEP_P50)


def _loss_deviation(view: TrialView, values: Mapping[str, float]) -> float | None:
    """Return by how much guarded settings have moved the loss; a loss that is no number is out of bounds."""
    lost = view.outcome is TrialOutcome.INFEASIBLE and reason_of(view).partition(":")[0] == NON_FINITE_LOSS
    return math.inf if lost and GUARDED in dict(view.parameters) else values.get(LOSS_DEVIATION)


def _pod_seconds(view: TrialView) -> float | None:
    """Return how long a trial has waited for its pods; one that shares them or is repeated says nothing."""
    started = view.status.start_time
    if started is None or view.index != view.lead or view.status.attempt > 0:
        return None
    return max(0.0, (started - view.created).total_seconds())


def proxy_parameters(name: str, stages: Schedule) -> Parameters:
    """Return the parameters of the trial that tries a candidate schedule."""
    return ((DIGEST, digest(stages)), (SCHEDULE, name))


def proxy_records(trials: Iterable[TrialView]) -> list[ProxyRecord]:
    """Return the candidate schedules that have been tried, or are."""
    found: list[ProxyRecord] = []
    for view in trials:
        name = dict(view.parameters).get(SCHEDULE)
        if view.purpose is TrialPurpose.PROXY and name is not None:
            values = {entry.name: float(entry.value) for entry in view.status.metrics}
            found.append(ProxyRecord(name, STATES[view.outcome], values))
    return found


def device_seconds(trials: Iterable[TrialView], purpose: TrialPurpose) -> int:
    """Return the time that trials of one purpose held their devices, seconds."""
    return sum(view.status.device_seconds for view in trials if view.purpose is purpose)


def reason_of(view: TrialView) -> str:
    """Return why a trial has not succeeded, its word and its sentence; empty: it has, or goes on."""
    said = next((entry for entry in view.status.conditions if entry.type == "Ended"), None)
    if said is None or view.outcome in (None, TrialOutcome.SUCCEEDED):
        return ""
    return f"{said.reason}: {said.message}" if said.message else said.reason


def _text(value: object) -> str:
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


def _read(texts: Mapping[str, str]) -> dict[str, Any]:
    return {name: int(text) if name in _WHOLE else text for name, text in texts.items()}
