"""How a terminal shows a training: stages and switches while it runs, and what they have cost at its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nascale.api.architecture_search import MetricValue
from nascale.api.progressive_training import ProgressiveTraining
from nascale.api.resource import Condition, ConditionStatus
from nascale.api.training_status import StageState
from nascale.contract.metric_names import ACCURACY

_SHOWN_SETTINGS: Final = (
    ("resolution", "px"),
    ("depth", "depth"),
    ("globalBatch", "batch"),
    ("precision", ""),
    ("memoryFormat", ""),
    ("compilation", "compile"),
    ("workers", "workers"),
    ("dropout", "drop"),
    ("augmentation", "aug"),
)
"""Settings that tell stages apart, with the words that the table has room for."""
_OWN: Final = "parameter:"
"""What the names of settings of the user's own model begin with."""
_UNREMARKABLE: Final = {
    "memoryFormat": "Contiguous",
    "compilation": "None",
    "dropout": "0",
    "augmentation": "0",
}


def condition(training: ProgressiveTraining, kind: str) -> Condition | None:
    """Return the condition of one type, if it is set."""
    return next((entry for entry in training.status.conditions if entry.type == kind), None)


def ended(training: ProgressiveTraining) -> bool:
    """Say whether the training has reached its end, well or badly."""
    return any(_holds(condition(training, kind)) for kind in ("Succeeded", "Failed"))


def live(training: ProgressiveTraining, now: datetime) -> RenderableType:
    """Show where a training is: progress, figures of the moment, its stages so far."""
    status = training.status
    if _without_schedule(training):
        return Group(
            Text(f"{training.metadata.name}  {_time_left(training, now)}", style="bold"),
            *_schedule(training),
            *_troubles(training),
        )
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(training.metadata.name, style="bold"),
        ProgressBar(total=100, completed=status.progress_percentage or 0, width=30),
        f"{status.progress_percentage or 0} %",
        f"stage {status.current_stage or '-'}",
        _time_left(training, now),
    )
    figures = Table.grid(padding=(0, 2))
    figures.add_row(
        f"step {status.step}",
        f"{_number(status.throughput)} samples/s",
        f"p50 {_milliseconds(status.step_p50_seconds)} ms",
        f"loss {_number(status.loss)}",
        *(f"{value.name} {_number(value.value)}" for value in status.metrics if value.name != "loss"),
    )
    return Group(head, figures, _stages(training), *_schedule(training), *_troubles(training))


def one_line(training: ProgressiveTraining, now: datetime) -> str:
    """Show the same in one line, for output that is no terminal."""
    status = training.status
    if _without_schedule(training):
        return ", ".join([*_measurements(training), _time_left(training, now)])
    figures = [
        f"{status.progress_percentage or 0} %, stage {status.current_stage or '-'}, step {status.step}",
        f"{_number(status.throughput)} samples/s",
        f"loss {_number(status.loss)}",
        *(f"{value.name} {_number(value.value)}" for value in status.metrics if value.name != "loss"),
        _time_left(training, now),
    ]
    return ", ".join(figures)


def result(training: ProgressiveTraining) -> RenderableType:
    """Show the end: stages, switches, the trained model, or why there is none."""
    failed = condition(training, "Failed")
    if _holds(failed) and failed is not None:
        return Group(
            Text(f"Failed: {failed.reason}: {failed.message}", style="red"),
            _stages(training),
            *_schedule(training),
            _costs(training),
        )
    if training.spec.schedule is not None and training.status.run_generation == 0:
        return Group(*_schedule(training))
    lines: list[RenderableType] = [_stages(training), *_schedule(training), _costs(training)]
    found = training.status.result
    if found is not None:
        values = ", ".join(f"{value.name} {_number(value.value)}" for value in found.metrics)
        where = f"{training.spec.volume.claim_name}:{found.path}"
        lines.append(Text(f"Trained model: {values}; weights on the volume claim at {where}", style="bold"))
    return Group(*lines)


def _stages(training: ProgressiveTraining) -> RenderableType:
    """Make two lines for each stage: its figures, and below them the settings that tell it from others."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("stage", "samples", "per s", "p50 ms", "loss", ACCURACY, "switch", "took"):
        table.add_column(head, justify="left" if head in ("stage", "switch") else "right", no_wrap=True)
    lines: list[RenderableType] = []
    for state in training.status.stages:
        style = "cyan" if state.end_samples is None and not ended(training) else ""
        table.add_row(*_cells(state), style=style)
        settings = _settings(state)
        if settings:
            lines.append(Text(f"{state.name}: {settings}", style="dim"))
    begun = {state.name for state in training.status.stages}
    generated = training.status.generated
    for stage in training.spec.stages or (() if generated is None else generated.stages):
        if stage.name not in begun:
            table.add_row(stage.name, style="dim")
    return Group(table, *lines)


def _without_schedule(training: ProgressiveTraining) -> bool:
    """Say whether the schedule is to be generated, and is not there yet."""
    generated = training.status.generated
    return training.spec.schedule is not None and (generated is None or not generated.stages)


def _measurements(training: ProgressiveTraining) -> list[str]:
    found = training.status.generated
    if found is None:
        return []
    taken = f", {found.reused} taken over" if found.reused else ""
    counts = f"{found.measured} of at most {found.max_measured} combinations measured"
    return [
        f"{counts} (the ranges hold {found.grid_size}{taken})",
        f"{found.profile_device_seconds + found.proxy_device_seconds} device-seconds",
    ]


def _schedule(training: ProgressiveTraining) -> Sequence[RenderableType]:
    """Show the generated schedule: what each stage is predicted to take, and why it was chosen."""
    found = training.status.generated
    if found is None:
        return ()
    lines: list[RenderableType] = [Text(", ".join(_measurements(training)), style="dim")]
    if not found.table:
        return lines
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for head in ("planned", "per s", "seconds", "share", "measured", "settings"):
        table.add_column(head, justify="left" if head in ("planned", "settings") else "right")
    for row in found.table:
        settings = ", ".join(f"{entry.name.removeprefix(_OWN)} {entry.value}" for entry in row.settings)
        table.add_row(
            row.name,
            _number(row.throughput),
            _number(row.seconds),
            f"{row.share_percentage} %",
            "-" if row.observed_ratio is None else f"x {_number(row.observed_ratio)}",
            settings or "as the defaults",
        )
    return [*lines, table, Text(f"Plan {found.plan}: {found.reason}", style="dim")]


def _cells(state: StageState) -> Iterator[str]:
    yield state.name
    yield "" if state.end_samples is None else str(state.end_samples - state.begin_samples)
    yield _number(state.throughput)
    yield _milliseconds(state.step_p50_seconds)
    yield _number(state.loss)
    yield _number(_value(state.metrics, ACCURACY))
    yield "" if state.switch_class is None or state.switch_class.value == "None" else state.switch_class.value
    yield "" if state.switch_seconds is None else f"{float(state.switch_seconds):.2f} s"


def _settings(state: StageState) -> str:
    values = {setting.name: setting.value for setting in state.settings}
    shown = []
    for name, word in _SHOWN_SETTINGS:
        value = values.get(name)
        if value is None or _UNREMARKABLE.get(name) == value:
            continue
        shown.append(f"{word} {value}".strip())
    shown += [f"{name.removeprefix(_OWN)} {value}" for name, value in values.items() if name.startswith(_OWN)]
    return ", ".join(shown)


def _costs(training: ProgressiveTraining) -> RenderableType:
    status = training.status
    counts = status.switches
    return Text(
        f"switches: {counts.live} live, {counts.recompile} recompile, {counts.restart} restart, "
        f"{counts.reschedule} reschedule; steps lost: {status.lost_steps}; "
        f"device-seconds: {status.device_seconds}",
        style="dim",
    )


def _troubles(training: ProgressiveTraining) -> Sequence[RenderableType]:
    """Return a line for each condition that a person should look at."""
    bad = {
        "Degraded": True,
        "Diverged": True,
        "Stalled": True,
        "MetricsAvailable": False,
        "StageApplied": False,
    }
    lines = []
    for entry in training.status.conditions:
        wanted = bad.get(entry.type)
        if wanted is None or entry.status is not (ConditionStatus.TRUE if wanted else ConditionStatus.FALSE):
            continue
        lines.append(Text(f"{entry.type}: {entry.reason}: {entry.message}", style="yellow"))
    return lines


def _time_left(training: ProgressiveTraining, now: datetime) -> str:
    status = training.status
    if ended(training):
        return "done"
    if status.estimated_remaining_seconds is not None:
        return f"about {status.estimated_remaining_seconds} s left"
    progressing = condition(training, "Progressing")
    if status.start_time is None or progressing is None:
        return "starting"
    return f"{progressing.reason}, {max(0, int((now - status.start_time).total_seconds()))} s so far"


def _value(metrics: Sequence[MetricValue], name: str) -> str | None:
    return next((value.value for value in metrics if value.name == name), None)


def _number(value: str | None) -> str:
    return "-" if value is None else f"{float(value):.4g}"


def _milliseconds(value: str | None) -> str:
    return "-" if value is None else f"{float(value) * 1000:.3g}"


def _holds(entry: Condition | None) -> bool:
    return entry is not None and entry.status is ConditionStatus.TRUE
