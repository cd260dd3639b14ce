"""What candidates are trained on, for which hardware, how far, and how it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, Final

from pydantic import Field

from nascale.api.pod_template import BUILT_IN_TRAINER, NodeSelector, Resources, Toleration
from nascale.api.resource import ApiModel, DecimalText, DnsLabel, RatioText
from nascale.api.rules import Rule, exactly_one_of, guarded
from nascale.contract.work_order import DataFormat, Precision

_ABOVE_ZERO = Rule(
    cel="double(self) > 0.0", message="must be above 0", detail="'must be above 0 and at most 1, not ' + self"
)
_BELOW_ONE = Rule(
    cel="double(self) < 1.0", message="must be below 1", detail="'must be 0 or more and below 1, not ' + self"
)


TRAINING_DATA_GIVEN = Rule(
    cel=f"!{BUILT_IN_TRAINER} || has(self.trainingData)",
    message="must have trainingData, unless trialTemplate has an image or a command of its own",
)
"""For a spec."""


class EmbeddedDataSet(StrEnum):
    """Data sets that need no download by the user."""

    DIGITS = "Digits"
    """1,797 images of 8x8 that come with scikit-learn."""
    FASHION_MNIST = "FashionMNIST"
    """70,000 images of 28x28, where the machine or image has its IDX files."""


SIDES: Final[Mapping[EmbeddedDataSet, int]] = {EmbeddedDataSet.DIGITS: 8, EmbeddedDataSet.FASHION_MNIST: 28}
"""Pixels of an image's side."""


class FolderData(ApiModel):
    """A folder in the trial's container (part of its image, or of a mounted volume)."""

    path: str = Field(
        pattern=r"^/[^:]*$",
        max_length=512,
        json_schema_extra=guarded(
            Rule(
                cel="!self.split('/').exists(part, part == '..')",
                message="must be a path without '..'",
                detail="""'must be a path without "..", not ' + self""",
            )
        ),
    )
    """Absolute path of the folder."""
    format: DataFormat = DataFormat.IMAGE_FOLDER


class VolumeClaimData(ApiModel):
    """A folder on a PersistentVolumeClaim of the same namespace; mounted read-only."""

    claim_name: DnsLabel
    """Name of the PersistentVolumeClaim."""
    path: str = Field(
        default="", pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*)?$", max_length=512
    )
    """Folder on the volume, relative to its root; empty: the root."""
    format: DataFormat = DataFormat.IMAGE_FOLDER


class TrainingData(ApiModel):
    """What the candidates are trained on: exactly one of embedded, folder, volumeClaim."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("embedded", "folder", "volumeClaim"),)

    embedded: EmbeddedDataSet | None = None
    """Data set by name."""
    folder: FolderData | None = None
    volume_claim: VolumeClaimData | None = None
    validation_fraction: RatioText = Field(
        default="0.2",
        json_schema_extra=guarded(
            Rule(
                cel="double(self) > 0.0 && double(self) < 1.0",
                message="must be above 0 and below 1",
                detail="'must be above 0 and below 1, not ' + self",
            )
        ),
    )
    """Share of the training part that is held out to compare candidates, above 0 and below 1 as text."""


class Isolation(StrEnum):
    """What a pod that measures shares with other pods of ours."""

    SHARED = "Shared"
    EXCLUSIVE_NODE = "ExclusiveNode"


class Target(ApiModel):
    """The hardware that the network is for, and how it will be served there."""

    node_selector: NodeSelector = Field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[Toleration, ...] = Field(default=(), max_length=16)
    """Taints that the trials' pods tolerate."""
    resources: Resources = Resources()
    """Added to the template's resources, for example nvidia.com/gpu in limits."""
    batch_size: int = Field(default=1, ge=1, le=65_536)
    """Samples per forward pass when latency is measured."""
    precision: Precision = Precision.FP32
    """Number format of the forward pass when latency is measured."""
    isolation: Isolation = Isolation.SHARED
    """Shared: pods of this object run beside others; ExclusiveNode: on a node without any other pod that
    nascale has started, whatever the namespace. Requests of cpu and memory must then equal the limits, and
    the kubelet guarantees them."""


class FidelityLevel(ApiModel):
    """How much training a trial of one rung gets."""

    epochs: int = Field(ge=0, le=10_000)
    """Passes over the training part; 0 measures without training."""
    data_fraction: RatioText = Field(default="1", json_schema_extra=guarded(_ABOVE_ZERO))
    """Share of the training part, above 0 and at most 1 as text."""
    resolution: int | None = Field(default=None, ge=4, le=1024)
    """Input side in pixels; absent: the candidate's own."""


class Fidelities(ApiModel):
    """Successive halving for several objectives: the best of each rung get the next one."""

    levels: tuple[FidelityLevel, ...] = Field(
        min_length=1,
        max_length=6,
        json_schema_extra=guarded(
            Rule(
                cel="self.map(level, double(level.epochs) * double(level.dataFraction)).isSorted()",
                message="must go from cheap to full: epochs times dataFraction must not decrease",
            ),
            Rule(
                cel="self.map(level, has(level.resolution), level.resolution).isSorted()",
                message="must go from cheap to full: resolution must not decrease",
            ),
        ),
    )
    """Rungs from cheap to full; the last one is what the result is judged by."""
    reduction_factor: int = Field(default=3, ge=2, le=16)
    """One in so many trials of a rung is promoted to the next."""


class CheckpointRetention(StrEnum):
    """Whose checkpoints stay on the volume when the search or sweep has ended."""

    ALL = "All"
    """Those of every trial."""
    PARETO_FRONT = "ParetoFront"
    """Those of the trials on the front; of a sweep: those of the family's members."""
    NONE = "None"
    """None."""


class Checkpoints(ApiModel):
    """A volume that outlives the pods: evicted trials go on from it, weights stay on it."""

    claim_name: DnsLabel
    """Name of the PersistentVolumeClaim."""
    path: str = Field(
        default="nascale",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$",
        max_length=512,
    )
    """Folder on the volume, relative to its root."""
    retention: CheckpointRetention = CheckpointRetention.PARETO_FRONT


class Measurement(ApiModel):
    """How latency is measured (docs/measuring.md)."""

    min_calls: int = Field(default=200, ge=20, le=1_000_000)
    """Fewest timed forward passes."""
    min_milliseconds: int = Field(default=1000, ge=0, le=3_600_000)
    """Shortest time of timed forward passes, milliseconds."""
    max_spread_ratio: RatioText = Field(default="0.1", json_schema_extra=guarded(_ABOVE_ZERO))
    """Widest accepted relative difference between the medians of the last three windows, above 0 and at
    most 1 as text; a wider one is measured again."""


class Training(ApiModel):
    """Settings of the built-in training recipe."""

    batch_size: int = Field(default=64, ge=1, le=65_536)
    """Samples per optimizer step."""
    learning_rate: DecimalText = Field(
        default="0.003",
        json_schema_extra=guarded(
            Rule(
                cel="double(self) > 0.0 && double(self) <= 100.0",
                message="must be above 0 and at most 100",
                detail="'must be above 0 and at most 100, not ' + self",
            )
        ),
    )
    """Peak learning rate, above 0 and at most 100 as text."""
    weight_decay: DecimalText = Field(
        default="0.02",
        json_schema_extra=guarded(
            Rule(
                cel="double(self) >= 0.0 && double(self) <= 10.0",
                message="must be from 0 to 10",
                detail="'must be from 0 to 10, not ' + self",
            )
        ),
    )
    """Decoupled weight decay, 0 to 10 as text."""
    label_smoothing: RatioText = Field(default="0", json_schema_extra=guarded(_BELOW_ONE))
    """Share of the label's probability that is spread over all classes, 0 to below 1 as text."""
