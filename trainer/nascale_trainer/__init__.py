"""The data plane: builds, measures and trains candidates, and the small module for your own training code.

``load_work_order``, ``report`` and ``Metrics`` need no torch: they are what a container of your own uses.
They are loaded on first use, so that ``from nascale_trainer import load_work_order`` costs no more than it
needs: ``Metrics`` alone wants prometheus-client, nothing here wants torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nascale.contract.report import CandidateReport, DeviceReport, Outcome
    from nascale.contract.work_order import WorkOrder
    from nascale_trainer.exporter import Metrics
    from nascale_trainer.sdk import load_work_order, report

_HOME: Final[dict[str, str]] = {
    "load_work_order": "nascale_trainer.sdk",
    "report": "nascale_trainer.sdk",
    "Metrics": "nascale_trainer.exporter",
    "CandidateReport": "nascale.contract.report",
    "DeviceReport": "nascale.contract.report",
    "Outcome": "nascale.contract.report",
    "WorkOrder": "nascale.contract.work_order",
}

__all__ = [
    "CandidateReport",
    "DeviceReport",
    "Metrics",
    "Outcome",
    "WorkOrder",
    "load_work_order",
    "report",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *__all__])
