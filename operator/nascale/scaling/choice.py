"""The choice of the members among everything that was trained at their budgets, by baselines as well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

from nascale.scaling.baselines import BaselineTrained
from nascale.scaling.plan import Plan, Trained
from nascale.scaling.vectors import Candidate, within

Levels: TypeAlias = Mapping[str, Sequence[Trained]]
"""The sweep's own trained networks by member, the best first."""
_Cost: TypeAlias = tuple[int, int, int, int]
"""How many members have a network that was beaten there (mode PerLevel), how often growth stops, how many
members have another vector than the family's, ranks in sum."""


@dataclass(frozen=True)
class Chosen:
    """A member's network.

    Attributes:
        trained: The network and what training it gave.
        taken_from: Baseline whose network it is, where the sweep's own candidates have none as good; else
            empty.
        same_as: Smaller member whose network it is as well, where no slower one was trained; else empty.
    """

    trained: Trained
    taken_from: str = ""
    same_as: str = ""


@dataclass(frozen=True)
class Family:
    """What has been chosen.

    Attributes:
        vector: The family's (mode Compound); ``None``: not known yet, or a vector per member.
        members: Choice for each member by name; a member without a trained network is missing.
    """

    vector: Candidate | None
    members: Mapping[str, Chosen]


@dataclass(frozen=True)
class _Path:
    """Choices for the members so far, from small to large."""

    cost: _Cost = (0, 0, 0, 0)
    chosen: tuple[tuple[str, Chosen], ...] = ()

    @property
    def latency(self) -> float:
        return self.chosen[-1][1].trained.latency if self.chosen else 0.0

    def then(self, member: str, own: Chosen, cost: _Cost) -> _Path:
        beaten, stops, foreign, ranks = (one + other for one, other in zip(self.cost, cost, strict=True))
        return _Path((beaten, stops, foreign, ranks), (*self.chosen, (member, own)))


def choose_family(plan: Plan, levels: Levels, baselines: Iterable[BaselineTrained]) -> Family:
    """Choose each member's network; what baselines have trained within the ranges is chosen from as well.

    All have been trained as often and with the same seeds. Latency grows from member to member wherever the
    trained networks allow it, but not by a network that further trainings have shown to be worse (mode
    PerLevel); among choices that grow alike, those of the family's vector come first (mode Compound), then
    those of the smallest sum of ranks.

    Args:
        plan: The sweep.
        levels: The sweep's own networks.
        baselines: Those that have been trained; of a sweep under way maybe not all.
    """
    by_member = {
        member.name: options(plan, levels.get(member.name, ()), member.name, baselines)
        for member in plan.problem.members
    }
    vector = None if plan.problem.per_level else _best_vector(by_member, by_count=plan.lenient)
    paths = [_Path()]
    for name, trained in by_member.items():
        order = sorted(trained, key=lambda own: (own.entrant.candidate != vector, _order(plan, own)))
        paths = _further(paths, name, [_chosen(own, levels.get(name, ())) for own in order], vector)
    return Family(vector, dict(min(paths, key=lambda own: own.cost).chosen))


def options(
    plan: Plan, own: Sequence[Trained], member: str, baselines: Iterable[BaselineTrained]
) -> list[Trained]:
    """Return what a member may be chosen from: the sweep's own networks, and baselines'.

    Baselines' are those of vectors within the ranges that have been trained as often as the best of the
    sweep's own, further trainings of what was too close to call aside.
    """
    found_here = list(own)
    enough = min(plan.problem.repeats, max((found.result.count for found in own), default=0))
    for baseline in baselines:
        found, vector = baseline.members.get(member), baseline.vector
        if found is None or vector is None or not within(plan.problem, vector.vector):
            continue
        known = any(other.entrant.candidate == found.entrant.candidate for other in found_here)
        if not known and found.result.count >= enough:
            found_here.append(found)
    return found_here


def _order(plan: Plan, own: Trained) -> tuple[int, tuple[tuple[float, bool, float], float, str]]:
    """Return a sort key, best first."""
    problem, count = plan.problem, own.result.count
    if plan.lenient:
        return -count, own.order  # trainings that are still to come make a mean worth more than another
    # Where the only rung is the last one as well, those that did not reach its repeats come behind.
    return int(problem.rungs == 1 and count == 1 < problem.repeats), own.order


def _chosen(found: Trained, own: Sequence[Trained]) -> Chosen:
    known = any(other.entrant.network.key == found.entrant.network.key for other in own)
    return Chosen(found, "" if known else found.entrant.origin)


def _further(
    paths: Sequence[_Path], member: str, ranked: Sequence[Chosen], vector: Candidate | None
) -> list[_Path]:
    """Extend the choices by one member: for each of its networks by the best that comes before it."""
    if not ranked:
        return list(paths)
    found: list[_Path] = []
    for rank, own in enumerate(ranked):
        foreign = int(vector is not None and own.trained.entrant.candidate != vector)
        beaten = int(vector is None and own.trained.beaten)
        before = [path for path in paths if path.latency < own.trained.latency]
        if before:
            best = min(before, key=lambda path: path.cost)
            found.append(best.then(member, own, (beaten, 0, foreign, rank)))
    for path in paths:
        if path.chosen:
            # The network before keeps this member's budget as well.
            name, last = path.chosen[-1]
            again = Chosen(last.trained, last.taken_from, last.same_as or name)
            foreign = int(vector is not None and last.trained.entrant.candidate != vector)
            key = last.trained.entrant.network.key
            beaten = vector is None and any(
                own.trained.beaten for own in ranked if own.trained.entrant.network.key == key
            )
            found.append(path.then(member, again, (int(beaten), 1, foreign, len(ranked))))
    return found


def _best_vector(by_member: Levels, *, by_count: bool) -> Candidate | None:
    """Choose the vector with the best mean rank over the members, of those that have most members."""
    ranks: dict[Candidate, list[tuple[int, Trained]]] = {}
    for trained in by_member.values():
        for own in trained:
            better = sum(other.standing < own.standing for other in trained)
            ranks.setdefault(own.entrant.candidate, []).append((better, own))
    if not ranks:
        return None
    return min(
        ranks,
        key=lambda own: (
            -len(ranks[own]),
            -sum(found.result.count for _, found in ranks[own]) if by_count else 0,
            fmean(rank for rank, _ in ranks[own]),
            fmean(found.violation for _, found in ranks[own]),
            fmean(found.loss for _, found in ranks[own]),
            fmean(found.latency for _, found in ranks[own]),
            own.name,
        ),
    )
