"""The status of a training: from its series while it runs, from its report at the end of a generation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from pydantic.alias_generators import to_camel

from nascale.api.architecture_search import MetricValue, ParameterSetting
from nascale.api.training_status import (
    MAX_SETTINGS,
    CommittedCheckpoint,
    PhaseTime,
    ProgressiveTrainingStatus,
    StageState,
    SwitchCounts,
)
from nascale.api.trial import DeviceUsed
from nascale.contract import training_series as series
from nascale.contract.run_report import RunOutcome, RunReport, StageReport
from nascale.contract.switch_class import SwitchClass
from nascale.contract.work_order import MetricSource
from nascale.reconcile.conditions import updated
from nascale.reconcile.decimals import rounded_text
from nascale.reconcile.owner_status import suspension
from nascale.reconcile.training_conditions import assertions
from nascale.reconcile.training_context import TrainingContext
from nascale.reconcile.training_course import Course
from nascale.reconcile.training_figures import Figures, StageFigures
from nascale.reconcile.training_generations import Generation
from nascale.reconcile.training_remaining import time_left
from nascale.reconcile.training_schedule import digest, stated_settings

_SIGNIFICANT_DIGITS: Final = 6
_MOST_METRICS: Final = 8
_ACCURACY: Final = "accuracy"
_LOSS: Final = "loss"


def training_status(context: TrainingContext, course: Course) -> ProgressiveTrainingStatus:
    """Compute the status that follows from a look; equal to the old one where nothing has changed."""
    old, now = context.training.status, context.now
    since, seconds = suspension(old, suspend=context.training.spec.suspend, now=now)
    update: dict[str, Any] = {
        "observed_generation": context.training.metadata.generation,
        "start_time": old.start_time or (now if course.number or course.generated else None),
        "completion_time": old.completion_time or (now if course.end is not None else None),
        "suspended_seconds": seconds,
        "suspended_since": None if course.end is not None else since,
        "model": old.model or (None if context.faults else context.model.pinned),
        "generated": course.generated or old.generated,
        "run_generation": course.number,
        "job_name": course.job_name,
        "workers": course.workers,
        "processes_per_worker": course.processes,
        "revision": course.revision,
        "schedule_digest": digest(course.schedule)
        if course.schedule and course.number
        else old.schedule_digest,
        "applied_revision": max(old.applied_revision, course.answer.applied),
        "refused_revision": course.answer.refused or old.refused_revision,
        "current_stage": course.stage or old.current_stage,
        "restarts": max(old.restarts, _restarts(context.generations)),
        "fallback": course.fallback,
        "result": course.result or old.result,
        "stages": _marked(context, course, old.stages),
    }
    moved = old.model_copy(update=update)
    if course.report is not None:
        moved = _with_report(context, course, course.report, moved)
    elif course.figures.plain:
        moved = _with_figures(context, course, moved)
    stages = _in_order(course, _with_stated_settings(context, course, moved.stages))
    update = {"stages": stages, "switches": _switches(stages), "summary": _summary(moved)}
    moved = moved.model_copy(update=update)
    said = assertions(context, course, moved)
    generation = context.training.metadata.generation
    conditions = updated(old.conditions, said, generation=generation, now=now)
    return _settled(context, moved.model_copy(update={"conditions": conditions}))


def _settled(context: TrainingContext, new: ProgressiveTrainingStatus) -> ProgressiveTrainingStatus:
    """Add what grows with the clock alone, but only where something else has changed."""
    old = context.training.status
    if new == old:
        return old
    seconds = sum(_device_seconds(entry, context.now) for entry in context.generations.values())
    return new.model_copy(update={"device_seconds": max(old.device_seconds, seconds)})


def _device_seconds(generation: Generation, now: datetime) -> int:
    seconds = 0.0
    for pod in generation.pods:
        if pod.started is not None:
            seconds += max(0.0, ((pod.finished or now) - pod.started).total_seconds())
    return int(seconds * generation.devices)


def _restarts(generations: Mapping[int, Generation]) -> int:
    """Count pods that ended by an error of their own; Jobs stay to the run's end, so that none is missed."""
    return sum(
        1
        for generation in generations.values()
        for pod in generation.pods
        if pod.over and pod.interrupted is None and pod.exit_code
    )


def _marked(
    context: TrainingContext, course: Course, stages: tuple[StageState, ...]
) -> tuple[StageState, ...]:
    """Note that a generation has made its first step, at the stage that it trains."""
    generation = course.generation
    told = course.report is not None or course.figures.stages
    if course.started is not True or generation is None or course.stage is None or told:
        return stages
    found = {stage.name: stage for stage in stages}
    state = found.get(course.stage) or StageState(
        name=course.stage, begin_samples=context.training.status.samples, begin_time=context.now
    )
    found[course.stage] = state.model_copy(update={"generation": generation.number})
    return tuple(found.values())


def _with_stated_settings(
    context: TrainingContext, course: Course, stages: tuple[StageState, ...]
) -> tuple[StageState, ...]:
    """Give stages that have passed between two looks the settings that the schedule states for them.

    One that no generation has trained yet has none: its settings may still turn out to be refused.
    """
    stated = {stage.name: stage for stage in course.schedule}
    architecture = None if context.model.pinned is None else context.model.pinned.architecture
    own = None if architecture is None else architecture.resolution
    return tuple(
        stage
        if stage.settings or stage.name not in stated or not stage.generation
        else stage.model_copy(update={"settings": stated_settings(stated[stage.name], own)})
        for stage in stages
    )


def _in_order(course: Course, stages: tuple[StageState, ...]) -> tuple[StageState, ...]:
    places = {stage.name: place for place, stage in enumerate(course.schedule)}
    return tuple(sorted(stages, key=lambda stage: places.get(stage.name, len(places))))


def _with_report(
    context: TrainingContext, course: Course, report: RunReport, status: ProgressiveTrainingStatus
) -> ProgressiveTrainingStatus:
    number = context.number
    pod = None if course.progress is None else course.progress.pod
    found = {stage.name: stage for stage in status.stages}
    for entry in report.stages:
        old = found.get(entry.name) or StageState(name=entry.name, begin_time=context.now)
        found[entry.name] = _reported_stage(old, entry, report, number, context.now)
    update: dict[str, Any] = {
        "stages": tuple(found.values()),
        "step": report.step,
        "samples": report.samples,
        "whole_samples": report.whole or status.whole_samples,
        "progress_percentage": _percentage(report.samples, report.whole),
        "estimated_remaining_seconds": 0 if report.outcome is RunOutcome.COMPLETED else None,
        "throughput": None,
        "lost_steps": max(status.lost_steps, report.lost_steps),
        "roll_backs": max(status.roll_backs, report.roll_backs),
        "metrics": _metrics(report.metrics, MetricSource.REPORT) or status.metrics,
    }
    if report.outcome in (RunOutcome.COMPLETED, RunOutcome.SWITCH, RunOutcome.PAUSED):
        when = (
            None if course.progress is None or course.progress.pod is None else course.progress.pod.finished
        )
        update["checkpoint"] = CommittedCheckpoint(step=report.step, samples=report.samples, time=when)
    if report.device is not None:
        pod = None if course.progress is None else course.progress.pod
        update["device"] = DeviceUsed(
            node=None if pod is None else pod.node, **report.device.model_dump(exclude_none=True)
        )
    if report.outcome is RunOutcome.REFUSED:
        # Nothing was trained: its counts say nothing of the run.
        for kept in ("step", "samples", "progress_percentage"):
            update[kept] = getattr(status, kept)
    return status.model_copy(update=update)


def _reported_stage(
    old: StageState, entry: StageReport, report: RunReport, number: int, now: datetime
) -> StageState:
    end = report.samples if entry.end is None else entry.end
    update: dict[str, Any] = {
        "begin_samples": entry.begin,
        "end_samples": entry.end,
        "end_time": old.end_time or (now if entry.end is not None else None),
        # A stage that the report only announces was trained by nobody yet.
        "generation": old.generation
        if old.end_samples is not None and old.generation
        else max(old.generation, number if entry.steps else 0),
        "steps": entry.steps,
        "seconds": _text(entry.seconds),
        "throughput": _rate(end - entry.begin, entry.seconds),
        "step_p50_seconds": _text(entry.p50),
        "step_p99_seconds": _text(entry.p99),
        "loss": _text(entry.loss),
        "metrics": _metrics(entry.metrics, MetricSource.REPORT) or old.metrics,
    }
    phases = {phase.value: seconds for phase, seconds in entry.phases.items()}
    return old.model_copy(update=update | _switch(old, entry.switch, phases))


def _switch(old: StageState, kind: SwitchClass, phases: Mapping[str, float]) -> dict[str, Any]:
    if kind is SwitchClass.NONE and not phases:
        return {}
    return {
        "switch_class": kind,
        "switch_seconds": _text(sum(phases.values())) if phases else old.switch_seconds,
        "switch_phases": tuple(
            PhaseTime(name=name, seconds=_text(seconds) or "0") for name, seconds in phases.items()
        )
        or old.switch_phases,
    }


def _with_figures(
    context: TrainingContext, course: Course, status: ProgressiveTrainingStatus
) -> ProgressiveTrainingStatus:
    figures = course.figures
    whole = figures.count(series.WHOLE) or status.whole_samples
    samples = figures.count(series.SAMPLES)
    settings = _settings(figures)
    remaining = time_left(context, course, status)
    return status.model_copy(
        update={
            "stages": _stages(context, course, status.stages, settings),
            "step": figures.count(series.STEPS),
            "samples": samples,
            "whole_samples": whole,
            "progress_percentage": _percentage(samples, whole),
            "estimated_remaining_seconds": None if remaining is None else max(0, round(remaining)),
            "checkpoint": _checkpoint(figures, status),
            "throughput": _text(figures.number(series.THROUGHPUT)),
            "step_p50_seconds": _quantile(figures, "p50_seconds"),
            "step_p99_seconds": _quantile(figures, "p99_seconds"),
            "loss": _text(figures.number(series.LOSS)),
            "metrics": _metrics(figures.metrics, MetricSource.PROMETHEUS) or status.metrics,
            "settings": settings or status.settings,
            "lost_steps": max(status.lost_steps, figures.count(series.LOST_STEPS)),
            "roll_backs": max(status.roll_backs, figures.count(series.ROLL_BACKS)),
        }
    )


def _checkpoint(figures: Figures, status: ProgressiveTrainingStatus) -> CommittedCheckpoint | None:
    found, old = figures.checkpoint, status.checkpoint
    if found is None:
        return old
    if found.time is None and old is not None and old.step == found.step:
        return old
    return found


def _quantile(figures: Figures, which: str) -> str | None:
    stage = figures.stages.get(-1 if figures.place is None else figures.place)
    return None if stage is None else _text(stage.values.get(which))


def _stages(
    context: TrainingContext,
    course: Course,
    stages: tuple[StageState, ...],
    settings: tuple[ParameterSetting, ...],
) -> tuple[StageState, ...]:
    found = {stage.name: stage for stage in stages}
    for place, figures in sorted(course.figures.stages.items()):
        if place >= len(course.schedule) or "begin_samples" not in figures.values:
            continue
        name = course.schedule[place].name
        old = found.get(name) or StageState(name=name, begin_time=context.now)
        found[name] = _measured_stage(old, figures, course.figures, context.now)
        if place == course.figures.place and course.started and course.generation is not None:
            seen: dict[str, Any] = {"generation": course.generation.number}
            found[name] = found[name].model_copy(update=seen | ({"settings": settings} if settings else {}))
    return tuple(found.values())


def _measured_stage(old: StageState, stage: StageFigures, figures: Figures, now: datetime) -> StageState:
    values = stage.values
    end = values.get("end_samples")
    begin = int(values["begin_samples"])
    trained = (figures.count(series.SAMPLES) if end is None else int(end)) - begin
    update: dict[str, Any] = {
        "begin_samples": begin,
        "end_samples": None if end is None else int(end),
        "end_time": old.end_time or (None if end is None else now),
        "steps": int(values.get("steps", 0)),
        "seconds": _text(values.get("seconds")),
        "throughput": _rate(trained, values.get("seconds", 0.0)),
        "step_p50_seconds": _text(values.get("p50_seconds")),
        "step_p99_seconds": _text(values.get("p99_seconds")),
        "loss": _text(values.get("loss")),
        "metrics": _metrics(stage.metrics, MetricSource.PROMETHEUS) or old.metrics,
    }
    phases = {phase.value: seconds for phase, seconds in stage.phases.items()}
    return old.model_copy(update=update | _switch(old, stage.switch, phases))


def _settings(figures: Figures) -> tuple[ParameterSetting, ...]:
    """Return the settings in force, by the names that the spec uses."""
    texts = {to_camel(name): value for name, value in figures.info.items() if name != "stage"}
    for name, value in figures.settings.items():
        texts[to_camel(name)] = str(int(value)) if value == int(value) else _text(value) or ""
    named = sorted((name, value) for name, value in texts.items() if name and value)
    return tuple(ParameterSetting(name=name, value=value) for name, value in named[:MAX_SETTINGS])


def _switches(stages: Iterable[StageState]) -> SwitchCounts:
    counts = dict.fromkeys(SwitchClass, 0)
    for stage in stages:
        if stage.switch_class is not None:
            counts[stage.switch_class] += 1
    return SwitchCounts(
        live=counts[SwitchClass.LIVE],
        recompile=counts[SwitchClass.RECOMPILE],
        restart=counts[SwitchClass.RESTART],
        reschedule=counts[SwitchClass.RESCHEDULE],
    )


def _summary(status: ProgressiveTrainingStatus) -> str | None:
    for metric in status.metrics:
        if metric.name == _ACCURACY:
            return f"{_ACCURACY}={float(metric.value):.4g}"
    return None if status.loss is None else f"{_LOSS}={float(status.loss):.4g}"


def _percentage(samples: int, whole: int | None) -> int | None:
    return None if not whole else min(100, math.floor(100 * samples / whole))


def _rate(samples: int, seconds: float) -> str | None:
    return _text(samples / seconds) if seconds > 0 and samples >= 0 else None


def _metrics(values: Mapping[str, float], source: MetricSource) -> tuple[MetricValue, ...]:
    named = sorted((name, text) for name, value in values.items() if (text := _text(value)) is not None)
    return tuple(MetricValue(name=name, value=text, source=source) for name, text in named[:_MOST_METRICS])


def _text(value: float | None) -> str | None:
    """Write a figure with as many digits as are worth reading; ``None`` where it can't be written."""
    if value is None:
        return None
    try:
        return rounded_text(value, _SIGNIFICANT_DIGITS)
    except ValueError:
        return None


def reported_metrics(report: RunReport) -> tuple[MetricValue, ...]:
    """Return the final values of a report."""
    return _metrics(report.metrics, MetricSource.REPORT)
