"""Drift of the target: what the reference network, measured in every pod, says about a pod's values.

A pod whose reference is off the median by more than the accepted ratio is measured again. Where a repetition
finds the reference where the pod found it, and not far off, the target has moved to another *level*: values
are corrected by the ratio, and later pods at that level are not measured again, because nothing has moved
since. After the last repetition values are corrected in any case, those of the least disturbed pod first;
where repeating has mostly been in vain, the first repetition is the last. A pod and its repetitions are a
*chain*.

What budgets are multiples of must not move under trainings that have begun, or networks lose their places by
noise: the median is that of the references measured before the first training.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median_low
from typing import Final

from nascale.contract.metric_names import LATENCIES, THROUGHPUT
from nascale.scaling.networks import Scaler, scaler
from nascale.scaling.problem import (
    MEASURE_ONLY,
    Purpose,
    ScalingProblem,
    ScalingProposal,
    ScalingRecord,
)
from nascale.search.history import TrialState

_LEVEL_DRIFTS: Final = 4.0
"""Accepted ratios that a level is off at most: beyond, something disturbs the target, now more, now less."""

_FEW_CHAINS: Final = 3
"""Chains that were corrected, from which it can be said that repeating is in vain."""


@dataclass(frozen=True)
class Measured:
    """What measuring says about one network.

    Attributes:
        latency: Accepted or corrected value of the budgets' metric, seconds.
        values: All values; latencies and throughput are corrected where ``corrected`` says so.
        corrected: Whether the pod's drift was taken out.
        index: Trial that it comes from.
    """

    latency: float
    values: Mapping[str, float]
    corrected: bool
    index: int


@dataclass(frozen=True)
class _Pod:
    lead: int
    records: tuple[ScalingRecord, ...]

    @property
    def reference(self) -> ScalingRecord | None:
        return next((own for own in self.records if own.purpose is Purpose.REFERENCE), None)

    @property
    def candidates(self) -> tuple[ScalingRecord, ...]:
        return tuple(own for own in self.records if own.purpose is Purpose.LATENCY)

    @property
    def pending(self) -> bool:
        return any(own.state is TrialState.PENDING for own in self.records)

    @property
    def repeated(self) -> int | None:
        """Index of some trial that this pod repeats."""
        return next((own.remeasures for own in self.records if own.remeasures is not None), None)


@dataclass
class _Chain:
    pods: list[_Pod] = field(default_factory=list)


class Measurements:
    """Everything that measuring pods have said so far.

    Attributes:
        networks: Measured networks by key; the base itself from its references.
        failed: Keys of networks that could not be measured.
        pending: Keys of networks that are being measured.
        repeats: Pods that must be measured again, ready to propose.
        asked: How many networks were measured for a member, by (origin, member), repetitions left out.
        latest: Index of the latest network measured for a member, by (origin, member).
        busy: A measuring pod has not ended.
        reference: Median latency of the reference before the first training, seconds; ``None``: not measured
            yet.
        reference_count: Measurements of the reference.
        failed_references: References that could not be measured.
        last_ratio: The latest reference over the median.
        remeasured_pods: Pods that were measured again for drift.
        corrected_pods: Pods whose values are corrected.
    """

    def __init__(self, problem: ScalingProblem, records: Sequence[ScalingRecord]) -> None:
        self._problem = problem
        self._scaler = scaler(problem.base)
        measuring = sorted((own for own in records if own.purpose in MEASURE_ONLY), key=lambda own: own.index)
        pods = _pods(measuring)
        trainings = [own.index for own in records if own.purpose not in MEASURE_ONLY]
        self._count_references(pods, min(trainings, default=math.inf))
        self.networks: dict[str, Measured] = {}
        self.failed: set[str] = set()
        self.pending = {
            self._key(own)
            for own in measuring
            if own.state is TrialState.PENDING and own.purpose is Purpose.LATENCY
        }
        self.asked = Counter(
            (own.origin, own.member)
            for own in measuring
            if own.purpose is Purpose.LATENCY and own.remeasures is None
        )
        self.latest = {
            (own.origin, own.member): own.index for own in measuring if own.purpose is Purpose.LATENCY
        }
        self.busy = any(pod.pending for pod in pods)
        self.repeats: list[tuple[ScalingProposal, ...]] = []
        self.remeasured_pods = self.corrected_pods = 0
        self._level: float | None = None
        self._helped = self._vain = 0
        self._trust_references(measuring)
        for chain in _chains(pods):
            self._read(chain)
        self.failed -= self.networks.keys()

    @cached_property
    def settled(self) -> bool:
        """Nothing is being measured and nothing has to be measured again."""
        return not self.busy and not self.repeats

    def origins(self, member: str) -> list[str]:
        """Return whose networks were measured for a member, the first first."""
        return [origin for origin, own in self.asked if own == member]

    def ratio(self, pod: _Pod) -> float | None:
        """Return a pod's reference over the median; ``None``: it has none, so nothing can be said."""
        latency = self._latency(pod.reference)
        return None if latency is None or self.reference is None else latency / self.reference

    def _count_references(self, pods: Sequence[_Pod], first_training: float) -> None:
        found = [latency for pod in pods if (latency := self._latency(pod.reference)) is not None]
        early = [
            latency
            for pod in pods
            if pod.lead < first_training and (latency := self._latency(pod.reference)) is not None
        ]
        self.reference_count = len(found)
        # The lower of two middle values: disturbance makes devices slower, hardly ever faster.
        self.reference = median_low(early or found) if found else None
        self.failed_references = sum(
            pod.reference is not None
            and pod.reference.state is not TrialState.PENDING
            and self._latency(pod.reference) is None
            for pod in pods
        )
        self.last_ratio = found[-1] / self.reference if self.reference is not None else None

    def _latency(self, record: ScalingRecord | None) -> float | None:
        if record is None or record.state is not TrialState.SUCCEEDED:
            return None
        value = record.values.get(self._problem.latency_metric)
        return value if value is not None and value > 0 else None

    def _trust_references(self, measuring: Sequence[ScalingRecord]) -> None:
        for own in measuring:
            latency = self._latency(own)
            if own.purpose is Purpose.REFERENCE and latency is not None and latency == self.reference:
                self.networks[self._scaler.unscaled.key] = Measured(latency, own.values, False, own.index)
                return

    def _drifted(self, pod: _Pod) -> bool:
        ratio = self.ratio(pod)
        return ratio is not None and abs(ratio - 1) > self._problem.drift

    def _read(self, chain: _Chain) -> None:
        root = chain.pods[0]
        self.remeasured_pods += len(chain.pods) > 1
        self.failed |= {
            self._key(own)
            for own in root.candidates
            if own.state is not TrialState.PENDING and self._latency(own) is None
        }
        steady = [pod for pod in chain.pods if not pod.pending and not self._drifted(pod)]
        if steady:
            self._level = None
            self._helped += len(chain.pods) > 1
            self._take(steady, correct=False)
            # A network that failed in the steady repetition keeps what was measured before.
            self._take(chain.pods[::-1], correct=True)
            return
        self._take(sorted(chain.pods, key=lambda pod: (self._off(pod), -pod.lead)), correct=True)
        good = [own for own in root.candidates if self._latency(own) is not None]
        if any(pod.pending for pod in chain.pods) or not good:
            return
        if self._at_a_level(chain):
            self.corrected_pods += 1
        elif len(chain.pods) > self._most_repetitions:
            self.corrected_pods += 1
            self._vain += len(chain.pods) > 1
        else:
            self.repeats.append(_again(root, good))

    @property
    def _most_repetitions(self) -> int:
        most = self._problem.max_remeasurements
        return min(1, most) if self._vain >= _FEW_CHAINS and self._vain > self._helped else most

    def _off(self, pod: _Pod) -> float:
        """Return by how much a pod is off, as a log; infinite where that is not known."""
        ratio = self.ratio(pod)
        return math.inf if ratio is None else abs(math.log(ratio))

    def _at_a_level(self, chain: _Chain) -> bool:
        """Say whether the target was last seen where it had been before, and remember that level."""
        *before, last = [self.ratio(pod) for pod in chain.pods]
        drift = self._problem.drift
        if last is None or abs(last - 1) > _LEVEL_DRIFTS * drift:
            return False
        known = [ratio for ratio in (*before, self._level) if ratio is not None]
        if not any(abs(last / ratio - 1) <= drift for ratio in known):
            return False
        self._level = last
        return True

    def _take(self, pods: Iterable[_Pod], *, correct: bool) -> None:
        for pod in pods:
            ratio = (self.ratio(pod) or 1.0) if correct else 1.0
            for own in pod.candidates:
                latency, key = self._latency(own), self._key(own)
                if latency is None or key in self.networks:
                    continue
                values = _corrected(own.values, ratio)
                self.networks[key] = Measured(latency / ratio, values, ratio != 1, own.index)

    def _key(self, record: ScalingRecord) -> str:
        return _key(self._scaler, record)


def _key(own: Scaler, record: ScalingRecord) -> str:
    return own.network(record.multipliers).key


def _pods(measuring: Iterable[ScalingRecord]) -> list[_Pod]:
    by_lead: dict[int, list[ScalingRecord]] = {}
    for record in measuring:
        by_lead.setdefault(record.lead, []).append(record)
    return [_Pod(lead, tuple(by_lead[lead])) for lead in sorted(by_lead)]


def _chains(pods: Iterable[_Pod]) -> list[_Chain]:
    chain_of: dict[int, _Chain] = {}
    chains: list[_Chain] = []
    for pod in pods:
        repeated = pod.repeated
        chain = chain_of.get(repeated) if repeated is not None else None
        if chain is None:
            chain = _Chain()
            chains.append(chain)
        chain.pods.append(pod)
        chain_of.update((own.index, chain) for own in pod.records)
    return chains


def _again(root: _Pod, good: Sequence[ScalingRecord]) -> tuple[ScalingProposal, ...]:
    reference = () if root.reference is None else (root.reference,)
    return tuple(
        ScalingProposal(
            own.purpose,
            own.multipliers,
            remeasures=own.index,
            member=own.member,
            origin=own.origin,
        )
        for own in (*reference, *good)
    )


def _corrected(values: Mapping[str, float], ratio: float) -> Mapping[str, float]:
    if ratio == 1:
        return values
    corrected = {name: value / ratio if name in LATENCIES else value for name, value in values.items()}
    if THROUGHPUT in corrected:
        corrected[THROUGHPUT] *= ratio
    return corrected
