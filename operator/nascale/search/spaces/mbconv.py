"""The built-in space after EfficientNet-X (Li et al., CVPR 2021, arXiv:2102.05610).

Stages of inverted residual blocks, each with its own block kind (with the depthwise convolution, fused, or
left out), kernel, expansion, depth, width, squeeze-excitation and activation; a convolution or
space-to-depth as the stem; the input's resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from nascale.api.space import MBConvSpace, MBConvStageRange
from nascale.contract.architecture import Activation, Architecture, BlockType, Head, Stage, Stem, StemType
from nascale.search.errors import InvalidSpaceError
from nascale.search.space import Assignment, Categorical, Condition, Integer, Parameter, SearchSpace

IDENTITY: Final = "Identity"
"""A block kind: the stage is left out. The next stage's first block takes whatever width comes in."""
STEM: Final = "stem.type"
STEM_CHANNELS: Final = "stem.channels"
HEAD_CHANNELS: Final = "head.channels"
RESOLUTION: Final = "resolution"


def total_stride(space: MBConvSpace) -> int:
    """Input side over the side of the last feature map: the same for every candidate of a space."""
    stride = space.stem_stride
    for stage in space.stages:
        stride *= stage.stride
    return stride


def mbconv_space(space: MBConvSpace) -> SearchSpace:
    """Build the space of ``spec.space.mbconv``; parameters are named like ``stage3.kernel``.

    A list of choices in equal steps becomes a whole-number range, so that samplers know its order.

    Raises:
        InvalidSpaceError: a list repeats a choice, a stage that changes the resolution may be left out, all
            stages may be left out, a resolution is below the total stride; every fault is named.
    """
    found = list(_faults(space))
    if found:
        raise InvalidSpaceError("; ".join(found))
    parameters: list[Parameter] = [
        Categorical(STEM, tuple(stem.value for stem in _stems(space))),
        _choices(STEM_CHANNELS, space.stem_channels),
    ]
    for number, stage in enumerate(space.stages, start=1):
        parameters.extend(_stage_parameters(f"stage{number}", stage))
    parameters += [_choices(HEAD_CHANNELS, space.head_channels), _choices(RESOLUTION, space.resolutions)]
    return SearchSpace(tuple(parameters))


def mbconv_architecture(space: MBConvSpace, assignment: Assignment) -> Architecture:
    """Describe a candidate as a network; stages that are left out do not appear."""
    stages = tuple(
        _stage(f"stage{number}", stage, assignment)
        for number, stage in enumerate(space.stages, start=1)
        if assignment[f"stage{number}.block"] != IDENTITY
    )
    return Architecture(
        stem=Stem(
            type=StemType(str(assignment[STEM])),
            channels=int(assignment[STEM_CHANNELS]),
            stride=space.stem_stride,
        ),
        stages=stages,
        head=Head(channels=int(assignment[HEAD_CHANNELS])),
        resolution=int(assignment[RESOLUTION]),
    )


def resolution_fault(space: MBConvSpace, field: str, resolution: int) -> str | None:
    """Say what is wrong with a resolution, or ``None``."""
    stride = total_stride(space)
    if resolution >= stride:
        return None
    return f"{field}: must be at least the network's total stride of {stride}, not {resolution}"


def _stems(space: MBConvSpace) -> tuple[StemType, ...]:
    """At stride 1 space-to-depth moves nothing: where both stems are listed, only the convolution stays."""
    if space.stem_stride == 1:
        return tuple(stem for stem in space.stems if stem is not StemType.SPACE_TO_DEPTH)
    return space.stems


def _stage_parameters(prefix: str, stage: MBConvStageRange) -> Iterator[Parameter]:
    yield Categorical(f"{prefix}.block", tuple(str(block) for block in stage.blocks))
    when = None
    if IDENTITY in stage.blocks:
        when = Condition(f"{prefix}.block", tuple(str(block) for block in stage.blocks if block != IDENTITY))
    yield _choices(f"{prefix}.kernel", stage.kernels, when)
    yield _choices(f"{prefix}.expansion", stage.expansions, when)
    yield _choices(f"{prefix}.depth", stage.depths, when)
    yield _choices(f"{prefix}.channels", stage.channels, when)
    yield Categorical(f"{prefix}.squeezeExcitation", stage.squeeze_excitations, when)
    yield Categorical(f"{prefix}.activation", tuple(kind.value for kind in stage.activations), when)


def _choices(name: str, values: Sequence[int], when: Condition | None = None) -> Parameter:
    steps = {after - before for before, after in pairwise(values)}
    if len(steps) == 1 and min(steps) > 0:
        return Integer(name, values[0], values[-1], steps.pop(), when=when)
    return Categorical(name, tuple(values), when)


def _stage(prefix: str, stage: MBConvStageRange, assignment: Assignment) -> Stage:
    return Stage.model_validate(
        {
            "block": BlockType(str(assignment[f"{prefix}.block"])),
            "kernel": assignment[f"{prefix}.kernel"],
            "stride": stage.stride,
            "expansion": assignment[f"{prefix}.expansion"],
            "channels": assignment[f"{prefix}.channels"],
            "depth": assignment[f"{prefix}.depth"],
            "squeeze_excitation": assignment[f"{prefix}.squeezeExcitation"],
            "activation": Activation(str(assignment[f"{prefix}.activation"])),
        }
    )


def _faults(space: MBConvSpace) -> Iterator[str]:
    if not _stems(space):
        yield "space.mbconv.stemStride: must be from 2 to 4 for the stem SpaceToDepth, not 1"
    for name, values in (
        ("stems", space.stems),
        ("stemChannels", space.stem_channels),
        ("headChannels", space.head_channels),
        ("resolutions", space.resolutions),
    ):
        yield from _repeated(f"space.mbconv.{name}", values)
    for position, stage in enumerate(space.stages):
        yield from _stage_faults(f"space.mbconv.stages[{position}]", stage)
    if all(IDENTITY in stage.blocks for stage in space.stages):
        yield "space.mbconv.stages: at least one must have blocks without Identity, so that a network is left"
    for position, resolution in enumerate(space.resolutions):
        fault = resolution_fault(space, f"space.mbconv.resolutions[{position}]", resolution)
        if fault is not None:
            yield fault


def _stage_faults(field: str, stage: MBConvStageRange) -> Iterator[str]:
    for name, values in (
        ("blocks", stage.blocks),
        ("kernels", stage.kernels),
        ("expansions", stage.expansions),
        ("depths", stage.depths),
        ("channels", stage.channels),
        ("squeezeExcitations", stage.squeeze_excitations),
        ("activations", stage.activations),
    ):
        yield from _repeated(f"{field}.{name}", values)
    if set(stage.blocks) == {IDENTITY}:
        yield f"{field}.blocks: must hold MBConv or FusedMBConv besides Identity, not Identity alone"
    if IDENTITY in stage.blocks and stage.stride != 1:
        yield f"{field}.stride: must be 1 where blocks holds Identity, not {stage.stride}"


def _repeated(field: str, values: Sequence[object]) -> Iterator[str]:
    shown = [str(value) for value in values]
    if len(set(shown)) != len(shown):
        yield f"{field}: must hold each choice once, not {', '.join(shown)}"
