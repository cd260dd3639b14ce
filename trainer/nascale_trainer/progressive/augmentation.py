"""Random changes to training images, and mixtures of them: functions of seed and sample number alone.

All changes apply to normalised images, in which 0 is the data set's mean colour. They grow with one
magnitude, as in RandAugment (Cubuk et al., 2020) and in EfficientNetV2's progressive learning (Tan, Le, 2021,
section 4). The strengths at magnitude 1 are:

=================  =======================================  =============================================
change             at magnitude 1                           from
=================  =======================================  =============================================
rotation           30 degrees either way                    RandAugment
shear              0.3 either way, on each axis             RandAugment
shift              an eighth of the side, on each axis      He et al., 2016: a crop after padding 4 of 32
scale              a quarter larger or smaller              Inception's crops, without their extremes
brightness         0.4 standard deviations either way       colour jitter of 0.4 (Chen et al., 2020)
contrast           factor from 0.6 to 1.4                   the same
erased rectangle   in every second image, 2 to 33 per cent  Zhong et al., Random erasing, 2020
horizontal flip    every second image, at any magnitude     He et al., 2016; only where the data allow it
=================  =======================================  =============================================

RandAugment takes a few of its operations for each image; here each image takes all of them, each drawn
uniformly between nothing and its strength in either direction.
"""

from __future__ import annotations

import math
import random
from typing import Final

import torch
from torch.nn import functional

from nascale_trainer.device import sent
from nascale_trainer.progressive.sampling import derived_seed, uniform

MAX_ROTATION: Final = math.radians(30)
MAX_SHEAR: Final = 0.3
MAX_SHIFT: Final = 0.125
"""Share of the side."""
MAX_SCALE: Final = 1.25
MAX_BRIGHTNESS: Final = 0.4
"""Standard deviations of the data set."""
MAX_CONTRAST: Final = 0.4
ERASING_PROBABILITY: Final = 0.5
ERASED_AREA: Final = (0.02, 0.33)
"""Smallest and largest share of the image."""
MAX_ERASED_ASPECT: Final = 10 / 3

_DRAWS: Final = 15
"""Random numbers for each image: 8 for its geometry, 2 for its colour, 5 for what is erased."""


def augment(
    images: torch.Tensor, numbers: torch.Tensor, *, seed: int, magnitude: float, flip: bool
) -> torch.Tensor:
    """Return changed images; what becomes of one depends on seed, its number, magnitude and flip alone.

    Args:
        images: Normalised, shape (batch, channels, height, width); they are not changed in place.
        numbers: Numbers of the samples in the run; int64, shape (batch,), on any device.
        seed: Of the run's augmentation.
        magnitude: 0 to 1; at 0 the images are returned as they are.
        flip: Whether a mirrored image is still one of its class.
    """
    if magnitude <= 0:
        return images
    draws = uniform(seed, sent(numbers, images.device), _DRAWS)
    changed = _moved(images, draws[:, :8], magnitude, flip=flip)
    changed = _coloured(changed, draws[:, 8:10], magnitude)
    return _erased(changed, draws[:, 10:], magnitude)


def _moved(images: torch.Tensor, draws: torch.Tensor, magnitude: float, *, flip: bool) -> torch.Tensor:
    """Mirror, scale, shear, rotate and shift by one resampling; what comes in from outside repeats the edge.

    The grid is written out instead of ``affine_grid``: its matrix product may round differently from one
    size of the batch to another.
    """
    signed = (2 * draws - 1) * magnitude
    angle = signed[:, 0] * MAX_ROTATION
    shear_x, shear_y = signed[:, 1] * MAX_SHEAR, signed[:, 2] * MAX_SHEAR
    shift_x, shift_y = signed[:, 3] * (2 * MAX_SHIFT), signed[:, 4] * (2 * MAX_SHIFT)
    scale = torch.exp(signed[:, 5] * math.log(MAX_SCALE))
    mirrored = torch.where(draws[:, 6] < 0.5, -1.0, 1.0) if flip else torch.ones_like(scale)  # noqa: PLR2004  # every second
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    # Rotation and scale times shear, then the mirror; from places of the result to places of the image, in
    # coordinates from -1 to 1.
    xx, xy = (cosine - sine * shear_y) * mirrored, (cosine * shear_x - sine) * mirrored
    yx, yy = sine + cosine * shear_y, sine * shear_x + cosine
    height, width = images.shape[-2:]
    x = _centres(width, images)[None, None, :]
    y = _centres(height, images)[None, :, None]
    grid = torch.stack(
        (
            _column(xx) * x + _column(xy) * y + _column(shift_x),
            _column(yx) * x + _column(yy) * y + _column(shift_y),
        ),
        dim=-1,
    )
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _coloured(images: torch.Tensor, draws: torch.Tensor, magnitude: float) -> torch.Tensor:
    """Change contrast around the data set's mean, then brightness; alike for all channels."""
    signed = (2 * draws - 1) * magnitude
    contrast = 1 + signed[:, 0] * MAX_CONTRAST
    brightness = signed[:, 1] * MAX_BRIGHTNESS
    return torch.addcmul(_block(brightness), images, _block(contrast))


def _erased(images: torch.Tensor, draws: torch.Tensor, magnitude: float) -> torch.Tensor:
    """Set a rectangle of some images to the mean colour, in place; it may reach over the edge."""
    smallest, largest = ERASED_AREA
    area = smallest + draws[:, 1] * (largest - smallest) * magnitude
    stretch = torch.exp((2 * draws[:, 2] - 1) * (0.5 * math.log(MAX_ERASED_ASPECT)))
    side = torch.sqrt(area)
    half_height, half_width = side * stretch, side / stretch
    height, width = images.shape[-2:]
    rows = (_centres(height, images)[None] - (2 * draws[:, 3:4] - 1)).abs() < half_height[:, None]
    columns = (_centres(width, images)[None] - (2 * draws[:, 4:5] - 1)).abs() < half_width[:, None]
    chosen = draws[:, 0] < ERASING_PROBABILITY * magnitude
    mask = (chosen[:, None, None] & rows[:, :, None] & columns[:, None, :])[:, None]
    return images.masked_fill_(mask, 0.0)


def _centres(size: int, like: torch.Tensor) -> torch.Tensor:
    """Return the pixels' centres from -1 to 1 over the image."""
    return (2 * torch.arange(size, device=like.device, dtype=torch.float32) + 1) / size - 1


def _column(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None]


def _block(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


def mixing_share(seed: int, number: int, alpha: float) -> float:
    """Draw the share of the first image in a mixture, from Beta(alpha, alpha) (Zhang et al., mixup, 2018).

    Args:
        seed: The run's.
        number: Number of the micro-batch's first sample in the run.
        alpha: Above 0.
    """
    generator = random.Random(derived_seed(seed, "mixup", number))  # noqa: S311  # no secret
    return generator.betavariate(alpha, alpha)


def mixed(images: torch.Tensor, share: float) -> torch.Tensor:
    """Mix each image with its neighbour in the micro-batch, the first with the last."""
    return torch.lerp(images.roll(1, dims=0), images, share)


def mixed_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    share: float,
    label_smoothing: float,
) -> torch.Tensor:
    """Return the mean cross-entropy (nats) with labels mixed as ``mixed`` mixes images, then smoothed.

    Cross-entropy is linear in the target's probabilities, so that no soft target has to be made.
    """
    own = functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if share >= 1:
        return own
    other = functional.cross_entropy(logits, labels.roll(1), label_smoothing=label_smoothing)
    return share * own + (1 - share) * other
