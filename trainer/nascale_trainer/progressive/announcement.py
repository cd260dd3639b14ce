"""Tells the launcher of a stage that needs new processes: they start while this one still trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.switch_class import SwitchClass, classify
from nascale_trainer.progressive import run_start
from nascale_trainer.progressive.manifest import Incidents
from nascale_trainer.progressive.resuming import in_force
from nascale_trainer.progressive.run_state import RunState

ANNOUNCE_SECONDS: Final = 15.0
"""How long before a Restart the launcher is told: what fresh processes need to import torch, and some."""


class Announcement:
    """Tells of each such stage once, some seconds before."""

    def __init__(self, order: RunOrder, announce: Callable[[StageOrder], None]) -> None:
        """Prepare.

        Args:
            order: The run order.
            announce: Told of a stage that will need new processes.
        """
        self._order, self._announce = order, announce
        self._announced: StageOrder | None = None

    def look(
        self, state: RunState, present: StageOrder, throughput: float | None, incidents: Incidents
    ) -> None:
        """Tell of the next stage where it is near and needs new processes.

        Args:
            state: The run's.
            present: The stage as it is trained.
            throughput: Samples per second now; ``None``: not known, so nothing is told.
            incidents: Name a stage that is trained with safe settings.
        """
        target = state.following
        if throughput is None or target >= len(state.schedule.stages):
            return
        after = in_force(state.schedule.stages[target], incidents)
        left = (state.schedule.bounds.ends[state.place] - state.samples) / throughput
        if left > ANNOUNCE_SECONDS or self._announced == after:
            return
        if classify(present, after) is SwitchClass.RESTART and not run_start.needs_new_pods(
            self._order, after, SwitchClass.RESTART
        ):
            self._announced = after
            self._announce(after)
