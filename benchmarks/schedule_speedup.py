"""A generated schedule against the constant recipe, and against each half of itself.

Networks and data: 3,000 of Fashion-MNIST's images, one thread. The constant recipe trains 24 epochs in FP32
at 28 pixels with default settings of everything else. The generator gets ranges of resolution, precision,
memory format and accumulation, profiles them on this processor, and chooses without any training. It may not
take larger batches: of a recipe of 1,100 steps none can be spared (in 12 epochs of 6,000 images, batches of
128 at 14 and 18 pixels were 3 % faster and cost 0.2 points). The first network has inverted residuals, whose
depthwise convolutions depend much on the memory format; the second one fused blocks: full convolutions.

A recipe that leaves a network undertrained has no samples to spare: in 12 epochs of 6,000 images, inverted
residuals of expansion 4 lost 0.8 and 1.0 points with 0.7 of the samples; in 24 epochs of 3,000 images, those
of expansion 3 gained 0.3 to 1.5 points with 0.5 to 0.6 of them (one or two seeds, apart from those below).

What counts is the time to the recipe's accuracy. Schedules that begin with small images end above it where
they take in as many samples, so the generated one is asked for with fewer: a share of the recipe's that was
found with other seeds, and made a little smaller once the first seed's time was known (``Network.share``).
Whether that was too few, or training less would have done as well, is told by the accuracies: against the
recipe, and against constant settings for as long a time.

Arms, each trained with the same seeds:

- constant recipe;
- best constant settings for this hardware, among the same ranges;
- constant recipe, and best constant settings, with fewer epochs: as long as the generated schedule takes;
- model-level only: EfficientNetV2's linear ramp, with the recipe's hardware settings;
- hardware-level only: ``hardwareSettings: Generated`` with ``modelSettings: Fixed``;
- generated: both. All others but the shortened ones have the recipe's samples.

Seconds are those of the whole run: from the opening of the data over all steps, switches, and evaluations
where stages end, to the last checkpoint. Accuracy is that of the final network on 20,000 images that no run
has seen, at 28 pixels in FP32; it is compared in pairs of one seed. Each seed has a profile of its own, in
the same process, and the schedule that follows from it, which is trained next; the profile is shown apart,
and "profile included" adds the whole of it to each single run.

The rows of a processor with instructions for BF16 are older: the recipe was 12 epochs of 6,000 images, the
generated schedule had 0.8 of its samples, the ranges held batches up to 256 in place of accumulation, the
generator took a larger early batch only where it made its stage faster by a quarter, which none did, and one
profile served all seeds.

Rules and numbers of the generator were chosen with other seeds. A run that another program has kept from the
processor for more than a tenth of its own time there is made again. Runs are kept in
``results/schedule-speedup.runs.jsonl``: a benchmark that is cut off goes on where it was. ``--device cuda``
measures on a GPU, ``--network`` another network, ``--seeds`` more seeds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from nascale.contract.architecture import Architecture, BlockType
from nascale.contract.run_order import OptimizerOrder, StageOrder
from nascale.contract.stage_settings import HardwareSettings, MemoryFormat, ModelSettings
from nascale.contract.work_order import Precision
from nascale.progressive.generation.grid import hardware_settings
from nascale.progressive.generation.problem import GenerationProblem, Growth
from rows import CANNOT_MEASURE, Row, environment, show, write_rows
from schedule_arms import FEWEST_SEEDS, About, Comparison, Table
from schedule_profiles import KeptRuns
from schedule_runs import SIDE, Images, Setup, image_setup, of_device, three_stages, worker

NAME = "schedule-speedup"
COMMAND: Final = "python benchmarks/schedule_speedup.py"
SEEDS: Final = 5
FIRST_SEED: Final = 10
EPOCHS: Final = 24
IMAGES: Final = 3_000
SAMPLES: Final = EPOCHS * IMAGES
BATCH: Final = 64
RESOLUTIONS: Final = (14, 16, 18, 20, 22, 24, 26, 28)
ACCUMULATIONS: Final = (1, 2, 4)
MOST_MEASUREMENTS: Final = 15
TRAINING: Final = f"{IMAGES} images of Fashion-MNIST, {EPOCHS} epochs, batch {BATCH}"
OPTIMIZER: Final = OptimizerOrder(learning_rate=0.003, base_batch=BATCH)


@dataclass(frozen=True)
class Network:
    """A network that schedules are generated for: three stages of one kind of block.

    Attributes:
        what: For people.
        block: Of its stages.
        channels: Of its stages.
        depths: Blocks of them.
        expansion: Of all blocks.
        share: Samples of its generated schedule over those of the constant recipe.
    """

    what: str
    block: BlockType
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    expansion: int
    share: float

    @property
    def architecture(self) -> Architecture:
        """Its description."""
        return three_stages(self.block, self.channels, self.depths, self.expansion)

    @property
    def samples(self) -> int:
        """Length of its generated schedule."""
        return round(self.share * SAMPLES)


NETWORKS: Final = {
    "inverted": Network(
        "two inverted residuals in each stage, expansion 3",
        BlockType.MBCONV,
        channels=(12, 24, 48),
        depths=(2, 2, 2),
        expansion=3,
        share=0.5,
    ),
    "fused": Network(
        "two fused blocks in each stage, expansion 2",
        BlockType.FUSED_MBCONV,
        channels=(16, 32, 64),
        depths=(2, 2, 2),
        expansion=2,
        share=0.45,
    ),
}
"""The first one is what counts."""


def seeds_of(count: int) -> range:
    """Return so many seeds, none of which the generator's numbers were chosen with."""
    return range(FIRST_SEED, FIRST_SEED + count)


def recipe(device: torch.device) -> StageOrder:
    """Return the constant recipe: FP32, all pixels, default hardware settings, one thread on a processor."""
    return StageOrder(
        name="full",
        model=ModelSettings(resolution=SIDE, global_batch=BATCH),
        hardware=HardwareSettings(threads=1 if device.type == "cpu" else None),
    )


def problem(samples: int, device: torch.device) -> GenerationProblem:
    """Return what is asked for: the same for every network."""
    base = recipe(device)
    ranges = {
        "precision": (Precision.FP32, Precision.BF16),
        "memory_format": (MemoryFormat.CONTIGUOUS, MemoryFormat.CHANNELS_LAST),
        "accumulation": ACCUMULATIONS,
    }
    return GenerationProblem(
        base=base,
        length=samples,
        growing=(Growth("resolution", RESOLUTIONS),),
        batches=(BATCH,),
        hardware=hardware_settings(base.hardware, ranges),
        batch_rule=OPTIMIZER.batch_rule,
        max_trials=MOST_MEASUREMENTS,
        evaluation_every=samples,
    )


def setup_of(own: Network, device: torch.device, folder: Path) -> Setup:
    """Return what all trainings of a network share; its images are written to a folder."""
    return image_setup(own.architecture, Images(folder, IMAGES), OPTIMIZER, device)


def prepare(name: str, device: torch.device, folder: Path) -> Comparison:
    """Return the comparison of one network."""
    own = NETWORKS[name]
    setup = setup_of(own, device, folder)
    asked, recipe_problem = problem(own.samples, device), problem(SAMPLES, device)
    return Comparison(setup, KeptRuns(NAME, setup, asked), asked, recipe_problem, "efficientnetv2")


def measure(name: str, seeds: int, device: torch.device, folder: Path) -> Iterator[list[Row]]:
    """Measure one network; give its rows after each seed."""
    own, found = NETWORKS[name], prepare(name, device, folder)
    where = environment("torch", "timm", extra=f"{worker(device)}, {TRAINING}")
    given = "" if device.type == "cpu" else f" --device {device.type}"
    for count in range(1, seeds + 1):
        own_seeds = seeds_of(count)
        found.train(own_seeds[-1])
        if count >= FEWEST_SEEDS:
            command = f"{COMMAND} --network {name} --seeds {count}{given}"
            yield list(Table(own.what, found, own_seeds, About(where, command)).rows())


def main() -> int:
    """Measure the networks that are asked for, write rows as soon as they are known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"of each; default {SEEDS}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("device: must be one that this machine has, not cuda", file=sys.stderr)
        return CANNOT_MEASURE
    device = torch.device(given.device)
    name = of_device(NAME, device)
    rows: dict[str, list[Row]] = {}
    for network in given.network or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            for found in measure(network, given.seeds, device, Path(folder)):
                rows[network] = found
                write_rows(name, [row for own in rows.values() for row in own])
    show(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
