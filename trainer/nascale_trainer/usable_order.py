"""Whether the built-in trainer can do what a work order asks for, found out before anything costs time."""

from __future__ import annotations

from typing import Final

from nascale.contract.errors import ContractError
from nascale.contract.metric_names import BUILT_IN, MEASURED_BEFORE_TRAINING, PEAK_MEMORY
from nascale.contract.work_order import Task, WorkOrder

_OF_TASK: Final = {
    Task.MEASURE: MEASURED_BEFORE_TRAINING | {PEAK_MEMORY},
    Task.TRAIN_AND_MEASURE: BUILT_IN,
}


def check_usable(order: WorkOrder) -> None:
    """Refuse an order that needs a container of the user's own, or lacks a part.

    Raises:
        ContractError: a candidate has no architecture, the order has no data or fidelity to train with, or
            asks for a metric that the built-in trainer doesn't report for its task.
    """
    for candidate in order.candidates:
        if candidate.architecture is None:
            raise ContractError(
                f"work order: candidates: {candidate.trial}: architecture: must be given for the built-in "
                "trainer; parameters of your own need a container of your own"
            )
    unknown = sorted(set(order.metrics) - _OF_TASK[order.task])
    if unknown:
        raise ContractError(
            f"work order: metrics: must be of {sorted(_OF_TASK[order.task])} for task {order.task}, "
            f"not {unknown}"
        )
    if order.task is Task.TRAIN_AND_MEASURE:
        for name, value in (("data", order.data), ("fidelity", order.fidelity)):
            if value is None:
                raise ContractError(f"work order: {name}: must be given for task {order.task}")
