"""The settings that may differ from stage to stage of a training.

Model-level settings shape the network and how it learns, hardware-level ones how the device works on it
(WO2023059439A1; EfficientNetV2, section 4, for the model level). Every value here is in force as it stands:
the operator has filled in what a stage left out.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from nascale.contract.document import Document
from nascale.contract.work_order import ParameterValue, Precision

MAX_WORKERS: Final = 256
MAX_PROCESSES_PER_WORKER: Final = 16
MAX_GLOBAL_BATCH: Final = 1 << 20

BETWEEN_PROCESSES: Final = ("workers", "processes_per_worker", "parallelism", "communication_hook")
"""Hardware-level settings of how many processes there are, and of what they tell each other."""
QUALITY_SAFE_PRECISIONS: Final = frozenset({Precision.FP32, Precision.TF32, Precision.BF16})
"""Number formats that a last stage may have without a warning: FP16 needs a loss scale that can fail."""

SettingName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]{0,126}$")]
ResourceName = Annotated[str, Field(pattern=r"^[a-z0-9A-Z./_-]{1,253}$")]


class MatmulPrecision(StrEnum):
    """How FP32 matrices are multiplied (torch's float32 matmul precision)."""

    HIGHEST = "Highest"
    """In FP32."""
    HIGH = "High"
    """In TF32, or in several BF16 products, where the device has them."""
    MEDIUM = "Medium"
    """In one BF16 product, where the device has it."""


class Compilation(StrEnum):
    """Whether the network is compiled."""

    NONE = "None"
    """Eager."""
    DEFAULT = "Default"
    """torch.compile with its default mode."""
    REDUCE_OVERHEAD = "ReduceOverhead"
    """torch.compile with CUDA graphs; on a CPU the same as Default."""


class MemoryFormat(StrEnum):
    """Order of a picture's numbers in memory."""

    CONTIGUOUS = "Contiguous"
    """Channel by channel."""
    CHANNELS_LAST = "ChannelsLast"
    """Pixel by pixel: what most fast convolutions want."""


class GradientCheckpointing(StrEnum):
    """Whether activations are computed again in the backward pass instead of kept."""

    NONE = "None"
    """They are kept."""
    BLOCKS = "Blocks"
    """Those within a block are computed again: less memory, more work."""


class Parallelism(StrEnum):
    """How several processes share the training."""

    DDP = "DDP"
    """Each holds the whole network; gradients are averaged."""
    FSDP = "FSDP"
    """Each holds a part of parameters, gradients and optimizer state."""


class CommunicationHook(StrEnum):
    """How gradients travel between the processes of DDP."""

    NONE = "None"
    """As they are."""
    BF16 = "BF16"
    """Rounded to BF16 on the way: half the bytes."""
    FP16 = "FP16"
    """Rounded to FP16 on the way: half the bytes."""


class ModelSettings(Document):
    """Model-level settings of a stage."""

    resolution: int | None = Field(default=None, ge=4, le=1024)
    """Side of the training images, pixels; ``None``: the network's own."""
    depth: float = Field(default=1.0, gt=0, le=1)
    """Share of each network stage's blocks that is active, above 0; the first block always is."""
    stochastic_depth: float = Field(default=0.0, ge=0, lt=1)
    """Probability that the last block is skipped in a step; it grows linearly from the first block."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability that an input of the classifier is dropped."""
    augmentation: float = Field(default=0.0, ge=0, le=1)
    """Magnitude of the random changes to a training image, 0 (none) to 1 (strong)."""
    mixup: float = Field(default=0.0, ge=0, le=10)
    """Alpha of the Beta distribution that two images are mixed by; 0: not at all."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a label's probability that is spread over all classes."""
    learning_rate_factor: float = Field(default=1.0, gt=0, le=1000)
    """Multiplies the learning rate of the run's own course."""
    weight_decay: float = Field(default=0.02, ge=0, le=10)
    """Decoupled weight decay, on weights alone."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD, or AdamW's first beta."""
    global_batch: int = Field(default=64, ge=1, le=MAX_GLOBAL_BATCH)
    """Samples per optimizer step, over all processes."""
    parameters: dict[SettingName, ParameterValue] = Field(default_factory=dict, max_length=32)
    """Settings of the user's own model, by name (a sequence length, say)."""


class HardwareSettings(Document):
    """Hardware-level settings of a stage."""

    precision: Precision = Precision.FP32
    """Number format of the forward and backward pass; parameters stay in FP32."""
    matmul_precision: MatmulPrecision = MatmulPrecision.HIGHEST
    compilation: Compilation = Compilation.NONE
    memory_format: MemoryFormat = MemoryFormat.CONTIGUOUS
    gradient_checkpointing: GradientCheckpointing = GradientCheckpointing.NONE
    accumulation: int = Field(default=1, ge=1, le=65_536)
    """Micro-batches per optimizer step in each process."""
    parallelism: Parallelism = Parallelism.DDP
    communication_hook: CommunicationHook = CommunicationHook.NONE
    environment: dict[VariableName, Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=16
    )
    """Variables of the communication library (``NCCL_...``, ``GLOO_...``), read when a process starts."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of each process; ``None``: what the container's CPU limit allows."""
    workers: int = Field(default=1, ge=1, le=MAX_WORKERS)
    """Pods."""
    processes_per_worker: int = Field(default=1, ge=1, le=MAX_PROCESSES_PER_WORKER)
    """Training processes in each pod: one for each GPU."""
    resources: dict[ResourceName, Annotated[str, Field(max_length=32)]] = Field(
        default_factory=dict, max_length=16
    )
    """Resources of each pod (request and limit), by name, where they differ from the template's."""

    @property
    def world(self) -> int:
        """Number of training processes over all pods."""
        return self.workers * self.processes_per_worker


def micro_batch(model: ModelSettings, hardware: HardwareSettings) -> int | None:
    """Return the samples of one forward pass in one process; ``None`` where the division leaves a rest.

    ``global_batch = micro_batch * accumulation * world``, whatever the number of workers.
    """
    whole, rest = divmod(model.global_batch, hardware.accumulation * hardware.world)
    return whole if whole >= 1 and rest == 0 else None
