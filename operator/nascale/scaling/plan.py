"""The state of a sweep as its stages see it: they ask for networks and trainings, the plan knows or notes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from functools import cached_property
from typing import Final

from nascale.scaling.budget_search import MOST_MEASUREMENTS, Sighting, search
from nascale.scaling.drift import Measured, Measurements
from nascale.scaling.latency_model import LatencyModel
from nascale.scaling.networks import ScaledNetwork, scaler
from nascale.scaling.problem import Member, Purpose, ScalingProblem, ScalingProposal, ScalingRecord
from nascale.scaling.quality import Observation
from nascale.scaling.rays import Ray, ray
from nascale.scaling.trainings import Result, Training, Trainings
from nascale.scaling.vectors import Candidate, shares

GUARD: Final = 0.9
"""Share of the tolerance up to which a network is newly chosen: it may still change a little with the median
of the reference, and a network whose training has begun should not lose its place by that."""
MOST_FAILED_NETWORKS: Final = 3
"""Networks of a vector that may fail in training for one member; then the vector is given up there."""
MOST_FAILED_REFERENCES: Final = 3
FEWEST_REFERENCES: Final = 3
"""Measurements of the reference before the first training: from then on its median stays."""
_GUESSED_MULTIPLE: Final = 2.0
"""Budget over the base's latency, where it is given in seconds and nothing is measured yet."""


class Missing(Enum):
    """Why there is no answer."""

    WAITING = "waiting"
    """It must be measured or trained first."""
    NONE = "none"
    """There is none and will be none."""


class FaultReason(StrEnum):
    """Why a sweep can't go on."""

    BUDGET_UNREACHABLE = "BudgetUnreachable"
    NO_FEASIBLE_TRIAL = "NoFeasibleTrial"


@dataclass(frozen=True)
class Fault:
    """Why a sweep can't go on; the message names member and values."""

    reason: FaultReason
    message: str


@dataclass(frozen=True)
class Entrant:
    """A candidate's network at a member.

    Attributes:
        candidate: Whose vector it is.
        network: The network.
        member: Name of the member; empty: for none in particular.
        origin: Origin of its trials.
    """

    candidate: Candidate
    network: ScaledNetwork
    member: str
    origin: str


@dataclass(frozen=True)
class Trained:
    """An entrant and what training it gave."""

    entrant: Entrant
    rung: int
    result: Result
    latency: float
    """Measured, seconds; infinite where only FLOPs counted."""
    violation: float
    """By how much it lies beyond soft bounds, relative, in sum."""
    loss: float
    """The quality, turned so that smaller is better."""
    beaten: bool = False
    """Whether further trainings have shown that another network of its member is better."""

    @property
    def standing(self) -> tuple[float, bool, float]:
        """Sort key of how good it is, best first."""
        return self.violation, self.beaten, self.loss

    @property
    def order(self) -> tuple[tuple[float, bool, float], float, str]:
        """Sort key, best first; of networks that are as good, the faster one."""
        return self.standing, self.latency, self.entrant.candidate.name


@dataclass
class Agenda:
    """What has to be done before the stages know more; keys say what it is about, each once.

    Attributes:
        measurements: By network.
        trainings: By network, rung, repeat.
        reference: Whether the reference must be measured even if nothing else is.
    """

    measurements: dict[str, ScalingProposal] = field(default_factory=dict)
    trainings: dict[Training, ScalingProposal] = field(default_factory=dict)
    reference: bool = False


class Plan:
    """A look at a sweep.

    Args:
        problem: The sweep.
        records: All trials so far, in any order.
        lenient: Answer with what there is instead of waiting, and ask for nothing: for a summary.
    """

    def __init__(
        self, problem: ScalingProblem, records: Sequence[ScalingRecord], *, lenient: bool = False
    ) -> None:
        self.problem = problem
        self.lenient = lenient
        self.scaler = scaler(problem.base)
        self.measurements = Measurements(problem, records)
        self.trainings = Trainings(problem, records)
        self.agenda = Agenda()
        self.fault: Fault | None = None
        self.observations: list[Observation] = []
        self.looked_at: dict[str, Candidate] = {}
        self._rays: dict[Candidate, Ray] = {}

    def budget(self, member: Member) -> float | None:
        """Return a member's budget, seconds; ``None``: the reference is not measured yet."""
        if member.seconds is not None:
            return member.seconds
        reference = self.measurements.reference
        return None if reference is None else reference * (member.multiple or 1.0)

    def log_budget(self, member: Member) -> float:
        """Return the log of a member's budget over the reference's latency; a guess where that is unknown."""
        budget, reference = self.budget(member), self.measurements.reference
        if budget is None or reference is None:
            return math.log(member.multiple or _GUESSED_MULTIPLE)
        return math.log(budget / reference)

    def measured(self, network: ScaledNetwork) -> Measured | None:
        """Return what measuring says about a network."""
        return self.measurements.networks.get(network.key)

    def ray(self, candidate: Candidate) -> Ray:
        """Return a candidate's networks."""
        if candidate not in self._rays:
            self._rays[candidate] = ray(self.problem, candidate.vector)
        return self._rays[candidate]

    def entrants(self, wanted: Iterable[tuple[Candidate, Member]], origin: str = "") -> list[Entrant] | None:
        """Find the networks of candidates at members, those that exist; ``None``: not all are known yet.

        Args:
            wanted: Whose, and for which budgets.
            origin: Origin of their trials; empty: the candidates' names.
        """
        found: list[Entrant] = []
        waiting = False
        for candidate, member in wanted:
            network = self.network(candidate, member, origin or candidate.name)
            if isinstance(network, ScaledNetwork):
                found.append(Entrant(candidate, network, member.name, origin or candidate.name))
            waiting |= network is Missing.WAITING
        if self.lenient:
            return found
        return None if waiting or not self.measurements.settled else found

    def network(self, candidate: Candidate, member: Member, origin: str) -> ScaledNetwork | Missing:
        """Find the largest network of a candidate's ray that keeps a member's budget.

        A network whose training for the member has begun keeps its place as long as it keeps the budget.
        """
        own = self.ray(candidate)
        kept = self._begun(own, member, origin)
        if kept is not None:
            return kept
        failures = self.trainings.failures(origin, member.name)
        if failures >= MOST_FAILED_NETWORKS:
            return Missing.NONE
        measurements = self.measurements
        if not measurements.busy and (measurements.reference is None or self._few_references):
            self._ask_reference()
        if measurements.repeats:
            return Missing.WAITING
        left = MOST_MEASUREMENTS + failures - measurements.asked[origin, member.name]
        if not failures and self._decided(origin, member):
            left = 0
        limit = self.log_budget(member) + math.log1p(GUARD * self.problem.tolerance)
        answer = search(own, self._sighting(own), self.model, limit, left)
        if answer.place is not None and measurements.reference is not None:
            return self._at(own, answer.place, member)
        if answer.measure is not None and left > 0:
            self._ask_measurement(own.networks[answer.measure], member, origin)
        return Missing.WAITING

    def train(
        self, entrant: Entrant, purpose: Purpose, rung: int, repeats: Iterable[int]
    ) -> Result | Missing:
        """Return what training a network at a rung gives, in the mean of its repeats that succeed."""
        wanted = tuple(repeats)
        waiting = False
        for repeat in wanted:
            training = entrant.network.key, rung, repeat
            if training in self.trainings.failed or self.trainings.values(training) is not None:
                continue
            waiting = True
            if training not in self.trainings.pending:
                self._ask_training(training, entrant, purpose)
        if waiting and not self.lenient:
            return Missing.WAITING
        return self.trainings.result(entrant.network.key, rung, len(wanted)) or Missing.NONE

    def trained(self, entrant: Entrant, rung: int, result: Result) -> Trained:
        """Put together what is known of a trained network."""
        measured = self.measured(entrant.network)
        values = {**result.values, **(measured.values if measured else {})}
        violation = 0.0
        for objective in self.problem.objectives:
            if objective.bound is not None and objective.metric in values:
                scale = abs(objective.bound) or 1.0
                violation += objective.violation(values[objective.metric]) / scale
        return Trained(
            entrant,
            rung,
            result,
            measured.latency if measured else math.inf,
            violation,
            self.problem.quality.loss(result.values[self.problem.quality.metric]),
        )

    def observe(self, trained: Trained) -> None:
        """Let the quality model learn from a training."""
        reference = self.measurements.reference
        if reference is None or not math.isfinite(trained.latency):
            return
        self.observations.append(
            Observation(
                shares(trained.entrant.candidate.vector),
                math.log(trained.latency / reference),
                trained.rung,
                trained.loss,
                trained.result.count,
            )
        )

    @cached_property
    def model(self) -> LatencyModel:
        """The latency model, fitted to everything measured so far."""
        logs, features = self.latency_data
        return LatencyModel(features, logs, len(self.scaler.features(self.scaler.unscaled)))

    @cached_property
    def latency_data(self) -> tuple[list[float], list[tuple[float, ...]]]:
        """Log of latency over the reference's, and features, of every measured network but the base."""
        reference = self.measurements.reference
        if reference is None:
            return [], []
        logs = [math.log(own.latency / reference) for own in self.measured_candidates.values()]
        return logs, [self.scaler.features_of(key) for key in self.measured_candidates]

    @cached_property
    def measured_candidates(self) -> dict[str, Measured]:
        """What is measured, but for the base, by key, in order."""
        known = self.measurements.networks
        return {key: known[key] for key in sorted(known) if key != self.scaler.unscaled.key}

    def _decided(self, origin: str, member: Member) -> bool:
        """Say whether trainings for a member have begun since a vector was last measured there.

        They begin when nothing is left to measure: what the latency model learns later changes no choice.
        """
        measured = self.measurements.latest.get((origin, member.name))
        trained = self.trainings.latest.get(member.name)
        return measured is not None and trained is not None and measured < trained

    def _begun(self, own: Ray, member: Member, origin: str) -> ScaledNetwork | None:
        budget = self.budget(member)
        for key in reversed(self.trainings.asked.get((origin, member.name), ())):
            place = own.places.get(key)
            measured = self.measurements.networks.get(key)
            if place is None or measured is None or budget is None or key in self._dead:
                continue
            if measured.latency <= budget * (1 + self.problem.tolerance):
                return own.networks[place]
        return None

    def _at(self, own: Ray, place: int, member: Member) -> ScaledNetwork | Missing:
        if place >= 0:
            return own.networks[place]
        # The base itself may use the whole tolerance.
        base, budget = own.networks[0], self.budget(member)
        measured = self.measured(base)
        if budget is None or measured is None or base.key in self._dead:
            return Missing.NONE
        return base if measured.latency <= budget * (1 + self.problem.tolerance) else Missing.NONE

    @cached_property
    def _dead(self) -> set[str]:
        return self.measurements.failed | self.trainings.unusable

    def _sighting(self, own: Ray) -> Sighting:
        reference = self.measurements.reference
        known = self.measurements.networks if reference is not None else {}
        return Sighting(
            {
                place: math.log(known[key].latency / (reference or 1.0))
                for key, place in own.places.items()
                if key in known
            },
            {place for key, place in own.places.items() if key in self._dead},
            {place for key, place in own.places.items() if key in self.measurements.pending},
        )

    @property
    def _few_references(self) -> bool:
        measurements = self.measurements
        return (
            measurements.reference_count < FEWEST_REFERENCES
            and measurements.failed_references < MOST_FAILED_REFERENCES
            and not self.trainings.latest
        )

    def _ask_reference(self) -> None:
        failed = self.measurements.failed_references
        if failed >= MOST_FAILED_REFERENCES:
            self.fault = Fault(
                FaultReason.NO_FEASIBLE_TRIAL,
                f"the unscaled base network could not be measured in {failed} pods, so that nothing can be "
                "compared with it",
            )
        self.agenda.reference = True

    def _ask_measurement(self, network: ScaledNetwork, member: Member, origin: str) -> None:
        if network.key in self.measurements.networks or network.key in self.measurements.failed:
            return  # measured before any reference was: it counts as soon as there is one
        self.agenda.measurements.setdefault(
            network.key,
            ScalingProposal(Purpose.LATENCY, network.multipliers, member=member.name, origin=origin),
        )

    def _ask_training(self, training: Training, entrant: Entrant, purpose: Purpose) -> None:
        _, rung, repeat = training
        self.agenda.trainings.setdefault(
            training,
            ScalingProposal(
                purpose,
                entrant.network.multipliers,
                rung=rung,
                repeat=repeat,
                member=entrant.member,
                origin=entrant.origin,
            ),
        )
