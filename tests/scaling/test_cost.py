"""The operator's count against the network that the trainer really builds, and against fvcore."""

from __future__ import annotations

import itertools
import logging

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from tests.scaling.simulation import BASE, LARGE_BASE, stage, sweep
from torch import nn

from nascale.contract.architecture import Architecture, BlockType, Head, Stem, StemType
from nascale.scaling.cost import cost
from nascale.scaling.problem import Member
from nascale.scaling.rays import ray
from nascale.scaling.vectors import published
from nascale_trainer.build import build_network
from nascale_trainer.counting import count_flops, count_parameters

VARIETY = [
    Architecture(
        stem=Stem(type=stem, channels=channels, stride=stride),
        stages=(
            stage(16, 1, 1, block, kernel, 1, squeeze),
            stage(20, 2, 2, block, kernel, expansion, squeeze),
            stage(36, 2, 2, BlockType.MBCONV, 3, 3, "0.1"),
        ),
        head=Head(channels=52),
        resolution=resolution,
    )
    for (stem, channels, stride, resolution), block, (kernel, expansion), squeeze in itertools.product(
        [
            (StemType.CONV, 8, 1, 13),
            (StemType.CONV, 24, 2, 33),
            (StemType.CONV, 12, 3, 50),
            (StemType.SPACE_TO_DEPTH, 16, 2, 31),
            (StemType.SPACE_TO_DEPTH, 48, 4, 66),
        ],
        BlockType,
        [(3, 1), (5, 4), (7, 6)],
        ["0", "0.0625", "0.25", "1"],
    )
]


class _Activations:
    """Adds up the elements of what convolutions and matrix products give."""

    def __init__(self, network: nn.Module) -> None:
        self.elements = self.layers = 0
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(self._add)

    def _add(self, _: nn.Module, __: object, output: torch.Tensor) -> None:
        self.elements += output.numel()
        self.layers += 1


def assert_counts_agree(architecture: Architecture, channels: int = 3, classes: int = 10) -> None:
    network = build_network(architecture, channels, classes, seed=0).eval()
    counted = cost(architecture, channels, classes)
    assert counted.parameters == count_parameters(network)
    assert counted.flops == count_flops(network, channels, architecture.resolution)


class TestACount:
    @pytest.mark.parametrize("architecture", VARIETY[::3])
    def test_is_that_of_the_network_that_the_trainer_builds(self, architecture: Architecture) -> None:
        assert_counts_agree(architecture, channels=1, classes=7)

    @pytest.mark.parametrize("architecture", [*VARIETY[::11], BASE])
    def test_of_flops_is_fvcores_without_what_fvcore_counts_of_norms_and_pooling(
        self, architecture: Architecture
    ) -> None:
        logging.getLogger("fvcore").setLevel(logging.ERROR)
        network = build_network(architecture, 3, 10, seed=0).eval()
        side = architecture.resolution
        analysis = FlopCountAnalysis(network, torch.zeros(1, 3, side, side))
        analysis.unsupported_ops_warnings(enabled=False).uncalled_modules_warnings(enabled=False)
        by_operator = analysis.by_operator()
        # One multiply-add is one FLOP in both; fvcore adds normalisation and pooling.
        assert cost(architecture, 3, 10).flops == by_operator["conv"] + by_operator["linear"]
        assert set(by_operator) <= {"conv", "linear", "batch_norm", "adaptive_avg_pool2d", "mean"}

    @pytest.mark.parametrize("architecture", [*VARIETY[::11], BASE])
    def test_of_activations_and_layers_is_what_hooks_see(self, architecture: Architecture) -> None:
        network = build_network(architecture, 3, 10, seed=0).eval()
        seen = _Activations(network)
        with torch.no_grad():
            network(torch.zeros(1, 3, architecture.resolution, architecture.resolution))
        # Squeeze-excitation's two convolutions work on one pixel: matrix products.
        counted = cost(architecture, 3, 10)
        assert (counted.activations, counted.layers) == (seen.elements, seen.layers)


class TestScaledNetworks:
    @pytest.mark.parametrize("name", ["EfficientNet", "FastScaling", "LACSGPU", "LACSTPU"])
    def test_of_every_known_vector_are_built_and_counted_right(self, name: str) -> None:
        problem = sweep(members=(Member("s", multiple=1.5), Member("l", multiple=6.0)))
        own = ray(problem, published(problem)[name].vector)
        for network in own.networks[:: max(1, len(own.networks) // 8)]:
            assert network.architecture is not None
            assert_counts_agree(network.architecture)

    def test_of_a_large_base_are_counted_right(self) -> None:
        problem = sweep(base=LARGE_BASE)
        network = ray(problem, published(problem)["LACSGPU"].vector).networks[12]
        assert network.architecture is not None
        assert_counts_agree(network.architecture)
