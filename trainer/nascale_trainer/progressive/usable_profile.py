"""Whether a profile order can be answered, found out before anything costs time. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nascale.contract.errors import ContractError
from nascale.contract.metric_names import PEAK_MEMORY, TRAINING_SECONDS, TRAINING_THROUGHPUT
from nascale.contract.profile_order import (
    EPOCH_SAMPLES,
    LOSS_DEVIATION,
    SETTLE,
    START,
    STEP_P50,
    STEP_SPREAD,
    ProfileOrder,
    ProfileTask,
    parse_profile_order,
)
from nascale.contract.report import check_order
from nascale_trainer.sdk import read_work_order_text

OF_STEPS: Final = frozenset(
    {STEP_P50, STEP_SPREAD, SETTLE, START, EPOCH_SAMPLES, LOSS_DEVIATION, TRAINING_THROUGHPUT, PEAK_MEMORY}
)
"""What measured steps can be reported as."""
OF_SCHEDULES: Final = frozenset({TRAINING_SECONDS, TRAINING_THROUGHPUT, PEAK_MEMORY, START, EPOCH_SAMPLES})
"""What a schedule that was tried is reported as, beside the metrics of its evaluation."""


def load_profile_order(environ: Mapping[str, str]) -> ProfileOrder:
    """Read the profile order that this container was started for.

    Raises:
        ContractError: there is none, it can't be used (every fault is named), or it has more candidates than
            a report can hold.
    """
    order = parse_profile_order(read_work_order_text(environ))
    check_usable(order)
    check_order(order)
    return order


def check_usable(order: ProfileOrder) -> None:
    """Refuse an order that contradicts itself.

    Raises:
        ContractError: naming the field, its value and what is allowed.
    """
    trials = [candidate.trial for candidate in order.candidates]
    if len(set(trials)) != len(trials):
        raise ContractError(f"profile order: candidates: each trial must appear once, not {sorted(trials)}")
    for candidate in order.candidates:
        names = [stage.name for stage in candidate.stages]
        where = f"profile order: candidates: {candidate.trial}"
        if len(set(names)) != len(names):
            raise ContractError(f"{where}: stages: each name must appear once, not {names}")
        if order.task is ProfileTask.MEASURE_STEPS and len(names) != 1:
            raise ContractError(f"{where}: stages: must be one for task {order.task}, not {len(names)}")
    if order.world > 1 and order.task is not ProfileTask.MEASURE_STEPS:
        raise ContractError(
            f"profile order: workers, processesPerWorker: must be 1 for task {order.task}, "
            f"not {order.workers} and {order.processes_per_worker}"
        )
    _check_guard(order)
    _check_metrics(order)


def _check_guard(order: ProfileOrder) -> None:
    guarded = [candidate.trial for candidate in order.candidates if candidate.guarded]
    if guarded and order.task is not ProfileTask.MEASURE_STEPS:
        raise ContractError(f"profile order: guarded: must be false for task {order.task}, not so {guarded}")
    if guarded and order.reference is None:
        raise ContractError(f"profile order: reference: must be given for guarded candidates {guarded}")


def _check_metrics(order: ProfileOrder) -> None:
    """A schedule's evaluation may have metrics of the user's own: what it reports is known afterwards."""
    if order.task is not ProfileTask.MEASURE_STEPS:
        alien = sorted(set(order.metrics) & (OF_STEPS - OF_SCHEDULES))
        if alien:
            raise ContractError(f"profile order: metrics: must not be {alien} for task {order.task}")
        return
    unknown = sorted(set(order.metrics) - OF_STEPS)
    if unknown:
        raise ContractError(
            f"profile order: metrics: must be of {sorted(OF_STEPS)} for task {order.task}, not {unknown}"
        )
    unguarded = [candidate.trial for candidate in order.candidates if not candidate.guarded]
    if LOSS_DEVIATION in order.metrics and unguarded:
        raise ContractError(
            f"profile order: metrics: must hold {LOSS_DEVIATION} for guarded candidates alone, "
            f"not with {unguarded}"
        )
