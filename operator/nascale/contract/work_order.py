"""The work order: one JSON document that tells a trial's container what to do.

It says what to build, on what data, at what fidelity, what to measure, and which constraints end it
early. Any program in any language that reads it and writes a report can be a trial.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from nascale.contract.architecture import Architecture
from nascale.contract.document import Document, parse_document
from nascale.contract.metric_names import METRIC_PATTERN

WORK_ORDER_VERSION: Final = "nascale.io/work-order/v1"
MAX_CANDIDATES_PER_ORDER: Final = 16
"""Static upper bound on trialsPerPod; the exact one follows from the report's size, see ``report``."""

MetricName = Annotated[str, Field(pattern=METRIC_PATTERN)]
ObjectName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$")]
ParameterValue = int | float | str


class Task(StrEnum):
    """What the container is asked for."""

    MEASURE = "Measure"
    """Measure latency, throughput, parameters and FLOPs; train nothing."""
    TRAIN_AND_MEASURE = "TrainAndMeasure"
    """Measure first, then train at the given fidelity and evaluate."""


class Precision(StrEnum):
    """Number format of a forward pass at inference."""

    FP32 = "FP32"
    TF32 = "TF32"
    BF16 = "BF16"
    FP16 = "FP16"


class MetricSource(StrEnum):
    """Where the operator reads a metric's value first."""

    REPORT = "Report"
    PROMETHEUS = "Prometheus"


class DataFormat(StrEnum):
    """How a folder holds the training data."""

    IMAGE_FOLDER = "ImageFolder"
    """One sub-folder per class."""
    IDX = "IDX"
    """MNIST's IDX files, gzipped or not."""
    CIFAR10 = "CIFAR10"
    """The python version of CIFAR-10: the folder that holds ``cifar-10-batches-py``."""
    CIFAR100 = "CIFAR100"
    """The python version of CIFAR-100: the folder that holds ``cifar-100-python``."""
    SVHN = "SVHN"
    """Street View House Numbers: the folder that holds ``train_32x32.mat``."""
    STL10 = "STL10"
    """The binary version of STL-10: the folder that holds ``stl10_binary``."""


class DataOrder(Document):
    """The training data: an embedded set by name, or a folder in the container."""

    name: str | None = Field(default=None, max_length=63)
    """Name of an embedded data set."""
    path: str | None = Field(default=None, max_length=1024)
    """Folder in the container that holds the data."""
    format: DataFormat | None = None
    """How the folder holds the data."""
    validation_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the training part that is held out to compare candidates."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of that split: the same for every trial of a search."""


class Fidelity(Document):
    """How much of the full training a trial gets."""

    epochs: int = Field(ge=0, le=10_000)
    """Passes over the training part; 0 measures without training."""
    data_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the training part."""
    resolution: int | None = Field(default=None, ge=4, le=1024)
    """Overrides the architecture's resolution, pixels; ``None`` keeps it."""


class TargetOrder(Document):
    """How the network will be served: latency is measured like this."""

    batch_size: int = Field(default=1, ge=1, le=65_536)
    """Samples per forward pass when latency is measured."""
    precision: Precision = Precision.FP32
    """Number format of that forward pass."""


class ConstraintOrder(Document):
    """A hard bound; a trial that breaks it ends as ``Infeasible`` at once."""

    metric: MetricName
    """Name of the metric."""
    at_most: float | None = None
    """Largest acceptable value, in the metric's unit."""
    at_least: float | None = None
    """Smallest acceptable value, in the metric's unit."""


class MeasurementOrder(Document):
    """How latency is measured: the screen tier by default (docs/measuring.md)."""

    min_calls: int = Field(default=200, ge=20, le=1_000_000)
    """Fewest timed forward passes."""
    min_seconds: float = Field(default=1.0, ge=0.0, le=3600)
    """Shortest time of timed forward passes, seconds."""
    max_spread_ratio: float = Field(default=0.1, gt=0, le=10)
    """Widest accepted relative difference between the medians of the last three windows."""
    max_attempts: int = Field(default=3, ge=1, le=20)
    """Measurements in all, until one is within the spread."""


class TrainingOrder(Document):
    """Settings of the built-in training recipe."""

    batch_size: int = Field(default=64, ge=1, le=65_536)
    """Samples per optimizer step."""
    learning_rate: float = Field(default=0.003, gt=0, le=100)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.02, ge=0, le=10)
    """Decoupled weight decay."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the label's probability that is spread over all classes."""
    max_threads: int | None = Field(default=None, ge=1, le=1024)
    """Most CPU threads; absent: what the container's CPU limit allows."""


class ExporterOrder(Document):
    """How the container serves ``/metrics`` and how long it waits for a scrape of the final values."""

    wait_for: tuple[MetricName, ...] = ()
    """Metrics that the operator will read from Prometheus: only these are worth waiting for."""
    max_linger_seconds: float = Field(default=20.0, ge=0, le=600)
    """Longest wait for that scrape after the work is done, seconds."""


class CandidateOrder(Document):
    """One candidate of the order."""

    trial: ObjectName
    """Name of the Trial object; the report repeats it."""
    index: int = Field(ge=0)
    """Position of the trial in its search."""
    parameters: dict[str, ParameterValue] = Field(default_factory=dict, max_length=128)
    """Values of the active parameters, by name."""
    architecture: Architecture | None = None
    """The network to build, where the space is a built-in one."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of all random choices of this trial."""


class RunIdentity(Document):
    """Whose work this is."""

    kind: Literal["ArchitectureSearch", "ScalingSweep", "ProgressiveTraining"]
    """Kind of the object that asked for the work."""
    name: ObjectName
    """Name of that object."""
    namespace: ObjectName
    """Namespace of that object."""
    uid: str = Field(min_length=1, max_length=64)
    """Unique id of that object."""


class WorkOrder(Document):
    """Everything that a trial's container needs to know."""

    version: Literal["nascale.io/work-order/v1"] = WORK_ORDER_VERSION
    """Version of the document."""
    run: RunIdentity
    """Whose work this is."""
    attempt: int = Field(default=0, ge=0)
    """Runs of this work before this one; the report repeats it."""
    task: Task = Task.TRAIN_AND_MEASURE
    """What the container is asked for."""
    candidates: tuple[CandidateOrder, ...] = Field(min_length=1, max_length=MAX_CANDIDATES_PER_ORDER)
    """Candidates to work on, one after the other; the report holds one result for each."""
    metrics: tuple[MetricName, ...] = Field(min_length=1, max_length=16)
    """What the report must hold for each candidate that succeeds."""
    constraints: tuple[ConstraintOrder, ...] = Field(default=(), max_length=16)
    """Hard bounds: a candidate that breaks one ends as Infeasible."""
    data: DataOrder | None = None
    fidelity: Fidelity | None = None
    target: TargetOrder = TargetOrder()
    measurement: MeasurementOrder = MeasurementOrder()
    training: TrainingOrder = TrainingOrder()
    exporter: ExporterOrder = ExporterOrder()


def parse_work_order(text: str) -> WorkOrder:
    """Read a work order.

    Raises:
        UnknownVersionError: the document's version is not the one that this release reads.
        ContractError: the document is not JSON, or a field is out of range; every fault is named.
    """
    return parse_document(text, WorkOrder, WORK_ORDER_VERSION, "work order")
