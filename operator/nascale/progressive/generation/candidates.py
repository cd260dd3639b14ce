"""Candidate schedules: a course with the hardware-level settings that suit each of its parts.

The two halves are complementary: for each stage's model-level values those hardware-level ones are taken with
which the whole costs least, switches included, among those that are allowed at that point. Risky ones come
before safe ones and never in the last stage. Parts whose switch costs more than it saves are joined with
the one after them, which is fuller: that costs no quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from nascale.contract.run_order import StageOrder
from nascale.contract.stage_settings import HardwareSettings
from nascale.progressive.generation import rules
from nascale.progressive.generation.courses import Course, Piece
from nascale.progressive.generation.feasibility import Feasibility
from nascale.progressive.generation.grid import combine, hardwares
from nascale.progressive.generation.prediction import Predictor, SchedulePrediction
from nascale.progressive.generation.problem import Combination, GenerationProblem

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
        stage: The part with them.
        risky: Whether they may not come after safe ones.
        cost: Of the part's steps.
    """

    stage: StageOrder
    risky: bool
    cost: float

    @property
    def into(self) -> Combination:
        return Combination(self.stage.model, self.stage.hardware)


class Planner:
    """Makes schedules from courses.

    Args:
        predictor: Costs.
        feasibility: What can be run.
        begin: Samples at which the plan begins; 0: a whole run.
        before: Stage that is trained until then; ``None``: a process starts.
    """

    def __init__(
        self,
        predictor: Predictor,
        feasibility: Feasibility,
        *,
        begin: int = 0,
        before: StageOrder | None = None,
    ) -> None:
        self._problem: GenerationProblem = predictor.problem
        self._predictor = predictor
        self._feasibility = feasibility
        self._begin = begin
        self._before = before

    def plan(self, course: Course) -> Candidate | None:
        """Return the cheapest schedule of a course; ``None``: some part of it can't be run."""
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
            if (own := self.constant(hardware, f"constant-{place}" if place else "constant")) is not None
        ]
        return sorted(found, key=self._cost)

    def _cost(self, candidate: Candidate) -> float:
        return candidate.prediction.cost(self._problem.optimize)

    def _candidate(self, course: Course, stages: Sequence[StageOrder]) -> Candidate:
        prediction = self._predictor.predict(stages, begin=self._begin, before=self._before)
        return Candidate(course.name, course.source, course, tuple(stages), prediction)

    def _assigned(self, course: Course) -> Candidate | None:
        """Find the hardware-level settings by dynamic programming over the parts."""
        options = self._options(course)
        if not all(options):
            return None
        paths: list[tuple[float, list[_Option]]] = [
            (own.cost + self._switch(self._before, own), [own]) for own in options[0]
        ]
        for following in options[1:]:
            further: list[tuple[float, list[_Option]]] = []
            for own in following:
                ways = [
                    (cost + self._switch(path[-1].stage, own) + own.cost, path)
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
        return self._candidate(*self._named(course, [own.stage for own in best]))

    def _options(self, course: Course) -> list[list[_Option]]:
        """Return each part's contenders."""
        allowed = [self._allowed(course, place) for place in range(len(course.pieces))]
        self._predictor.prepare(own for part in allowed for own in part)
        ranked: list[dict[str, _Option]] = []
        for place, part in enumerate(allowed):
            options = sorted((self._option(course, place, own) for own in part), key=lambda own: own.cost)
            ranked.append(
                {own.stage.hardware.model_copy(update={"accumulation": 1}).to_json(): own for own in options}
            )
        wanted = {key for part in ranked for key in list(part)[:_CONTENDERS]}
        return [[own for key, own in part.items() if key in wanted] for part in ranked]

    def _allowed(self, course: Course, place: int) -> list[Combination]:
        piece, last = course.pieces[place], place == len(course.pieces) - 1
        late = last or piece.end > rules.RISKY_UNTIL * self._problem.whole
        found = (combine(self._problem, piece.model, own) for own in hardwares(self._problem))
        return [
            own
            for own in found
            if own is not None
            and self._feasibility.allows(own)
            and not (late and not self._problem.safe(own.model, own.hardware))
        ]

    def _option(self, course: Course, place: int, own: Combination) -> _Option:
        begin = max(self._begin, course.begin(place))
        steps = (course.pieces[place].end - begin) / own.model.global_batch
        cost = steps * self._predictor.step_seconds(own) * self._predictor.rate(own)
        # The batch is the course's: only hardware-level risks have an order here.
        risks = self._problem.risks(self._problem.base.model, own.hardware)
        stage = StageOrder(name=f"stage-{place + 1}", model=own.model, hardware=own.hardware)
        return _Option(stage, not risks <= self._problem.allowed_late, cost)

    def _switch(self, before: StageOrder | None, own: _Option) -> float:
        _, seconds = self._predictor.switch(before, own.stage)
        return seconds * self._predictor.rate(own.into)

    def _named(self, course: Course, stages: Sequence[StageOrder]) -> tuple[Course, list[StageOrder]]:
        """Join equal neighbours, and give names and lengths."""
        pieces: list[Piece] = []
        kept: list[StageOrder] = []
        for piece, stage in zip(course.pieces, stages, strict=True):
            if kept and (kept[-1].model, kept[-1].hardware) == (stage.model, stage.hardware):
                pieces[-1] = piece
            else:
                pieces.append(piece)
                kept.append(stage)
        found: list[StageOrder] = []
        begin = self._begin
        for place, (piece, stage) in enumerate(zip(pieces, kept, strict=True)):
            last = place == len(kept) - 1
            update = {
                "name": "final" if last else f"early-{place + 1}",
                "length": None if last else f"{piece.end - begin}sp",
            }
            found.append(stage.model_copy(update=update))
            begin = piece.end
        return replace(course, pieces=tuple(pieces)), found


def _joined(course: Course) -> list[Course]:
    """Return the courses with one part less: it takes the settings of the one after it."""
    pieces = course.pieces
    return [
        replace(course, pieces=(*pieces[:place], *pieces[place + 1 :])) for place in range(len(pieces) - 1)
    ]
