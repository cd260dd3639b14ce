"""What a plan may ask the cluster to do. Each action is safe to repeat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

Manifest: TypeAlias = Mapping[str, Any]
"""A Kubernetes object as its JSON form."""


@dataclass(frozen=True)
class CreateTrial:
    """Create a Trial; one of the same name and owner counts as done."""

    manifest: Manifest


@dataclass(frozen=True)
class CreateJob:
    """Create a Job; one of the same name and owner counts as done, a foreign one is an error."""

    manifest: Manifest


@dataclass(frozen=True)
class SuspendJob:
    """Set ``spec.suspend`` of a Job."""

    name: str
    uid: str
    suspend: bool


@dataclass(frozen=True)
class DeleteJob:
    """Delete a Job and its pods (background propagation), by uid precondition."""

    name: str
    uid: str


@dataclass(frozen=True)
class DeleteOwner:
    """Delete the custom resource itself (TTL), by uid precondition."""

    uid: str


@dataclass(frozen=True)
class PatchTrialStatus:
    """Replace fields of a Trial's status (merge patch).

    Attributes:
        name: Name of the Trial.
        uid: Its uid.
        status: The fields that change; ``None`` removes one.
        resource_version: Version that this was decided on; the API server refuses the patch where the
            Trial is another one by now, so that a late decision never overwrites an outcome.
    """

    name: str
    uid: str
    status: Mapping[str, Any]
    resource_version: str = ""


@dataclass(frozen=True)
class ReadMetrics:
    """Run PromQL queries for a finished trial, and plan again with the readings.

    Attributes:
        trial: Name of the Trial.
        pod: Name of its pod.
        queries: PromQL with ``$trial``, ``$pod``, ``$namespace`` filled in, by metric name.
        start: When the pod started, seconds since the epoch: samples from before are not its own.
        end: When the pod ended, seconds since the epoch.
        patience_seconds: How long after the end an unreachable Prometheus is asked again; ``None``: as
            ``spec.metricsCollection.timeoutSeconds`` says.
    """

    trial: str
    pod: str
    queries: Mapping[str, str]
    start: float
    end: float
    patience_seconds: float | None = None


@dataclass(frozen=True)
class AnnotatePod:
    """Set annotations of a pod, by uid precondition.

    Attributes:
        name: Name of the pod.
        uid: Its uid.
        annotations: Values by key.
    """

    name: str
    uid: str
    annotations: Mapping[str, str]


@dataclass(frozen=True)
class Question:
    """A query that is asked again and again.

    Attributes:
        about: What it is asked for: an answer about something else is not taken for one.
        promql: The query, names filled in.
    """

    about: str
    promql: str


@dataclass(frozen=True)
class FollowSeries:
    """Read a running pod's series every few seconds, for as long as plans say so.

    Attributes:
        pod: Name of the pod.
        prefix: What the names of the series begin with.
        counter: Series whose standstill is timed.
        question: A further query, whose single value is kept; ``None``: there is none.
    """

    pod: str
    prefix: str
    counter: str
    question: Question | None = None


class EventType(StrEnum):
    """core/v1 event types."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True)
class Event:
    """An event on the search or one of its trials; sent only after the plan's writes succeeded."""

    type: EventType
    reason: str
    message: str
    trial: str | None = None
    """Name of the Trial that it is about; ``None``: the owner."""


Action: TypeAlias = (
    CreateTrial
    | CreateJob
    | SuspendJob
    | DeleteJob
    | DeleteOwner
    | PatchTrialStatus
    | ReadMetrics
    | AnnotatePod
    | FollowSeries
)


class ReadingProblem(StrEnum):
    """Why Prometheus gave no usable value."""

    UNREACHABLE = "Unreachable"
    BAD_QUERY = "BadQuery"
    NO_SERIES = "NoSeries"
    SEVERAL_SERIES = "SeveralSeries"
    NOT_A_NUMBER = "NotANumber"


@dataclass(frozen=True)
class Reading:
    """What one PromQL query gave: a value or a problem."""

    value: float | None = None
    problem: ReadingProblem | None = None
    message: str = ""


@dataclass(frozen=True)
class Sample:
    """One sample of a series.

    Attributes:
        name: Name of the metric.
        value: Its value; NaN and infinite ones are left out where samples are read.
        labels: Its labels.
    """

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SeriesReading:
    """What Prometheus last said of a pod's series.

    Attributes:
        samples: The newest sample of each series; kept from before while there is a problem.
        problem: Why the last question had no answer; ``None``: it had one.
        message: About that.
        still_since: Since when the counter has stood still, as far as was seen; ``None``: never seen.
        question: The further query that was asked; ``None``: there was none.
        answer: What it yields; ``None``: not asked yet.
    """

    samples: tuple[Sample, ...] = ()
    problem: ReadingProblem | None = None
    message: str = ""
    still_since: datetime | None = None
    question: Question | None = None
    answer: Reading | None = None


@dataclass(frozen=True)
class Counted:
    """Something that the operator's own metrics count when the plan has been carried out.

    Attributes:
        name: ``trials_finished``, ``prometheus_fallbacks``, ``trial_retries``, ...
        labels: Label values, bounded sets only.
        amount: By how much; for histograms, the observed value.
    """

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    amount: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What follows from an observation.

    Attributes:
        actions: In order. Creating a Trial stands before creating its Job.
        status: The owner's whole new status, or ``None`` where it must not be written.
        events: To be sent after the writes.
        counted: For the operator's own metrics, after the writes.
        requeue_after_seconds: When to look again without any event; ``None``: at the next resync.
        gauges: Current figures of the owner for the operator's exporter (``pareto_size``,
            ``trials/running``, ``best/accuracy``, ...).
    """

    actions: tuple[Action, ...] = ()
    status: Mapping[str, Any] | None = None
    events: tuple[Event, ...] = ()
    counted: tuple[Counted, ...] = ()
    requeue_after_seconds: float | None = None
    gauges: Mapping[str, float] = field(default_factory=dict)
