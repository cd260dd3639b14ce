"""Candidate schedules: a course with the hardware-level settings that suit each of its parts.

The two halves are complementary: for each stage's model-level values those hardware-level ones are taken with
which the whole costs least, switches included, among those that are allowed at that point. Risky ones come
before safe ones and never in the last stage. Parts whose switch costs more than it saves are joined with
the one after them, which is fuller: that costs no quality. So are those whose smaller model is hardly faster.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from nascale.contract.run_order import StageOrder
from nascale.contract.stage_settings import HardwareSettings, ModelSettings
from nascale.progressive.generation import rules
from nascale.progressive.generation.courses import Course, Piece
from nascale.progressive.generation.feasibility import Feasibility
from nascale.progressive.generation.grid import combine, growing, hardwares
from nascale.progressive.generation.prediction import Predictor, SchedulePrediction
from nascale.progressive.generation.problem import Combination, GenerationProblem, hardware_key

_Own = TypeVar("_Own")
RECIPE: Final = "constant"
"""Name of the schedule with the base's settings from start to end."""
_CONTENDERS: Final = 6
"""Hardware-level settings of a part that are looked at: the fastest ones, and those of the other parts."""


@dataclass(frozen=True)
class Candidate:
    """A schedule that could be chosen.

    Attributes:
        name: What it is called.
        source: Where its course comes from, for people.
        course: Its model-level settings, after joining.
        stages: The schedule, in the form of ``spec.stages``: lengths in samples, the last one open.
        prediction: What it takes.
    """

    name: str
    source: str
    course: Course
    stages: tuple[StageOrder, ...]
    prediction: SchedulePrediction


@dataclass(frozen=True)
class _Option:
    """Hardware-level settings for a part.

    Attributes:
        into: The part's settings with them.
        key: The hardware-level ones, accumulation left out.
        risky: Whether they may not come after safe ones.
        rate: What a sample costs with them.
    """

    into: Combination
    key: str
    risky: bool
    rate: float


class Planner:
    """Makes schedules from courses.

    Args:
        predictor: Costs.
        feasibility: What can be run.
        begin: Samples at which the plan begins; 0: a whole run.
        before: Stage that is trained until then; ``None``: a process starts.
        earlier: Stages before the plan: names go on from there.
    """

    def __init__(
        self,
        predictor: Predictor,
        feasibility: Feasibility,
        *,
        begin: int = 0,
        before: StageOrder | None = None,
        earlier: int = 0,
    ) -> None:
        self._problem: GenerationProblem = predictor.problem
        self._predictor = predictor
        self._feasibility = feasibility
        self._begin = begin
        self._before = before
        self._earlier = earlier
        self._ranked: dict[tuple[str, bool], list[_Option]] = {}

    def plan(self, course: Course) -> Candidate | None:
        """Return the cheapest schedule of a course; ``None``: some part of it can't be run."""
        course = self._worthwhile(course)
        best = self._assigned(course)
        if best is None:
            return None
        while len(best.course.pieces) > 1:
            shorter = [found for own in _joined(best.course) if (found := self._assigned(own)) is not None]
            cheapest = min(shorter, key=self._cost, default=None)
            if cheapest is None or self._cost(cheapest) > self._cost(best):
                break
            best = cheapest
        return best

    def constant(self, hardware: HardwareSettings, name: str) -> Candidate | None:
        """Return the schedule of one stage with the base's model and these settings, where they are safe."""
        model = self._problem.base.model
        own = combine(self._problem, model, hardware)
        if own is None or not self._problem.safe(model, own.hardware) or not self._feasibility.allows(own):
            return None
        course = Course(name, (Piece(self._problem.whole, model),), "the same settings from start to end")
        stage = StageOrder(name="final", model=model, hardware=own.hardware)
        return self._candidate(course, [stage])

    def constants(self) -> list[Candidate]:
        """Return the constant schedules that can be run, the cheapest first."""
        found = [
            own
            for place, hardware in enumerate(hardwares(self._problem))
            if (own := self.constant(hardware, f"{RECIPE}-{place}" if place else RECIPE)) is not None
        ]
        worth = _worth_their_parts(found, lambda own: own.stages[-1].hardware, self._cost)
        # The recipe is what everything is compared with, and stays.
        recipe = [own for own in found if own.name == RECIPE and own not in worth]
        return sorted([*worth, *recipe], key=self._cost)

    def _cost(self, candidate: Candidate) -> float:
        return candidate.prediction.cost(self._problem.optimize)

    def _candidate(self, course: Course, stages: Sequence[StageOrder]) -> Candidate:
        prediction = self._predictor.predict(stages, begin=self._begin, before=self._before)
        return Candidate(course.name, course.source, course, tuple(stages), prediction)

    def _assigned(self, course: Course) -> Candidate | None:
        """Find the hardware-level settings by dynamic programming over the parts."""
        options, samples = self._options(course), self._samples(course)
        if not all(options):
            return None
        before = None if self._before is None else Combination(self._before.model, self._before.hardware)
        safe_already = before is not None and not self._risky(before)
        paths: list[tuple[float, list[_Option]]] = [
            (own.rate * samples[0] + self._switch(before, own), [own])
            for own in options[0]
            if not (own.risky and safe_already)
        ]
        for following, count in zip(options[1:], samples[1:], strict=True):
            further: list[tuple[float, list[_Option]]] = []
            for own in following:
                ways = [
                    (cost + self._switch(path[-1].into, own) + own.rate * count, path)
                    for cost, path in paths
                    if not (own.risky and not path[-1].risky)
                ]
                if ways:
                    cost, path = min(ways, key=lambda way: way[0])
                    further.append((cost, [*path, own]))
            paths = further
        if not paths:
            return None
        _, best = min(paths, key=lambda way: way[0])
        return self._candidate(*self._named(course, [own.into for own in best]))

    def _worthwhile(self, course: Course) -> Course:
        """Leave out parts with a smaller model that is hardly faster than the full one."""
        pieces = course.pieces
        full = self._rank(pieces[-1], late=True)
        if not full:
            return course
        kept = [
            piece
            for piece in pieces[:-1]
            if not self._smaller(piece)
            or not (own := self._rank(piece, late=False))
            or full[0].rate >= rules.LEAST_SPEED_UP * own[0].rate
        ]
        return replace(course, pieces=(*kept, pieces[-1]))

    def _smaller(self, piece: Piece) -> bool:
        return any(own.of(piece.model) != own.values[-1] for own in growing(self._problem))

    def _samples(self, course: Course) -> list[int]:
        return [
            max(0, piece.end - max(self._begin, course.begin(place)))
            for place, piece in enumerate(course.pieces)
        ]

    def _options(self, course: Course) -> list[list[_Option]]:
        """Return each part's contenders."""
        last = len(course.pieces) - 1
        parts = [
            self._rank(piece, late=place == last or piece.end > rules.RISKY_UNTIL * self._problem.whole)
            for place, piece in enumerate(course.pieces)
        ]
        wanted = {own.key for part in parts for own in part[:_CONTENDERS]}
        return [[own for own in part if own.key in wanted] for part in parts]

    def _rank(self, piece: Piece, *, late: bool) -> list[_Option]:
        """Return what can run a part, the cheapest first."""
        key = (Combination(piece.model, self._problem.base.hardware).key, late)
        if key not in self._ranked:
            allowed = self.allowed(piece.model, late=late)
            self._predictor.prepare(allowed)
            options = [self._option(own) for own in allowed]
            self._ranked[key] = _worth_their_parts(
                options, lambda own: own.into.hardware, lambda own: own.rate
            )
        return self._ranked[key]

    def allowed(self, model: ModelSettings, *, late: bool) -> list[Combination]:
        """Return what may run model-level settings: late in a run what is safe alone."""
        found = (combine(self._problem, model, own) for own in hardwares(self._problem))
        return [
            own
            for own in found
            if own is not None
            and self._feasibility.allows(own)
            and not (late and not self._problem.safe(own.model, own.hardware))
        ]

    def _option(self, own: Combination) -> _Option:
        each = self._predictor.step_seconds(own) / own.model.global_batch
        rate = each * self._predictor.rate(own)
        return _Option(own, hardware_key(own.hardware), self._risky(own), rate)

    def _risky(self, own: Combination) -> bool:
        # The batch is the course's: only hardware-level risks have an order here.
        return not self._problem.safe(self._problem.base.model, own.hardware)

    def _switch(self, before: Combination | None, own: _Option) -> float:
        _, seconds = self._predictor.switch(before, own.into)
        return seconds * self._predictor.rate(own.into)

    def _named(self, course: Course, chosen: Sequence[Combination]) -> tuple[Course, list[StageOrder]]:
        """Join equal neighbours, and give names and lengths."""
        pieces: list[Piece] = []
        kept: list[Combination] = []
        for piece, own in zip(course.pieces, chosen, strict=True):
            if pieces and (pieces[-1].model, kept[-1].hardware) == (piece.model, own.hardware):
                pieces[-1] = piece
            else:
                pieces.append(piece)
                kept.append(own)
        found: list[StageOrder] = []
        begin = self._begin
        for place, (piece, own) in enumerate(zip(pieces, kept, strict=True)):
            last = place == len(kept) - 1
            found.append(
                StageOrder(
                    name="final" if last else f"early-{self._earlier + place + 1}",
                    length=None if last else f"{piece.end - begin}sp",
                    model=piece.model,
                    hardware=own.hardware,
                )
            )
            begin = piece.end
        return replace(course, pieces=tuple(pieces)), found


def _worth_their_parts(
    found: Sequence[_Own], settings: Callable[[_Own], HardwareSettings], cost: Callable[[_Own], float]
) -> list[_Own]:
    """Leave out what costs about as much as the same settings with fewer parts of a step; the cheapest first.

    A saving within the noise is none, and each part has batch statistics of its own: more of them are another
    training.
    """
    least: dict[str, float] = {}
    kept: list[_Own] = []
    for own in sorted(found, key=lambda own: settings(own).accumulation):
        key = hardware_key(settings(own))
        if cost(own) <= (1 - rules.LEAST_SAVING) * least.get(key, math.inf):
            least[key] = cost(own)
            kept.append(own)
    return sorted(kept, key=cost)


def _joined(course: Course) -> list[Course]:
    """Return the courses with one part less: it takes the settings of the one after it.

    But for its rate: that is a matter of where in the run a part begins.
    """
    return [_without(course, place) for place in range(len(course.pieces) - 1)]


def _without(course: Course, place: int) -> Course:
    pieces = course.pieces
    rate = {"learning_rate_factor": pieces[place].model.learning_rate_factor}
    longer = replace(pieces[place + 1], model=pieces[place + 1].model.model_copy(update=rate))
    return replace(course, pieces=(*pieces[:place], longer, *pieces[place + 2 :]))
