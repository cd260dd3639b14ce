"""The built-in space: every candidate is a network, and bad spaces are refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nascale.api.space import Space
from nascale.contract.architecture import Activation, Architecture, BlockType, StemType
from nascale.search.errors import InvalidSpaceError, SearchError
from nascale.search.space import Categorical, Integer
from nascale.search.spaces import architecture, build_space, check_resolution, decode, encode

STAGES = [
    {"channels": [16, 24], "blocks": ["MBConv", "FusedMBConv"]},
    {"channels": [24, 32, 40], "blocks": ["MBConv", "FusedMBConv", "Identity"], "kernels": [3, 5, 7]},
    {"channels": [64], "stride": 2, "depths": [1, 2, 4]},
]


def mbconv(**changes) -> Space:
    return Space.model_validate({"mbconv": {"stages": STAGES, "resolutions": [16, 32], **changes}})


def stage(**changes) -> Space:
    return mbconv(stages=[STAGES[0], {**STAGES[1], **changes}])


@given(st.integers(0, 2**32 - 1))
def test_every_candidate_is_a_valid_network_that_survives_its_json(seed):
    space = mbconv()
    found = build_space(space)
    assignment = found.draw(np.random.default_rng(seed))

    network = architecture(space, assignment)

    assert Architecture.model_validate_json(network.to_json()) == network
    assert len(network.stages) == 3 - (assignment["stage2.block"] == "Identity")
    assert network.resolution >= network.total_stride == 4
    assert decode(found, dict(encode(assignment))) == assignment


def test_candidate_is_described_in_full():
    texts = {
        "stem.type": "SpaceToDepth",
        "stem.channels": "16",
        "stage1.block": "FusedMBConv",
        "stage1.kernel": "5",
        "stage1.expansion": "4",
        "stage1.depth": "3",
        "stage1.channels": "24",
        "stage1.squeezeExcitation": "0.25",
        "stage1.activation": "ReLU",
        "stage2.block": "Identity",
        "stage3.block": "MBConv",
        "stage3.kernel": "3",
        "stage3.expansion": "6",
        "stage3.depth": "4",
        "stage3.channels": "64",
        "stage3.squeezeExcitation": "0",
        "stage3.activation": "SiLU",
        "head.channels": "128",
        "resolution": "32",
    }
    assignment = decode(build_space(mbconv()), texts)

    network = architecture(mbconv(), assignment)

    assert dict(encode(assignment)) == texts
    assert (network.stem.type, network.stem.stride, network.head.channels) == (
        StemType.SPACE_TO_DEPTH,
        2,
        128,
    )
    first, last = network.stages
    assert (first.block, first.kernel, first.expansion, first.depth) == (BlockType.FUSED_MBCONV, 5, 4, 3)
    assert (first.channels, first.squeeze_excitation_ratio, first.activation) == (24, 0.25, Activation.RELU)
    assert (last.block, last.stride, last.depth) == (BlockType.MBCONV, 2, 4)


def test_stage_that_is_left_out_has_no_other_parameters():
    space = build_space(mbconv())
    left_out = space.draw(np.random.default_rng(0), {"stage2.block": "Identity"})

    assert [name for name in left_out if name.startswith("stage2.")] == ["stage2.block"]


def test_choices_in_equal_steps_are_ordered():
    by_name = {parameter.name: parameter for parameter in build_space(mbconv()).parameters}

    assert isinstance(by_name["stage2.kernel"], Integer)
    assert list(by_name["stage2.channels"].choices) == [24, 32, 40]
    assert isinstance(by_name["stage3.depth"], Categorical)


def test_stem_of_stride_one_is_a_convolution():
    by_name = {parameter.name: parameter for parameter in build_space(mbconv(stemStride=1)).parameters}

    assert by_name["stem.type"].choices == ("Conv",)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            mbconv(stemStride=4, resolutions=[7, 32]),
            r"space\.mbconv\.resolutions\[0\]: must be at least the network's total stride of 8, not 7",
        ),
        (
            mbconv(stemStride=1, stems=["SpaceToDepth"]),
            r"space\.mbconv\.stemStride: must be from 2 to 4 for the stem SpaceToDepth, not 1",
        ),
        (
            stage(stride=2),
            r"space\.mbconv\.stages\[1\]\.stride: must be 1 where blocks holds Identity, not 2",
        ),
        (
            stage(blocks=["Identity"]),
            r"space\.mbconv\.stages\[1\]\.blocks: must hold MBConv or FusedMBConv besides Identity",
        ),
        (
            stage(kernels=[3, 3]),
            r"space\.mbconv\.stages\[1\]\.kernels: must hold each choice once, not 3, 3",
        ),
        (mbconv(resolutions=[32, 32]), r"space\.mbconv\.resolutions: must hold each choice once, not 32, 32"),
        (
            mbconv(stages=[STAGES[1], STAGES[1]]),
            r"space\.mbconv\.stages: at least one must have blocks without Identity",
        ),
    ],
)
def test_bad_spaces_are_refused_by_field_value_and_range(space, message):
    with pytest.raises(InvalidSpaceError, match=message):
        build_space(space)


def test_every_fault_of_a_space_is_named_at_once():
    space = mbconv(stages=[{**STAGES[1], "stride": 2, "depths": [1, 1]}], resolutions=[4, 4])

    with pytest.raises(InvalidSpaceError) as caught:
        build_space(space)

    assert str(caught.value).count("; ") == 3


def test_fidelity_resolutions_are_checked_against_the_network():
    check_resolution(mbconv(), "fidelities.levels[0].resolution", 4)
    check_resolution(mbconv(), "fidelities.levels[0].resolution", None)
    with pytest.raises(InvalidSpaceError, match=r"levels\[0\]\.resolution: must be at least .* 4, not 3"):
        check_resolution(mbconv(), "fidelities.levels[0].resolution", 3)


def test_candidate_with_a_foreign_value_is_refused():
    space = build_space(mbconv())
    texts = dict(encode(space.draw(np.random.default_rng(1), {"stage1.kernel": 3})))

    with pytest.raises(
        SearchError, match=r"stage1\.kernel: must be a whole number from 3 to 5 in steps of 2, not '4'"
    ):
        decode(space, {**texts, "stage1.kernel": "4"})
    with pytest.raises(SearchError, match=r"stem\.type: must be one of Conv, SpaceToDepth, not absent"):
        decode(space, {name: text for name, text in texts.items() if name != "stem.type"})
    with pytest.raises(SearchError, match=r"the name must be one of the space's .*, not 'stage9\.kernel'"):
        decode(space, {**texts, "stage9.kernel": "3"})
