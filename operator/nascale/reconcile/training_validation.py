"""Faults of a training's spec, each with field, value and allowed range, and the stages that it means."""

from __future__ import annotations

from collections.abc import Iterator

from nascale.api.progressive_training import ProgressiveTraining
from nascale.api.training_status import PinnedModel
from nascale.contract.run_order import StageOrder
from nascale.progressive.schedule import schedule_faults, stage_orders
from nascale.reconcile.observed import OperatorSettings
from nascale.reconcile.owner_validation import LONGEST_NAME, account_faults_of
from nascale.reconcile.schedule_problem import generation_faults


def spec_faults(
    training: ProgressiveTraining, pinned: PinnedModel | None, settings: OperatorSettings
) -> list[str]:
    """Return everything that is wrong with a spec."""
    return list(_faults(training, pinned, settings))


def _faults(
    training: ProgressiveTraining, pinned: PinnedModel | None, settings: OperatorSettings
) -> Iterator[str]:
    name = training.metadata.name
    if len(name) > LONGEST_NAME:
        yield f"metadata.name: must be at most {LONGEST_NAME} characters, not {len(name)}"
    yield from account_faults_of("spec.podTemplate", training.spec.pod_template, settings)
    architecture = None if pinned is None else pinned.architecture
    if training.spec.schedule is not None and not training.spec.stages:
        yield from generation_faults(training.spec, architecture)
    else:
        yield from schedule_faults(training.spec, architecture)


def spec_stages(training: ProgressiveTraining) -> tuple[StageOrder, ...]:
    """Return the stages of a spec without faults, complete."""
    return stage_orders(training.spec)
