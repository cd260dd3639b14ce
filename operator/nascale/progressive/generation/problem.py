"""What a generated schedule is asked for: the constant recipe, what may differ early, what is risky."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Final, TypeAlias

from nascale.contract.run_order import BatchRule, LearningRateCourse, StageOrder
from nascale.contract.stage_settings import (
    QUALITY_SAFE_PRECISIONS,
    CommunicationHook,
    HardwareSettings,
    ModelSettings,
)
from nascale.contract.work_order import ParameterValue, Precision
from nascale.search.history import TrialState
from nascale.search.problem import Direction

MOST_STAGES: Final = 8
"""Longest generated schedule: each further stage is one more switch for a change that is ever smaller."""

GROWING_FIELDS: Final = ("resolution", "depth")
"""Model-level settings that grow, beside the user's own parameters."""
RAMP_FIELDS: Final = ("augmentation", "dropout", "stochastic_depth", "mixup", "label_smoothing")
"""Regularisation; it follows capacity and resolution and does not count for the step time."""
LOW_PRECISIONS: Final = frozenset({Precision.BF16, Precision.FP16})
"""Number formats with fewer digits than the parameters have; the guard looks at them."""

Value: TypeAlias = ParameterValue


class Optimize(StrEnum):
    """What a schedule should have little of."""

    TIME = "Time"
    """Seconds."""
    DEVICE_SECONDS = "DeviceSeconds"
    """Seconds times devices: those of all workers."""
    ENERGY = "Energy"
    """Joules."""


class Risk(StrEnum):
    """What may cost quality, and is for early stages only unless it is allowed late."""

    LOW_PRECISION = "LowPrecision"
    """A number format that is not quality-safe."""
    COMPRESSED_COMMUNICATION = "CompressedCommunication"
    """Gradients that are rounded on their way."""
    LARGE_BATCH = "LargeBatch"
    """A larger global batch than that of the constant recipe."""


@dataclass(frozen=True)
class Growth:
    """A model-level setting that grows from stage to stage.

    Attributes:
        name: Field of ``ModelSettings`` (``GROWING_FIELDS``), or name of one of the user's own parameters.
        values: From the cheapest to that of the constant recipe; numbers ascend.
        own: Whether it is one of the user's own parameters.
    """

    name: str
    values: tuple[Value, ...]
    own: bool = False

    def of(self, model: ModelSettings) -> Value | None:
        """Return the setting's value in some settings; ``None``: they don't have it."""
        if self.own:
            return model.parameters.get(self.name)
        value: Value | None = getattr(model, self.name)
        return value


@dataclass(frozen=True)
class Ramp:
    """A regularisation that begins elsewhere and ends at the constant recipe's value.

    Attributes:
        name: Field of ``ModelSettings`` (``RAMP_FIELDS``).
        start: Value of the first stage.
    """

    name: str
    start: float


@dataclass(frozen=True)
class QualityFloor:
    """What a schedule must reach in a proxy run: exactly one of the two bounds.

    Attributes:
        metric: Name of the metric.
        direction: Which way is better.
        bound: Worst value; ``None``: relative to the constant recipe.
        within: Largest loss against the constant recipe, in the metric's unit; ``None``: absolute.
    """

    metric: str
    direction: Direction = Direction.MAXIMIZE
    bound: float | None = None
    within: float | None = None


@dataclass(frozen=True)
class GenerationProblem:
    """A generation, complete but for what has been measured.

    Attributes:
        base: The constant recipe: full model-level values and quality-safe hardware settings. Where
            ``resolution`` grows, it states the network's own as a number.
        length: Length of the run, samples; ``None``: not known before a record has told the epoch's size
            (``known``).
        epochs: Length of the run, epochs, where ``length`` is not known.
        growing: Model-level settings that grow.
        batches: Global batches beside the base's.
        ramps: Regularisation that follows.
        hardware: Combinations of hardware-level settings beside the base's.
        most_micro_batch: Most samples of one forward pass in one process: accumulation follows the batch;
            ``None``: each of ``hardware`` states its own accumulation.
        stages: Most stages, 1 to ``MOST_STAGES``; ``None``: as many as pay.
        final_share: Least share of the samples in the last stage, above 0 to 1.
        optimize: What a schedule should have little of.
        batch_rule: How the trainer lets the learning rate follow the batch. It does so by itself, so that
            no stage's ``learning_rate_factor`` may do it once more.
        learning_rate_course: How the learning rate goes over the run; stages after the first begin where it
            is at their share of the work.
        warm_up: Share of the run in which the rate rises before that.
        allowed_late: Risks that the last stage may take.
        safe_precisions: Number formats without a risk; BF16 is one by the contract, FP16 is not.
        fixed_hardware: All stages have the base's hardware-level settings (an ablation).
        fixed_model: All stages have the base's model-level settings, batch and regularisation included (the
            other one).
        most_deviation: Largest relative deviation of the training loss in a guarded comparison
            (``loss_deviation_ratio``) with which low precision and rounded gradients may be used.
        max_trials: Most measurements.
        per_batch: Measurements that are asked for at once.
        evaluation_every: Samples between two evaluations; ``None``: at ends of stages alone.
        quality_floor: What proxies must reach; ``None``: no floor.
        devices_per_worker: Devices that each pod holds, whether they are used or not; a CPU counts as one.
        seed: Of all random choices.
    """

    base: StageOrder
    length: int | None = None
    epochs: float | None = None
    growing: tuple[Growth, ...] = ()
    batches: tuple[int, ...] = ()
    ramps: tuple[Ramp, ...] = ()
    hardware: tuple[HardwareSettings, ...] = ()
    most_micro_batch: int | None = None
    stages: int | None = None
    final_share: float = 0.25
    optimize: Optimize = Optimize.TIME
    batch_rule: BatchRule = BatchRule.LINEAR
    learning_rate_course: LearningRateCourse = LearningRateCourse.COSINE
    warm_up: float = 0.05
    allowed_late: frozenset[Risk] = frozenset()
    safe_precisions: frozenset[Precision] = QUALITY_SAFE_PRECISIONS
    fixed_hardware: bool = False
    fixed_model: bool = False
    most_deviation: float = 0.05
    max_trials: int = 24
    per_batch: int = 6
    evaluation_every: int | None = None
    quality_floor: QualityFloor | None = None
    devices_per_worker: int = 1
    seed: int = 0

    def devices(self, hardware: HardwareSettings) -> int:
        """Return how many devices all workers hold together."""
        return hardware.workers * self.devices_per_worker

    def risks(self, model: ModelSettings, hardware: HardwareSettings) -> frozenset[Risk]:
        """Return what may cost quality in a combination, allowed or not."""
        found: set[Risk] = set()
        if hardware.precision not in self.safe_precisions:
            found.add(Risk.LOW_PRECISION)
        if hardware.communication_hook is not CommunicationHook.NONE and hardware.world > 1:
            found.add(Risk.COMPRESSED_COMMUNICATION)
        if model.global_batch > self.base.model.global_batch:
            found.add(Risk.LARGE_BATCH)
        return frozenset(found)

    def safe(self, model: ModelSettings, hardware: HardwareSettings) -> bool:
        """Say whether the last stage may have these settings."""
        return self.risks(model, hardware) <= self.allowed_late

    def guarded(self, hardware: HardwareSettings) -> frozenset[tuple[str, str]]:
        """Return which of these settings are also tried against the base's for their loss: (setting, value).

        Low precision, and gradients that are rounded on their way.
        """
        base, found = self.base.hardware, set[tuple[str, str]]()
        if hardware.precision in LOW_PRECISIONS and hardware.precision is not base.precision:
            found.add(("precision", hardware.precision.value))
        hook = hardware.communication_hook
        rounded = hook is not CommunicationHook.NONE and hardware.world > 1
        if rounded and (hook is not base.communication_hook or base.world == 1):
            found.add(("communication_hook", hook.value))
        return frozenset(found)

    @property
    def whole(self) -> int:
        """Length of the run, samples.

        Raises:
            ValueError: it is not known yet.
        """
        if self.length is None:
            raise ValueError("length: must be known in samples: nothing has been measured yet")
        return self.length

    @property
    def full(self) -> Combination:
        """The constant recipe as a combination."""
        return Combination(self.base.model, self.base.hardware)


@dataclass(frozen=True, eq=False)
class Combination:
    """Settings of both levels; two are equal where everything that counts for the step time is.

    Regularisation, momentum, weight decay and the learning rate change values, not the work of a step: mixup
    and dropout are a few operations on what is there anyway, and stochastic depth is left out on purpose, as
    a schedule must not be measured with blocks skipped that its last stage has.

    Attributes:
        model: Model-level settings.
        hardware: Hardware-level settings.
    """

    model: ModelSettings
    hardware: HardwareSettings

    @cached_property
    def levels(self) -> Mapping[str, str]:
        """What it has of each setting that counts, as text."""
        model = self.model
        found = {name: str(getattr(model, name)) for name in (*GROWING_FIELDS, "global_batch")}
        found |= {f"parameters.{name}": str(value) for name, value in sorted(model.parameters.items())}
        hardware = self.hardware.model_dump(mode="json")
        return found | {name: str(value) for name, value in hardware.items()}

    @cached_property
    def key(self) -> str:
        """The canonical text of what counts for the step time."""
        return json.dumps(self.levels, sort_keys=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Combination) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class ProfileRecord:
    """One measurement of a profile.

    Attributes:
        model: Model-level settings that were measured.
        hardware: Hardware-level settings that were measured.
        state: PENDING: asked for; SUCCEEDED; INFEASIBLE: the device can't do it; anything else: nothing is
            known, and it isn't asked for again.
        step_seconds: Mean optimizer step, from the throughput; the median one (``step_p50_seconds``) where no
            throughput is told. Above 0 where it succeeded.
        step_spread: How steady that was (``step_spread_ratio``), 0 or more; ``None``: not told.
        settle_seconds: What the switch into the settings costs; ``None``: not measured.
        start_seconds: Start of a process; ``None``: not measured.
        pod_seconds: From the wish for pods until their containers ran; ``None``: not measured.
        peak_memory: Bytes; ``None``: not measured.
        epoch_samples: Size of the training part; ``None``: not told.
        loss_deviation: Relative deviation of the loss against the base's, infinite where the loss was no
            number; ``None``: not guarded.
        energy_per_sample: Joules; ``None``: not measured.
        reason: Why it did not succeed.
    """

    model: ModelSettings
    hardware: HardwareSettings
    state: TrialState
    step_seconds: float = 0.0
    step_spread: float | None = None
    settle_seconds: float | None = None
    start_seconds: float | None = None
    pod_seconds: float | None = None
    peak_memory: float | None = None
    epoch_samples: int | None = None
    loss_deviation: float | None = None
    energy_per_sample: float | None = None
    reason: str = ""

    @cached_property
    def combination(self) -> Combination:
        """What was measured."""
        return Combination(self.model, self.hardware)

    @property
    def measured(self) -> bool:
        """Whether it says how long a step takes."""
        return self.state is TrialState.SUCCEEDED and self.step_seconds > 0


@dataclass(frozen=True)
class ProxyRecord:
    """A candidate schedule that was trained over a short length.

    Attributes:
        candidate: Name of the candidate.
        state: Its course.
        values: Finite values by metric name; complete for SUCCEEDED.
    """

    candidate: str
    state: TrialState
    values: Mapping[str, float] = field(default_factory=dict)


def known(problem: GenerationProblem, records: Iterable[ProfileRecord]) -> GenerationProblem:
    """Return the problem with its length in samples, where a record has told the size of an epoch."""
    if problem.length is not None or problem.epochs is None:
        return problem
    sizes = [record.epoch_samples for record in records if record.epoch_samples]
    return replace(problem, length=max(1, round(problem.epochs * max(sizes)))) if sizes else problem


def faults(problem: GenerationProblem) -> tuple[str, ...]:
    """Return everything that is wrong with a problem, each with field, value and allowed range."""
    return tuple(_faults(problem))


def _faults(problem: GenerationProblem) -> Iterator[str]:
    if problem.stages is not None and not 1 <= problem.stages <= MOST_STAGES:
        yield f"stages: must be Auto or from 1 to {MOST_STAGES}, not {problem.stages}"
    if not 0 < problem.final_share <= 1:
        yield f"finalShare: must be above 0 and at most 1, not {problem.final_share:g}"
    if problem.length is not None and problem.length < 1:
        yield f"length: must be at least one sample, not {problem.length}"
    if problem.max_trials < 1:
        yield f"profile.maxTrials: must be at least 1, not {problem.max_trials}"
    if problem.per_batch < 1:
        yield f"profile.trialsPerPod: must be at least 1, not {problem.per_batch}"
    for growth in problem.growing:
        yield from _growth_faults(problem, growth)
    for ramp in problem.ramps:
        if ramp.name not in RAMP_FIELDS:
            yield f"model.regularization: must be one of {', '.join(RAMP_FIELDS)}, not {ramp.name}"
    if not problem.safe(problem.base.model, problem.base.hardware):
        risks = ", ".join(sorted(problem.risks(problem.base.model, problem.base.hardware)))
        yield f"defaults.hardware: must be quality-safe, or {risks} be allowed late"


def _growth_faults(problem: GenerationProblem, growth: Growth) -> Iterator[str]:
    field_name = f"model.{growth.name}"
    if not growth.own and growth.name not in GROWING_FIELDS:
        yield f"{field_name}: must be one of {', '.join(GROWING_FIELDS)}, or a parameter of the user's own"
        return
    if not growth.values:
        yield f"{field_name}: must have at least one value"
        return
    numbers = [value for value in growth.values if not isinstance(value, str)]
    if len(numbers) == len(growth.values) and any(low >= high for low, high in pairwise(numbers)):
        yield f"{field_name}: values must ascend, not {list(growth.values)}"
    full = growth.of(problem.base.model)
    if growth.values[-1] != full:
        yield f"{field_name}: the last value must be that of the defaults, {full}, not {growth.values[-1]}"


def hardware_key(hardware: HardwareSettings) -> str:
    """Return the canonical text of hardware-level settings, accumulation left out."""
    return hardware.model_copy(update={"accumulation": 1}).to_json()
