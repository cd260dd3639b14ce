"""What has been trained: once per network, rung and repeat, whoever asked for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TypeAlias

from nascale.scaling.networks import scaler
from nascale.scaling.problem import MEASURE_ONLY, Purpose, ScalingProblem, ScalingRecord
from nascale.search.history import TrialState

Training: TypeAlias = tuple[str, int, int]
"""Key of the network, rung, repeat."""


@dataclass(frozen=True)
class Result:
    """Trainings of one network at one rung, in the mean.

    Attributes:
        values: Mean of each metric.
        count: How many trainings.
        index: First trial among them; ``None`` where all were taken over.
    """

    values: Mapping[str, float]
    count: int
    index: int | None


class Trainings:
    """Everything that has been trained or is being trained.

    Attributes:
        pending: Trainings under way.
        purposes: Of the trainings under way.
        failed: Trainings that ended without values.
        unusable: Networks of which every training at some rung has failed.
        asked: Keys that were trained for a member, by (origin, member), the latest last.
        chosen: Origins whose networks were trained as candidates, by member, the first first.
        concluded: Members whose candidates have begun to be trained at the last of several rungs.
        latest: Index of the latest training of each member's networks.
        reused: Trainings of another sweep that have been looked up.
    """

    def __init__(self, problem: ScalingProblem, records: Iterable[ScalingRecord]) -> None:
        self._problem = problem
        self._known = problem.known
        self._done: dict[Training, ScalingRecord] = {}
        self.pending: set[Training] = set()
        self.failed: set[Training] = set()
        self.asked: dict[tuple[str, str], list[str]] = {}
        self.chosen: dict[str, list[str]] = {}
        self.concluded: set[str] = set()
        self.latest: dict[str, int] = {}
        self.purposes: set[Purpose] = set()
        self.reused: set[Training] = set()
        own = scaler(problem.base)
        for record in sorted(records, key=lambda record: record.index):
            if record.purpose not in MEASURE_ONLY:
                self._read(record, own.network(record.multipliers).key)
        self.failed -= self._done.keys() | self.pending
        self.unusable = self._unusable()

    def values(self, training: Training) -> Mapping[str, float] | None:
        """Return the values of a training; ``None``: it has not succeeded."""
        if training in self._done:
            return self._done[training].values
        if training in self._known and self._quality in self._known[training]:
            self.reused.add(training)
            return self._known[training]
        return None

    def result(self, key: str, rung: int, repeats: int) -> Result | None:
        """Return the mean over the repeats that have succeeded; ``None``: none has."""
        found = [
            (repeat, values)
            for repeat in range(repeats)
            if (values := self.values((key, rung, repeat))) is not None
        ]
        if not found:
            return None
        common = set.intersection(*(set(values) for _, values in found))
        trials = [
            self._done[key, rung, repeat].index for repeat, _ in found if (key, rung, repeat) in self._done
        ]
        means = {name: fmean(values[name] for _, values in found) for name in sorted(common)}
        return Result(means, len(found), min(trials, default=None))

    def begun(self, training: Training) -> bool:
        """Say whether a training is under way, has ended in any way, or was taken over."""
        return training in self.pending or training in self.failed or self.values(training) is not None

    def failures(self, origin: str, member: str) -> int:
        """Count networks that were trained for a member and can't be used."""
        return len(self.unusable.intersection(self.asked.get((origin, member), ())))

    @property
    def _quality(self) -> str:
        return self._problem.quality.metric

    def _read(self, record: ScalingRecord, key: str) -> None:
        training = key, record.rung, record.repeat
        if record.member:
            self.latest[record.member] = record.index
            if record.purpose is Purpose.TRAINING and 0 < record.rung == self._problem.rungs - 1:
                self.concluded.add(record.member)
            self.asked.setdefault((record.origin, record.member), []).append(key)
            chosen = self.chosen.setdefault(record.member, [])
            if record.purpose is Purpose.TRAINING and record.origin not in chosen:
                chosen.append(record.origin)
        if record.state is TrialState.PENDING:
            self.pending.add(training)
            self.purposes.add(record.purpose)
        elif record.state is TrialState.SUCCEEDED and self._quality in record.values:
            self._done.setdefault(training, record)
        else:
            self.failed.add(training)

    def _unusable(self) -> set[str]:
        alive = {(key, rung) for key, rung, _ in (*self._done, *self._known, *self.pending)}
        return {key for key, rung, _ in self.failed if (key, rung) not in alive}
