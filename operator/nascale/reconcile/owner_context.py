"""What every decision about one custom resource needs to know, whichever kind its trials are of.

Following trials, launching Jobs, ending, suspending and cleaning up are the same for searches, sweeps and
trainings whose schedule is generated: that code knows its owner through this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Final, TypeAlias

from nascale.api import names
from nascale.api.architecture_search import ArchitectureSearch
from nascale.api.objectives import Objective
from nascale.api.scaling_sweep import ScalingSweep
from nascale.api.trial import TrialOutcome
from nascale.contract.document import Document
from nascale.contract.work_order import CandidateOrder, MeasurementOrder
from nascale.reconcile.naming import child_prefix
from nascale.reconcile.objectives import reported_metrics
from nascale.reconcile.observed import OperatorSettings, SharingNodes
from nascale.reconcile.profiled_training import ProfiledTraining
from nascale.reconcile.snapshot import TrialView
from nascale.search.history import TrialState

SearchOrSweep: TypeAlias = ArchitectureSearch | ScalingSweep
Owner: TypeAlias = SearchOrSweep | ProfiledTraining

STATES: Final[Mapping[TrialOutcome | None, TrialState]] = {
    None: TrialState.PENDING,
    TrialOutcome.SUCCEEDED: TrialState.SUCCEEDED,
    TrialOutcome.INFEASIBLE: TrialState.INFEASIBLE,
    TrialOutcome.EARLY_STOPPED: TrialState.EARLY_STOPPED,
    TrialOutcome.FAILED: TrialState.FAILED,
    TrialOutcome.METRICS_UNAVAILABLE: TrialState.METRICS_UNAVAILABLE,
}
"""A trial's course as the decisions about what comes next see it."""


@dataclass(frozen=True)
class PodGroup:
    """Pods that work on one order together.

    Attributes:
        workers: How many.
        claim: PersistentVolumeClaim that all mount, to find each other.
        mount: Where.
        folder: Folder of this Job on it, as an absolute path in the pods.
    """

    workers: int
    claim: str
    mount: str
    folder: str


@dataclass(frozen=True)
class OwnerContext(ABC):
    """What the code that all owners of trials share knows of its owner.

    Attributes:
        settings: The installation's settings.
        now: The clock, whole seconds: the API server's timestamps hold no more.
        sharing_nodes: Nodes that hand out shares of the devices that measuring pods ask for.
    """

    kind: ClassVar[str]
    """Kind of the owner in manifests and work orders."""
    noun: ClassVar[str]
    """What messages call the owner."""
    label: ClassVar[str]
    """Label under which children carry the owner's name."""

    settings: OperatorSettings
    now: datetime
    sharing_nodes: SharingNodes = field(default_factory=dict, kw_only=True)

    @property
    @abstractmethod
    def owner(self) -> Owner:
        """The custom resource."""

    @abstractmethod
    def order(self, trials: Sequence[TrialView], attempt: int) -> Document:
        """Make what one pod is asked for.

        Args:
            trials: One or more of its trials, all of the same rung and purpose.
            attempt: Runs before this one.

        Raises:
            ValidationError: a field is out of the contract's range.
            ValueError: a trial's parameters are not ones that the owner gives out.
        """

    def group_of(self, trials: Sequence[TrialView], attempt: int) -> PodGroup | None:  # noqa: ARG002 - see below
        """Return what several processes need to work together; ``None``: one pod of one process.

        Only trainings measure with several.
        """
        return None

    @abstractmethod
    def knows(self, trial: TrialView) -> bool:
        """Say whether a trial's parameters are ones that this owner gives out."""

    @property
    @abstractmethod
    def weighty_trials(self) -> frozenset[str]:
        """Names of the trials that the status points at: their checkpoints stay after the end."""

    @property
    def prefix(self) -> str:
        """What the names of all children begin with."""
        return child_prefix(self.owner.metadata.name, self.owner.metadata.uid)

    @property
    def queue_labels(self) -> dict[str, str]:
        """Kueue's labels, which Jobs take over from the owner."""
        labels = self.owner.metadata.labels
        return {key: labels[key] for key in (names.LABEL_QUEUE, names.LABEL_PRIORITY_CLASS) if key in labels}

    def stays_together(self, trial: TrialView) -> bool:  # noqa: ARG002 - some of a sweep's do
        """Say whether a trial that is repeated shares a pod again with those that it shared one with."""
        return False

    @property
    @abstractmethod
    def objectives(self) -> tuple[Objective, ...]:
        """What is traded off."""

    def objectives_of(self, trial: TrialView) -> tuple[Objective, ...]:  # noqa: ARG002 - a sweep's differ by trial
        """Return the objectives that a trial must have values for."""
        return self.objectives


@dataclass(frozen=True)
class CandidateContext(OwnerContext):
    """What is known of a search or sweep beyond that: its trials are networks at a fidelity."""

    @property
    @abstractmethod
    def owner(self) -> SearchOrSweep:
        """The custom resource."""

    @abstractmethod
    def candidate(self, trial: TrialView) -> CandidateOrder:
        """Return what a trial's container is told of its candidate.

        Raises:
            SearchError: the trial's parameters are not ones that this owner gives out.
        """

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is traded off."""
        return self.owner.spec.objectives

    def measurement_of(self, trial: TrialView) -> MeasurementOrder:  # noqa: ARG002 - a sweep's differ by trial
        """Return how a trial's latency is measured."""
        measurement = self.owner.spec.measurement
        return MeasurementOrder(
            min_calls=measurement.min_calls,
            min_seconds=measurement.min_milliseconds / 1000,
            max_spread_ratio=float(measurement.max_spread_ratio),
        )

    def metrics_of(self, trial: TrialView) -> tuple[str, ...]:
        """Return what a trial's report must hold."""
        return reported_metrics(self.objectives_of(trial), self.owner.spec.trial_template)
