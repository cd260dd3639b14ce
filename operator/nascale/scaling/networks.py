"""Scaled networks: from multipliers and the base to a concrete network."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from nascale.contract.architecture import Architecture
from nascale.scaling.cost import Cost, cost
from nascale.scaling.errors import NetworkTooLargeError
from nascale.scaling.problem import (
    UNSCALED,
    Axis,
    Base,
    Multipliers,
    ScaledParameter,
    ScalingProblem,
)
from nascale.scaling.rounding import scaled_channels, scaled_depth, scaled_resolution

MAX_STEM_CHANNELS: Final = 512
MAX_CHANNELS: Final = 4096
MAX_HEAD_CHANNELS: Final = 8192
MAX_DEPTH: Final = 64
MAX_RESOLUTION: Final = 1024
"""Bounds of the contract's ``Architecture``: networks beyond them can't be written down."""

_KEY_LENGTH: Final = 16
_IMAGE_CHANNELS: Final = 3
_CLASSES: Final = 10
"""For comparing networks with each other: the data's own numbers change little, and all of them alike."""


@dataclass(frozen=True)
class ScaledNetwork:
    """A network on a ray.

    Attributes:
        key: Name of the network: the same for the same network, whichever multipliers led to it.
        architecture: The network; ``None`` for a user's own model.
        parameters: Sizes of a user's own model by name, in the order of the base; else empty.
        multipliers: What it was scaled by.
    """

    key: str
    architecture: Architecture | None
    parameters: tuple[tuple[str, int], ...]
    multipliers: Multipliers


def scaled(base: ScalingProblem | Base, multipliers: Multipliers) -> ScaledNetwork:
    """Scale the base.

    Channels, also those of stem and head, grow with the width; blocks of each stage with the depth; the
    input's side with the resolution. Expansion, squeeze-excitation, kernels and strides stay.

    Raises:
        NetworkTooLargeError: the network exceeds what an architecture may hold.
    """
    return scaler(base.base if isinstance(base, ScalingProblem) else base).network(multipliers)


@lru_cache(maxsize=64)
def scaler(base: Base) -> Scaler:
    """Return the scaler of a base; there is one for each base, so that networks are made once."""
    return Scaler(base)


class Scaler:
    """Makes the networks of one base and counts them; remembers both."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self._networks: dict[Multipliers, ScaledNetwork | None] = {}
        self._by_signature: dict[tuple[int, ...], ScaledNetwork] = {}
        self._by_key: dict[str, ScaledNetwork] = {}
        self._features: dict[str, tuple[float, ...]] = {}
        self._costs: dict[str, Cost] = {}
        self.unscaled = self.network(UNSCALED)

    @property
    def axes(self) -> frozenset[Axis]:
        """Axes along which something grows."""
        if isinstance(self.base, Architecture):
            return frozenset(Axis)
        return frozenset(parameter.axis for parameter in self.base)

    def network(self, multipliers: Multipliers) -> ScaledNetwork:
        """Scale the base.

        Raises:
            NetworkTooLargeError: the network exceeds what an architecture may hold.
        """
        if multipliers not in self._networks:
            self._networks[multipliers] = self._make(multipliers)
        network = self._networks[multipliers]
        if network is None:
            raise NetworkTooLargeError(
                f"multipliers: must give at most {MAX_CHANNELS} channels, {MAX_DEPTH} blocks a stage and "
                f"{MAX_RESOLUTION} pixels, not {multipliers}"
            )
        return network

    def features(self, network: ScaledNetwork) -> tuple[float, ...]:
        """Return the logarithms that latency is predicted from, relative to the base (all 0 for the base).

        For the built-in space: FLOPs, activations, layers, parameters. For own models: what each axis has
        really grown by, in the order depth, width, resolution.
        """
        if network.key not in self._features:
            self._features[network.key] = self._count(network)
        return self._features[network.key]

    def features_of(self, key: str) -> tuple[float, ...]:
        """Return the same of a network that was made before, by key.

        Raises:
            KeyError: no such network was made.
        """
        return self.features(self._by_key[key])

    def cost(self, network: ScaledNetwork) -> Cost:
        """Count a network of the built-in space for images of 3 channels and 10 classes."""
        if network.key not in self._costs:
            if network.architecture is None:
                raise TypeError("network: must have an architecture; own models can't be counted")
            self._costs[network.key] = cost(network.architecture, _IMAGE_CHANNELS, _CLASSES)
        return self._costs[network.key]

    def log_flops(self, network: ScaledNetwork) -> float:
        """Return the logarithm of FLOPs over the base's; for own models depth * width^2 * resolution^2."""
        features = self.features(network)
        if network.architecture is not None:
            return features[0]
        depth, width, resolution = features
        return depth + 2 * width + 2 * resolution

    def _make(self, multipliers: Multipliers) -> ScaledNetwork | None:
        if isinstance(self.base, Architecture):
            signature = _sizes(self.base, multipliers)
            if not _fits(signature):
                return None
        else:
            signature = tuple(_parameter(parameter, multipliers) for parameter in self.base)
        known = self._by_signature.get(signature)
        if known is None:
            known = _build(self.base, signature, multipliers)
            self._by_signature[signature] = self._by_key[known.key] = known
        return ScaledNetwork(known.key, known.architecture, known.parameters, multipliers)

    def _count(self, network: ScaledNetwork) -> tuple[float, ...]:
        if isinstance(self.base, Architecture):
            own, base = self.cost(network), self.cost(self.unscaled)
            return (
                math.log(own.flops / base.flops),
                math.log(own.activations / base.activations),
                math.log(own.layers / base.layers),
                math.log(own.parameters / base.parameters),
            )
        growth: dict[Axis, list[float]] = {axis: [] for axis in Axis}
        for parameter, (_, value) in zip(self.base, network.parameters, strict=True):
            growth[parameter.axis].append(math.log(value / parameter.value))
        return tuple(sum(logs) / max(1, len(logs)) for logs in growth.values())


def _sizes(base: Architecture, multipliers: Multipliers) -> tuple[int, ...]:
    """Return resolution, stem's and head's channels, then channels and depth of each stage."""
    width = multipliers.width
    sizes = [
        scaled_resolution(base.resolution, multipliers.resolution, base.total_stride),
        scaled_channels(base.stem.channels, width),
        scaled_channels(base.head.channels, width),
    ]
    for stage in base.stages:
        sizes += [scaled_channels(stage.channels, width), scaled_depth(stage.depth, multipliers.depth)]
    return tuple(sizes)


def _fits(sizes: tuple[int, ...]) -> bool:
    resolution, stem, head, *stages = sizes
    return (
        resolution <= MAX_RESOLUTION
        and stem <= MAX_STEM_CHANNELS
        and head <= MAX_HEAD_CHANNELS
        and max(stages[::2]) <= MAX_CHANNELS
        and max(stages[1::2]) <= MAX_DEPTH
    )


def _parameter(parameter: ScaledParameter, multipliers: Multipliers) -> int:
    multiplier = {
        Axis.DEPTH: multipliers.depth,
        Axis.WIDTH: multipliers.width,
        Axis.RESOLUTION: multipliers.resolution,
    }[parameter.axis]
    return scaled_channels(parameter.value, multiplier, parameter.multiple_of)


def _build(base: Base, sizes: tuple[int, ...], multipliers: Multipliers) -> ScaledNetwork:
    if not isinstance(base, Architecture):
        parameters = tuple((own.name, size) for own, size in zip(base, sizes, strict=True))
        key = ",".join(f"{name}={size}" for name, size in sorted(parameters))
        return ScaledNetwork(key, None, parameters, multipliers)
    resolution, stem, head, *stages = sizes
    architecture = base.model_copy(
        update={
            "resolution": resolution,
            "stem": base.stem.model_copy(update={"channels": stem}),
            "head": base.head.model_copy(update={"channels": head}),
            "stages": tuple(
                stage.model_copy(update={"channels": channels, "depth": depth})
                for stage, channels, depth in zip(base.stages, stages[::2], stages[1::2], strict=True)
            ),
        }
    )
    digest = hashlib.sha256(architecture.to_json().encode()).hexdigest()
    return ScaledNetwork(digest[:_KEY_LENGTH], architecture, (), multipliers)
