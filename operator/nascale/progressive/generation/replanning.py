"""The rest of a schedule planned again while it runs, within the same whole length.

Three things are a reason: a stage that is more than ``rules.OFF`` faster or slower than predicted, one that
a metric has ended early, and one whose metric still gets better near its planned end. Stages that have ended
stay as they are; the present one keeps its name and its settings, and its end alone may move. Other settings
for the stages to come are taken only where they save ``rules.LEAST_SAVING`` of the remaining time:
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
        present: Index of the stage that is trained.
        position: Samples so far.
        throughput: Samples per second while it steps, by index of the stage, for stages observed long enough.
        early: Where the stage before the present one ended, samples, before its planned end; ``None``: it
            did not, or that has been looked at.
        longer: The present stage shall last longer.
    """

    ends: tuple[int, ...]
    present: int
    position: int
    throughput: Mapping[int, float]
    early: int | None = None
    longer: bool = False


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
    if not rest or not (deviations or progress.early is not None or progress.longer):
        return Replan(None, deviations, None)
    predictor = Predictor(problem, records, calibration=_calibration(plain, stages, progress))
    return _Rest(predictor, Feasibility(problem, records), stages, progress).plan(deviations)


def is_off(ratio: float) -> bool:
    """Say whether an observed throughput, over the predicted one, is a reason to plan again.

    It is taken as a ratio of times: twice as fast is as far off as half as fast.
    """
    return abs(math.log(ratio)) > math.log1p(rules.OFF)


def last_longer(ends: Sequence[int], present: int, final_share: float) -> tuple[int, ...]:
    """Let a stage last longer, within the same whole length.

    It is given ``rules.EXTENSION`` of its own length, or what there is. The stages after it give that in
    proportion to what they have: early ones up to half of their length, the last one what it has beyond the
    least share that was asked for.

    Args:
        ends: Planned ends of all stages, samples; the last one is the whole.
        present: Index of the stage.
        final_share: Least share of the samples in the last stage, above 0 to 1.

    Returns:
        The ends after that; the same ones where nothing can be given.
    """
    whole, last = ends[-1], len(ends) - 1
    begins = [0, *ends[:-1]]
    later = range(present + 1, len(ends))
    room = [
        max(0, ends[own] - begins[own] - math.ceil(final_share * whole))
        if own == last
        else (ends[own] - begins[own]) // 2
        for own in later
    ]
    taken = min(round(rules.EXTENSION * (ends[present] - begins[present])), sum(room))
    if taken < 1:
        return tuple(ends)
    moved, given = list(ends), 0
    for place, own in enumerate(room):
        moved[present + place] += taken - round(taken * given / sum(room))
        given += own
    return tuple(moved)


def shared_out(progress: Progress, batch: int) -> tuple[int, ...]:
    """Share out what an early end has left among the stages after it, in proportion to their lengths.

    The one that has begun since then is among them: its end moves, and stays ahead.

    Args:
        progress: How far the training is; its ``early`` is set, and ``present`` is 1 or more.
        batch: Samples of a step of the present stage.

    Returns:
        The ends of all stages, samples; those that have passed are the same.
    """
    ends, present = progress.ends, progress.present
    whole, nominal = ends[-1], ends[present - 1]
    position = nominal if progress.early is None else progress.early
    stretched = (whole - position) / (whole - nominal)
    moved = [round(whole - (whole - end) * stretched) for end in ends[present:]]
    # Lengths count from the planned end of the stage that has ended, none is empty, and no step is undone.
    least = max(nominal + 1, progress.position + batch)
    for place, end in enumerate(ends[present:]):
        moved[place] = min(end, max(moved[place], least))
        least = moved[place] + 1
    return (*ends[:present], *moved)


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
        self._ends = self._moved(predictor.problem.final_share)
        self._begin = self._ends[progress.present]
        self._planner = Planner(
            predictor,
            feasibility,
            begin=self._begin,
            before=self._stages[progress.present],
            earlier=self._kept,
        )

    def _moved(self, final_share: float) -> tuple[int, ...]:
        """Return the ends after what a metric has moved."""
        progress, ends = self._progress, self._progress.ends
        if progress.early is not None and progress.present > 0:
            ends = shared_out(progress, self._stages[progress.present].model.global_batch)
        return last_longer(ends, progress.present, final_share) if progress.longer else ends

    def plan(self, deviations: tuple[Deviation, ...]) -> Replan:
        """Plan the rest, and say whether it pays."""
        unchanged = self._predict()
        rest = self._stages[self._kept :]
        course = Course(
            "rest",
            tuple(Piece(end, own.model) for end, own in zip(self._ends[self._kept :], rest, strict=True)),
            "the rest of the schedule",
        )
        found = self._planner.plan(course)
        optimize = self._predictor.problem.optimize
        better = found is not None and found.prediction.cost(optimize) <= (
            1 - rules.LEAST_SAVING
        ) * unchanged.cost(optimize)
        moves = self._ends != self._progress.ends
        moved = _with_ends(self._stages, self._ends, self._progress.present) if moves else self._stages
        if found is not None and better:
            stages = (*moved[: self._kept], *found.stages)
            saved = 1 - found.prediction.cost(optimize) / unchanged.cost(optimize)
            return Replan(stages, deviations, found.prediction, saved, self._reason(deviations, saved))
        if moves:
            return Replan(moved, deviations, unchanged, 0.0, self._reason(deviations, 0.0))
        reason = self._reason(deviations, 0.0) + ", and no other plan saves enough" if deviations else ""
        return Replan(None, deviations, unchanged, 0.0, reason)

    def _predict(self) -> SchedulePrediction:
        rest, ends = self._stages[self._kept :], self._ends[self._kept :]
        lengths = [end - begin for begin, end in zip([self._begin, *ends], ends, strict=False)]
        stages = [
            own.model_copy(update={"length": None if place == len(rest) - 1 else f"{length}sp"})
            for place, (own, length) in enumerate(zip(rest, lengths, strict=True))
        ]
        before = self._stages[self._progress.present]
        return self._predictor.predict(stages, begin=self._begin, before=before)

    def _reason(self, deviations: Sequence[Deviation], saved: float) -> str:
        progress = self._progress
        parts = [
            f"{own.stage} runs at {own.observed:.4g} samples/s, {100 * own.share:+.3g} % off its prediction"
            for own in deviations
        ]
        if progress.early is not None:
            parts.append(f"{self._stages[progress.present - 1].name} has ended early")
        if progress.longer:
            name = self._stages[progress.present].name
            parts.append(f"{name} lasts longer: its metric still gets better")
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
