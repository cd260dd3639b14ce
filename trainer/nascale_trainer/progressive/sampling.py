"""Which samples a run takes, and the randomness that belongs to a sample: functions of seed and number alone.

Nothing here has a state that a checkpoint would have to hold, and nothing depends on how samples are shared
among processes and micro-batches. The numbers come from integer arithmetic that is written out here, so that
they stay the same in every release of torch and on every device.
"""

from __future__ import annotations

import hashlib
from typing import Final

import torch

_KEPT_EPOCHS: Final = 2
"""A batch may reach over the end of an epoch into the next one."""
_MAX_SEED: Final = 2**63

# SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): its increment and the
# multipliers of its finaliser (Stafford's mix 13), as the signed numbers that torch's int64 wraps to.
_INCREMENT: Final = 0x9E3779B97F4A7C15 - 2**64
_FIRST_MULTIPLIER: Final = 0xBF58476D1CE4E5B9 - 2**64
_SECOND_MULTIPLIER: Final = 0x94D049BB133111EB - 2**64

_FLOAT_BITS: Final = 24
"""A float32 holds every multiple of 2**-24 below 1 exactly."""


def derived_seed(seed: int, *parts: int | str) -> int:
    """Return another seed, from 0 to 2**63 - 1, for each sequence of parts.

    It is the beginning of the BLAKE2b digest of seed and parts, each written with its type and length, so
    that no two sequences read the same.

    Args:
        seed: Where it comes from.
        parts: What it is for: names, an epoch, a step, a rank.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *parts):
        text = str(part).encode()
        digest.update(b"%c%d:%b" % (b"i" if isinstance(part, int) else b"s", len(text), text))
    return int.from_bytes(digest.digest(), "big") % _MAX_SEED


class SampleOrder:
    """The order in which a run takes its samples: each epoch is a permutation of its own."""

    def __init__(self, seed: int, samples: int) -> None:
        """Prepare.

        Args:
            seed: The run's.
            samples: Size of the training part, at least 1.

        Raises:
            ValueError: there are no samples.
        """
        if samples < 1:
            raise ValueError(f"samples: must be at least 1, not {samples}")
        self._seed, self._samples = seed, samples
        self._permutations: dict[int, torch.Tensor] = {}

    def indices(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return the place in the training part of each sample of the run.

        Args:
            numbers: Numbers of samples in the run, from 0; int64, one dimension, on the CPU.

        Returns:
            ``permutation(seed, number // samples)[number % samples]``; int64, of the same length.
        """
        epochs = torch.div(numbers, self._samples, rounding_mode="floor")
        places = numbers - epochs * self._samples
        if not len(numbers):
            return places
        first, last = int(epochs.min()), int(epochs.max())
        if first == last:
            return self._permutation(first)[places]
        chosen = torch.empty_like(places)
        for epoch in torch.unique(epochs).tolist():
            within = epochs == epoch
            chosen[within] = self._permutation(epoch)[places[within]]
        return chosen

    def consecutive(self, begin: int, count: int) -> torch.Tensor:
        """Return ``indices`` of samples that follow each other: mostly a part of one permutation.

        Args:
            begin: Number of the first one, from 0.
            count: How many.
        """
        epoch, place = divmod(begin, self._samples)
        if place + count <= self._samples:
            return self._permutation(epoch)[place : place + count].clone()
        return self.indices(torch.arange(begin, begin + count))

    def _permutation(self, epoch: int) -> torch.Tensor:
        found = self._permutations.get(epoch)
        if found is None:
            key = derived_seed(self._seed, "order", epoch)
            # Sorted by a hash of each place; the stable sort settles equal hashes.
            found = torch.sort(_hash(key, torch.arange(self._samples)), stable=True).indices
            while len(self._permutations) >= _KEPT_EPOCHS:
                del self._permutations[min(self._permutations)]
            self._permutations[epoch] = found
        return found


def uniform(seed: int, numbers: torch.Tensor, count: int) -> torch.Tensor:
    """Return random numbers that belong to samples, whatever batch they are in.

    Args:
        seed: What the numbers are for; see ``derived_seed``.
        numbers: Numbers of samples in the run; int64, one dimension, on any device.
        count: How many are wanted of each sample. The first ones do not depend on it.

    Returns:
        Multiples of 2**-24 from 0 to below 1, uniform; float32, shape (samples, count), on the same device.
    """
    streams = _hash(seed, numbers)[:, None]
    places = torch.arange(1, count + 1, device=numbers.device)[None]
    bits = _finalise(streams + places * _INCREMENT)
    return _shifted(bits, 64 - _FLOAT_BITS).float() * 2.0**-_FLOAT_BITS


def _hash(key: int, numbers: torch.Tensor) -> torch.Tensor:
    """Return 64 well-mixed bits for each number; another key gives other bits."""
    # One number of the CPU goes to a GPU with the kernel, where a copy of it would wait for the device.
    start = _finalise(torch.tensor(key, dtype=torch.int64))
    return _finalise(start + (numbers + 1) * _INCREMENT)


def _finalise(bits: torch.Tensor) -> torch.Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST_MULTIPLIER
    bits = (bits ^ _shifted(bits, 27)) * _SECOND_MULTIPLIER
    return bits ^ _shifted(bits, 31)


def _shifted(bits: torch.Tensor, places: int) -> torch.Tensor:
    """Shift right and fill with zeros; torch's own shift of an int64 repeats the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
