"""``ArchitectureSearch``: from an observation to actions and status."""

from __future__ import annotations

from nascale.reconcile.actions import Plan
from nascale.reconcile.observed import Observed


def plan(observed: Observed) -> Plan:
    """Decide what to do for one search."""
    raise NotImplementedError
