"""A sweep that can be carried out: its spec, as what the engine, work orders and Jobs need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final

from nascale.api import names
from nascale.api.objectives import Objective
from nascale.api.scaling_sweep import KIND, ScalingSweep
from nascale.api.training import SIDES
from nascale.contract.errors import ContractError
from nascale.contract.metric_names import (
    ACCURACY,
    BUILT_IN,
    FLOPS,
    LATENCIES,
    LATENCY_P50,
    LATENCY_P90,
    MEASURED_BEFORE_TRAINING,
    PARAMETERS,
    THROUGHPUT,
)
from nascale.contract.report import max_candidates
from nascale.contract.work_order import CandidateOrder, MeasurementOrder, WorkOrder
from nascale.reconcile.decimals import number
from nascale.reconcile.naming import candidate_seed
from nascale.reconcile.objectives import reported_metrics, runs_built_in_trainer, search_objective
from nascale.reconcile.observed import Observed
from nascale.reconcile.owner_context import CandidateContext
from nascale.reconcile.snapshot import TrialView
from nascale.reconcile.sweep_base import Base, base_of
from nascale.reconcile.sweep_reuse import KnownTrainings, Reuse, reuse_of
from nascale.reconcile.sweep_trials import MEASURED, multipliers_of, scaling_record, trial_parameters
from nascale.reconcile.work_order import work_order
from nascale.scaling.errors import ScalingError
from nascale.scaling.networks import ScaledNetwork, scaled
from nascale.scaling.problem import Member, Range, ScalingProblem, ScalingRecord
from nascale.search.errors import SearchError

MEASURED_METRICS: Final = (LATENCY_P50, LATENCY_P90, THROUGHPUT, PARAMETERS, FLOPS)
"""What the built-in trainer tells of every network whose latency is measured."""
MOST_ENLARGED: Final = 8
"""Times an image's own side: as far as images of 28 to 32 pixels are commonly enlarged (to 224, for networks
made for that). Beyond it more pixels hold nothing more, and cost their square."""
_UNWATCHED: Final = MeasurementOrder(min_calls=20, min_seconds=0.0, max_spread_ratio=10.0)
"""Latency counts only where nothing else runs beside it: what a training measures of it is not used, and
must not hold it up, nor fail it for noise. These are the contract's bounds."""


@dataclass(frozen=True)
class SweepContext(CandidateContext):
    """What every decision about one sweep needs to know.

    Attributes:
        sweep: The custom resource.
        base: What is scaled.
        reuse: What is taken over from another sweep.
        problem: The sweep as the engine sees it; ``None`` while the base is not known.
    """

    kind: ClassVar[str] = KIND
    noun: ClassVar[str] = "sweep"
    label: ClassVar[str] = names.LABEL_SWEEP

    sweep: ScalingSweep
    base: Base
    reuse: Reuse
    problem: ScalingProblem | None

    @property
    def owner(self) -> ScalingSweep:
        """The custom resource."""
        return self.sweep

    @property
    def pinned(self) -> bool:
        """Whether the base can't be lost any more: nothing begins before its network is in the status."""
        return self.base.architecture is None or self.sweep.status.base_architecture is not None

    def network(self, trial: TrialView) -> ScaledNetwork | None:
        """Return the network of a trial; ``None`` where it is not one that this sweep gives out."""
        multipliers = multipliers_of(trial)
        if self.base.scaled is None or multipliers is None:
            return None
        try:
            network = scaled(self.base.scaled, multipliers)
        except ScalingError:
            return None
        return network if trial.parameters == trial_parameters(network, multipliers) else None

    def candidate(self, trial: TrialView) -> CandidateOrder:
        """Return what a trial's container is told of its candidate.

        All networks are trained with the same seeds, so that comparisons between them are paired.

        Raises:
            SearchError: the trial's parameters are not ones that this sweep gives out.
        """
        network = self.network(trial)
        if network is None:
            raise SearchError(
                f"{trial.name}: parameters must be multipliers and the sizes that follow from them"
            )
        sizes = {name for name, _ in network.parameters}
        return CandidateOrder(
            trial=trial.name,
            index=trial.index,
            parameters={
                name: int(value) if name in sizes else float(value) for name, value in trial.parameters
            },
            architecture=network.architecture,
            seed=candidate_seed(self.sweep.spec.exploration.seed, trial.repeat),
        )

    def order(self, trials: Sequence[TrialView], attempt: int) -> WorkOrder:
        """Make the work order of one pod."""
        return work_order(self, trials, attempt)

    def knows(self, trial: TrialView) -> bool:
        """Say whether a trial is one that this sweep gives out; all are while the base is not known."""
        return self.base.scaled is None or (trial.purpose is not None and self.network(trial) is not None)

    @property
    def weighty_trials(self) -> frozenset[str]:
        """Names of the trials that trained the family."""
        return frozenset(member.trial for member in self.sweep.status.family if member.trial is not None)

    def stays_together(self, trial: TrialView) -> bool:
        """Say whether a repeated trial shares its pod again: latency needs the reference beside it.

        Not where the trial itself has failed: that may have been a neighbour's doing.
        """
        return trial.purpose in MEASURED and trial.status.own_failures == 0

    def objectives_of(self, trial: TrialView) -> tuple[Objective, ...]:
        """Return the objectives that a trial must have values for.

        Latency is measured by pods that do nothing else; what they can know without training counts there.
        """
        if trial.purpose in MEASURED:
            return measured_objectives(self.sweep)
        return tuple(entry for entry in self.objectives if entry.metric not in LATENCIES)

    def metrics_of(self, trial: TrialView) -> tuple[str, ...]:
        """Return what a trial's report must hold."""
        if trial.purpose in MEASURED:
            return measured_metrics(self.sweep)
        asked = super().metrics_of(trial)
        if not runs_built_in_trainer(self.sweep.spec.trial_template):
            return asked
        # Where all that counts is read by queries, the report must hold something all the same.
        return tuple(metric for metric in asked if metric in BUILT_IN) or (ACCURACY,)

    def measurement_of(self, trial: TrialView) -> MeasurementOrder:
        """Return how a trial's latency is measured."""
        return super().measurement_of(trial) if trial.purpose in MEASURED else _UNWATCHED

    def records(self, views: Iterable[TrialView]) -> list[ScalingRecord]:
        """Return what has been measured; trials of other bases are left out."""
        found = (scaling_record(view) for view in views if self.knows(view))
        return [record for record in found if record is not None]


def measured_objectives(sweep: ScalingSweep) -> tuple[Objective, ...]:
    """Return the objectives that a measuring pod gives values for."""
    known = MEASURED_BEFORE_TRAINING if runs_built_in_trainer(sweep.spec.trial_template) else LATENCIES
    return tuple(entry for entry in sweep.spec.objectives if entry.metric in known)


def measured_metrics(sweep: ScalingSweep) -> tuple[str, ...]:
    """Return what the report of a measuring pod must hold for each network."""
    template = sweep.spec.trial_template
    asked = reported_metrics(measured_objectives(sweep), template)
    if not runs_built_in_trainer(template):
        return asked
    return MEASURED_METRICS + tuple(metric for metric in asked if metric not in MEASURED_METRICS)


def per_pod(sweep: ScalingSweep) -> int:
    """Return how many networks a measuring pod takes: no more than its report has room for."""
    return min(sweep.spec.budget.trials_per_pod, _most_candidates(measured_metrics(sweep)))


def cap_of_pods(sweep: ScalingSweep) -> str:
    """Say that measuring pods take fewer networks than asked for, and why; empty: they take as many."""
    asked, most = sweep.spec.budget.trials_per_pod, per_pod(sweep)
    if most >= asked:
        return ""
    return f"a pod takes {most} networks, not {asked} (budget.trialsPerPod): its report has no room for more"


def largest_side(sweep: ScalingSweep) -> int | None:
    """Return the largest side that images are enlarged to, pixels; ``None``: their own is not known."""
    data = sweep.spec.training_data
    if data is None or data.embedded is None or not runs_built_in_trainer(sweep.spec.trial_template):
        return None
    return MOST_ENLARGED * SIDES[data.embedded]


@lru_cache(maxsize=64)
def _most_candidates(metrics: tuple[str, ...]) -> int:
    try:
        return max_candidates(metrics)
    except ContractError:
        return 0


def sweep_context(sweep: ScalingSweep, observed: Observed) -> SweepContext:
    """Gather what decisions about a sweep need to know."""
    base = base_of(sweep, observed.related.search)
    reuse = reuse_of(sweep, base, observed.related)
    return SweepContext(
        settings=observed.settings,
        now=observed.now.replace(microsecond=0),
        sharing_nodes=observed.sharing_nodes,
        sweep=sweep,
        base=base,
        reuse=reuse,
        problem=scaling_problem(sweep, base, reuse.known),
    )


def scaling_problem(sweep: ScalingSweep, base: Base, known: KnownTrainings) -> ScalingProblem | None:
    """Translate a spec; ``None`` where the base, the latency or the quality is missing."""
    spec = sweep.spec
    latency, quality = spec.latency_objective, spec.quality_objective
    if base.scaled is None or latency is None or quality is None:
        return None
    coefficients, exploration = spec.coefficients, spec.exploration
    return ScalingProblem(
        base=base.scaled,
        members=tuple(
            Member(entry.name, number(entry.latency_seconds), number(entry.latency_multiple))
            for entry in spec.family
        ),
        objectives=tuple(search_objective(entry) for entry in spec.objectives),
        latency_metric=latency.metric,
        quality=search_objective(quality),
        per_level=coefficients.mode == "PerLevel",
        depth=Range(float(coefficients.depth.min), float(coefficients.depth.max)),
        width=Range(float(coefficients.width.min), float(coefficients.width.max)),
        resolution=Range(float(coefficients.resolution.min), float(coefficients.resolution.max)),
        baselines=tuple(entry.value for entry in spec.baselines),
        rungs=len(spec.fidelities.levels),
        reduction_factor=spec.fidelities.reduction_factor,
        seed=exploration.seed,
        vectors=exploration.vectors,
        trained_vectors=exploration.trained_vectors,
        finalists=exploration.finalists,
        repeats=exploration.repeats,
        most_repeats=max(exploration.repeats, exploration.max_repeats or 0),
        tolerance=float(exploration.tolerance_ratio),
        drift=float(exploration.drift_ratio),
        max_remeasurements=exploration.max_remeasurements,
        per_pod=per_pod(sweep),
        largest_side=largest_side(sweep),
        known=known,
    )
