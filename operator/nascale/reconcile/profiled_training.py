"""A training whose schedule is generated, as an owner of trials: its spec in the words of searches."""

from __future__ import annotations

from dataclasses import dataclass

from nascale.api.budget import MetricsCollection
from nascale.api.pod_template import NodeSelector, Resources, Toleration, TrialTemplate
from nascale.api.progressive_training import ProgressiveTraining
from nascale.api.resource import ObjectMeta
from nascale.api.training import Checkpoints, Isolation, TrainingData
from nascale.api.training_status import ProgressiveTrainingStatus


@dataclass(frozen=True)
class TrialBudget:
    """When to stop, and how much at once.

    Attributes:
        max_trials: Trials in all.
        parallel_trials: Pods at the same time.
        max_failed_trials: Trials that may fail.
        trials_per_pod: Trials that share a pod.
        trial_retries: Times that a failed trial is run again.
        trial_deadline_seconds: Longest run of a pod.
        active_deadline_seconds: ``None``: that of the training counts, and is looked at there.
        device_seconds: ``None``: no limit.
    """

    max_trials: int
    parallel_trials: int
    max_failed_trials: int
    trials_per_pod: int
    trial_retries: int
    trial_deadline_seconds: int
    active_deadline_seconds: int | None = None
    device_seconds: int | None = None


@dataclass(frozen=True)
class TrialTarget:
    """Where the pods run, and on what."""

    node_selector: NodeSelector
    tolerations: tuple[Toleration, ...]
    resources: Resources
    isolation: Isolation = Isolation.SHARED
    """A training will have the same neighbours as its profile."""


@dataclass(frozen=True)
class ProfiledSpec:
    """What the code that all owners of trials share reads of a spec.

    Attributes:
        budget: From ``spec.schedule.generate.profile`` and ``.proxy``.
        trial_template: ``spec.podTemplate``.
        target: ``spec.placement``.
        training_data: ``spec.trainingData``.
        metrics_collection: ``spec.metricsCollection``.
        suspend: ``spec.suspend``.
        ttl_seconds_after_finished: ``spec.ttlSecondsAfterFinished``.
        checkpoints: None: a measurement that is lost is made again.
    """

    budget: TrialBudget
    trial_template: TrialTemplate
    target: TrialTarget
    training_data: TrainingData | None
    metrics_collection: MetricsCollection
    suspend: bool
    ttl_seconds_after_finished: int | None
    checkpoints: Checkpoints | None = None


@dataclass(frozen=True)
class ProfiledTraining:
    """A training as an owner of trials."""

    metadata: ObjectMeta
    status: ProgressiveTrainingStatus
    spec: ProfiledSpec


def profiled(training: ProgressiveTraining) -> ProfiledTraining:
    """Return a training as an owner of trials.

    Raises:
        ValueError: its schedule is not to be generated.
    """
    spec = training.spec
    if spec.schedule is None:
        raise ValueError("spec.schedule: must be set where settings are to be measured")
    profile, proxy = spec.schedule.generate.profile, spec.schedule.generate.proxy
    return ProfiledTraining(
        metadata=training.metadata,
        status=training.status,
        spec=ProfiledSpec(
            budget=TrialBudget(
                max_trials=profile.max_trials + (0 if proxy is None else proxy.candidates),
                parallel_trials=profile.parallel_trials,
                max_failed_trials=profile.max_failed_trials,
                trials_per_pod=profile.trials_per_pod,
                trial_retries=profile.trial_retries,
                trial_deadline_seconds=profile.trial_deadline_seconds,
            ),
            trial_template=spec.pod_template,
            target=TrialTarget(
                node_selector=spec.placement.node_selector,
                tolerations=spec.placement.tolerations,
                resources=_resources(training),
            ),
            training_data=spec.training_data,
            metrics_collection=spec.metrics_collection,
            suspend=spec.suspend,
            ttl_seconds_after_finished=spec.ttl_seconds_after_finished,
        ),
    )


def _resources(training: ProgressiveTraining) -> Resources:
    """Return what pods ask for beside the template: as much as those of a run with the defaults."""
    placement, hardware = training.spec.placement.resources, training.spec.defaults.hardware
    own = {} if hardware is None or hardware.resources is None else dict(hardware.resources)
    return Resources(requests={**placement.requests, **own}, limits={**placement.limits, **own})
