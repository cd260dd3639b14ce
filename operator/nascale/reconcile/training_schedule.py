"""Which schedule a run shall follow, and what its pods must be told for that.

The Jobs and the pods' annotations are the memory: a Job holds the schedule that its pods began with, an
annotation the newest edit. So a crash between two writes is repaired by looking again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pydantic.alias_generators import to_camel

from nascale.api.architecture_search import ParameterSetting
from nascale.api.training_status import MAX_SETTINGS
from nascale.contract.run_order import DesiredState, StageOrder
from nascale.contract.schedule import ScheduleError
from nascale.contract.stage_settings import HardwareSettings, micro_batch
from nascale.progressive.edits import edit_faults
from nascale.progressive.settings import smallest_accumulation
from nascale.reconcile.conditions import OwnerCondition, find
from nascale.reconcile.training_context import TrainingContext
from nascale.reconcile.training_generations import Generation
from nascale.reconcile.training_revisions import (
    Answer,
    Schedule,
    is_refused,
    newest_revision,
    schedule_in_force,
    stages_of_revisions,
    told_states,
)

FORMER_STATES: Final = 3
"""Desired states before the newest one that a pod's annotation keeps: of those the last applied one is."""

OWN_PARAMETER: Final = "parameter:"
"""What the name of a setting of the user's own model begins with, as in the run's series."""


@dataclass(frozen=True)
class Wanted:
    """A schedule to follow.

    Attributes:
        schedule: The schedule; empty: none is known.
        faults: Why it is not the spec's: an edit of what can't be changed any more.
        refused: It is not the spec's because the run has refused that one.
    """

    schedule: Schedule
    faults: tuple[str, ...] = ()
    refused: bool = False


def wanted_schedule(context: TrainingContext, answer: Answer, present: str | None) -> Wanted:
    """Return the schedule to follow from here: the spec's, where that can be carried out.

    A stage that fell back to the workers of an earlier generation keeps them.

    Args:
        context: The training.
        answer: What the run has said about revisions.
        present: The stage that is trained.
    """
    generation = context.generation
    if generation is None and context.number:
        in_force = _followed_before(context)
        if not in_force:
            return Wanted(() if _edit_was_refused(context) else context.stages)
    elif generation is None or generation.order is None:
        return Wanted(context.stages or (() if context.order is None else context.order.stages))
    else:
        in_force = schedule_in_force(context, answer)
    if not context.stages:
        return Wanted(in_force)
    ended = ended_stages(context, in_force, present)
    stages = _with_former_workers(in_force, context.stages, ended)
    if generation is not None:
        stages = with_fallback(generation, stages)
    begun = {stage.name for stage in context.training.status.stages}
    if is_refused(context, answer, stages):
        return Wanted(in_force, refused=True)
    faults = edit_faults(in_force, stages, ended=ended, present=present if present in begun else None)
    return Wanted(in_force, faults) if faults else Wanted(stages)


def _followed_before(context: TrainingContext) -> Schedule:
    """Return the schedule whose digest the status holds: its Job is gone. Empty: nobody has it any more."""
    known = (context.stages, *reversed(stages_of_revisions(context).values()))
    wanted = context.training.status.schedule_digest
    return next((stages for stages in known if stages and digest(stages) == wanted), ())


def _edit_was_refused(context: TrainingContext) -> bool:
    said = find(context.training.status.conditions, OwnerCondition.STAGE_APPLIED)
    return said is not None and said.status == "False"


def ended_stages(context: TrainingContext, stages: Schedule, present: str | None) -> frozenset[str]:
    """Return the names of stages that have ended, those that were skipped included."""
    ended = {stage.name for stage in context.training.status.stages if stage.end_samples is not None}
    order = [stage.name for stage in stages]
    begun = {stage.name for stage in context.training.status.stages}
    if present in order and present in begun:
        ended |= set(order[: order.index(present)])
    return frozenset(ended)


def _with_former_workers(in_force: Schedule, stages: Schedule, ended: frozenset[str]) -> Schedule:
    """Return a schedule whose ended stages have the workers that they were trained with."""
    known = {stage.name: stage for stage in in_force if stage.name in ended}
    return tuple(
        _placed(stage, known[stage.name].hardware) if stage.name in known else stage for stage in stages
    )


def with_fallback(generation: Generation, stages: Schedule) -> Schedule:
    """Return a schedule in which the stage that fell back keeps the workers that its Job has."""
    if generation.fell_back is None or generation.order is None:
        return stages
    own = stage_named(generation.order.stages, generation.fell_back)
    return stages if own is None else placed(stages, own.name, own.hardware)


def placed(stages: Schedule, name: str, source: HardwareSettings) -> Schedule:
    """Return a schedule in which one stage has other workers and resources, and no larger micro-batch."""
    return tuple(_placed(stage, source) if stage.name == name else stage for stage in stages)


def _placed(stage: StageOrder, source: HardwareSettings) -> StageOrder:
    if same_placement(stage.hardware, source):
        return stage
    moved = stage.hardware.model_copy(
        update={
            "workers": source.workers,
            "processes_per_worker": source.processes_per_worker,
            "resources": source.resources,
        }
    )
    largest = micro_batch(stage.model, stage.hardware) or stage.model.global_batch
    try:
        accumulation = smallest_accumulation(stage.model.global_batch, moved.world, largest)
    except ScheduleError:
        # They can't share the batch evenly: the trainer says so.
        accumulation = moved.accumulation
    return stage.model_copy(update={"hardware": moved.model_copy(update={"accumulation": accumulation})})


def same_placement(first: HardwareSettings, second: HardwareSettings) -> bool:
    """Say whether two stages run in the same pods."""
    return (first.workers, first.processes_per_worker, first.resources) == (
        second.workers,
        second.processes_per_worker,
        second.resources,
    )


def stage_named(stages: Sequence[StageOrder], name: str | None) -> StageOrder | None:
    """Return the stage of that name."""
    return next((stage for stage in stages if stage.name == name), None)


def desired(
    context: TrainingContext,
    generation: Generation,
    stages: Schedule,
    *,
    paused: bool,
    advance_to: str | None = None,
) -> DesiredState:
    """Return what the pods of a generation shall be told: the newest revision, or the next one.

    Args:
        context: The training.
        generation: The latest generation; its order can be read.
        stages: The schedule to follow.
        paused: Whether it shall save and stop.
        advance_to: Stage to go on to at once; ``None``: none in particular. It is told once: where the newest
            revision names it, that one stays.
    """
    order = generation.order
    if order is None:
        raise ValueError(f"Job {generation.job.name}: its run order can't be read")
    born = DesiredState(revision=order.revision)
    told = told_states(generation)
    newest = told[-1] if told and told[-1].revision >= order.revision else born
    edit = None if stages == order.stages else stages
    # Where every pod that knew the newest revision is gone nobody can say what it held: it is told anew.
    known = newest.revision >= context.training.status.revision
    same = (newest.paused, newest.stages or order.stages) == (paused, stages)
    if known and same and advance_to in (None, newest.advance_to):
        return newest
    revision = newest_revision(context) + 1
    return DesiredState(revision=revision, paused=paused, advance_to=advance_to, stages=edit)


def former_text(generation: Generation, state: DesiredState) -> str:
    """Return the annotation with the desired states before this one."""
    before = [entry for entry in told_states(generation) if entry.revision < state.revision]
    return json.dumps([entry.to_json() for entry in before[-FORMER_STATES:]])


def digest(stages: Schedule) -> str:
    """Return a short digest of a schedule."""
    text = "\n".join(stage.to_json() for stage in stages)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stated_settings(stage: StageOrder, own_resolution: int | None) -> tuple[ParameterSetting, ...]:
    """Return the settings that a stage states, by the names that the spec uses.

    Args:
        stage: The stage, complete.
        own_resolution: The network's, for a stage that states none.
    """
    texts: dict[str, str] = {}
    for part in (stage.model, stage.hardware):
        for name, value in part:
            if isinstance(value, Mapping):
                continue  # the user's own follow below; resources and variables are Kubernetes' to show
            texts[to_camel(name)] = _setting_text(value)
    texts["resolution"] = _setting_text(stage.model.resolution or own_resolution)
    texts |= {
        f"{OWN_PARAMETER}{name}": _setting_text(value) for name, value in stage.model.parameters.items()
    }
    named = sorted((name, text) for name, text in texts.items() if text)
    return tuple(ParameterSetting(name=name, value=text) for name, text in named[:MAX_SETTINGS])


def _setting_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value == int(value) else f"{value:.6g}"
    return str(value)
