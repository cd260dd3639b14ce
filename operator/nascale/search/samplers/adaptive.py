"""The default sampler: evolution on a Pareto archive, screened by a surrogate that is learnt anew each time.

1. An *opening* spreads the first trials over the space: the two corners of first and last values (lists and
   ranges usually run from small to large, so these are the ends of the front), then a Latin hypercube.
2. Then a pool of candidates is bred from the archive's best by crossing and mutation, and drawn uniformly (of
   a small space, all candidates are in it). Each objective has a Gaussian process (``surrogate``); the
   candidate with the largest expected gain of hypervolume (``improvement``) is proposed.
3. Now and then a uniform draw takes its place, so that no part of the space stays unseen for ever because
   of a wrong surrogate.

Roles of trials: values of SUCCEEDED, INFEASIBLE and EARLY_STOPPED trials teach the surrogates. Only SUCCEEDED
trials that keep all bounds make the front. PENDING ones count as if they met expectations, so that parallel
proposals differ. Candidates near FAILED ones, and near INFEASIBLE ones whose values show no reason, are worth
less. METRICS_UNAVAILABLE ones are only not repeated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nascale.search.domination import Tier, losses, non_dominated, ranks, tier, violation
from nascale.search.history import Proposal, TrialRecord, TrialState
from nascale.search.novelty import Novelty, by_index, generator, next_index
from nascale.search.problem import SearchProblem
from nascale.search.samplers.encoding import Encoding, Floats, encoding_of
from nascale.search.samplers.improvement import Belief, expected_improvement
from nascale.search.samplers.surrogate import Model, Surrogate, squared_distances
from nascale.search.settings import DecimalSetting, Setting, Settings, WholeSetting, read
from nascale.search.space import Assignment, SearchSpace

SETTINGS: tuple[Setting, ...] = (
    WholeSetting("initialTrials", default=10, low=2, high=1000),
    WholeSetting("poolSize", default=700, low=10, high=100_000),
    DecimalSetting("exploration", default=0.05, low=0.0, high=1.0),
)

_LISTED = 2000
"""Largest space whose candidates are all compared."""
_LEARNT = 256
"""Most measurements that a surrogate is conditioned on: the cost of a proposal stays bounded."""
_FITTED = 128
"""Most measurements that a surrogate's covariance is fitted to."""
_FEWEST = 4
"""Measurements below which an objective has no surrogate."""
_PARENTS = 64
_DRAWN = 0.3
"""Share of the pool that is drawn uniformly."""
_CROSSED = 0.3
"""Share of the bred ones that have two parents."""
_ROUNDS = 2
"""How often the pool's best are varied once more."""
_REFINED, _VARIANTS = 10, 10
_MARGIN = 0.05
"""How far behind the worst value the reference point lies, as a share of the range: the ends count too."""
_SURE = math.log(0.8)
"""Probability of keeping the bounds beyond which more is no merit while no trial keeps them yet."""


class Adaptive:
    """Proposes what its surrogates expect to enlarge the dominated hypervolume most."""

    def propose(self, problem: SearchProblem, history: Sequence[TrialRecord], count: int) -> list[Proposal]:
        """Propose up to ``count`` new candidates (see ``sampler.Sampler``).

        Proposals of one call follow from each other as if each had been asked for alone.
        """
        settings = read("Adaptive", SETTINGS, problem.settings)
        known = by_index(history)
        novelty = Novelty(problem.space, known)
        proposals: list[Proposal] = []
        while len(proposals) < count and not novelty.exhausted:
            rng = generator(problem, known)
            suggestions = _suggestions(problem, known, settings, rng)
            chosen = next((proposal for proposal in suggestions if proposal.parameters not in novelty), None)
            if chosen is None:
                drawn = novelty.draw(rng)
                if drawn is None:
                    break
                chosen = Proposal(parameters=drawn, origin="random")
            novelty.add(chosen.parameters)
            proposals.append(chosen)
            index = next_index(known)
            known.append(TrialRecord(index, index, 0, chosen.parameters, TrialState.PENDING))
        return proposals


def _suggestions(
    problem: SearchProblem, known: Sequence[TrialRecord], settings: Settings, rng: np.random.Generator
) -> Iterator[Proposal]:
    """Suggest candidates, best first; some may be known. None at all asks for a uniform draw."""
    asked = len({record.candidate for record in known})
    opening = settings.whole("initialTrials")
    if asked < opening:
        yield Proposal(parameters=opening_candidate(problem, asked, opening), origin="opening")
        return
    if rng.uniform() < settings.decimal("exploration"):
        return
    screen = _Screen.of(problem, known)
    if screen is None:
        return
    genomes, gains = _pool(screen, settings.whole("poolSize"), rng)
    # Equal gains, all of them zero at worst, in random order.
    for best in np.lexsort((rng.uniform(size=len(gains)), -gains)):
        yield Proposal(parameters=screen.encoding.assignment(genomes[best]), origin="surrogate")


def opening_candidate(problem: SearchProblem, position: int, count: int) -> Assignment:
    """Return a candidate of the opening: first values, last values, then a Latin hypercube.

    Args:
        problem: The search.
        position: Which one, from 0.
        count: Candidates of the whole opening.
    """
    encoding = encoding_of(problem.space)
    parameters = len(problem.space.parameters)
    corners = 2
    if position < corners:
        return encoding.assignment(encoding.at(np.full((1, parameters), float(position)))[0])
    rng = np.random.default_rng((abs(problem.seed), count))
    strata = np.column_stack([rng.permutation(count - corners) for _ in range(parameters)])
    units = (strata + rng.uniform(size=strata.shape)) / (count - corners)
    return encoding.assignment(encoding.at(units[[position - corners]])[0])


def _pool(screen: _Screen, size: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return genomes to choose from and their gains."""
    encoding = screen.encoding
    count = encoding.space.count
    if count is not None and count <= _LISTED:
        everything = _everything(encoding.space)
        return everything, screen.gains(everything)
    drawn = encoding.draw(rng, max(1, round(size * _DRAWN)))
    bred = _breed(encoding, screen.parents, size - len(drawn), rng)
    genomes = np.unique(np.vstack([drawn, bred]), axis=0)
    gains = screen.gains(genomes)
    for _ in range(_ROUNDS):
        best = genomes[np.argsort(-gains, kind="stable")[:_REFINED]]
        varied = encoding.mutate(
            np.repeat(best, _VARIANTS, axis=0), rng, np.ones(len(best) * _VARIANTS, np.int64)
        )
        genomes, gains = np.vstack([genomes, varied]), np.append(gains, screen.gains(varied))
    return genomes, gains


@lru_cache(maxsize=8)
def _everything(space: SearchSpace) -> Floats:
    """List a small space's genomes."""
    return encoding_of(space).genomes(list(space.enumerate()))


def _breed(encoding: Encoding, parents: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Cross some pairs of parents, then change one parameter or a few of every child."""
    children = parents[rng.integers(len(parents), size=count)]
    crossed = round(count * _CROSSED)
    others = parents[rng.integers(len(parents), size=crossed)]
    children[:crossed] = encoding.cross(children[:crossed], others, rng)
    return encoding.mutate(children, rng, rng.geometric(0.6, size=count))


@dataclass(frozen=True)
class _Screen:
    """What is thought of candidates, given the trials.

    Attributes:
        encoding: Of the space.
        surrogates: One per objective, ``None`` where there are too few measurements.
        bounds: Largest acceptable loss per objective, infinite where there is no bound.
        front: Losses of the front, pending candidates included as expected.
        reference: Losses that bound the volume.
        parents: Genomes of the best candidates.
        sound: Features of the candidates whose trials ended well.
        broken: Features of those whose trials failed for no measured reason.
        improving: Whether some trial keeps all bounds and every objective has a surrogate.
    """

    encoding: Encoding
    surrogates: tuple[Surrogate | None, ...]
    bounds: Floats
    front: Floats
    reference: Floats
    parents: Floats
    sound: Floats
    broken: Floats
    improving: bool

    @staticmethod
    def of(problem: SearchProblem, known: Sequence[TrialRecord]) -> _Screen | None:
        """Learn from the trials; ``None`` where there is nothing to learn from."""
        encoding = encoding_of(problem.space)
        tiers = [tier(problem, record) for record in known]
        taught = [record for record, level in zip(known, tiers, strict=True) if level is not Tier.UNRANKED]
        if not taught:
            return None
        pending = [record for record in known if record.state is TrialState.PENDING]
        surrogates = _learn(problem, taught, pending)
        rank = ranks(problem, taught)
        best = [taught[place] for place in np.flatnonzero(rank <= np.sort(rank)[:_PARENTS][-1])]
        bounds = np.array(
            [math.inf if goal.bound is None else goal.loss(goal.bound) for goal in problem.objectives]
        )
        kept = [record for record in taught if tier(problem, record) is Tier.KEEPS_BOUNDS]
        measured = losses(problem, [record for record in taught if record.state is TrialState.SUCCEEDED])
        complete = [surrogate for surrogate in surrogates if surrogate is not None]
        improving = bool(kept) and len(complete) == len(surrogates)
        front = losses(problem, kept)
        front = front[non_dominated(front)]
        if improving and pending:
            rows = _features(encoding, pending)
            front = np.vstack([front, np.column_stack([surrogate.expect(rows) for surrogate in complete])])
        return _Screen(
            encoding=encoding,
            surrogates=surrogates,
            bounds=bounds,
            front=front,
            reference=np.minimum(_reference(measured), bounds),
            parents=encoding.genomes([record.parameters for record in best]),
            sound=_features(encoding, [record for record in taught if record.state is TrialState.SUCCEEDED]),
            broken=_features(encoding, [record for record in known if _broken(problem, record)]),
            improving=improving,
        )

    def gains(self, genomes: Floats) -> Floats:
        """Say how much candidates promise; only the order matters."""
        features = self.encoding.features(genomes)
        beliefs = [
            None
            if surrogate is None
            else Belief(*surrogate.predict(features), surrogate.model.transformation)
            for surrogate in self.surrogates
        ]
        ends_well = self._survival(features)
        if self.improving:
            complete = [belief for belief in beliefs if belief is not None]
            return expected_improvement(self.front, self.reference, complete) * ends_well
        keeps = np.zeros(len(genomes))
        for belief, bound in zip(beliefs, self.bounds, strict=True):
            if belief is not None and math.isfinite(bound):
                keeps += belief.log_probability_below(bound)
        return np.minimum(keeps, _SURE) + np.log(ends_well)

    def _survival(self, features: Floats) -> Floats:
        """Estimate the probability that a trial does not fail: the share of sound trials around, one assumed.

        Similarity falls by 1/e with every eighth of the parameters that differs.
        """
        if not len(self.broken):
            return np.ones(len(features))
        scale = 8.0 / len(self.encoding.space.parameters)
        sound, broken = (
            np.exp(-scale * squared_distances(features, rows)).sum(1) for rows in (self.sound, self.broken)
        )
        share: Floats = (1.0 + sound) / (1.0 + sound + broken)
        return share


def _learn(
    problem: SearchProblem, taught: Sequence[TrialRecord], pending: Sequence[TrialRecord]
) -> tuple[Surrogate | None, ...]:
    """Make the surrogates of all objectives.

    The covariance is fitted to the first of the trials only, a number that grows by a fifth each time: what
    is fitted once serves many proposals. All of them, or a good selection, are what it is conditioned on.
    """
    fitted = _selection(problem, taught[: _scheduled(len(taught))], _FITTED)
    learnt = _selection(problem, taught, _LEARNT)
    encoding = encoding_of(problem.space)
    waiting = _features(encoding, pending)
    surrogates: list[Surrogate | None] = []
    for objective in problem.objectives:
        early = [record for record in fitted if objective.metric in record.values]
        late = [record for record in learnt if objective.metric in record.values]
        if min(len(early), len(late)) < _FEWEST:
            surrogates.append(None)
            continue
        first, every = (
            np.array([objective.loss(record.values[objective.metric]) for record in records])
            for records in (early, late)
        )
        model = Model.of(_features(encoding, early), first, encoding.groups)
        surrogates.append(model.condition(_features(encoding, late), every, waiting))
    return tuple(surrogates)


def _scheduled(count: int) -> int:
    """Return the largest number of the schedule 4, 6, 8, 10, 12, 15, 18, ... that is not above a count."""
    scheduled = _FEWEST
    while (following := max(scheduled + 2, math.ceil(1.2 * scheduled))) <= count:
        scheduled = following
    return scheduled


def _selection(problem: SearchProblem, records: Sequence[TrialRecord], limit: int) -> list[TrialRecord]:
    """Select records that say most: half of them the best, the others spread evenly over time."""
    if len(records) <= limit:
        return list(records)
    by_rank = np.argsort(ranks(problem, records), kind="stable")
    rest = np.sort(by_rank[limit // 2 :])
    spread = rest[np.linspace(0, len(rest) - 1, limit - limit // 2).round().astype(np.int64)]
    return [records[place] for place in np.sort(np.append(by_rank[: limit // 2], spread))]


def _features(encoding: Encoding, records: Sequence[TrialRecord]) -> Floats:
    """Return the features of candidates."""
    return encoding.features(encoding.genomes([record.parameters for record in records]))


def _reference(measured: Floats) -> Floats:
    """Return the corner behind all measured losses; any corner where there are none."""
    if not len(measured):
        return np.zeros(measured.shape[1])
    worst, span = measured.max(0), np.ptp(measured, axis=0)
    corner: Floats = worst + _MARGIN * np.where(span > 0, span, 1.0)
    return corner


def _broken(problem: SearchProblem, record: TrialRecord) -> bool:
    """Say whether a trial ended badly for a reason that no value shows."""
    unexplained = record.state is TrialState.INFEASIBLE and violation(problem, record) == 0
    return unexplained or record.state is TrialState.FAILED
