"""Revisions of a run's desired state: what each asks for, and what the run has said about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nascale.contract.run_order import DesiredState, RunOrder, StageOrder
from nascale.contract.run_report import RunOutcome, RunReport
from nascale.reconcile.conditions import OwnerCondition, find
from nascale.reconcile.training_context import TrainingContext
from nascale.reconcile.training_figures import Figures
from nascale.reconcile.training_generations import Generation, desired_state, former_states

Schedule = tuple[StageOrder, ...]

REFUSED: Final = "Refused"
"""Reason of a refusal that states none."""


@dataclass(frozen=True)
class Answer:
    """What the run has said about revisions.

    Attributes:
        applied: Revision that it applied last.
        refused: Revision that it refused last; 0: none.
        reason: Why, in one word.
    """

    applied: int = 0
    refused: int = 0
    reason: str = ""


def answer_of(context: TrainingContext, report: RunReport | None, figures: Figures) -> Answer:
    """Return what a run has said about revisions.

    Args:
        context: The training.
        report: Of the latest generation.
        figures: Of the latest generation.
    """
    status = context.training.status
    applied, refused, reason = status.applied_revision, status.refused_revision or 0, ""
    condition = find(status.conditions, OwnerCondition.STAGE_APPLIED)
    if condition is not None and condition.reason == "EditRefused":
        reason = condition.message.partition("(")[2].partition(")")[0]
    if report is not None and report.outcome is not RunOutcome.REFUSED:
        applied = max(applied, report.revision)
        if (report.refused or 0) > refused:
            refused, reason = report.refused or 0, report.refused_reason or REFUSED
    elif figures.plain:
        applied = max(applied, figures.revision)
        if figures.refused is not None and figures.refused[0] >= refused:
            refused, reason = figures.refused
    for generation in context.generations.values():
        # An edit that came between two generations is in the order of the later one.
        said = refusal_at_the_start(context, generation)
        revision = 0 if generation.order is None else generation.order.revision
        if said is not None and revision > max(applied, refused):
            refused, reason = revision, said.reason or REFUSED
    return Answer(applied, refused, reason or REFUSED)


def told_states(generation: Generation) -> tuple[DesiredState, ...]:
    """Return every desired state that pods of a generation have been told, oldest first."""
    found: dict[int, DesiredState] = {}
    for pod in generation.pods:
        newest = desired_state(pod)
        for state in (*former_states(pod), *([newest] if newest is not None else ())):
            found[state.revision] = state
    return tuple(found[revision] for revision in sorted(found))


def refusal_at_the_start(context: TrainingContext, generation: Generation) -> RunReport | None:
    """Return the report of a generation that has refused its order; ``None``: it has not."""
    report = context.progress(generation).report
    return report if report is not None and report.outcome is RunOutcome.REFUSED else None


def schedule_in_force(context: TrainingContext, answer: Answer) -> Schedule:
    """Return the schedule that the run has applied last; empty: no Job that can be read holds one."""
    for generation in reversed(tuple(context.generations.values())):
        if generation.order is not None and refusal_at_the_start(context, generation) is None:
            return _applied_by(generation, generation.order, answer)
    return () if context.order is None else context.order.stages


def _applied_by(generation: Generation, order: RunOrder, answer: Answer) -> Schedule:
    for state in reversed(told_states(generation)):
        if state.revision <= answer.applied and state.revision != answer.refused:
            return state.stages or order.stages
    return order.stages


def stages_of_revisions(context: TrainingContext) -> dict[int, Schedule]:
    """Return the stages that each known revision asks for.

    The first generation that knows a revision says what it is: the next one's order may have the number of a
    revision that was refused, and the stages that stayed in force.
    """
    found: dict[int, Schedule] = {}
    for generation in context.generations.values():
        if generation.order is None:
            continue
        found.setdefault(generation.order.revision, generation.order.stages)
        for state in told_states(generation):
            found.setdefault(state.revision, state.stages or generation.order.stages)
    return found


def is_refused(context: TrainingContext, answer: Answer, stages: Schedule) -> bool:
    """Say whether a schedule is the one that the run has refused."""
    return answer.refused > 0 and stages_of_revisions(context).get(answer.refused) == stages


def newest_revision(context: TrainingContext) -> int:
    """Return the highest revision that anybody has been given."""
    found = [context.training.status.revision]
    for generation in context.generations.values():
        if generation.order is not None:
            found.append(generation.order.revision)
        found += [state.revision for state in told_states(generation)]
    return max(found)
