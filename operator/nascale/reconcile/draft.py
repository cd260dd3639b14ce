"""A plan in the making: actions, events and counts are gathered, and the trials as they will be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from nascale.api.trial import TrialStatus
from nascale.reconcile.actions import Action, Counted, CreateTrial, Event, EventType, PatchTrialStatus, Plan
from nascale.reconcile.conditions import shortened
from nascale.reconcile.snapshot import TrialView
from nascale.reconcile.trial_status import changes

AFTER_STATUS_SECONDS: Final = 0.1
"""When to look again where the next look must see the status that this one writes: soon, but not at once."""
_LONGEST_EVENT_MESSAGE = 1000
"""Kubernetes allows 1,024 bytes."""


class Draft:
    """Gathers what follows from one observation.

    Args:
        trials: As observed, by index.
    """

    def __init__(self, trials: tuple[TrialView, ...]) -> None:
        self._observed = {view.index: view for view in trials}
        self._trials = dict(self._observed)
        self._actions: list[Action] = []
        self._patches: dict[int, int] = {}
        self._events: list[Event] = []
        self._counted: list[Counted] = []
        self._look_again: float | None = None

    @property
    def trials(self) -> tuple[TrialView, ...]:
        """The trials as they will be when the plan has been carried out, by index."""
        return tuple(self._trials.values())

    @property
    def created(self) -> int:
        """How many Trials the plan creates."""
        return sum(isinstance(action, CreateTrial) for action in self._actions)

    def act(self, action: Action) -> None:
        """Add an action after those that are there."""
        self._actions.append(action)

    def write(self, view: TrialView, status: TrialStatus) -> TrialView:
        """Let a trial have another status: one patch, however often it changes while the plan is made."""
        observed = self._observed[view.index]
        patch = changes(observed.status, status)
        if patch:
            action = PatchTrialStatus(view.name, view.uid, patch, observed.resource_version)
            if view.index in self._patches:
                self._actions[self._patches[view.index]] = action
            else:
                self._patches[view.index] = len(self._actions)
                self.act(action)
        after = replace(view, status=status, resource_version="") if patch else view
        self._trials[view.index] = after
        return after

    def tell(self, reason: str, message: str, *, trial: str | None = None, warning: bool = False) -> None:
        """Add an event."""
        kind = EventType.WARNING if warning else EventType.NORMAL
        self._events.append(Event(kind, reason, shortened(message, _LONGEST_EVENT_MESSAGE), trial))

    def count(self, name: str, labels: Mapping[str, str] | None = None, amount: float = 1.0) -> None:
        """Add to the operator's own metrics."""
        self._counted.append(Counted(name, labels or {}, amount))

    def look_again(self, seconds: float | None) -> None:
        """Ask for another look within so many seconds; the earliest wish counts."""
        if seconds is not None:
            wish = max(0.0, seconds)
            self._look_again = wish if self._look_again is None else min(self._look_again, wish)

    def look_again_at(self, moment: datetime | None, now: datetime) -> None:
        """Ask for another look at a point in time."""
        if moment is not None:
            self.look_again((moment - now).total_seconds())

    def plan(self, status: Mapping[str, Any] | None, gauges: Mapping[str, float]) -> Plan:
        """Return the plan."""
        return Plan(
            actions=tuple(self._actions),
            status=status,
            events=tuple(self._events),
            counted=tuple(self._counted),
            requeue_after_seconds=self._look_again,
            gauges=gauges,
        )
