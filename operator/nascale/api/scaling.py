"""What a sweep scales, in which directions it looks, and for which members."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from nascale.api.resource import ApiModel, DecimalText, DnsLabel, RatioText
from nascale.api.rules import Rule, exactly_one_of, guarded, number
from nascale.api.space import ParameterName
from nascale.contract.architecture import Architecture

MULTIPLIERS = ("depth_multiplier", "width_multiplier", "resolution_multiplier")
"""Parameters of every trial of a sweep, beside the scaled sizes of the user's own model."""
MAX_MEMBERS = 8
MAX_VECTORS = 64
SMALLEST_FACTOR = 1
LARGEST_FACTOR = 4

_TOTAL_STRIDE = """(self.stem.stride * [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192,
    16384, 32768, 65536][self.stages.filter(stage, stage.stride == 2).size()])"""
_LARGEST_STRIDE = 4 * 65_536

AT_LEAST_THE_STRIDE = Rule(
    cel=f"self.resolution >= {_TOTAL_STRIDE}",
    message="must have a resolution of at least the network's total stride",
    detail=f"""'must have a resolution of at least the network\\'s total stride, '
        + {number(_TOTAL_STRIDE, largest=_LARGEST_STRIDE)}
        + ' pixels, not ' + {number("self.resolution", largest=1024)}""",
    path=".resolution",
)
"""For an architecture."""

_INSIDE_ZERO_AND_ONE = Rule(
    cel="double(self) > 0.0 && double(self) < 1.0",
    message="must be above 0 and below 1",
    detail="'must be above 0 and below 1, not ' + self",
)


class Axis(StrEnum):
    """What a coefficient scales."""

    DEPTH = "Depth"
    """Layers."""
    WIDTH = "Width"
    """Channels, hidden units, heads."""
    RESOLUTION = "Resolution"
    """Side of the input, length of the sequence."""


class ScaledParameter(ApiModel):
    """A whole number of the user's own model that grows with one of the coefficients."""

    name: ParameterName = Field(
        json_schema_extra=guarded(
            Rule(
                cel=f"!(self in {list(MULTIPLIERS)})",
                message=f"must be none of {', '.join(MULTIPLIERS)}, under which trials find the multipliers",
            )
        )
    )
    """Name under which trials find the value in their work order."""
    value: int = Field(ge=1, le=1_000_000)
    """Value in the base network."""
    scaled_by: Axis
    """Coefficient that it grows with."""
    multiple_of: int = Field(default=1, ge=1, le=4096)
    """Scaled values are multiples of this."""


class SweepBase(ApiModel):
    """What is scaled: exactly one of searchName, architecture, parameters."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("searchName", "architecture", "parameters"),)

    search_name: DnsLabel | None = None
    """Name of an ArchitectureSearch of the same namespace; the sweep waits until it has a base network."""
    architecture: Architecture | None = Field(default=None, json_schema_extra=guarded(AT_LEAST_THE_STRIDE))
    """A network, as a search's status.baseNetwork.architecture holds it."""
    parameters: tuple[ScaledParameter, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        json_schema_extra=guarded(list_type="map", list_map_keys=["name"]),
    )
    """Sizes of the user's own model, for a container that builds it by itself (trialTemplate)."""


class CoefficientRange(ApiModel):
    """Range of one coefficient: the factor per unit of the compound coefficient."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"double(self.min) >= {SMALLEST_FACTOR}.0",
            message=f"must be at least {SMALLEST_FACTOR}: members never shrink the base",
            detail=f"""'must be at least {SMALLEST_FACTOR}, not ' + self.min
                + ': members never shrink the base'""",
            path=".min",
        ),
        Rule(
            cel=f"double(self.max) <= {LARGEST_FACTOR}.0",
            message=f"must be at most {LARGEST_FACTOR}",
            detail=f"'must be at most {LARGEST_FACTOR}, not ' + self.max",
            path=".max",
        ),
        Rule(
            cel="double(self.min) <= double(self.max)",
            message="must have min at most max",
            detail="'must have min at most max (' + self.max + '), not ' + self.min",
        ),
    )

    min: DecimalText
    """Smallest factor, at least 1 as text: a family's members never shrink the base."""
    max: DecimalText
    """Largest factor, at most 4 as text."""


class CoefficientMode(StrEnum):
    """How far one vector reaches."""

    COMPOUND = "Compound"
    """One vector for the whole family, found at its small end and verified at every member."""
    PER_LEVEL = "PerLevel"
    """A vector for each member."""


class Coefficients(ApiModel):
    """Where vectors are looked for: only their direction counts, each member has its own length."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="""double(self.depth.min) < double(self.depth.max)
                || double(self.width.min) < double(self.width.max)
                || double(self.resolution.min) < double(self.resolution.max)""",
            message="must have a range with min below max: there is but one vector to choose from",
        ),
    )

    mode: CoefficientMode = CoefficientMode.COMPOUND
    depth: CoefficientRange = CoefficientRange(min="1", max="1.5")
    """Range of alpha, the factor of the depth."""
    width: CoefficientRange = CoefficientRange(min="1", max="1.4")
    """Range of beta, the factor of the width."""
    resolution: CoefficientRange = CoefficientRange(min="1", max="1.3")
    """Range of gamma, the factor of the resolution."""


class FamilyMember(ApiModel):
    """A member that is wanted: exactly one of latencySeconds, latencyMultiple."""

    rules: ClassVar[tuple[Rule, ...]] = (exactly_one_of("latencySeconds", "latencyMultiple"),)

    name: DnsLabel
    """Name of the member, once per family."""
    latency_seconds: DecimalText | None = Field(
        default=None,
        json_schema_extra=guarded(
            Rule(
                cel="double(self) > 0.0",
                message="must be above 0 seconds",
                detail="'must be above 0 seconds, not ' + self",
            )
        ),
    )
    """Budget of the first latency objective, seconds, above 0 as text."""
    latency_multiple: DecimalText | None = Field(
        default=None,
        json_schema_extra=guarded(
            Rule(
                cel="double(self) >= 1.0",
                message="must be at least 1, the base network's own latency",
                detail="'must be at least 1, the base network\\'s own latency, not ' + self",
            )
        ),
    )
    """The same budget as a multiple of the base network's measured latency, at least 1 as text."""


def increasing(field: str) -> Rule:
    """Make the rule that budgets of one sort grow from member to member; for the list of members."""
    stuck = f"""(has(m.{field}) && self.exists(j, other,
        j < i && has(other.{field}) && double(other.{field}) >= double(m.{field})))"""
    return Rule(
        cel=f"!self.exists(i, m, {stuck})",
        message=f"must go from small to large: {field} must increase from member to member",
        detail=f"""'must go from small to large: {field} must increase from member to member, not to '
            + self.transformList(i, m, {stuck}, m.{field} + ' at ' + m.name)[0]""",
    )


class Baseline(StrEnum):
    """Ways of scaling that the family is compared with at equal latency."""

    EFFICIENTNET = "EfficientNet"
    """Alpha 1.2, beta 1.1, gamma 1.15 (Tan and Le, ICML 2019)."""
    FAST_SCALING = "FastScaling"
    """Mostly by width, dWr (Dollar et al., CVPR 2021)."""
    LACS_GPU = "LACSGPU"
    """EfficientNet-X's vector for V100 GPUs (Li et al., CVPR 2021)."""
    LACS_TPU = "LACSTPU"
    """EfficientNet-X's vector for TPUv3 (Li et al., CVPR 2021)."""
    ACCURACY_FLOPS = "AccuracyFLOPs"
    """The vector that a sweep for quality at equal FLOPs finds here, blind to latency."""


class Exploration(ApiModel):
    """How many vectors are looked at, and how closely budgets are met."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.trainedVectors <= self.vectors",
            message="must be at most vectors",
            detail=f"""'must be at most vectors (' + {number("self.vectors", largest=MAX_VECTORS)} + '), not '
                + {number("self.trainedVectors", largest=MAX_VECTORS)}""",
            path=".trainedVectors",
        ),
        Rule(
            cel="self.finalists <= self.trainedVectors",
            message="must be at most trainedVectors",
            detail=f"""'must be at most trainedVectors ('
                + {number("self.trainedVectors", largest=MAX_VECTORS)} + '), not '
                + {number("self.finalists", largest=MAX_VECTORS)}""",
            path=".finalists",
        ),
        Rule(
            cel="!has(self.maxRepeats) || self.repeats > 1",
            message="must be at least 2 where maxRepeats is set: one training tells nothing about the noise",
            path=".repeats",
        ),
        Rule(
            cel="!has(self.maxRepeats) || self.maxRepeats >= self.repeats",
            message="must be at least repeats",
            detail=f"""'must be at least repeats (' + {number("self.repeats", largest=10)} + '), not '
                + {number("self.maxRepeats", largest=30)}""",
            path=".maxRepeats",
        ),
    )

    seed: int = Field(default=0, ge=0, le=2_147_483_647)
    """Seed of all random choices: the same seed and the same measurements give the same candidates."""
    vectors: int = Field(default=12, ge=2, le=MAX_VECTORS)
    """Coefficient vectors whose networks are measured, the known ones included."""
    trained_vectors: int = Field(default=6, ge=2, le=MAX_VECTORS)
    """Most vectors whose networks are trained at the smallest member, at most vectors; larger members train
    fewer."""
    finalists: int = Field(default=2, ge=1, le=8)
    """Vectors that reach the last rung, and that are verified at every member; at most trainedVectors. Mode
    PerLevel trains fewer at a larger member where the others can hardly gain."""
    repeats: int = Field(default=1, ge=1, le=10)
    """Trainings with different seeds at the last rung; their mean counts."""
    max_repeats: int | None = Field(default=None, ge=2, le=30)
    """Most trainings of a network that is too close to a better one to call, baselines' networks included:
    such are trained repeats times more, again and again, before the family is chosen; needs repeats of 2 or
    more. Absent: none is trained further."""
    tolerance_ratio: RatioText = Field(default="0.05", json_schema_extra=guarded(_INSIDE_ZERO_AND_ONE))
    """Relative excess over a latency budget that is accepted, above 0 and below 1 as text."""
    drift_ratio: RatioText = Field(default="0.03", json_schema_extra=guarded(_INSIDE_ZERO_AND_ONE))
    """Relative change of the reference network's latency from which a pod's measurements are repeated,
    above 0 and below 1 as text."""
    max_remeasurements: int = Field(default=2, ge=0, le=10)
    """Repetitions of one pod's measurements for drift; after that its values are corrected by the drift."""
