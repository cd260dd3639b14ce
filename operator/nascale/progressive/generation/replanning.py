"""The rest of a schedule planned again while it runs, within the same whole length.

Two things are a reason: a stage that is more than ``rules.OFF`` faster or slower than predicted, and a stage
that a metric has ended early or lets last longer. Stages that have ended stay as they are, the present one
keeps its settings. A new plan is taken only where it saves ``rules.LEAST_SAVING`` of the remaining time:
predictions and observations are noisy, and each edit costs trust.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from nascale.contract.run_order import StageOrder
from nascale.progressive.generation import rules
from nascale.progressive.generation.candidates import Planner
from nascale.progressive.generation.courses import Course, Piece
from nascale.progressive.generation.feasibility import Feasibility
from nascale.progressive.generation.prediction import (
    Calibration,
    Predictor,
    SchedulePrediction,
)
from nascale.progressive.generation.problem import (
    Combination,
    GenerationProblem,
    ProfileRecord,
    hardware_key,
    known,
)


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        ends: Planned ends of all stages, samples; the last one is the whole.
        present: Index of the stage that is trained, or that has just been ended early.
        position: Samples so far.
        throughput: Samples per second while it steps, by index of the stage, for stages observed long enough.
        ended: The present stage has been ended at the position, before its planned end.
    """

    ends: tuple[int, ...]
    present: int
    position: int
    throughput: Mapping[int, float]
    ended: bool = False


@dataclass(frozen=True)
class Deviation:
    """A stage whose throughput is not what was predicted.

    Attributes:
        stage: Its name.
        predicted: Samples per second.
        observed: Samples per second.
    """

    stage: str
    predicted: float
    observed: float

    @property
    def share(self) -> float:
        """Observed over predicted, less one."""
        return self.observed / self.predicted - 1


@dataclass(frozen=True)
class Replan:
    """What follows from a look at a running training.

    Attributes:
        stages: The whole schedule after an edit; ``None``: it stays as it is.
        deviations: Stages that are off.
        remaining: What the rest takes, after the edit where there is one.
        saved: Share of the remaining time that the edit saves; 0 where a metric is the reason.
        reason: Why, for people; empty: there is nothing to tell.
    """

    stages: tuple[StageOrder, ...] | None
    deviations: tuple[Deviation, ...]
    remaining: SchedulePrediction | None
    saved: float = 0.0
    reason: str = ""


def replan(
    problem: GenerationProblem,
    records: Sequence[ProfileRecord],
    stages: Sequence[StageOrder],
    progress: Progress,
) -> Replan:
    """Plan the rest again, if there is a reason to.

    Args:
        problem: What the schedule was generated for.
        records: The profile.
        stages: The schedule that runs.
        progress: How far it is.
    """
    problem = known(problem, records)
    plain = Predictor(problem, records)
    deviations = _deviations(plain, stages, progress)
    rest = stages[progress.present + 1 :]
    if not rest or not (deviations or progress.ended):
        return Replan(None, deviations, None)
    predictor = Predictor(problem, records, calibration=_calibration(plain, stages, progress))
    return _Rest(predictor, Feasibility(problem, records), stages, progress).plan(deviations)


def is_off(ratio: float) -> bool:
    """Say whether an observed throughput, over the predicted one, is a reason to plan again.

    It is taken as a ratio of times: twice as fast is as far off as half as fast.
    """
    return abs(math.log(ratio)) > math.log1p(rules.OFF)


def last_longer(stages: Sequence[StageOrder], progress: Progress) -> tuple[StageOrder, ...] | None:
    """Let the present stage last longer: its metric still gets better.

    It takes ``rules.EXTENSION`` of its own length from the early stages after it, in proportion; the last
    stage keeps its share.

    Returns:
        The whole schedule after the edit; ``None``: no early stage is left to take from.
    """
    ends, present = progress.ends, progress.present
    last = len(stages) - 1
    room = ends[last - 1] - ends[present] if present < last - 1 else 0
    if room <= 1:
        return None
    length = ends[present] - (ends[present - 1] if present else 0)
    taken = min(round(rules.EXTENSION * length), room // 2)
    if taken < 1:
        return None
    moved = list(ends)
    moved[present] += taken
    for place in range(present + 1, last - 1):
        moved[place] = ends[place] + taken - round(taken * (ends[place] - ends[present]) / room)
    return _with_ends(stages, moved, present)


def _deviations(
    predictor: Predictor, stages: Sequence[StageOrder], progress: Progress
) -> tuple[Deviation, ...]:
    found: list[Deviation] = []
    for place, observed in sorted(progress.throughput.items()):
        stage = stages[place]
        step = predictor.step_seconds(Combination(stage.model, stage.hardware))
        own = Deviation(stage.name, stage.model.global_batch / step, observed)
        if observed > 0 and is_off(observed / own.predicted):
            found.append(own)
    return tuple(found)


def _calibration(predictor: Predictor, stages: Sequence[StageOrder], progress: Progress) -> Calibration:
    """Return what observed stages say about others.

    The same hardware-level settings are off by the same ratio. Others are taken to be as slow as the least
    slow one, and never faster than predicted: else the plan would flee to whatever has not been observed.
    """
    ratios: dict[str, list[float]] = {}
    for place, observed in progress.throughput.items():
        stage = stages[place]
        if observed > 0:
            step = predictor.step_seconds(Combination(stage.model, stage.hardware))
            ratio = stage.model.global_batch / observed / step
            ratios.setdefault(hardware_key(stage.hardware), []).append(math.log(ratio))
    own = {key: math.exp(fmean(logs)) for key, logs in ratios.items()}
    return Calibration(own, max(1.0, min(own.values(), default=1.0)))


class _Rest:
    """What is still to come."""

    def __init__(
        self,
        predictor: Predictor,
        feasibility: Feasibility,
        stages: Sequence[StageOrder],
        progress: Progress,
    ) -> None:
        self._predictor = predictor
        self._stages = tuple(stages)
        self._progress = progress
        self._kept = progress.present + 1
        self._nominal = progress.ends[progress.present]
        self._begin = progress.position if progress.ended else self._nominal
        self._planner = Planner(
            predictor,
            feasibility,
            begin=self._begin,
            before=self._stages[progress.present],
            earlier=self._kept,
        )

    def plan(self, deviations: tuple[Deviation, ...]) -> Replan:
        """Plan the rest, and say whether it pays."""
        as_it_is = self._predict(self._progress.ends[self._kept :])
        ends = self._shared_out() if self._progress.ended else list(self._progress.ends[self._kept :])
        unchanged = self._predict(ends)
        course = Course(
            "rest",
            tuple(Piece(end, own.model) for end, own in zip(ends, self._stages[self._kept :], strict=True)),
            "the rest of the schedule",
        )
        found = self._planner.plan(course)
        optimize = self._predictor.problem.optimize
        better = found is not None and found.prediction.cost(optimize) <= (
            1 - rules.LEAST_SAVING
        ) * unchanged.cost(optimize)
        if found is not None and better:
            first = found.stages[0]
            if first.length is not None:
                # The trainer counts from where the stage before was planned to end.
                first = first.model_copy(update={"length": f"{found.course.pieces[0].end - self._nominal}sp"})
            stages = (*self._stages[: self._kept], first, *found.stages[1:])
            saved = 1 - found.prediction.cost(optimize) / unchanged.cost(optimize)
            return Replan(stages, deviations, found.prediction, saved, self._reason(deviations, saved))
        if self._progress.ended and ends != list(self._progress.ends[self._kept :]):
            moved = [*self._progress.ends[: self._kept], *ends]
            stages = _with_ends(self._stages, moved, self._kept)
            return Replan(stages, deviations, unchanged, 0.0, self._reason(deviations, 0.0))
        reason = self._reason(deviations, 0.0) + ", and no other plan saves enough" if deviations else ""
        return Replan(None, deviations, as_it_is, 0.0, reason)

    def _predict(self, ends: Sequence[int]) -> SchedulePrediction:
        rest = self._stages[self._kept :]
        lengths = [end - begin for begin, end in zip([self._begin, *ends], ends, strict=False)]
        stages = [
            own.model_copy(update={"length": None if place == len(rest) - 1 else f"{length}sp"})
            for place, (own, length) in enumerate(zip(rest, lengths, strict=True))
        ]
        before = self._stages[self._progress.present]
        return self._predictor.predict(stages, begin=self._begin, before=before)

    def _shared_out(self) -> list[int]:
        """Share out what an early end has left among all stages to come, in proportion to their lengths."""
        ends = self._progress.ends
        whole, planned = ends[-1], ends[-1] - self._nominal
        stretched = (whole - self._begin) / planned
        found = [round(whole - (whole - end) * stretched) for end in ends[self._kept :]]
        # Lengths count from the planned end, and none is empty.
        least = self._nominal
        for place in range(len(found) - 1):
            least = max(found[place], least + 1)
            found[place] = least
        return found

    def _reason(self, deviations: Sequence[Deviation], saved: float) -> str:
        parts = [
            f"{own.stage} runs at {own.observed:.4g} samples/s, {100 * own.share:+.3g} % off its prediction"
            for own in deviations
        ]
        if self._progress.ended:
            parts.append(f"{self._stages[self._progress.present].name} has ended early")
        if saved:
            parts.append(f"the new plan saves {100 * saved:.3g} % of the remaining time")
        return "; ".join(parts)


def _with_ends(stages: Sequence[StageOrder], ends: Sequence[int], first: int) -> tuple[StageOrder, ...]:
    """Give stages from an index on new lengths, in samples; the last one takes what is left."""
    found = list(stages)
    for place in range(first, len(stages) - 1):
        begin = ends[place - 1] if place else 0
        found[place] = stages[place].model_copy(update={"length": f"{ends[place] - begin}sp"})
    return tuple(found)
