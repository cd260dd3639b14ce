"""A generated schedule while it runs: measured beside predicted times, and the rest planned again.

A new plan changes ``status.generated.stages``, which stands in place of ``spec.stages``: it reaches the pods
as any edit of stages to come does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nascale.api.generated_schedule import GeneratedSchedule, GenerationActivity, PlannedStage
from nascale.api.training_status import StageState
from nascale.contract.run_order import MAX_STAGES, StageOrder
from nascale.contract.run_report import SwitchPhase
from nascale.contract.schedule import ScheduleError, resolve
from nascale.contract.spans import parts
from nascale.progressive.generation import rules
from nascale.progressive.generation.prediction import Predictor
from nascale.progressive.generation.replanning import Progress, Replan, is_off, replan
from nascale.reconcile.conditions import shortened
from nascale.reconcile.decimals import rounded_text
from nascale.reconcile.draft import AFTER_STATUS_SECONDS, Draft
from nascale.reconcile.schedule_context import ScheduleContext
from nascale.reconcile.schedule_reuse import Profile
from nascale.reconcile.schedule_status import DIGITS, LONGEST_REASON, as_spec_stages, table

_RATIO_DIGITS: Final = 3


@dataclass(frozen=True)
class RunState:
    """What the run has said of its schedule.

    Attributes:
        stages: Stages of the generated schedule, complete.
        in_force: Stages that the run follows instead, because it has refused the newest plan or has gone on
            before it came; empty: it refuses nothing.
        gaining: Stage whose metric got better in its last evaluation; ``None``: there is none.
    """

    stages: Sequence[StageOrder]
    in_force: Sequence[StageOrder] = ()
    gaining: str | None = None


@dataclass(frozen=True)
class _Reasons:
    """Why the rest may be planned again, by stages that have not been a reason before.

    Attributes:
        off: Stages whose throughput is not what was predicted.
        early: Stages that have ended before their planned end, with that place, samples.
        longer: The present stage, where it shall last longer.
        ends: Planned ends of all stages, samples; empty: the length is not known yet.
    """

    off: frozenset[str]
    early: Mapping[str, int]
    longer: str | None
    ends: tuple[int, ...]


def observed_ratios(
    generated: GeneratedSchedule, stages: Sequence[StageOrder], states: Sequence[StageState], least_steps: int
) -> dict[str, float]:
    """Return measured over predicted throughput by stage, for stages with enough steps.

    Args:
        generated: The schedule with its predictions.
        stages: The same stages, complete.
        states: Stages that have begun.
        least_steps: Steps before which they say little.
    """
    predicted = {row.name: row.throughput for row in generated.table}
    batches = {stage.name: stage.model.global_batch for stage in stages}
    found: dict[str, float] = {}
    for state in states:
        rate = float(predicted.get(state.name) or 0)
        if rate <= 0 or state.steps < least_steps or state.name not in batches:
            continue
        expected = batches[state.name] / rate
        step = _step_seconds(state, expected)
        if step is not None and step > 0:
            found[state.name] = expected / step
    return found


def _step_seconds(state: StageState, expected: float) -> float | None:
    """Return a stage's mean step, seconds; ``None``: there are no figures.

    A process's first step compiles and warms up, and is none of the usual ones. What it took longer is told
    of a switch, but not of the run's start: there the mean lies between the median and the mean of all steps,
    and is taken to be the expected one where that does too.
    """
    if state.step_p50_seconds is None or state.seconds is None:
        return None
    told = [float(own.seconds) for own in state.switch_phases if own.name == SwitchPhase.FIRST_STEP]
    mean = (float(state.seconds) - sum(told)) / state.steps
    return mean if told else min(max(expected, float(state.step_p50_seconds)), mean)


def followed(
    context: ScheduleContext, profile: Callable[[], Profile], run: RunState, draft: Draft
) -> GeneratedSchedule | None:
    """Note what was measured, and plan the rest again where there is a reason to.

    Args:
        context: The training; its schedule is there.
        profile: Gathers what is known of the device: only where it is needed, as that takes time.
        run: What the run has said.
        draft: Takes counts.

    Returns:
        The schedule as it is from here; ``None``: there is none.
    """
    status, stages = context.training.status, run.stages
    generated = status.generated
    if generated is None or generated.activity is not GenerationActivity.PLANNED or not stages:
        return generated
    if run.in_force and generated.plan > 1 and tuple(run.in_force) != tuple(stages):
        draft.look_again(AFTER_STATUS_SECONDS)
        return _restored(context, generated, profile(), run.in_force)
    ratios = observed_ratios(generated, stages, status.stages, context.generation.profile.min_steps)
    generated = generated.model_copy(update={"table": _with_ratios(generated.table, ratios)})
    names = [stage.name for stage in stages]
    if status.current_stage not in names[:-1]:
        return generated
    present = names.index(status.current_stage)
    reasons = _reasons(context, generated, run, ratios)
    if not (reasons.off or reasons.early or reasons.longer):
        return generated
    generated = _with_reasons(generated, names, reasons)
    found = _again(context, profile(), stages, ratios, reasons)
    if found is None or found.stages is None:
        return generated
    draft.count("training_plans", {"cause": "Replanned"})
    # Soon, but not at once: that look must see the new stages in the status.
    draft.look_again(AFTER_STATUS_SECONDS)
    return _replanned(context, generated, found, present + 1)


def _reasons(
    context: ScheduleContext, generated: GeneratedSchedule, run: RunState, ratios: Mapping[str, float]
) -> _Reasons:
    ends = _ends(context, run.stages)
    off = frozenset(name for name, ratio in ratios.items() if is_off(ratio))
    early = _ended_early(context, run.stages, ends)
    longer = run.gaining if _nearly_over(context, run.stages, ends, run.gaining) else None
    return _Reasons(
        off=off - set(generated.considered),
        early={name: end for name, end in early.items() if name not in generated.ended_early},
        longer=None if longer in generated.lengthened else longer,
        ends=ends,
    )


def _with_reasons(generated: GeneratedSchedule, names: Sequence[str], reasons: _Reasons) -> GeneratedSchedule:
    """Note what has been a reason: none is one twice."""
    off = (*generated.considered, *(name for name in names if name in reasons.off))
    early = (*generated.ended_early, *(name for name in names if name in reasons.early))
    longer = generated.lengthened if reasons.longer is None else (*generated.lengthened, reasons.longer)
    return generated.model_copy(
        update={
            "considered": off[-MAX_STAGES:],
            "ended_early": early[-MAX_STAGES:],
            "lengthened": longer[-MAX_STAGES:],
        }
    )


def _again(
    context: ScheduleContext,
    profile: Profile,
    stages: Sequence[StageOrder],
    ratios: Mapping[str, float],
    reasons: _Reasons,
) -> Replan | None:
    """Plan the rest again; ``None``: it can't be."""
    status = context.training.status
    names = [stage.name for stage in stages]
    present = names.index(status.current_stage or "")
    ends = reasons.ends
    if not ends or not any(record.measured for record in profile.records):
        return None
    problem = replace(context.problem, length=ends[-1])
    generated = status.generated
    rates = {row.name: row.throughput for row in (() if generated is None else generated.table)}
    throughput = {
        names.index(name): ratio * float(rates[name] or 0) for name, ratio in ratios.items() if name in rates
    }
    early = reasons.early.get(names[present - 1]) if present else None
    longer = reasons.longer == names[present]
    progress = Progress(ends, present, status.samples, throughput, early=early, longer=longer)
    return replan(problem, profile.records, stages, progress)


def _ends(context: ScheduleContext, stages: Sequence[StageOrder]) -> tuple[int, ...]:
    """Return the planned ends of stages, samples; empty: the length is not known yet, or can't be divided."""
    whole = context.training.status.whole_samples
    try:
        return () if whole is None else resolve(f"{whole}sp", stages, whole).ends
    except ScheduleError:
        return ()


def _nearly_over(
    context: ScheduleContext, stages: Sequence[StageOrder], ends: Sequence[int], name: str | None
) -> bool:
    """Say whether a stage, the present one and not the last, has come so far that it may be given more."""
    status = context.training.status
    names = [stage.name for stage in stages]
    state = next((own for own in status.stages if own.name == name), None)
    if not context.generation.adapt or name != status.current_stage or name not in names[:-1]:
        return False
    if state is None or state.end_samples is not None or not ends:
        return False
    length = ends[names.index(name)] - state.begin_samples
    return status.samples >= state.begin_samples + rules.LATE * length


def _ended_early(
    context: ScheduleContext, stages: Sequence[StageOrder], ends: Sequence[int]
) -> dict[str, int]:
    """Return where stages have ended before their planned ends, where stages may."""
    if not context.generation.adapt:
        return {}
    planned = dict(zip((stage.name for stage in stages), ends, strict=False))
    batches = {stage.name: stage.model.global_batch for stage in stages}
    return {
        state.name: state.end_samples
        for state in context.training.status.stages
        if state.end_samples is not None
        and state.name in planned
        and state.end_samples + batches[state.name] < planned[state.name]
    }


def _restored(
    context: ScheduleContext, generated: GeneratedSchedule, profile: Profile, in_force: Sequence[StageOrder]
) -> GeneratedSchedule:
    """Return what the run follows in place of a plan that came too late, or that it has refused."""
    update: dict[str, Any] = {
        "stages": as_spec_stages(context, in_force),
        "reason": f"plan {generated.plan} came too late or was refused: the run follows the one before",
    }
    whole = context.training.status.whole_samples
    if whole is not None and any(record.measured for record in profile.records):
        problem = replace(context.problem, length=whole)
        found = Predictor(problem, profile.records).predict(in_force)
        old = {row.name: row for row in generated.table}
        update["table"] = _with_shares(table(context.problem.base, found), old)
        update["seconds"] = rounded_text(_total(update["table"]), DIGITS)
    return generated.model_copy(update=update)


def _replanned(
    context: ScheduleContext, generated: GeneratedSchedule, found: Replan, begun: int
) -> GeneratedSchedule:
    stages = found.stages or ()
    kept = {stage.name: stage for stage in generated.stages[:begun]}
    fresh = as_spec_stages(context, stages)
    update: dict[str, Any] = {
        "plan": generated.plan + 1,
        "reason": shortened(found.reason, LONGEST_REASON) or generated.reason,
        # The present stage may have another length, and nothing else.
        "stages": tuple(
            kept[stage.name].model_copy(update={"length": stage.length}) if stage.name in kept else stage
            for stage in fresh
        ),
    }
    if found.remaining is not None:
        new = {row.name: row for row in table(context.problem.base, found.remaining)}
        old = {row.name: row for row in generated.table}
        names = [stage.name for stage in stages]
        lengths = {stage.name: (kept.get(stage.name, stage).length, stage.length) for stage in fresh}
        rows = [
            new.get(name) or _at_length(old.get(name) or PlannedStage(name=name), *lengths[name])
            for name in names
        ]
        update["table"] = _with_shares(rows, old)
        update["seconds"] = rounded_text(_total(rows), DIGITS)
    return generated.model_copy(update=update)


def _at_length(row: PlannedStage, before: str | None, after: str | None) -> PlannedStage:
    """Return a row whose steps take as much longer as the stage now is."""
    if before == after or before is None or after is None or row.seconds is None:
        return row
    switch = float(row.switch_seconds or 0)
    longer = float(parts(after).value) / float(parts(before).value)
    seconds = switch + (float(row.seconds) - switch) * longer
    return row.model_copy(update={"seconds": rounded_text(seconds, DIGITS)})


def _with_shares(rows: Sequence[PlannedStage], old: Mapping[str, PlannedStage]) -> tuple[PlannedStage, ...]:
    total = _total(rows) or 1.0
    found: list[PlannedStage] = []
    for row in rows:
        before = old.get(row.name)
        share = min(100, round(100 * float(row.seconds or 0) / total))
        ratio = row.observed_ratio or (None if before is None else before.observed_ratio)
        found.append(row.model_copy(update={"share_percentage": share, "observed_ratio": ratio}))
    return tuple(found)


def _total(rows: Sequence[PlannedStage]) -> float:
    return sum(float(row.seconds or 0) for row in rows)


def _with_ratios(rows: Sequence[PlannedStage], ratios: Mapping[str, float]) -> tuple[PlannedStage, ...]:
    return tuple(
        row.model_copy(update={"observed_ratio": rounded_text(ratios[row.name], _RATIO_DIGITS)})
        if row.name in ratios
        else row
        for row in rows
    )
