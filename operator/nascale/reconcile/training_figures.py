"""What a running training's series say, by meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from nascale.api.training_status import CommittedCheckpoint
from nascale.contract import training_series as series
from nascale.contract.run_report import SwitchPhase
from nascale.contract.switch_class import SwitchClass
from nascale.reconcile.actions import Sample


@dataclass
class StageFigures:
    """One stage's figures; what is absent was not said.

    Attributes:
        values: By the names of ``training_series.STAGE_VALUES``.
        metrics: Values of its last evaluation.
        switch: Class of the switch into it.
        phases: Seconds of that switch.
    """

    values: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    switch: SwitchClass = SwitchClass.NONE
    phases: dict[SwitchPhase, float] = field(default_factory=dict)


@dataclass
class Figures:
    """A running training's figures; what is absent was not said.

    Attributes:
        plain: Values of series that are one number, by the series' name.
        metrics: Values of the last evaluation.
        settings: Numeric settings in force.
        info: Other settings in force.
        refused: Revision that was refused last, and why.
        stages: By place in the schedule.
        bounds: Where the schedule ends each stage, samples, by its place.
    """

    plain: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    settings: dict[str, float] = field(default_factory=dict)
    info: dict[str, str] = field(default_factory=dict)
    refused: tuple[int, str] | None = None
    stages: dict[int, StageFigures] = field(default_factory=dict)
    bounds: dict[int, int] = field(default_factory=dict)

    def number(self, name: str) -> float | None:
        """Return the value of a series that is one number."""
        return self.plain.get(name)

    def count(self, name: str) -> int:
        """Return a count, 0 where it was not said."""
        return max(0, int(self.plain.get(name, 0)))

    @property
    def generation(self) -> int:
        """Generation that trains; 0: not said."""
        return self.count(series.GENERATION)

    @property
    def revision(self) -> int:
        """Revision that was applied last."""
        return self.count(series.REVISION)

    @property
    def place(self) -> int | None:
        """Place of the present stage."""
        return None if series.STAGE not in self.plain else self.count(series.STAGE)

    @property
    def checkpoint_time(self) -> datetime | None:
        """When the last checkpoint was committed, whole seconds."""
        moment = self.plain.get(series.CHECKPOINT_TIMESTAMP)
        return None if not moment or moment < 0 else datetime.fromtimestamp(int(moment), UTC)

    @property
    def checkpoint(self) -> CommittedCheckpoint | None:
        """The last committed checkpoint; its time is absent where the run does not say it."""
        if series.CHECKPOINT_STEP not in self.plain:
            return None
        return CommittedCheckpoint(
            step=self.count(series.CHECKPOINT_STEP),
            samples=self.count(series.CHECKPOINT_SAMPLES),
            time=self.checkpoint_time,
        )

    @property
    def recovered(self) -> bool | None:
        """Whether the run has trained past its last loss that was not finite; ``None``: not said."""
        if series.DIVERGED_STEP not in self.plain:
            return None
        return self.count(series.STEPS) > self.count(series.DIVERGED_STEP)


def read_figures(samples: Iterable[Sample]) -> Figures:
    """Sort samples by meaning; what this release does not know is left out."""
    figures = Figures()
    for sample in samples:
        _take(figures, sample.name, sample.value, sample.labels)
    return figures


def _take(figures: Figures, name: str, value: float, labels: Mapping[str, str]) -> None:
    match name:
        case series.METRIC:
            figures.metrics[labels.get("metric", "")] = value
        case series.SETTING:
            figures.settings[labels.get("setting", "")] = value
        case series.STAGE_INFO:
            figures.info = {key: labels[key] for key in series.STAGE_INFO_LABELS if key in labels}
        case series.REFUSED:
            if value > (figures.refused or (0, ""))[0]:
                figures.refused = (int(value), labels.get("reason", "Refused"))
        case series.STAGE_BOUND | series.STAGE_VALUE | series.SWITCH_SECONDS:
            _OF_STAGES[name](figures, value, labels)
        case series.SWITCHES:
            pass
        case _:
            figures.plain[name] = value


def _stage(figures: Figures, labels: Mapping[str, str]) -> StageFigures | None:
    place = labels.get("stage", "")
    return figures.stages.setdefault(int(place), StageFigures()) if place.isdecimal() else None


def _take_stage_value(figures: Figures, value: float, labels: Mapping[str, str]) -> None:
    stage, what = _stage(figures, labels), labels.get("value", "")
    if stage is None:
        return
    kind, _, metric = what.partition(":")
    if kind == "metric" and metric:
        stage.metrics[metric] = value
    else:
        stage.values[what] = value


def _take_switch(figures: Figures, value: float, labels: Mapping[str, str]) -> None:
    stage = _stage(figures, labels)
    try:
        kind, phase = SwitchClass(labels.get("class", "")), SwitchPhase(labels.get("phase", ""))
    except ValueError:
        return
    if stage is not None:
        stage.switch = kind
        stage.phases[phase] = value


def _take_bound(figures: Figures, value: float, labels: Mapping[str, str]) -> None:
    place = labels.get("stage", "")
    if place.isdecimal():
        figures.bounds[int(place)] = int(value)


_OF_STAGES: Final[Mapping[str, Callable[[Figures, float, Mapping[str, str]], None]]] = {
    series.STAGE_BOUND: _take_bound,
    series.STAGE_VALUE: _take_stage_value,
    series.SWITCH_SECONDS: _take_switch,
}
"""Series with one value for each stage."""
