"""What each stage of a run has cost and reached."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from nascale.contract.run_report import StageReport, SwitchPhase
from nascale.contract.switch_class import SwitchClass
from nascale_trainer.progressive.manifest import StageRecord

KEPT_STEPS: Final = 2048
"""Steps that the quantiles are taken over."""
KEPT_LOSSES: Final = 50
"""Steps that the loss is the mean of."""
MOST_METRICS: Final = 4
_DIGITS: Final = 6


@dataclass
class StageHistory:
    """One stage that has begun."""

    place: int
    name: str
    begin: int
    switch: SwitchClass = SwitchClass.NONE
    phases: dict[SwitchPhase, float] = field(default_factory=dict)
    end: int | None = None
    steps: int = 0
    seconds: float = 0.0
    first: float | None = None
    """Seconds of the first step in this process: compilation and warm-up are in it."""
    durations: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_STEPS))
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_LOSSES))
    metrics: dict[str, float] = field(default_factory=dict)

    def step(self, seconds: float) -> None:
        """Take in a step; the first one after a switch or a start is no ordinary one."""
        self.steps += 1
        self.seconds += seconds
        if self.first is None:
            self.first = seconds
        else:
            self.durations.append(float(f"{seconds:.{_DIGITS}g}"))

    def wait(self, seconds: float) -> None:
        """Take in what the device still had to do for the last step."""
        self.seconds += seconds

    def quantile(self, share: float) -> float | None:
        """Return the nearest-rank quantile of the ordinary steps, seconds; ``None``: there was none."""
        if not self.durations:
            return None
        ordered = sorted(self.durations)
        return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]

    @property
    def loss(self) -> float | None:
        """Mean loss of the last steps; ``None``: there was none."""
        return statistics.fmean(self.losses) if self.losses else None

    def report(self) -> StageReport:
        """Return the short form."""
        phases = dict(self.phases)
        usual = self.quantile(0.5)
        if self.switch is not SwitchClass.NONE and self.first is not None and usual is not None:
            phases.setdefault(SwitchPhase.FIRST_STEP, max(self.first - usual, 0.0))
        return StageReport(
            name=self.name,
            begin=self.begin,
            end=self.end,
            steps=self.steps,
            seconds=self.seconds,
            p50=usual,
            p99=self.quantile(0.99),
            loss=self.loss,
            metrics=dict(list(self.metrics.items())[:MOST_METRICS]),
            switch=self.switch,
            phases=phases,
        )

    def record(self) -> StageRecord:
        """Return what a checkpoint keeps."""
        ended = self.end is not None
        return StageRecord(
            report=self.report(),
            place=self.place,
            durations=() if ended else tuple(self.durations),
            losses=() if ended else tuple(self.losses),
        )


class History:
    """All stages that have begun."""

    def __init__(self) -> None:
        """Begin with none."""
        self._ended: list[StageRecord] = []
        self._present: StageHistory | None = None

    @classmethod
    def of(cls, records: Sequence[StageRecord]) -> History:
        """Go on after a checkpoint."""
        history = cls()
        for record in records:
            if record.report.end is not None:
                history._ended.append(record)
            else:
                history._present = _resumed(record)
        return history

    @property
    def present(self) -> StageHistory:
        """The stage that is being trained."""
        if self._present is None:
            raise RuntimeError("no stage has begun")
        return self._present

    @property
    def begun(self) -> bool:
        """Whether a stage is being trained."""
        return self._present is not None

    def begin(self, place: int, name: str, samples: int, switch: SwitchClass) -> StageHistory:
        """Begin a stage."""
        self._present = StageHistory(place, name, samples, switch)
        return self._present

    def end(self, samples: int) -> None:
        """End the present stage."""
        self.present.end = samples
        self._ended.append(self.present.record())
        self._present = None

    def ended_places(self) -> frozenset[int]:
        """Return the places of the stages that have ended."""
        return frozenset(record.place for record in self._ended)

    def places(self) -> tuple[int, ...]:
        """Return the places of all stages that have begun, in order."""
        return tuple(record.place for record in self.records())

    def records(self) -> tuple[StageRecord, ...]:
        """Return what a checkpoint keeps."""
        return (*self._ended, *((self._present.record(),) if self._present else ()))

    def reports(self) -> tuple[StageReport, ...]:
        """Return the short forms, in order."""
        present = (self._present.report(),) if self._present else ()
        return (*(record.report for record in self._ended), *present)


def _resumed(record: StageRecord) -> StageHistory:
    report = record.report
    # The phase of a first step that is past stays; one that is still to come is measured here.
    stage = StageHistory(record.place, report.name, report.begin, report.switch, dict(report.phases))
    stage.steps, stage.seconds = report.steps, report.seconds
    stage.durations.extend(record.durations)
    stage.losses.extend(record.losses)
    stage.metrics = dict(report.metrics)
    return stage
