"""What a reconcile looks at: the object, its children, what Prometheus said, the clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from nascale.reconcile.actions import Manifest, Reading, SeriesReading

SharingNodes: TypeAlias = Mapping[str, tuple[Mapping[str, str], ...]]
"""Labels of the nodes that hand out shares of a device, by the resource's name; absent: nobody could look."""


@dataclass(frozen=True)
class OperatorSettings:
    """What an installation decides, not a custom resource.

    Attributes:
        trainer_image: Image of trials without one of their own.
        trainer_command: Command of the built-in trainer in that image.
        service_accounts: Accounts that a trial template may name; the namespace's default one always may be.
        prometheus: Whether a Prometheus is configured at all.
        image_pull_policy: For the trainer image; ``None`` leaves Kubernetes' default.
        job_ttl_seconds: How long a finished trial's Job and pod (its logs) stay.
        resync_seconds: Longest time between two looks at an unfinished object.
        reads_nodes: Whether the operator may list nodes.
    """

    trainer_image: str = "nascale/trainer:0.1.0"
    trainer_command: tuple[str, ...] = ("nascale-trainer",)
    service_accounts: tuple[str, ...] = ()
    prometheus: bool = False
    image_pull_policy: str | None = None
    job_ttl_seconds: int = 600
    resync_seconds: float = 60.0
    reads_nodes: bool = False


@dataclass(frozen=True)
class Related:
    """What an owner looks at beside its own children; what is not there is absent.

    Attributes:
        search: The search that a sweep's ``spec.base.searchName``, or a training's model, names.
        sweep: The sweep that ``spec.reuseTrialsFrom``, or a training's model, names.
        training: The training that ``spec.schedule.generate.reuseProfileFrom`` names.
        trials: Of the sweep that is reused, and of those that it has taken trainings over from itself; or of
            the training whose profile is reused.
    """

    search: Manifest | None = None
    sweep: Manifest | None = None
    training: Manifest | None = None
    trials: tuple[Manifest, ...] = ()


@dataclass(frozen=True)
class Observed:
    """A snapshot; it may lag behind the API server, and every action must be right all the same.

    Attributes:
        owner: The custom resource.
        trials: Trial objects whose controller is the owner (matched by uid).
        jobs: Jobs whose controller is the owner (matched by uid).
        pods: Pods of those Jobs (matched by the Job's uid).
        now: The clock, timezone-aware.
        readings: What Prometheus said, by trial name and metric name; absent: not asked yet.
        job_problems: Latest warning about a Job without pods (``FailedCreate``: quota, admission), by the
            Job's name.
        series: What Prometheus last said of running pods that plans follow, by the pod's name.
        settings: The installation's settings.
        related: What the owner's spec names.
        sharing_nodes: Nodes that hand out shares of the devices that measuring pods ask for.
    """

    owner: Manifest
    trials: tuple[Manifest, ...]
    jobs: tuple[Manifest, ...]
    pods: tuple[Manifest, ...]
    now: datetime
    readings: Mapping[str, Mapping[str, Reading]] = field(default_factory=dict)
    job_problems: Mapping[str, str] = field(default_factory=dict)
    series: Mapping[str, SeriesReading] = field(default_factory=dict)
    settings: OperatorSettings = OperatorSettings()
    related: Related = Related()
    sharing_nodes: SharingNodes = field(default_factory=dict)
