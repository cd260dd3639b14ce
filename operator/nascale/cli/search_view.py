"""How a terminal shows a search: live progress while it runs, the front and the base network at its end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nascale.api.architecture_search import ArchitectureSearch, Direction, MetricValue
from nascale.api.resource import Condition, ConditionStatus
from nascale.api.trial import Trial

SHOWN_TRIALS = 8
"""Rows of the live table; the newest trials are the interesting ones."""


def condition(search: ArchitectureSearch, kind: str) -> Condition | None:
    """Return the condition of one type, if it is set."""
    return next((entry for entry in search.status.conditions if entry.type == kind), None)


def ended(search: ArchitectureSearch) -> bool:
    """Say whether the search has reached its end, well or badly."""
    return any(
        entry is not None and entry.status is ConditionStatus.TRUE
        for entry in (condition(search, "Succeeded"), condition(search, "Failed"))
    )


def live(search: ArchitectureSearch, trials: Sequence[Trial], now: datetime) -> RenderableType:
    """Show what a search is doing: progress, best values so far, its newest trials, time left."""
    status, budget = search.status, search.spec.budget
    counts = status.trials
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(search.metadata.name, style="bold"),
        ProgressBar(total=budget.max_trials, completed=status.finished, width=30),
        f"{status.finished}/{budget.max_trials} trials",
        f"{counts.running} running, {counts.pending} waiting",
        _time_left(search, now),
    )
    figures = Table.grid(padding=(0, 2))
    figures.add_row(
        f"best so far: {status.best or 'nothing measured yet'}",
        f"front: {status.front_size}",
        f"hypervolume: {_short(status.hypervolume)}",
        f"device-seconds: {status.device_seconds}",
    )
    return Group(head, figures, _trial_table(search, trials, now))


def one_line(search: ArchitectureSearch, now: datetime) -> str:
    """Show the same in one line, for output that is no terminal."""
    status = search.status
    return (
        f"{status.finished}/{search.spec.budget.max_trials} trials, {status.trials.running} running, "
        f"{_time_left(search, now)}; best so far: {status.best or 'nothing measured yet'}"
    )


def _time_left(search: ArchitectureSearch, now: datetime) -> str:
    left = search.status.estimated_remaining_seconds
    if ended(search):
        return "done"
    if left is None:
        started = search.status.start_time
        return "starting" if started is None else f"{max(0, int((now - started).total_seconds()))} s so far"
    return f"about {left} s left"


def _trial_table(search: ArchitectureSearch, trials: Sequence[Trial], now: datetime) -> Table:
    objectives = [objective.metric for objective in search.spec.objectives]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("trial", "rung", "from", "state", "seconds", *objectives):
        table.add_column(column, justify="right" if column in objectives else "left", no_wrap=True)
    newest = sorted(trials, key=lambda trial: trial.spec.index)[-SHOWN_TRIALS:]
    for trial in newest:
        values = {value.name: value for value in trial.status.metrics}
        table.add_row(
            str(trial.spec.index),
            str(trial.spec.rung),
            trial.spec.origin,
            _state(trial),
            _seconds(trial, now),
            *(_with_source(values.get(metric)) for metric in objectives),
        )
    return table


def _state(trial: Trial) -> Text:
    outcome = trial.status.outcome
    if outcome is not None:
        return Text(outcome.value, style="green" if outcome.value == "Succeeded" else "yellow")
    return Text("Running", style="cyan") if trial.status.start_time else Text("Waiting", style="dim")


def _seconds(trial: Trial, now: datetime) -> str:
    start = trial.status.start_time
    if start is None:
        return ""
    return f"{((trial.status.completion_time or now) - start).total_seconds():.0f}"


def _with_source(value: MetricValue | None) -> str:
    return "" if value is None else f"{_short(value.value)} ({value.source.value[0]})"


def _short(value: str | None) -> str:
    return "-" if value is None else f"{float(value):.4g}"


def result(search: ArchitectureSearch) -> RenderableType:
    """Show the end: the Pareto front as a table, the base network, or why there is none."""
    failed = condition(search, "Failed")
    if failed is not None and failed.status is ConditionStatus.TRUE:
        return Text(f"The search failed ({failed.reason}): {failed.message}", style="red")
    base = search.status.base_network
    front = Table(
        title="Pareto front", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    front.add_column("trial", no_wrap=True)
    for objective in search.spec.objectives:
        arrow = "↑" if objective.direction is Direction.MAXIMIZE else "↓"
        front.add_column(f"{objective.metric} {arrow}", justify="right", no_wrap=True)
    front.add_column("", no_wrap=True)
    for point in search.status.front:
        values = {value.name: value for value in point.metrics}
        front.add_row(
            point.trial,
            *(_with_source(values.get(objective.metric)) or "-" for objective in search.spec.objectives),
            "base network" if base is not None and base.trial == point.trial else "",
        )
    front.caption, front.caption_justify = "(P) read from Prometheus, (R) from the trial's report", "left"
    return front if base is None else Group(front, _base_network(search))


def _base_network(search: ArchitectureSearch) -> RenderableType:
    base = search.status.base_network
    if base is None:
        return Text("")
    lines: list[RenderableType] = [Text(f"\nBase network: {base.trial} ({base.reason})", style="bold")]
    architecture = base.architecture
    if architecture is None:
        lines.append(", ".join(f"{entry.name}={entry.value}" for entry in base.parameters))
        return Group(*lines)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for column in ("layer", "block", "kernel", "stride", "expand", "channels", "depth", "SE", "activation"):
        table.add_column(column, no_wrap=True)
    stem, head = architecture.stem, architecture.head
    table.add_row(
        "stem", stem.type.value, "", str(stem.stride), "", str(stem.channels), "1", "", stem.activation.value
    )
    for number, stage in enumerate(architecture.stages, 1):
        table.add_row(
            f"stage {number}",
            stage.block.value,
            str(stage.kernel),
            str(stage.stride),
            str(stage.expansion),
            str(stage.channels),
            str(stage.depth),
            stage.squeeze_excitation,
            stage.activation.value,
        )
    table.add_row("head", "Conv", "1", "1", "", str(head.channels), "1", "", head.activation.value)
    lines.append(f"input {architecture.resolution} x {architecture.resolution} pixels")
    lines.append(table)
    return Group(*lines)
