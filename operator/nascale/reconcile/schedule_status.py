"""``status.generated``: what was measured, the chosen schedule with its table, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic.alias_generators import to_camel

from nascale.api.architecture_search import ParameterSetting
from nascale.api.generated_schedule import (
    LONGEST_LEFT_OUT,
    MAX_ALTERNATIVES,
    MAX_LEFT_OUT,
    MAX_SETTINGS_OF_A_STAGE,
    AlternativeSchedule,
    GeneratedSchedule,
    GenerationActivity,
    PlannedStage,
)
from nascale.api.stages import (
    CommunicationVariable,
    ModelParameter,
    Plateau,
    StageEnd,
    StageHardware,
    StageModel,
    TrainingStage,
)
from nascale.api.trial import DeviceUsed, TrialPurpose
from nascale.contract.run_order import Goal, StageOrder
from nascale.contract.stage_settings import HardwareSettings, ModelSettings
from nascale.progressive.generation.choice import Choice
from nascale.progressive.generation.feasibility import LeftOut
from nascale.progressive.generation.grid import make_grid
from nascale.progressive.generation.prediction import SchedulePrediction, StagePrediction
from nascale.progressive.settings import DECIMAL_SETTINGS
from nascale.reconcile.conditions import shortened
from nascale.reconcile.decimals import rounded_text
from nascale.reconcile.schedule_context import ScheduleContext
from nascale.reconcile.schedule_reuse import Profile
from nascale.reconcile.schedule_trials import device_seconds
from nascale.reconcile.snapshot import TrialView
from nascale.reconcile.training_schedule import OWN_PARAMETER

DIGITS: Final = 6
LONGEST_REASON: Final = 1024
_LONGEST_NAME: Final = 63
_PLATEAU_EVALUATIONS: Final = 2
_PLATEAU_CHANGE: Final = "0.002"


def measured(
    context: ScheduleContext,
    trials: Sequence[TrialView],
    activity: GenerationActivity,
    *,
    grid_size: int,
    profile: Profile,
) -> GeneratedSchedule:
    """Return what is known before there is a schedule.

    Args:
        context: The training.
        trials: All its trials, as they will be.
        activity: What is done.
        grid_size: Combinations that the ranges allow; 0: not looked at.
        profile: What is known of the device.
    """
    old = context.training.status.generated
    ended = [view for view in trials if view.purpose is TrialPurpose.PROFILE and view.outcome is not None]
    return GeneratedSchedule(
        activity=activity,
        measured=len(ended),
        max_measured=context.problem.max_trials,
        grid_size=grid_size or (0 if old is None else old.grid_size) or make_grid(context.problem).size,
        reused=profile.reused,
        taken_over=profile.taken,
        not_reused=shortened(profile.refusal, LONGEST_REASON) or None,
        profile_device_seconds=device_seconds(trials, TrialPurpose.PROFILE),
        proxy_device_seconds=device_seconds(trials, TrialPurpose.PROXY),
        device=device_of(trials),
    )


def device_of(trials: Sequence[TrialView]) -> DeviceUsed | None:
    """Return the device of the first measurement that names one; clocks differ from look to look."""
    for view in trials:
        if view.purpose is TrialPurpose.PROFILE and view.status.device is not None:
            return view.status.device.model_copy(update={"clock_megahertz": None})
    return None


def planned(
    before: GeneratedSchedule,
    context: ScheduleContext,
    choice: Choice,
    *,
    plan: int,
    qualities: Mapping[str, float] | None = None,
) -> GeneratedSchedule:
    """Return what is known once there is a schedule.

    Args:
        before: What is known of the measurements.
        context: The training.
        choice: The schedule, and the other candidates.
        plan: Number of the plan.
        qualities: What proxies have reached, by candidate.
    """
    prediction = choice.candidate.prediction
    base = context.problem.base
    update: dict[str, Any] = {
        "activity": GenerationActivity.PLANNED,
        "plan": plan,
        "prediction_error": None if choice.error is None else _text(choice.error.median),
        "candidate": choice.candidate.name[:_LONGEST_NAME],
        "seconds": _text(prediction.seconds),
        "constant_seconds": None if choice.recipe is None else _text(choice.recipe.seconds),
        "reason": shortened(choice.reason, LONGEST_REASON),
        "left_out": tuple(_left_out(own) for own in choice.left_out)[:MAX_LEFT_OUT],
        "table": table(base, prediction),
        "alternatives": _alternatives(choice, qualities or {}),
        "stages": as_spec_stages(context, choice.candidate.stages),
    }
    return before.model_copy(update=update)


def table(base: StageOrder, prediction: SchedulePrediction) -> tuple[PlannedStage, ...]:
    """Return the predicted time of each stage; shares are percent of the whole."""
    return tuple(_row(base, row) for row in prediction.stages)


def _row(base: StageOrder, row: StagePrediction) -> PlannedStage:
    return PlannedStage(
        name=row.stage.name,
        settings=_differing(base, row.stage),
        throughput=_text(row.throughput),
        seconds=_text(row.seconds),
        switch_seconds=_text(row.switch_seconds),
        share_percentage=min(100, round(100 * row.share)),
    )


def _alternatives(choice: Choice, qualities: Mapping[str, float]) -> tuple[AlternativeSchedule, ...]:
    found: dict[str, AlternativeSchedule] = {}
    for candidate, _ in choice.alternatives:
        name = candidate.name[:_LONGEST_NAME]
        quality = qualities.get(candidate.name)
        found.setdefault(
            name,
            AlternativeSchedule(
                name=name,
                seconds=_text(candidate.prediction.seconds),
                quality=None if quality is None else _text(quality),
            ),
        )
    return tuple(found.values())[:MAX_ALTERNATIVES]


def _left_out(own: LeftOut) -> str:
    """Name settings as the spec does, and say why they are not used."""
    settings = ", ".join(f"{to_camel(name)} {value}" for name, value in own.settings)
    return shortened(f"{settings}: {own.reason}", LONGEST_LEFT_OUT)


def _differing(base: StageOrder, stage: StageOrder) -> tuple[ParameterSetting, ...]:
    """Return the settings in which a stage differs from the constant recipe."""
    texts: dict[str, str] = {}
    for name, value in (*_changed(base.model, stage.model), *_changed(base.hardware, stage.hardware)):
        if name == "parameters":
            texts |= {f"{OWN_PARAMETER}{key}"[:_LONGEST_NAME]: str(own) for key, own in value.items()}
        elif not isinstance(value, Mapping):
            texts[to_camel(name)] = _setting(value)
    named = sorted(texts.items())[:MAX_SETTINGS_OF_A_STAGE]
    return tuple(ParameterSetting(name=name, value=value) for name, value in named)


def _changed(
    base: ModelSettings | HardwareSettings, own: ModelSettings | HardwareSettings
) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in own if getattr(base, name) != value]


def as_spec_stages(context: ScheduleContext, stages: Sequence[StageOrder]) -> tuple[TrainingStage, ...]:
    """Return stages in the form of ``spec.stages``; where stages adapt, a plateau ends all but the last."""
    until = _plateau(context) if context.generation.adapt else None
    found = [as_spec_stage(context, stage) for stage in stages]
    return (*(own.model_copy(update={"until": until}) for own in found[:-1]), *found[-1:])


def _plateau(context: ScheduleContext) -> StageEnd:
    own = context.generation.plateau
    if own is not None:
        return StageEnd(plateau=own)
    goal = Goal(context.quality_direction.value)
    metric, evaluations = context.quality_metric, _PLATEAU_EVALUATIONS
    return StageEnd(
        plateau=Plateau(metric=metric, goal=goal, evaluations=evaluations, min_change=_PLATEAU_CHANGE)
    )


def as_spec_stage(context: ScheduleContext, stage: StageOrder) -> TrainingStage:
    """Return a stage in the form of ``spec.stages``: what it has otherwise than the defaults.

    Copied into another training with the same defaults it means the same.
    """
    base = context.problem.base
    model: dict[str, Any] = {}
    for name, value in _changed(base.model, stage.model):
        if name == "parameters":
            model[name] = tuple(ModelParameter(name=key, value=_setting(own)) for key, own in value.items())
        else:
            model[name] = _setting(value) if name in DECIMAL_SETTINGS else value
    hardware: dict[str, Any] = {}
    for name, value in _changed(base.hardware, stage.hardware):
        if name == "environment":
            hardware[name] = tuple(CommunicationVariable(name=key, value=own) for key, own in value.items())
        else:
            hardware[name] = value
    if _divided_by_limit(context) and stage.hardware.accumulation == base.hardware.accumulation:
        # Where the defaults state a largest micro-batch, leaving it out would mean another division.
        hardware["accumulation"] = stage.hardware.accumulation
    return TrainingStage(
        name=stage.name,
        length=stage.length,
        model=StageModel(**model) if model else None,
        hardware=StageHardware(**hardware) if hardware else None,
    )


def _divided_by_limit(context: ScheduleContext) -> bool:
    own = context.training.spec.defaults.hardware
    return own is not None and own.max_micro_batch is not None


def _setting(value: object) -> str:
    if isinstance(value, float):
        # The API's shares have nine digits.
        return f"{value:.9f}".rstrip("0").rstrip(".")
    return str(value)


def _text(value: float) -> str:
    """Write a figure with as many digits as are worth reading."""
    return rounded_text(value, DIGITS)
