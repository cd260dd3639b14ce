"""Model-level courses: what grows when. Known good ones, and the generator's own family of compound ramps."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Final

from nascale.contract.run_order import LearningRateCourse
from nascale.contract.stage_settings import ModelSettings
from nascale.progressive.generation import rules
from nascale.progressive.generation.grid import batches, growing, hardwares, with_values
from nascale.progressive.generation.problem import GenerationProblem, Growth, Value
from nascale.progressive.generation.rules import ResizingRule

CONSTANT: Final = "constant"


@dataclass(frozen=True)
class Piece:
    """A part of a course.

    Attributes:
        end: Samples at which it ends.
        model: Its model-level settings.
    """

    end: int
    model: ModelSettings


@dataclass(frozen=True)
class Course:
    """Model-level settings over the whole run; hardware-level ones are found for each piece.

    Attributes:
        name: What it is called.
        pieces: In order; the last one has the base's settings (its learning rate but for
            ``rules.FINAL_RATE``) and ends with the run.
        source: Where it comes from, for people.
    """

    name: str
    pieces: tuple[Piece, ...]
    source: str

    def begin(self, index: int) -> int:
        """Return where a piece begins, samples."""
        return self.pieces[index - 1].end if index else 0


@dataclass(frozen=True)
class CompoundRamp:
    """A schedule in which everything grows together (CompoundGrow; Gu et al., NAACL 2021).

    Attributes:
        start: First values as a share of the full ones, above 0 to 1.
        hold: Share of the run with them, 0 to 1.
        final: Share of the run with the full ones, above 0 to 1.
        batch: Largest early batch over the base's, at least 1.
        regularization: Where regularisation begins: 0 at the ramps' start values, 1 at those of the base.
        depth: Whether the depth grows too.
    """

    start: float
    hold: float
    final: float
    batch: float = 1.0
    regularization: float = 0.0
    depth: bool = field(default=True, kw_only=True)

    @property
    def name(self) -> str:
        """A name that tells all of it, in hundredths."""
        numbers = (self.start, self.hold, self.final, self.batch, self.regularization)
        shown = "-".join(
            f"{letter}{round(100 * value)}" for letter, value in zip("shfbr", numbers, strict=True)
        )
        return f"ramp-{shown}{'' if self.depth else '-x'}"


_NAME: Final = re.compile(r"^ramp-s(\d+)-h(\d+)-f(\d+)-b(\d+)-r(\d+)(-x)?$")


def ramp_of(name: str) -> CompoundRamp | None:
    """Return the ramp of a name; ``None``: it is not one of the family's."""
    found = _NAME.match(name)
    if found is None:
        return None
    start, hold, final, batch, regularization = (int(text) / 100 for text in found.groups()[:5])
    return CompoundRamp(start, hold, final, batch, regularization, depth=found.group(6) is None)


@dataclass(frozen=True)
class _Level:
    """A stage before it has settings: its share, how far it has grown (0 to 1), its largest batch factor."""

    share: float
    progress: float
    batch: float = 1.0


def constant(problem: GenerationProblem) -> Course:
    """Return the constant recipe's course."""
    return Course(CONSTANT, (Piece(problem.whole, problem.base.model),), "the constant recipe's settings")


def compound(problem: GenerationProblem, ramp: CompoundRamp) -> Course:
    """Return the course of a compound ramp."""
    starts = {growth.name: ramp.start for growth in growing(problem) if ramp.depth or growth.name != "depth"}
    final = max(ramp.final, problem.final_share)
    rule = ResizingRule(ramp.start, ramp.hold, 1 - final, rules.RAMP_STAGES)
    levels = _levels(problem, rule, ramp.batch)
    return _course(
        problem,
        starts,
        levels,
        name=ramp.name,
        source="all settings grow together",
        regularization=ramp.regularization,
    )


def known_good(problem: GenerationProblem) -> tuple[Course, ...]:
    """Return the schedules of the literature that fit what may grow; the constant recipe comes first."""
    found = [constant(problem)]
    names = [growth.name for growth in growing(problem)]
    own = [growth.name for growth in growing(problem) if growth.own]
    if "resolution" in names:
        for name, rule, source in (
            ("efficientnetv2", rules.EFFICIENTNETV2, "EfficientNetV2's linear ramp"),
            ("composer", rules.COMPOSER, "Composer's progressive resizing"),
            ("ffcv", rules.FFCV, "FFCV's resizing"),
        ):
            found.append(_by_rule(problem, name, ["resolution"], rule, source))
    if own:
        found.append(
            _by_rule(problem, "length-warm-up", own, rules.LENGTH_WARM_UP, "sequence length warm-up")
        )
    if "depth" in names:
        found.append(_by_rule(problem, "stacking", ["depth"], rules.STACKING, "progressive stacking"))
    if any(not problem.safe(problem.base.model, own) for own in hardwares(problem)):
        found.append(_risks_early(problem))
    if min(batches(problem)) < problem.base.model.global_batch:
        found.append(_batch_growth(problem))
    return tuple(found)


def own_family(problem: GenerationProblem) -> tuple[Course, ...]:
    """Return the generator's own courses, without what needs proxies to be told apart."""
    shapes = [
        (start, *shares) for start, shares in product((*rules.COMPOUND_STARTS, 1.0), rules.COMPOUND_SHARES)
    ]
    if any(growth.name == "resolution" for growth in growing(problem)):
        shapes += rules.SMALL_BEGINNINGS
    ramps = [
        CompoundRamp(start, hold, max(final, problem.final_share), batch, depth=depth)
        for (start, hold, final), batch, depth in product(
            shapes, (1.0, rules.CONSERVATIVE.batch_factor), (True, False)
        )
    ]
    return tuple(compound(problem, ramp) for ramp in ramps)


def courses(problem: GenerationProblem) -> tuple[Course, ...]:
    """Return all courses to choose from; those that come to the same settings once, the first name kept."""
    distinct: dict[str, Course] = {}
    for own in (*known_good(problem), *own_family(problem)):
        key = repr([(piece.end, piece.model.to_json()) for piece in own.pieces])
        distinct.setdefault(key, own)
    return tuple(distinct.values())


def _by_rule(
    problem: GenerationProblem, name: str, grows: Sequence[str], rule: ResizingRule, source: str
) -> Course:
    starts = dict.fromkeys(grows, rule.start)
    return _course(problem, starts, _levels(problem, rule, 1.0), name=name, source=source)


def _levels(problem: GenerationProblem, rule: ResizingRule, batch: float) -> list[_Level]:
    """Cut a rule into stages: hold, ramp, full; within the wanted number, with the wanted last share."""
    final = max(1 - rule.ramp_end, problem.final_share)
    # A larger last share shortens hold and ramp alike.
    squeeze = (1 - final) / rule.ramp_end if rule.ramp_end else 0.0
    hold, ramp = rule.hold * squeeze, (rule.ramp_end - rule.hold) * squeeze
    most = problem.stages
    steps = rule.ramp_stages if most is None else max(0, most - 1 - (hold > 0))
    if most is not None and ramp > 0 and steps == 0 and hold > 0:
        hold, ramp = hold + ramp / 2, 0.0
        final = 1 - hold
    if most == 1:
        return [_Level(1.0, 1.0)]
    held = [_Level(hold, 0.0, batch)] if hold > 0 else []
    # Without a hold the ramp begins with the first value; with one, a step beyond it.
    first = 1 if held else 0
    total = steps + 1 - (1 - first)
    ramped = [
        _Level(ramp / steps, (place + first) / (total or 1), batch) for place in range(steps) if ramp > 0
    ]
    return [*held, *ramped, _Level(final, 1.0)]


def _course(
    problem: GenerationProblem,
    starts: Mapping[str, float],
    levels: Sequence[_Level],
    *,
    name: str,
    source: str,
    regularization: float = 0.0,
) -> Course:
    growths = growing(problem)
    pieces: list[Piece] = []
    reached = 0.0
    for level in levels:
        reached += level.share
        values = {
            growth.name: _value(growth, starts.get(growth.name, 1.0), level.progress) for growth in growths
        }
        batch = _batch(problem, values, level.batch)
        model = with_values(problem, values, batch)
        pieces.append(Piece(round(reached * problem.whole), model))
    whole, last = problem.whole, problem.base.model
    bound = min(whole - 1, math.floor(whole * (1 - levels[-1].share) + 1e-6))
    early = [replace(piece, end=min(piece.end, bound)) for piece in pieces[:-1]]
    joined = _joined(problem, early)
    ramped = list(_with_regularization(problem, joined, regularization))
    while ramped and ramped[-1].model == last:
        ramped.pop()
    return Course(name, tuple(_with_rates(problem, [*ramped, Piece(whole, last)])), source)


def _with_rates(problem: GenerationProblem, pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Let each part begin at the rate that the run's own course has at that share of the work.

    Small samples pass quickly: by the count of samples, the course would be nearly over when the last part
    begins, and what it should learn at full size would be learnt at a rate next to nothing.
    """
    work = [
        (piece.end - begin) * _work(problem, piece.model)
        for begin, piece in zip([0, *(own.end for own in pieces)], pieces, strict=False)
    ]
    begin, done = 0, 0.0
    for piece, own in zip(pieces, work, strict=True):
        by_samples, by_work = (_course_share(problem, share) for share in (begin / problem.whole, done))
        factor = by_work / by_samples if by_samples > 0 else rules.MOST_RATE_FACTOR
        factor = min(max(factor, 1.0), rules.MOST_RATE_FACTOR) * problem.base.model.learning_rate_factor
        yield replace(piece, model=piece.model.model_copy(update={"learning_rate_factor": round(factor, 2)}))
        begin, done = piece.end, done + own / sum(work)


def _work(problem: GenerationProblem, model: ModelSettings) -> float:
    """Return the work for a sample relative to the full one: areas of pictures, lengths of all else."""
    found = 1.0
    for growth in growing(problem):
        found *= _share(growth, growth.of(model)) ** _dimensions(growth)
    return found


def _dimensions(growth: Growth) -> int:
    return 2 if growth.name == "resolution" and not growth.own else 1


def _course_share(problem: GenerationProblem, done: float) -> float:
    """Return the share of the peak rate at a share of the run, after the warm-up: as the trainer's course."""
    left = min(max((done - problem.warm_up) / (1 - problem.warm_up), 0.0), 1.0)
    if problem.learning_rate_course is LearningRateCourse.COSINE:
        return 0.5 * (1 + math.cos(math.pi * left))
    return 1 - left if problem.learning_rate_course is LearningRateCourse.LINEAR else 1.0


def _joined(problem: GenerationProblem, early: Sequence[Piece]) -> list[Piece]:
    """Join neighbours with the same settings; what is too short is left to the piece after it."""
    least = max(1.0, rules.LEAST_STAGE_SHARE * problem.whole)
    kept: list[Piece] = []
    for piece in early:
        if piece.end - (kept[-1].end if kept else 0) < least:
            continue
        if kept and kept[-1].model == piece.model:
            kept[-1] = piece
        else:
            kept.append(piece)
    return kept


def _with_regularization(
    problem: GenerationProblem, pieces: Sequence[Piece], regularization: float
) -> Iterator[Piece]:
    """Let regularisation follow what has grown: interpolated with the size, as in EfficientNetV2."""
    if not pieces or problem.fixed_model:
        yield from pieces
        return
    grown = [_grown(problem, piece.model) for piece in pieces]
    for piece, now in zip(pieces, grown, strict=True):
        done = (now - grown[0]) / (1 - grown[0]) if grown[0] < 1 else 1.0
        share = regularization + (1 - regularization) * done
        update = {}
        for ramp in problem.ramps:
            full = getattr(problem.base.model, ramp.name)
            update[ramp.name] = round(ramp.start + share * (full - ramp.start), 4)
        yield replace(piece, model=piece.model.model_copy(update=update))


def _grown(problem: GenerationProblem, model: ModelSettings) -> float:
    """Return the mean share of the full values that some settings have."""
    shares = [_share(growth, growth.of(model)) for growth in growing(problem)]
    return sum(shares) / len(shares) if shares else 1.0


def _share(growth: Growth, value: Value | None) -> float:
    full = growth.values[-1]
    if is_number(value) and is_number(full):
        return float(value or 0) / float(full)
    return (growth.values.index(value) + 1) / len(growth.values) if value in growth.values else 1.0


def _value(growth: Growth, start: float, progress: float) -> Value:
    """Return the value of the range that is nearest to what is wanted, the larger one of two.

    The first one is never smaller than wanted: how low a schedule begins is what it is vouched for.
    """
    wanted = start + progress * (1 - start)
    shares = [_share(growth, value) for value in growth.values]
    if progress <= 0:
        return next(
            (own for own, share in zip(growth.values, shares, strict=True) if share >= wanted - 1e-9),
            growth.values[-1],
        )
    place = min(range(len(shares)), key=lambda own: (round(abs(shares[own] - wanted), 9), -own))
    return growth.values[place]


def is_number(value: Value | None) -> bool:
    """Say whether a value is one that shares can be told of."""
    return isinstance(value, int | float)


def _batch(problem: GenerationProblem, values: Mapping[str, Value], factor: float) -> int:
    """Return the largest batch that keeps to the factor and asks for no more than the base's full step.

    Smaller samples make room for more of them at the same work per step (Hoffer et al., "Mix & Match",
    2019, regime B+).
    """
    base = problem.base.model.global_batch
    room = rules.ROOM_TOLERANCE
    for growth in growing(problem):
        share = _share(growth, values[growth.name])
        room /= max(share, 1e-3) ** _dimensions(growth)
    most = base * min(factor, max(1.0, room), float(rules.MOST_BATCH_FACTOR))
    return max((batch for batch in batches(problem) if base <= batch <= most), default=base)


def _risks_early(problem: GenerationProblem) -> Course:
    """Return the constant recipe's course cut in two, so that the first part may have risky settings."""
    if problem.stages == 1:
        return constant(problem)
    bound = math.floor(problem.whole * (1 - problem.final_share))
    early = _joined(problem, [Piece(bound, problem.base.model)])
    return Course(
        "risks-early",
        (*early, Piece(problem.whole, problem.base.model)),
        "hardware-level settings alone change",
    )


def _batch_growth(problem: GenerationProblem) -> Course:
    """Return a course in which the batch grows (Smith et al., ICLR 2018), all else constant."""
    small = [batch for batch in batches(problem) if batch < problem.base.model.global_batch]
    most = problem.stages
    if most is not None:
        small = small[len(small) - (most - 1) :] if most > 1 else []
    early = 1 - problem.final_share
    bound = min(problem.whole - 1, math.floor(problem.whole * early))
    pieces = [
        Piece(
            round(bound * (place + 1) / len(small)),
            problem.base.model.model_copy(update={"global_batch": batch}),
        )
        for place, batch in enumerate(small)
    ]
    kept = _joined(problem, pieces)
    return Course("batch-growth", (*kept, Piece(problem.whole, problem.base.model)), "growth of the batch")
