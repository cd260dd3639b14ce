"""``spec.schedule`` of a progressive training: a schedule made for the hardware."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from nascale.api.objectives import MetricText, named
from nascale.api.resource import ApiModel, DecimalText, DnsLabel, RatioText, number_as_text
from nascale.api.rules import EACH_ONCE, Rule, exactly_one_of, guarded
from nascale.api.schedule_ranges import HardwareRanges, ModelRanges
from nascale.api.stages import (
    ABOVE_ZERO_TO_ONE,
    Plateau,
    SpanText,
)
from nascale.contract.run_order import Goal

MAX_GENERATED_STAGES = 8
MAX_PROFILE_TRIALS = 256
AUTO = "Auto"

StageCount = Annotated[
    str,
    BeforeValidator(number_as_text),
    Field(
        pattern=r"^(Auto|[1-8])$",
        max_length=4,
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            **guarded(
                # Patterns and bounds alone let texts and numbers of the other sort pass.
                Rule(
                    cel="type(self) == int ? self >= 1 && self <= 8 : self.matches('^(Auto|[1-8])$')",
                    message=f"must be Auto or from 1 to {MAX_GENERATED_STAGES}",
                )
            ),
        },
    ),
]


class ScheduleGoal(StrEnum):
    """What a generated schedule should have little of."""

    TIME = "Time"
    """Seconds."""
    DEVICE_SECONDS = "DeviceSeconds"
    """Seconds times the devices of all workers, used or not; a pod without GPUs counts as one."""
    ENERGY = "Energy"
    """Joules, by energyQuery."""


class LateSetting(StrEnum):
    """What may cost quality, and is for early stages only unless it is allowed late."""

    LOW_PRECISION = "LowPrecision"
    """A number format that is not quality-safe."""
    COMPRESSED_COMMUNICATION = "CompressedCommunication"
    """Gradients that are rounded on their way between the processes."""
    LARGE_BATCH = "LargeBatch"
    """A larger global batch than that of spec.defaults."""


class SettingsSource(StrEnum):
    """Where a stage's settings of one level come from."""

    GENERATED = "Generated"
    """The generator chooses them from the ranges."""
    FIXED = "Fixed"
    """Every stage has those of spec.defaults."""


class Profile(ApiModel):
    """How settings are measured on the hardware before the training begins."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.trialsPerPod <= 6 || self.trialsPerPod <= self.maxTrials",
            message="must be at most maxTrials",
            path=".trialsPerPod",
        ),
    )

    max_trials: int = Field(default=24, ge=1, le=MAX_PROFILE_TRIALS)
    """Most measurements; the generator stops earlier where it knows enough."""
    trials_per_pod: int = Field(default=6, ge=1, le=64)
    """Measurements that share one pod, one after the other."""
    parallel_trials: int = Field(default=1, ge=1, le=64)
    """Pods, or groups of pods that measure together, at the same time. Those that share a device disturb
    each other."""
    max_failed_trials: int = Field(default=6, ge=0, le=MAX_PROFILE_TRIALS)
    """Trials that may fail by their own error; one more and the training fails."""
    trial_retries: int = Field(default=1, ge=0, le=10)
    """Times that a trial that failed by its own error is run again."""
    trial_deadline_seconds: int = Field(default=3600, ge=1, le=604_800)
    """Longest run of one pod, seconds."""
    min_steps: int = Field(default=20, ge=20, le=100_000)
    """Fewest timed optimizer steps of a measurement."""
    min_milliseconds: int = Field(default=500, ge=0, le=3_600_000)
    """Shortest time of timed optimizer steps, milliseconds."""
    max_spread_ratio: RatioText = Field(default="0.1", json_schema_extra=ABOVE_ZERO_TO_ONE)
    """Widest accepted relative difference between the medians of the last three windows of steps, above 0 to
    1 as text; where it stays wider, the trial fails by its own error."""
    guard_steps: int = Field(default=40, ge=8, le=100_000)
    """Optimizer steps in which low precision and rounded gradients (communicationHook) are compared with the
    settings of the defaults."""
    max_loss_deviation: RatioText = Field(default="0.05", json_schema_extra=ABOVE_ZERO_TO_ONE)
    """Largest relative deviation of the training loss in that comparison with which these may be used,
    above 0 to 1 as text."""


class ScheduleFloor(ApiModel):
    """What a schedule must reach in its proxy: exactly one of atLeast, atMost, withinOfConstant."""

    rules: ClassVar[tuple[Rule, ...]] = (
        exactly_one_of("atLeast", "atMost", "withinOfConstant"),
        Rule(
            cel="""!has(self.goal) || !(has(self.atLeast) && self.goal == 'Minimize'
                || has(self.atMost) && self.goal == 'Maximize')""",
            message="must be Maximize beside atLeast, and Minimize beside atMost",
            path=".goal",
        ),
    )

    metric: MetricText
    """Name of the metric, for example accuracy."""
    goal: Goal | None = None
    """Which way the metric should go; absent: Maximize, beside atMost Minimize."""
    at_least: DecimalText | None = None
    """Smallest acceptable value, in the metric's unit as text."""
    at_most: DecimalText | None = None
    """Largest acceptable value, in the metric's unit as text."""
    within_of_constant: DecimalText | None = Field(
        default=None,
        json_schema_extra=guarded(
            Rule(
                cel="double(self) >= 0.0",
                message="must be 0 or more",
                detail="'must be 0 or more, not ' + self",
            )
        ),
    )
    """Largest loss against the constant settings of spec.defaults over the same length, in the metric's
    unit, 0 or more as text."""


class Proxy(ApiModel):
    """Candidate schedules are trained over a short length, and chosen by time and quality."""

    candidates: int = Field(default=8, ge=2, le=32)
    """Candidates that are trained, the constant settings of spec.defaults among them."""
    length: SpanText = Field(
        json_schema_extra=guarded(
            Rule(
                cel="!self.endsWith('dur')",
                message="must have the unit ep, sp or ba",
                detail="'must have the unit ep, sp or ba, not ' + self",
            )
        )
    )
    """Length of such a training, for example 2ep."""


_VARIES = "(has(self.model) && self.modelSettings == 'Generated')"
_TUNES = "(has(self.hardware) && self.hardwareSettings == 'Generated')"


class Generation(ApiModel):
    """What a schedule is made from: ranges, the number of stages, and what it should have little of."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.optimize != 'Energy' || has(self.energyQuery)",
            message="must be set where optimize is Energy",
            path=".energyQuery",
        ),
        Rule(
            cel="self.optimize == 'Energy' || !has(self.energyQuery)",
            message="must be Energy where energyQuery is set",
            detail="'must be Energy where energyQuery is set, not ' + self.optimize",
            path=".optimize",
        ),
        Rule(
            cel=f"""!has(self.energyQuery) || self.profile.trialsPerPod == 1
                || self.energyQuery.matches('{named("trial")}')""",
            message="must name $trial where profile.trialsPerPod is above 1: trials share a pod",
            path=".energyQuery",
        ),
        Rule(
            cel="!has(self.qualityFloor) || has(self.proxy)",
            message="must be set where qualityFloor is: quality is measured by proxies",
            path=".proxy",
        ),
        Rule(
            cel="self.modelSettings == 'Generated' || self.hardwareSettings == 'Generated'",
            message="must be Generated for at least one of modelSettings, hardwareSettings",
        ),
        Rule(
            cel=f"{_VARIES} || {_TUNES}",
            message="must have ranges: model or hardware, for a level whose settings are Generated",
        ),
        Rule(
            cel="!has(self.plateau) || self.adapt", message="must be true where plateau is set", path=".adapt"
        ),
        Rule(
            cel="self.stages != '1' && self.stages != 1 || self.modelSettings == 'Fixed' || !has(self.model)",
            message="must be 2 or more, or Auto, where model has ranges: the last stage has the full model",
            path=".stages",
        ),
    )

    stages: StageCount = AUTO
    """Number of stages, 1 to 8, or Auto: as many as pay."""
    optimize: ScheduleGoal = ScheduleGoal.TIME
    """What the schedule should have little of."""
    energy_query: str | None = Field(
        default=None,
        min_length=1,
        max_length=2048,
        json_schema_extra=guarded(
            Rule(
                cel=f"self.matches('{named('trial|pod')}')",
                message="must name $trial or $pod, so that each trial has a value of its own",
            )
        ),
    )
    """PromQL that yields the mean power of a finished trial, watts; $trial, $pod and $namespace are filled
    in. Only with optimize Energy."""
    final_share: RatioText = Field(default="0.25", json_schema_extra=ABOVE_ZERO_TO_ONE)
    """Least share of the samples that the last stage trains, with the full model-level values and
    quality-safe hardware settings; above 0 to 1 as text."""
    model: ModelRanges | None = None
    hardware: HardwareRanges | None = None
    allow_late: tuple[LateSetting, ...] = Field(default=(), max_length=3, json_schema_extra=EACH_ONCE)
    """Settings that the last stage may have although they may cost quality."""
    hardware_settings: SettingsSource = SettingsSource.GENERATED
    """Fixed shows what the model-level half of a schedule brings alone."""
    model_settings: SettingsSource = SettingsSource.GENERATED
    """Fixed shows what the hardware-level half of a schedule brings alone."""
    profile: Profile = Profile()
    reuse_profile_from: DnsLabel | None = None
    """Name of a ProgressiveTraining of the same namespace whose measurements are taken over where model,
    device and library versions are the same."""
    quality_floor: ScheduleFloor | None = None
    proxy: Proxy | None = None
    adapt: bool = False
    """Lets the plateau of a metric end stages before the last one early, and lets those last longer, by a
    quarter at most, whose metric still gets better near their planned end; the rest is planned again within
    the same length. Without a plateau of its own: no accuracy (of the user's own model: loss) that is better
    by 0.002 in two evaluations."""
    plateau: Plateau | None = None
    dry_run: bool = False
    """Ends with the schedule in status.generated; nothing is trained."""


class Schedule(ApiModel):
    """Where the stages come from, in place of spec.stages."""

    generate: Generation


_RANGES = "self.schedule.generate.model"
_FULL = "self.defaults.model"


def _vary(name: str) -> str:
    return f"(has(self.schedule) && has({_RANGES}) && has({_RANGES}.{name}))"


def _most(name: str) -> str:
    return f"(has(self.defaults.model) && has(self.defaults.model.{name}))"


def _not_above(name: str, value: str, full: str, *, default: str | None) -> Rule:
    """Make the rule that no value of a range is above that of the defaults."""
    known = f"{_most(name)} ? {full} : {default}" if default else full
    condition = _vary(name) if default else f"{_vary(name)} && {_most(name)}"
    return Rule(
        cel=f"!({condition}) || {_RANGES}.{name}.all(value, {value} <= ({known}))",
        message=f"must not be above spec.defaults.model.{name}",
        path=f".schedule.generate.model.{name}",
    )


def _regularization(name: str) -> Rule:
    first = f"{_RANGES}.regularization.{name}"
    return Rule(
        cel=f"""!{_vary("regularization")} || !has({first})
            || double({first}) <= ({_most(name)} ? double({_FULL}.{name}) : 0.0)""",
        message=f"must not be above spec.defaults.model.{name}: regularisation grows with the network",
        path=f".schedule.generate.model.regularization.{name}",
    )


SCHEDULE_RULES = (
    exactly_one_of("stages", "schedule"),
    _not_above("resolution", "value", f"{_FULL}.resolution", default=None),
    _not_above("depth", "double(value)", f"double({_FULL}.depth)", default="1.0"),
    Rule(
        cel=f"""!({_vary("resolutionRange")} && {_most("resolution")})
            || {_RANGES}.resolutionRange.max <= {_FULL}.resolution""",
        message="must not be above spec.defaults.model.resolution",
        path=".schedule.generate.model.resolutionRange.max",
    ),
    *map(_regularization, ("stochasticDepth", "dropout", "augmentation", "mixup", "labelSmoothing")),
    Rule(
        cel=f"""!{_vary("parameters")} || {_RANGES}.parameters.all(range, {_most("parameters")}
            && {_FULL}.parameters.exists(value, value.name == range.name))""",
        message="must have a value in spec.defaults.model.parameters for each name: that of the last stage",
        path=".schedule.generate.model.parameters",
    ),
)
"""For a training's spec."""
