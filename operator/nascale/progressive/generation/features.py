"""What the model of step times sees of a combination, and what is usual: the coefficients' priors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nascale.contract.stage_settings import (
    BETWEEN_PROCESSES,
    CommunicationHook,
    HardwareSettings,
    Parallelism,
)
from nascale.progressive.generation.problem import Combination, GenerationProblem

Floats: TypeAlias = NDArray[np.float64]
Coefficient: TypeAlias = tuple[float, float]
"""Mean and standard deviation of a prior."""

_OVERHEAD: Final[Coefficient] = (-2.5, 1.2)
"""Log of the constant recipe's overhead over its work: a twelfth, give or take a factor of three."""
_LEVEL: Final[Coefficient] = (0.0, 0.5)
_BATCH: Final[Coefficient] = (1.0, 0.12)
_PIXELS: Final[Coefficient] = (1.0, 0.25)
_DEPTH: Final[Coefficient] = (0.85, 0.25)
_DEPTH_OVERHEAD: Final[Coefficient] = (0.8, 0.3)
_OWN: Final[Coefficient] = (1.1, 0.4)
_PARTS: Final[Coefficient] = (0.0, 0.04)
"""Growth of the work with the log of the parts that a step is taken in: small ones stay in a cache, or leave
a device idle. Without it, what parts save would pass for noise."""
_EFFECT: Final[Coefficient] = (0.0, 0.6)
_PAIR: Final[Coefficient] = (0.0, 0.25)
_WITH_SIZE: Final[Coefficient] = (0.0, 0.12)
_OVERHEAD_EFFECT: Final[Coefficient] = (0.0, 0.5)
_BETWEEN_EFFECTS: Final[Mapping[str, Coefficient]] = {
    "workers": (0.0, 0.25),
    "communication_hook": (0.0, 0.1),
}
"""Effects on overhead and work of what mostly counts for the communication."""
_PAIR_BETWEEN: Final[Coefficient] = (0.0, 0.08)
_WITH_SIZE_BETWEEN: Final[Coefficient] = (0.0, 0.06)
_COMMUNICATION: Final[Coefficient] = (-1.5, 1.2)
"""Log of what two processes' exchange takes over the constant recipe's work: a fifth, give or take a factor
of three."""
_GROUP: Final[Coefficient] = (0.3, 0.3)
"""Growth of it with the log of the processes, beyond a ring's ``(world - 1) / world``: latency, crowding."""
_DEPTH_BYTES: Final[Coefficient] = (0.2, 0.3)
"""DDP sends zeros for blocks that are left out."""
_ONE_POD: Final[Coefficient] = (-0.5, 0.8)
"""Processes of one pod share memory."""
_EXCHANGES: Final = 5
"""Columns of the communication beside one for each hook."""
_HOOK: Final[Coefficient] = (-0.4, 0.4)
"""Half the bytes, and the same latency."""
_FSDP: Final[Coefficient] = (0.4, 0.5)
"""Parameters travel as well as gradients: half as much again, in more messages."""
_RANGE: Final = 1.0
"""Distance in log work over which g changes."""
_OTHER_SETTING: Final = 0.55
"""Correlation of g between two values of a hardware-level setting."""


class Features:
    """What the model sees of a combination, relative to the constant recipe.

    Args:
        problem: What is asked for.
        hardware: Hardware-level settings that may occur, the base's first.
    """

    def __init__(self, problem: GenerationProblem, hardware: Sequence[HardwareSettings]) -> None:
        self._problem = problem
        self._base = problem.base
        dumps = [settings.model_dump(mode="json", exclude={"accumulation"}) for settings in hardware]
        base = self._base.hardware.model_dump(mode="json", exclude={"accumulation"})
        self._effects = [
            (name, value)
            for name in base
            for value in dict.fromkeys(str(own[name]) for own in dumps)
            if value != str(base[name])
        ]
        self._texts = [growth for growth in problem.growing if isinstance(growth.values[-1], str)]
        self._own = [
            growth
            for growth in problem.growing
            if growth.own and all(not isinstance(value, str) and value > 0 for value in growth.values)
        ]
        self._effects += [(growth.name, str(value)) for growth in self._texts for value in growth.values[:-1]]
        self._pairs = [
            (one, other)
            for one, other in combinations(range(len(self._effects)), 2)
            if self._effects[one][0] != self._effects[other][0]
        ]
        self._hooks = (
            [hook for hook in CommunicationHook if hook is not CommunicationHook.NONE]
            if any(own.world > 1 for own in hardware)
            else []
        )
        self._exchanges = _EXCHANGES + len(self._hooks) if self._hooks else 0
        self.sizes = 3 + len(self._own)
        self.effects = len(self._effects)
        self.prior = self._prior()

    def _prior(self) -> Floats:
        """Return mean and standard deviation of each coefficient: overhead's first, then work's."""
        names = [name for name, _ in self._effects]
        between = [name in BETWEEN_PROCESSES for name in names]
        rows = [_OVERHEAD, _DEPTH_OVERHEAD, *(_BETWEEN_EFFECTS.get(own, _OVERHEAD_EFFECT) for own in names)]
        rows += [_LEVEL, _BATCH, _PIXELS, _DEPTH, *[_OWN] * len(self._own), _PARTS]
        rows += [_BETWEEN_EFFECTS.get(own, _EFFECT) for own in names]
        rows += [_PAIR_BETWEEN if between[one] or between[other] else _PAIR for one, other in self._pairs]
        rows += [_WITH_SIZE_BETWEEN if own else _WITH_SIZE for own in between]
        if self._hooks:
            rows += [_COMMUNICATION, _GROUP, _DEPTH_BYTES, _ONE_POD, _FSDP, *[_HOOK] * len(self._hooks)]
        return np.array(rows, dtype=np.float64)

    def coordinates(self, combination: Combination) -> tuple[Floats, Floats, float]:
        """Return logs of the work's sizes, hardware effects (0 or 1), log of the accumulation."""
        model, hardware = combination.model, combination.hardware
        base = self._base.model
        share = model.global_batch / hardware.world
        sizes = [math.log(share * self._base.hardware.world / base.global_batch)]
        full = base.resolution
        sizes.append(2 * math.log(model.resolution / full) if full and model.resolution else 0.0)
        sizes.append(math.log(model.depth / base.depth))
        for growth in self._own:
            value, whole = growth.of(model), growth.values[-1]
            sizes.append(math.log(float(value or 1) / float(whole)))
        dump = hardware.model_dump(mode="json", exclude={"accumulation"})
        texts = {growth.name: str(growth.of(model)) for growth in self._texts}
        present = {name: str(value) for name, value in dump.items()} | texts
        effects = np.array([float(present.get(name) == value) for name, value in self._effects])
        return np.array(sizes), effects, math.log(hardware.accumulation / self._base.hardware.accumulation)

    def exchange(self, combination: Combination) -> tuple[list[float], float]:
        """Return the columns of the communication, and the log of its bytes over those of two processes.

        Every process of a ring sends and receives ``2 (world - 1) / world`` times the gradients' bytes
        (Patarasuk and Yuan, 2009); one that is alone none: minus infinity.
        """
        hardware = combination.hardware
        if not self._hooks or hardware.world == 1:
            return [0.0] * self._exchanges, -math.inf
        columns = [
            1.0,
            math.log(hardware.world / 2),
            math.log(combination.model.depth / self._base.model.depth),
            float(hardware.workers == 1),
            float(hardware.parallelism is Parallelism.FSDP),
            *(float(hardware.communication_hook is hook) for hook in self._hooks),
        ]
        return columns, math.log(2 * (hardware.world - 1) / hardware.world)

    def rows(self, chosen: Sequence[Combination]) -> Rows:
        """Return the model's inputs for several combinations."""
        found = [self.coordinates(own) for own in chosen]
        sizes = np.array([own[0] for own in found]).reshape(len(found), self.sizes)
        effects = np.array([own[1] for own in found]).reshape(len(found), self.effects)
        parts = np.array([own[2] for own in found])
        pairs = np.array([[row[one] * row[other] for one, other in self._pairs] for row in effects])
        ones = np.ones((len(found), 1))
        overhead = np.hstack([ones, sizes[:, 2:3], effects])
        with_size = effects * sizes.sum(axis=1, keepdims=True)
        pairs = pairs.reshape(len(found), len(self._pairs))
        work = np.hstack([ones, sizes, parts[:, None], effects, pairs, with_size])
        exchanges = [self.exchange(own) for own in chosen]
        return Rows(
            overhead=overhead,
            work=work,
            communication=np.array([own[0] for own in exchanges], dtype=np.float64).reshape(
                len(found), self._exchanges
            ),
            accumulation=parts,
            exchanged=np.array([own[1] for own in exchanges], dtype=np.float64),
            sizes=sizes,
            effects=effects,
        )


@dataclass(frozen=True)
class Rows:
    """Inputs of the model, a row per combination.

    Attributes:
        overhead: Columns of the overhead's coefficients.
        work: Columns of the work's coefficients.
        communication: Columns of the communication's coefficients; none where every process is alone.
        accumulation: Log of the accumulation over the base's: so many overheads.
        exchanged: Log of the bytes that travel, over those of two processes; minus infinity: none do.
        sizes: Logs of the work's sizes, for g.
        effects: Hardware-level settings that differ from the base's, 0 or 1, for g.
    """

    overhead: Floats
    work: Floats
    communication: Floats
    accumulation: Floats
    exchanged: Floats
    sizes: Floats
    effects: Floats

    def mean(self, theta: Floats) -> tuple[Floats, Floats]:
        """Return the log of the step time and its derivatives in the coefficients."""
        width = self.overhead.shape[1]
        end = width + self.work.shape[1]
        overhead = self.overhead @ theta[:width] + self.accumulation
        work = self.work @ theta[width:end]
        exchange = self.communication @ theta[end:] + self.exchanged
        total = np.logaddexp(np.logaddexp(overhead, work), exchange)
        shares = [np.exp(part - total)[:, None] for part in (overhead, work, exchange)]
        columns = (self.overhead, self.work, self.communication)
        return total, np.hstack([share * own for share, own in zip(shares, columns, strict=True)])

    def covariance(self, other: Rows) -> Floats:
        """Return the correlation of g between rows of two sets."""
        apart = ((self.sizes[:, None, :] - other.sizes[None, :, :]) ** 2).sum(axis=2)
        differing = np.abs(self.effects[:, None, :] - other.effects[None, :, :]).sum(axis=2)
        found: Floats = np.exp(-0.5 * apart / _RANGE**2) * _OTHER_SETTING**differing
        return found
