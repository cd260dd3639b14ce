"""How long a schedule takes: its steps, its switches, its evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from nascale.contract.run_order import StageOrder
from nascale.contract.schedule import resolve
from nascale.contract.stage_settings import HardwareSettings
from nascale.contract.switch_class import ORDER, SwitchClass, classify
from nascale.progressive.generation.grid import hardwares
from nascale.progressive.generation.problem import (
    Combination,
    GenerationProblem,
    Optimize,
    ProfileRecord,
    hardware_key,
)
from nascale.progressive.generation.step_time import StepTimeModel
from nascale.progressive.generation.switch_costs import SwitchCosts


@dataclass(frozen=True)
class StagePrediction:
    """What a stage is expected to take.

    Attributes:
        stage: The stage.
        samples: Its samples.
        steps: Its optimizer steps.
        step_seconds: Mean step, pauses included.
        throughput: Samples per second while it steps.
        switch: Class of the switch into it; RESTART for the first stage, which begins with a process.
        switch_seconds: What that costs.
        seconds: Steps and switch.
        share: Of the schedule's seconds, 0 to 1.
        measured: Whether its step was measured with these settings.
        deviation: Relative standard deviation of the step.
        joules: Energy; ``None``: there is no source.
        devices: Those of all its workers.
    """

    stage: StageOrder
    samples: int
    steps: int
    step_seconds: float
    throughput: float
    switch: SwitchClass
    switch_seconds: float
    seconds: float
    share: float
    measured: bool
    deviation: float
    joules: float | None
    devices: int = 1


@dataclass(frozen=True)
class SchedulePrediction:
    """What a schedule is expected to take.

    Attributes:
        stages: The table, in order.
        evaluation_seconds: Of all evaluations; 0 where their time is not known.
        deviation: Relative standard deviation of the seconds.
    """

    stages: tuple[StagePrediction, ...]
    evaluation_seconds: float = 0.0
    deviation: float = 0.0

    @property
    def seconds(self) -> float:
        """Time of the whole."""
        return sum(own.seconds for own in self.stages) + self.evaluation_seconds

    @property
    def switch_seconds(self) -> float:
        """Time that all switches take together, the start included."""
        return sum(own.switch_seconds for own in self.stages)

    @property
    def device_seconds(self) -> float:
        """Time of the whole, times devices."""
        own = sum(stage.seconds * stage.devices for stage in self.stages)
        return own + self.evaluation_seconds * self.stages[-1].devices

    @property
    def joules(self) -> float | None:
        """Energy of the whole; ``None``: there is no source."""
        known = [own.joules for own in self.stages if own.joules is not None]
        return sum(known) if len(known) == len(self.stages) else None

    def cost(self, optimize: Optimize) -> float:
        """Return what the schedule should have little of."""
        if optimize is Optimize.DEVICE_SECONDS:
            return self.device_seconds
        if optimize is Optimize.ENERGY and self.joules is not None:
            return self.joules
        return self.seconds


@dataclass(frozen=True)
class Calibration:
    """What a running training has shown about predictions.

    Attributes:
        own: Observed over predicted seconds of a step, by hardware-level settings (``HardwareSettings`` as
            JSON, accumulation left out).
        others: The same for all other settings.
    """

    own: Mapping[str, float] = field(default_factory=dict)
    others: float = 1.0

    def ratio(self, hardware: HardwareSettings) -> float:
        """Return what a predicted step is to be multiplied by."""
        return self.own.get(hardware_key(hardware), self.others)


class Predictor:
    """Costs of stages and switches, from a profile.

    Args:
        problem: What is asked for; its length is known.
        records: The profile; at least one measurement has succeeded.
        evaluation_seconds: Of one evaluation; ``None``: not known, and left out of all predictions.
        calibration: What the running training has shown.

    Raises:
        ValueError: nothing has been measured.
    """

    def __init__(
        self,
        problem: GenerationProblem,
        records: Sequence[ProfileRecord],
        *,
        evaluation_seconds: float | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.problem = problem
        self.model = StepTimeModel(problem, hardwares(problem), records)
        self.switches = SwitchCosts(records)
        self._calibration = calibration or Calibration()
        self._evaluation_seconds = evaluation_seconds
        self._powers = _powers(records)
        self._usual_power = median(self._powers.values()) if self._powers else None
        self._logs: dict[str, tuple[float, float]] = {}
        self._switches: dict[tuple[str, str], tuple[SwitchClass, float]] = {}

    def prepare(self, chosen: Iterable[Combination]) -> None:
        """Predict many combinations at once, for later questions."""
        fresh = list({own.key: own for own in chosen if own.key not in self._logs}.values())
        if fresh:
            belief = self.model.believe(fresh)
            for own, mean, deviation in zip(
                fresh, belief.mean.tolist(), belief.deviation.tolist(), strict=True
            ):
                self._logs[own.key] = mean, deviation

    def step_seconds(self, combination: Combination) -> float:
        """Return the expected seconds of a step."""
        self.prepare([combination])
        ratio = self._calibration.ratio(combination.hardware)
        return math.exp(self._logs[combination.key][0]) * ratio

    def rate(self, combination: Combination) -> float:
        """Return what a second with these settings costs, in the unit of what is optimised."""
        if self.problem.optimize is Optimize.DEVICE_SECONDS:
            return float(self.problem.devices(combination.hardware))
        if self.problem.optimize is Optimize.ENERGY:
            return self.power(combination) or 1.0
        return 1.0

    def power(self, combination: Combination) -> float | None:
        """Return joules per second while steps are made; ``None``: there is no source."""
        return self._powers.get(hardware_key(combination.hardware), self._usual_power)

    def switch(self, before: Combination | None, into: Combination) -> tuple[SwitchClass, float]:
        """Return the class of a switch and its seconds; before the first stage there is no process.

        Regularisation, which a combination's key leaves out, is live: it costs nothing.
        """
        pair = ("" if before is None else before.key, into.key)
        if pair not in self._switches:
            self._switches[pair] = self._switch(before, into)
        return self._switches[pair]

    def _switch(self, before: Combination | None, into: Combination) -> tuple[SwitchClass, float]:
        settle = self.switches.settle(into)
        start = self.switches.start(into.hardware)
        if before is None:
            return SwitchClass.RESTART, start + settle
        found = classify(_stage(before), _stage(into))
        if ORDER.index(found) <= ORDER.index(SwitchClass.LIVE):
            return found, 0.0
        if found is SwitchClass.RECOMPILE:
            return found, settle
        return found, settle + start + (self.switches.pods if found is SwitchClass.RESCHEDULE else 0.0)

    def predict(
        self, stages: Sequence[StageOrder], *, begin: int = 0, before: StageOrder | None = None
    ) -> SchedulePrediction:
        """Return what stages take.

        A stage ends with the first step at or after its bound; the next one begins there.

        Args:
            stages: With lengths in samples, but for the last one, which takes what is left.
            begin: Samples at which the first of them begins.
            before: Stage that is trained until then; ``None``: a process starts.
        """
        whole = self.problem.whole
        left = f"{whole - begin}sp"
        ends = [begin + end for end in resolve(left, stages, samples_per_epoch=whole).ends]
        combinations = [Combination(stage.model, stage.hardware) for stage in stages]
        self.prepare(combinations)
        previous = None if before is None else Combination(before.model, before.hardware)
        rows: list[StagePrediction] = []
        position = begin
        for stage, own, end in zip(stages, combinations, ends, strict=True):
            rows.append(self._row(stage, own, max(0, end - position), self.switch(previous, own)))
            position += rows[-1].steps * stage.model.global_batch
            previous = own
        total = sum(row.seconds for row in rows)
        table = tuple(_with_share(row, total) for row in rows)
        evaluations = self._evaluations(ends, begin)
        # Errors of stages are taken as one and the same: a bound from above.
        doubt = sum(row.deviation * row.steps * row.step_seconds for row in rows) / (total or 1.0)
        return SchedulePrediction(table, evaluations * (self._evaluation_seconds or 0.0), doubt)

    def _row(
        self, stage: StageOrder, own: Combination, samples: int, switch: tuple[SwitchClass, float]
    ) -> StagePrediction:
        batch = stage.model.global_batch
        steps = -(-samples // batch)
        each = self.step_seconds(own)
        kind, cost = switch
        seconds = steps * each + cost
        power = self.power(own)
        return StagePrediction(
            stage=stage,
            samples=samples,
            steps=steps,
            step_seconds=each,
            throughput=batch / each,
            switch=kind,
            switch_seconds=cost,
            seconds=seconds,
            share=0.0,
            measured=self.model.measured(own),
            deviation=self._logs[own.key][1],
            joules=None if power is None else power * seconds,
            devices=self.problem.devices(own.hardware),
        )

    def _evaluations(self, ends: Sequence[int], begin: int) -> int:
        every = self.problem.evaluation_every
        if every is None:
            return len(ends)
        regular = set(range((begin // every + 1) * every, ends[-1] + 1, every))
        return len(regular | set(ends))


def _stage(own: Combination) -> StageOrder:
    return StageOrder(name="any", model=own.model, hardware=own.hardware)


def _with_share(row: StagePrediction, total: float) -> StagePrediction:
    return replace(row, share=row.seconds / total if total else 0.0)


def _powers(records: Iterable[ProfileRecord]) -> dict[str, float]:
    """Return joules per second by hardware-level settings, the median of what was measured."""
    found: dict[str, list[float]] = {}
    for own in records:
        if own.measured and own.energy_per_sample is not None:
            watts = own.energy_per_sample * own.model.global_batch / own.step_seconds
            found.setdefault(hardware_key(own.hardware), []).append(watts)
    return {key: median(values) for key, values in found.items()}
