"""What all processes agree on of a desired state, between two steps: it is applied everywhere or nowhere."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from nascale.contract.run_order import DesiredState, parse_desired_state
from nascale_trainer.progressive import run_start
from nascale_trainer.progressive.proposals import Objection, Schedule, check_target, edited
from nascale_trainer.progressive.ranks import Ranks
from nascale_trainer.progressive.refusal import CannotTrain
from nascale_trainer.progressive.run_state import RunState
from nascale_trainer.progressive.task import TrainingTask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Agreed:
    """What follows from a desired state; nothing where it is refused.

    Attributes:
        changed: Whether the run's course is another one now.
        paused: Whether it asks for a pause.
    """

    changed: bool = False
    paused: bool = False


def agree(newest: DesiredState | None, state: RunState, task: TrainingTask, ranks: Ranks) -> Agreed | None:
    """Look at a desired state, all together: apply it to the run's state, or note there that it is refused.

    Args:
        newest: What rank 0 has read; the others' does not matter.
        state: The run's.
        task: Model, data and loss.
        ranks: All processes.

    Returns:
        What follows; ``None``: rank 0 has none.
    """
    text = ranks.broadcast(newest.to_json() if newest else None)
    if text is None:
        return None
    wanted = parse_desired_state(text)
    schedule, target, mine = state.schedule, None, None
    try:
        schedule = _checked(wanted, state, task, ranks)
        target = check_target(schedule, wanted)
    except Objection as objection:
        mine = str(objection)
    objections = ranks.objections(mine)
    if objections:
        reason, _, message = objections[0].partition(": ")
        log.warning("revision %d is refused: %s", wanted.revision, message)
        state.refused = (wanted.revision, reason)
        return Agreed()
    later = target if target is not None and target > state.place else None
    changed = later is not None or schedule != state.schedule
    state.schedule, state.revision = schedule, wanted.revision
    state.going_to = state.going_to if later is None else later
    return Agreed(changed=changed, paused=wanted.paused)


def _checked(wanted: DesiredState, state: RunState, task: TrainingTask, ranks: Ranks) -> Schedule:
    if wanted.stages is None:
        return state.schedule
    schedule = edited(state.schedule, wanted.stages, state.standing())
    try:
        run_start.check_following(schedule, state.place, task, ranks.device)
    except CannotTrain as refusal:
        raise Objection(refusal.reason, str(refusal)) from refusal
    return schedule
