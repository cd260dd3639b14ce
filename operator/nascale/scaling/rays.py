"""Rays: the different networks that one vector gives, from the base upwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from nascale.scaling.errors import NetworkTooLargeError
from nascale.scaling.networks import ScaledNetwork, scaler
from nascale.scaling.problem import Base, ScalingProblem, Vector

STEP: Final = 0.05
"""Of the compound coefficient: FLOPs grow by 3.5 % a step where rounding lets them."""
SPARE_FLOPS: Final = 16
"""FLOPs may grow so many times more than latency: on an accelerator that small networks leave idle."""
_UNKNOWN_MULTIPLE: Final = 64.0
"""Largest budget over the base's latency where it is given in seconds."""
_SMALLEST_END: Final = 5.0


@dataclass(frozen=True, eq=False)
class Ray:
    """The different networks of one vector; parameters and FLOPs never decrease along it.

    Attributes:
        vector: Whose they are.
        coefficients: Smallest compound coefficient of each network, from 0.
        networks: From the base on; at least one.
        places: Position of each network by key.
        features: What latency is predicted from, a row per network (``Scaler.features``).
    """

    vector: Vector
    coefficients: tuple[float, ...]
    networks: tuple[ScaledNetwork, ...]
    places: dict[str, int]
    features: npt.NDArray[np.float64]


def ray(problem: ScalingProblem, vector: Vector) -> Ray:
    """Return the ray of a vector, as far as a budget may reach, networks exist and data have pixels."""
    return _ray(problem.base, vector, _end(problem), problem.largest_side)


def _end(problem: ScalingProblem) -> float:
    multiple = max((member.multiple or _UNKNOWN_MULTIPLE for member in problem.members), default=1.0)
    return max(_SMALLEST_END, round(math.log2(SPARE_FLOPS * multiple), 2))


@lru_cache(maxsize=1024)
def _ray(base: Base, vector: Vector, end: float, largest_side: int | None) -> Ray:
    networks: list[ScaledNetwork] = []
    coefficients: list[float] = []
    own = scaler(base)
    for step in range(math.floor(end / STEP) + 1):
        coefficient = round(step * STEP, 2)
        try:
            network = own.network(vector.at(coefficient))
        except NetworkTooLargeError:
            break
        if networks and not _has_pixels(network, largest_side):
            break
        if not networks or network.key != networks[-1].key:
            networks.append(network)
            coefficients.append(coefficient)
    return Ray(
        vector,
        tuple(coefficients),
        tuple(networks),
        {network.key: place for place, network in enumerate(networks)},
        np.array([own.features(network) for network in networks]),
    )


def _has_pixels(network: ScaledNetwork, largest_side: int | None) -> bool:
    architecture = network.architecture
    return architecture is None or largest_side is None or architecture.resolution <= largest_side
