"""What is wrong with a sweep's spec: every fault at once, with field, value and allowed range.

The API server refuses most faults already. Here is what CEL can't see (what the spec names, the
installation's settings, the contract's bounds), and once more what would end in a wrong result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from pydantic import ValidationError

from nascale.api.scaling import MULTIPLIERS
from nascale.api.scaling_sweep import ScalingSweep
from nascale.api.training import FidelityLevel
from nascale.api.trial import TrialPurpose
from nascale.contract.document import describe
from nascale.contract.errors import ContractError
from nascale.contract.metric_names import BUILT_IN, LATENCIES, MEASURED_BEFORE_TRAINING
from nascale.reconcile.job_manifest import job_manifest
from nascale.reconcile.objectives import runs_built_in_trainer
from nascale.reconcile.observed import OperatorSettings
from nascale.reconcile.owner_validation import (
    account_faults,
    data_faults,
    exclusive_faults,
    name_faults,
    objectives_faults,
    parallel_faults,
    recipe_faults,
    report_faults,
)
from nascale.reconcile.recent import Recent
from nascale.reconcile.snapshot import TrialView, sample_trial
from nascale.reconcile.sweep_context import SweepContext, measured_metrics, per_pod
from nascale.reconcile.sweep_trials import trial_parameters
from nascale.scaling import engine
from nascale.scaling.errors import ScalingError
from nascale.scaling.networks import scaled
from nascale.scaling.problem import UNSCALED

_FEWEST_PER_POD: Final = 2
"""The reference and a network."""
_KNOWN: Final[Recent[tuple[str, ...]]] = Recent(1000)


def faults(context: SweepContext) -> tuple[str, ...]:
    """Return every fault; none: the sweep can be carried out, as soon as its base is there."""
    base = (str(context.base.scaled), context.base.fault, context.reuse.fault)
    key = (context.sweep.metadata.name, context.sweep.spec.model_dump_json(), context.settings, base)
    return _KNOWN.get(key, lambda: _faults(context))


def _faults(context: SweepContext) -> tuple[str, ...]:
    found = list(_spec_faults(context.sweep, context.settings))
    if context.problem is not None:
        try:
            engine.validate(context.problem)
        except ScalingError as error:
            found += [f"spec.{fault}" for fault in str(error).split("; ")]
    found += [fault for fault in (context.base.fault, context.reuse.fault) if fault]
    return tuple(found) or tuple(_order_faults(context))


def _spec_faults(sweep: ScalingSweep, settings: OperatorSettings) -> Iterator[str]:
    yield from name_faults(sweep)
    yield from data_faults(sweep)
    yield from _base_faults(sweep)
    yield from _target_faults(sweep)
    yield from objectives_faults(sweep, settings)
    yield from _quality_faults(sweep)
    yield from _fidelity_faults(sweep)
    yield from parallel_faults(sweep)
    yield from _pod_faults(sweep)
    yield from recipe_faults(sweep)
    yield from account_faults(sweep, settings)
    yield from exclusive_faults(sweep)


def _base_faults(sweep: ScalingSweep) -> Iterator[str]:
    base = sweep.spec.base
    given = [kind for kind in (base.search_name, base.architecture, base.parameters) if kind is not None]
    if len(given) != 1:
        yield f"spec.base: must hold exactly one of searchName, architecture, parameters, not {len(given)}"
    if base.parameters is not None and runs_built_in_trainer(sweep.spec.trial_template):
        yield (
            "spec.base: must be searchName or architecture, unless trialTemplate has an image or a command "
            "of its own: the built-in trainer does not know the user's parameters"
        )
    for position, entry in enumerate(base.parameters or ()):
        if entry.name in MULTIPLIERS:
            yield (
                f"spec.base.parameters[{position}].name: must be none of {', '.join(MULTIPLIERS)}, under "
                f"which trials find the multipliers, not {entry.name}"
            )


def _target_faults(sweep: ScalingSweep) -> Iterator[str]:
    target = sweep.spec.target
    if not (target.node_selector or target.resources.requests or target.resources.limits):
        yield "spec.target: must name the target hardware by nodeSelector or resources"


def _quality_faults(sweep: ScalingSweep) -> Iterator[str]:
    if sweep.spec.latency_objective is None:
        yield (
            f"spec.objectives: must have a latency among the metrics ({', '.join(sorted(LATENCIES))}): the "
            "members' budgets bound it"
        )
    if sweep.spec.quality_objective is None:
        later = ", ".join(sorted(BUILT_IN - MEASURED_BEFORE_TRAINING))
        yield (
            "spec.objectives: must have a quality that decides at equal latency, a metric known only after "
            f"training: {later}; with a query or a container of your own any but a latency"
        )


def _fidelity_faults(sweep: ScalingSweep) -> Iterator[str]:
    before = 0.0
    for position, level in enumerate(sweep.spec.fidelities.levels):
        field = f"spec.fidelities.levels[{position}]"
        if level.epochs < 1:
            yield (
                f"{field}.epochs: must be at least 1, not {level.epochs}: latency is measured in pods of "
                "its own"
            )
        if level.resolution is not None:
            yield (
                f"{field}.resolution: must be absent, not {level.resolution}: each network has its own, "
                "which is what is scaled"
            )
        if not float(level.data_fraction) > 0:
            yield f"{field}.dataFraction: must be above 0, not {level.data_fraction}"
        cost = level.epochs * float(level.data_fraction)
        if cost < before:
            yield f"{field}: must not be cheaper than the level before it"
        before = cost


def _pod_faults(sweep: ScalingSweep) -> Iterator[str]:
    if per_pod(sweep) >= _FEWEST_PER_POD:
        return
    if sweep.spec.budget.trials_per_pod < _FEWEST_PER_POD:
        yield (
            f"spec.budget.trialsPerPod: must be at least {_FEWEST_PER_POD}, the reference and a network, "
            f"not {sweep.spec.budget.trials_per_pod}"
        )
    else:
        yield from report_faults(sweep, measured_metrics(sweep))


def _order_faults(context: SweepContext) -> Iterator[str]:
    """Make Jobs of the unscaled base and see whether the contract takes them."""
    if context.base.scaled is None:
        return
    parameters = trial_parameters(scaled(context.base.scaled, UNSCALED), UNSCALED)

    def trial(index: int, level: FidelityLevel, rung: int, purpose: TrialPurpose) -> TrialView:
        return sample_trial(context.prefix, index, rung, level, parameters, purpose=purpose)

    measured = [
        trial(index, FidelityLevel(epochs=0), 0, TrialPurpose.LATENCY)
        for index in range(per_pod(context.sweep))
    ]
    levels = enumerate(context.sweep.spec.fidelities.levels)
    trained = [trial(0, level, rung, TrialPurpose.TRAINING) for rung, level in levels]
    try:
        job_manifest(context, [replace(view, lead=0) for view in measured], 0)
        for view in trained:
            job_manifest(context, [view], 0)
    except ValidationError as error:
        yield f"spec: the work order of a trial would be refused: {describe(error)}"
    except (ContractError, ValueError) as error:
        yield str(error) if str(error).startswith("spec") else f"spec: {error}"
