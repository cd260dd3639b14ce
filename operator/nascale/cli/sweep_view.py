"""How a terminal shows a sweep: live progress while it runs, the family beside the baselines at its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nascale.api.resource import Condition, ConditionStatus
from nascale.api.scaling_sweep import ScaledMember, ScalingSweep, VectorValue
from nascale.api.trial import Trial, TrialPurpose
from nascale.contract.metric_names import (
    ACCURACY,
    FLOPS,
    LATENCY_P50,
    LATENCY_P90,
    PARAMETERS,
    THROUGHPUT,
)

OURS: Final = "this sweep"
_PHASES: Final[dict[TrialPurpose, str]] = {
    TrialPurpose.REFERENCE: "measuring",
    TrialPurpose.LATENCY: "measuring",
    TrialPurpose.TRAINING: "training",
    TrialPurpose.VERIFICATION: "verifying",
    TrialPurpose.CONFIRMATION: "verifying",
    TrialPurpose.BASELINE: "baselines",
}
_WIDTHS: Final = (13, 4, 4, 4, 6, 6, 5, 6, 6, 5, 7)
"""The tables of all members have the same columns, and fit into 80 characters."""
_PREFIXES: Final = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def condition(sweep: ScalingSweep, kind: str) -> Condition | None:
    """Return the condition of one type, if it is set."""
    return next((entry for entry in sweep.status.conditions if entry.type == kind), None)


def ended(sweep: ScalingSweep) -> bool:
    """Say whether the sweep has reached its end, well or badly."""
    return any(_holds(condition(sweep, kind)) for kind in ("Succeeded", "Failed"))


def phase(sweep: ScalingSweep, trials: Sequence[Trial]) -> str:
    """Say what the sweep is at: what its trials are for, in the order of the phases."""
    if ended(sweep):
        return "ended"
    active = {trial.spec.purpose for trial in trials if trial.status.outcome is None}
    at = dict.fromkeys(text for purpose, text in _PHASES.items() if purpose in active)
    if at:
        return " and ".join(at)
    progressing = condition(sweep, "Progressing")
    return "starting" if progressing is None else progressing.reason


def live(sweep: ScalingSweep, trials: Sequence[Trial], now: datetime) -> RenderableType:
    """Show what a sweep is doing: phase, trials, device-seconds by phase, members found so far, time."""
    status, counts = sweep.status, sweep.status.trials
    head = Text.assemble(
        (sweep.metadata.name, "bold"),
        "  ",
        (phase(sweep, trials), "cyan"),
        f"  {_seconds_so_far(sweep, now)} s so far{_time_left(sweep)}",
    )
    spent = ", ".join(
        f"{name} {seconds}"
        for name, seconds in (
            ("measuring", status.phase_seconds.measuring),
            ("training", status.phase_seconds.training),
            ("verifying", status.phase_seconds.verifying),
            ("baselines", status.phase_seconds.baselines),
        )
    )
    lines: list[RenderableType] = [
        head,
        f"{status.finished} trials done, {counts.running} running, {counts.pending} waiting",
        f"device-seconds: {spent}",
        f"vectors: {status.vectors}   {_model(sweep)}   {_reference(sweep)}",
    ]
    if status.family:
        lines.append("members so far:")
        lines += [f"  {line}" for line in _short_members(sweep)]
    return Group(*lines)


def one_line(sweep: ScalingSweep, trials: Sequence[Trial], now: datetime) -> str:
    """Show the same in one line, for output that is no terminal."""
    status = sweep.status
    return (
        f"{phase(sweep, trials)}: {status.finished} trials done, {status.trials.running} running, "
        f"{_seconds_so_far(sweep, now)} s so far{_time_left(sweep)}; "
        f"members so far: {status.summary or ', '.join(_short_members(sweep)) or 'none'}"
    )


def result(sweep: ScalingSweep) -> RenderableType:
    """Show the end: each member beside the baselines at its budget, the vector, or why there is none."""
    failed = condition(sweep, "Failed")
    if failed is not None and _holds(failed):
        return Text(f"The sweep failed ({failed.reason}): {failed.message}", style="red")
    parts: list[RenderableType] = [Text("Family", style="bold")]
    for member in sweep.status.family:
        parts += [_member_table(sweep, member), *_remarks(member), Text("")]
    parts.append(_legend(sweep))
    if sweep.status.coefficients is not None:
        parts.append(_vector_text(sweep.status.coefficients))
    steady = condition(sweep, "LatencySteady")
    if steady is not None and steady.status is ConditionStatus.FALSE:
        parts.append(Text(f"Latency moved meanwhile ({steady.reason}): {steady.message}", style="yellow"))
    return Group(*parts)


def _member_table(sweep: ScalingSweep, member: ScaledMember) -> Table:
    decisive = sweep.spec.quality_objective
    metric = ACCURACY if decisive is None else decisive.metric
    budget = f"{_milliseconds(float(member.budget_seconds))} ms"
    table = Table(
        title=f"{member.name}: at most {budget}",
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        padding=(0, 1, 0, 0),
    )
    heads = ("", "d", "w", "r", "p50 ms", "p90 ms", "per s", _column(metric), "params", "FLOPs", "gain")
    for head, width in zip(heads, _WIDTHS, strict=True):
        table.add_column(head, justify="right" if head else "left", min_width=width, no_wrap=True)
    table.add_row(*_cells(OURS, member, metric), style="green")
    for baseline in sweep.status.baselines:
        for other in baseline.members:
            if other.name == member.name:
                table.add_row(*_cells(baseline.name.value, other, metric))
    return table


def _remarks(member: ScaledMember) -> Iterator[Text]:
    if member.taken_from is not None:
        yield Text(f"Taken from {member.taken_from.value}, whose network is the best here.", style="dim")
    if member.same_as is not None:
        yield Text(f"The network of {member.same_as} again: none tried here is slower.", style="dim")


def _cells(way: str, member: ScaledMember, quality_metric: str) -> Iterator[str]:
    values = {value.name: float(value.value) for value in member.metrics}
    yield way
    for factor in (member.depth, member.width, member.resolution):
        yield f"{float(factor):.2f}"
    for name in (LATENCY_P50, LATENCY_P90):
        yield _milliseconds(values.get(name))
    yield _counted(values.get(THROUGHPUT))
    yield "-" if quality_metric not in values else f"{values[quality_metric]:.4f}"
    for name in (PARAMETERS, FLOPS):
        yield _counted(values.get(name))
    yield "" if member.gain is None else f"{float(member.gain):+.4f}"


def _column(metric: str) -> str:
    """Shorten a metric's name to its column: the legend has it in full."""
    return metric if len(metric) <= 8 else f"{metric[:7]}."  # noqa: PLR2004  # "accuracy" fits


def _legend(sweep: ScalingSweep) -> Text:
    decisive = sweep.spec.quality_objective
    metric = ACCURACY if decisive is None else decisive.metric
    return Text(
        f"d, w, r: depth, width and resolution over the base's. gain: {metric} over EfficientNet's rule at "
        "the same budget.",
        style="dim",
    )


def _vector_text(vector: VectorValue) -> Text:
    text = (
        f"Coefficients: depth {float(vector.depth):.3f}, width {float(vector.width):.3f}, "
        f"resolution {float(vector.resolution):.3f}"
    )
    if vector.width_per_depth is not None and vector.resolution_per_depth is not None:
        text += f" (w/d {float(vector.width_per_depth):.2f}, r/d {float(vector.resolution_per_depth):.2f})"
    return Text(text, style="bold")


def _short_members(sweep: ScalingSweep) -> list[str]:
    decisive = sweep.spec.quality_objective
    lines = []
    for member in sweep.status.family:
        values = {value.name: float(value.value) for value in member.metrics}
        text = (
            f"{member.name}: depth {float(member.depth):.2f}, width {float(member.width):.2f}, "
            f"resolution {float(member.resolution):.2f}"
        )
        if LATENCY_P50 in values:
            text += f", {_milliseconds(values[LATENCY_P50])} ms"
        if decisive is not None and decisive.metric in values:
            text += f", {decisive.metric} {values[decisive.metric]:.4f}"
        lines.append(text)
    return lines


def _model(sweep: ScalingSweep) -> str:
    error = sweep.status.latency_model_error
    return "latency model: no prediction yet" if error is None else f"latency model: {float(error):.1%} off"


def _reference(sweep: ScalingSweep) -> str:
    reference = sweep.status.reference
    if reference.latency_seconds is None:
        return "base: not measured yet"
    now = "" if reference.last_ratio is None else f", now x {float(reference.last_ratio):.2f}"
    return f"base: {_milliseconds(float(reference.latency_seconds))} ms{now}"


def _seconds_so_far(sweep: ScalingSweep, now: datetime) -> int:
    started = sweep.status.start_time
    end = sweep.status.completion_time or now
    return 0 if started is None else max(0, int((end - started).total_seconds()))


def _time_left(sweep: ScalingSweep) -> str:
    left = sweep.status.estimated_remaining_seconds
    return "" if left is None else f", about {left} s of training left"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.3g}"


def _counted(value: float | None) -> str:
    if value is None:
        return "-"
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{value / size:.3g}{prefix}"
    return f"{value:.3g}"


def _holds(entry: Condition | None) -> bool:
    return entry is not None and entry.status is ConditionStatus.TRUE
