"""A generated schedule while it runs: measured beside predicted times, and the rest planned again.

A new plan changes ``status.generated.stages``, which stands in place of ``spec.stages``: it reaches the pods
as any edit of stages to come does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from nascale.api.generation import GeneratedSchedule, GenerationActivity, PlannedStage
from nascale.api.training_status import StageState
from nascale.contract.run_order import StageOrder
from nascale.contract.schedule import ScheduleError, resolve
from nascale.progressive.generation.problem import known
from nascale.progressive.generation.replanning import Progress, Replan, is_off, replan
from nascale.reconcile.conditions import shortened
from nascale.reconcile.decimals import rounded_text
from nascale.reconcile.draft import AFTER_STATUS_SECONDS, Draft
from nascale.reconcile.schedule_context import ScheduleContext
from nascale.reconcile.schedule_reuse import Profile
from nascale.reconcile.schedule_status import DIGITS, LONGEST_REASON, as_spec_stages, table

_RATIO_DIGITS: Final = 3


def observed_ratios(
    generated: GeneratedSchedule, stages: Sequence[StageOrder], states: Sequence[StageState], least_steps: int
) -> dict[str, float]:
    """Return measured over predicted throughput by stage, for stages with enough steps.

    Args:
        generated: The schedule with its predictions.
        stages: The same stages, complete.
        states: Stages that have begun.
        least_steps: Steps before which a median says little.
    """
    predicted = {row.name: row.throughput for row in generated.table}
    batches = {stage.name: stage.model.global_batch for stage in stages}
    found: dict[str, float] = {}
    for state in states:
        step, rate = state.step_p50_seconds, predicted.get(state.name)
        if step is None or rate is None or state.steps < least_steps or state.name not in batches:
            continue
        if float(step) > 0 and float(rate) > 0:
            found[state.name] = batches[state.name] / float(step) / float(rate)
    return found


def followed(
    context: ScheduleContext, profile: Callable[[], Profile], stages: Sequence[StageOrder], draft: Draft
) -> GeneratedSchedule | None:
    """Note what was measured, and plan the rest again where there is a reason to.

    Args:
        context: The training; its schedule is there.
        profile: Gathers what is known of the device: only where it is needed, as that takes time.
        stages: Stages of the schedule, complete.
        draft: Takes counts.

    Returns:
        The schedule as it is from here; ``None``: there is none.
    """
    status = context.training.status
    generated = status.generated
    if generated is None or generated.activity is not GenerationActivity.PLANNED or not stages:
        return generated
    least = context.generation.profile.min_steps
    ratios = observed_ratios(generated, stages, status.stages, least)
    generated = generated.model_copy(update={"table": _with_ratios(generated.table, ratios)})
    names = [stage.name for stage in stages]
    if status.current_stage not in names:
        return generated
    off = {name for name, ratio in ratios.items() if is_off(ratio)}
    early = _ended_early(context, stages)
    fresh = (off | early.keys()) - set(generated.considered)
    if not fresh or names.index(status.current_stage) == len(names) - 1:
        return generated
    considered = (*generated.considered, *(name for name in names if name in fresh))
    generated = generated.model_copy(update={"considered": considered})
    found = _again(context, profile(), stages, ratios, {name: early[name] for name in early if name in fresh})
    if found is None or found.stages is None:
        return generated
    draft.count("training_plans", {"cause": "Replanned"})
    # Soon, but not at once: that look must see the new stages in the status.
    draft.look_again(AFTER_STATUS_SECONDS)
    return _replanned(context, generated, found, names.index(status.current_stage) + 1)


def _again(
    context: ScheduleContext,
    profile: Profile,
    stages: Sequence[StageOrder],
    ratios: Mapping[str, float],
    early: Mapping[str, int],
) -> Replan | None:
    """Plan the rest again; ``None``: it can't be."""
    status = context.training.status
    problem = known(context.problem, profile.records)
    names = [stage.name for stage in stages]
    present = names.index(status.current_stage or "")
    if problem.length is None or not any(record.measured for record in profile.records):
        return None
    try:
        ends = resolve(f"{problem.length}sp", stages, problem.length).ends
    except ScheduleError:
        return None
    generated = status.generated
    rates = {row.name: row.throughput for row in (() if generated is None else generated.table)}
    throughput = {
        names.index(name): ratio * float(rates[name] or 0) for name, ratio in ratios.items() if name in rates
    }
    before = present - 1
    if before < 0 or names[before] not in early:
        return replan(problem, profile.records, stages, Progress(ends, present, status.samples, throughput))
    position = early[names[before]]
    found = replan(problem, profile.records, stages, Progress(ends, before, position, throughput, ended=True))
    return _keeping_present(stages, present, found)


def _keeping_present(stages: Sequence[StageOrder], present: int, found: Replan) -> Replan | None:
    """Return a plan that leaves the present stage its name and settings; ``None``: it would change them.

    The stage before has ended early, and this one has begun already when that is seen.
    """
    if found.stages is None or present >= len(found.stages):
        return found
    old, new = stages[present], found.stages[present]
    if (old.model, old.hardware) != (new.model, new.hardware):
        return None
    kept = new.model_copy(update={"name": old.name, "until_plateau": old.until_plateau})
    changed = (*found.stages[:present], kept, *found.stages[present + 1 :])
    return Replan(changed, found.deviations, found.remaining, found.saved, found.reason)


def _ended_early(context: ScheduleContext, stages: Sequence[StageOrder]) -> dict[str, int]:
    """Return where stages have ended before their planned ends, where stages may."""
    if not context.generation.adapt:
        return {}
    whole = context.training.status.whole_samples
    try:
        ends = () if whole is None else resolve(f"{whole}sp", stages, whole).ends
    except ScheduleError:
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
        rows = [new.get(name) or old.get(name) or PlannedStage(name=name) for name in names]
        update["table"] = _with_shares(rows, old)
        update["seconds"] = rounded_text(_total(rows), DIGITS)
    return generated.model_copy(update=update)


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
