"""Networks: what is built is what the architecture says; what is counted is what it holds and computes."""

import random

import pytest
import torch
from fvcore.nn import FlopCountAnalysis, parameter_count
from timm.layers.helpers import make_divisible
from timm.models._efficientnet_blocks import EdgeResidual, InvertedResidual, SqueezeExcite

from nascale.contract.architecture import Activation, Architecture, BlockType, Head, Stage, Stem, StemType
from nascale_trainer.build import build_network, check_resolution
from nascale_trainer.counting import count_flops, count_parameters
from nascale_trainer.outcomes import ResolutionTooSmall

CLASS_NAMES = {
    Activation.RELU: {"ReLU"},
    Activation.SILU: {"SiLU", "Swish"},
    Activation.HARD_SWISH: {"Hardswish", "HardSwish"},
    Activation.GELU: {"GELU"},
}


def draw(seed):
    """Draw an architecture from all of the contract's choices, small enough for a quick forward pass."""
    r = random.Random(seed)
    stages = tuple(
        Stage(
            block=r.choice(list(BlockType)),
            kernel=r.choice([3, 5, 7]),
            stride=r.choice([1, 1, 2]),
            expansion=r.choice([1, 2, 3, 6]),
            channels=r.choice([8, 13, 24, 40]),
            depth=r.choice([1, 2, 3]),
            squeeze_excitation=r.choice(["0", "0.25", "0.0625", "1"]),
            activation=r.choice(list(Activation)),
        )
        for _ in range(r.randint(1, 4))
    )
    architecture = Architecture(
        stem=Stem(
            type=r.choice(list(StemType)),
            channels=r.choice([8, 12, 16]),
            stride=r.choice([1, 2, 3, 4]),
            activation=r.choice(list(Activation)),
        ),
        stages=stages,
        head=Head(channels=r.choice([8, 50]), activation=r.choice(list(Activation))),
        resolution=1024,
    )
    resolution = max(architecture.total_stride, 4) + r.choice([0, 1, 5])
    return architecture.model_copy(update={"resolution": resolution})


@pytest.mark.parametrize("seed", range(24))
def test_every_architecture_of_the_contract_is_built_as_it_is_described(seed):
    architecture = draw(seed)
    channels, classes = random.Random(seed).choice([(1, 10), (3, 7)])
    network = build_network(architecture, channels, classes, seed)
    images = torch.randn(2, channels, architecture.resolution, architecture.resolution)
    with torch.no_grad():
        assert network.eval()(images).shape == (2, classes)

    assert len(network.stages) == len(architecture.stages)
    before = architecture.stem.channels
    for blocks, stage in zip(network.stages, architecture.stages, strict=True):
        assert len(blocks) == stage.depth
        for position, block in enumerate(blocks):
            fused = stage.block is BlockType.FUSED_MBCONV
            assert type(block) is (EdgeResidual if fused else InvertedResidual)
            spatial = block.conv_exp if fused else block.conv_dw
            assert spatial.kernel_size == (stage.kernel, stage.kernel)
            assert spatial.stride == ((stage.stride,) * 2 if position == 0 else (1, 1))
            assert spatial.dilation == (1, 1), "a stride never turns into dilation"
            assert block.conv_pwl.out_channels == stage.channels, "no width is rounded"
            expanded = spatial.out_channels
            assert expanded == make_divisible(before * stage.expansion)
            squeezes = [module for module in block.modules() if isinstance(module, SqueezeExcite)]
            assert len(squeezes) == (stage.squeeze_excitation_ratio > 0)
            if squeezes:
                share = squeezes[0].conv_reduce.out_channels / (expanded / stage.expansion)
                assert share == pytest.approx(stage.squeeze_excitation_ratio, abs=1 / before)
            names = {type(module).__name__ for module in block.modules()}
            assert names & CLASS_NAMES[stage.activation]
            assert block.has_skip == (before == stage.channels and spatial.stride == (1, 1))
            before = stage.channels
    assert network.classifier.in_features == architecture.head.channels


@pytest.mark.parametrize("seed", range(0, 24, 3))
def test_counts_equal_those_of_fvcore(seed):
    architecture = draw(seed)
    network = build_network(architecture, 3, 10, seed).eval()
    image = torch.zeros(1, 3, architecture.resolution, architecture.resolution)
    analysis = (
        FlopCountAnalysis(network, image).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    )
    by_operator = analysis.by_operator()
    assert count_flops(network, 3, architecture.resolution) == by_operator["conv"] + by_operator["linear"]
    assert count_parameters(network) == parameter_count(network)[""]


def test_counting_leaves_the_network_as_it_is():
    network = build_network(draw(1), 3, 10, 0).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    count_flops(network, 3, draw(1).resolution)
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_weights_are_a_function_of_the_seed_alone():
    architecture = draw(3)
    torch.manual_seed(5)
    first = build_network(architecture, 1, 10, 7).state_dict()
    torch.manual_seed(6)
    same = build_network(architecture, 1, 10, 7).state_dict()
    other = build_network(architecture, 1, 10, 8).state_dict()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_building_leaves_the_callers_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_network(draw(3), 1, 10, 7)
    assert torch.equal(torch.rand(3), expected)


def test_a_resolution_of_which_nothing_would_be_left_is_infeasible():
    architecture = draw(0).model_copy(update={"resolution": 8})
    stride = architecture.total_stride
    check_resolution(architecture, stride)
    with pytest.raises(ResolutionTooSmall, match=f"must be at least {stride} pixels, .* not {stride - 1}"):
        check_resolution(architecture, stride - 1)


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_space_to_depth_reads_each_pixel_once(stride):
    architecture = draw(2).model_copy(
        update={"stem": Stem(type=StemType.SPACE_TO_DEPTH, channels=16, stride=stride)}
    )
    convolution = build_network(architecture.model_copy(update={"resolution": 512}), 3, 10, 0).stem[0]
    assert convolution.kernel_size == convolution.stride == (stride, stride)
    assert convolution.padding == (0, 0)
