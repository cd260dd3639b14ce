"""Size of the training part where it is known without reading the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nascale.api.progressive_training import ProgressiveTrainingSpec
from nascale.api.training import EmbeddedDataSet

CLASS_SIZES: Final[Mapping[EmbeddedDataSet, tuple[int, ...]]] = {
    EmbeddedDataSet.DIGITS: (178, 182, 177, 183, 181, 182, 181, 179, 174, 180),
    EmbeddedDataSet.FASHION_MNIST: (6000,) * 10,
}
"""Images of each class in the embedded data sets' training files."""


def training_samples(spec: ProgressiveTrainingSpec) -> int | None:
    """Return how many samples the built-in trainer trains on; ``None``: only the trainer can know.

    It holds out the same share of each class, rounded to whole images.
    """
    data, template = spec.training_data, spec.pod_template
    if data is None or data.embedded is None or template.image is not None or template.command is not None:
        return None
    share = float(data.validation_fraction)
    return sum(size - round(share * size) for size in CLASS_SIZES[data.embedded])
