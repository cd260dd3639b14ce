"""A generated schedule against the constant recipe, and against each half of itself.

Networks and data: 3,000 of Fashion-MNIST's images, one thread of a processor. The constant recipe trains 24
epochs in FP32 at 28 pixels with default settings of everything else. The generator gets ranges of resolution,
precision, memory format and accumulation, profiles them on this processor, and chooses without any training.
It may not take larger batches: of a recipe of 1,100 steps none can be spared (in 12 epochs of 6,000 images,
batches of 128 at 14 and 18 pixels were 3 % faster and cost 0.2 points). The first network has inverted
residuals, whose depthwise convolutions depend much on the memory format; the second one fused blocks: full
convolutions.

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

On a GPU (``--device cuda``) networks have four times the channels, steps hold 2,048 images, and the ranges
hold TF32 and no accumulation. With 512 images an H100 waited for its host: whatever the size of the images,
steps took the 8 to 12 ms that their launches took, which varied by a tenth from second to second. 24 epochs
of 12,000 images are 141 steps there, no training that could spare any: what a schedule is worth that has
fewer shows in the accuracies. The generated one has 0.8 of the samples, a number that was chosen before these
runs.

The rows of fused blocks on a processor with instructions for BF16 are older: the recipe was 12 epochs of
6,000 images, the generated schedule had 0.8 of its samples, the ranges held batches up to 256 in place of
accumulation, the generator took a larger early batch only where it made its stage faster by a quarter, which
none did, and one profile served all seeds.

Rules and numbers of the generator were chosen with other seeds. A run that another program has kept from the
processor for more than a tenth of its own time there is made again. Runs are kept in
``results/schedule-speedup.runs.jsonl``: a benchmark that is cut off goes on where it was. ``--network``
measures another network, ``--seeds`` more seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from nascale.contract.architecture import Architecture, BlockType
from nascale.contract.run_order import OptimizerOrder, StageOrder
from nascale.contract.stage_settings import HardwareSettings, MemoryFormat, ModelSettings
from nascale.contract.work_order import Precision
from nascale.progressive.generation.grid import hardware_settings
from nascale.progressive.generation.problem import GenerationProblem, Growth
from rows import Row, environment, show, write_rows_about
from schedule_arms import FEWEST_SEEDS, About, Comparison, Table
from schedule_profiles import KeptRuns
from schedule_runs import (
    SIDE,
    Images,
    Setup,
    add_device,
    chosen_device,
    image_setup,
    named_device,
    of_device,
    three_stages,
    worker,
)

NAME = "schedule-speedup"
COMMAND: Final = "python benchmarks/schedule_speedup.py"
SEEDS: Final = 5
FIRST_SEED: Final = 10
RESOLUTIONS: Final = (14, 16, 18, 20, 22, 24, 26, 28)
LEARNING_RATE: Final = 0.003


@dataclass(frozen=True)
class Recipe:
    """What a kind of device trains: enough to keep it busy, and no more than it trains within a minute or so.

    Attributes:
        images: Trained on.
        epochs: Of the constant recipe.
        batch: Images in a step.
        widening: Multiplies the channels of all networks.
        precisions: That the generator may choose from.
        accumulations: Likewise.
        measurements: Most of them in a profile.
    """

    images: int
    epochs: int
    batch: int
    widening: int
    precisions: tuple[Precision, ...]
    accumulations: tuple[int, ...]
    measurements: int = 15

    def longer(self, times: int) -> Recipe:
        """Return a recipe with so many times the images, and a profile that may be as much longer."""
        return replace(self, images=times * self.images, measurements=times * self.measurements)

    @property
    def samples(self) -> int:
        """Length of the constant recipe."""
        return self.epochs * self.images

    @property
    def optimizer(self) -> OptimizerOrder:
        """Optimizer and course of the learning rate."""
        return OptimizerOrder(learning_rate=LEARNING_RATE, base_batch=self.batch)

    @property
    def what(self) -> str:
        """For people."""
        wider = f", channels times {self.widening}" if self.widening > 1 else ""
        return f"{self.images} images of Fashion-MNIST, {self.epochs} epochs, batch {self.batch}{wider}"


RECIPES: Final = {
    "cpu": Recipe(
        images=3_000,
        epochs=24,
        batch=64,
        widening=1,
        precisions=(Precision.FP32, Precision.BF16),
        accumulations=(1, 2, 4),
    ),
    "cuda": Recipe(
        images=12_000,
        epochs=24,
        batch=2048,
        widening=4,
        precisions=(Precision.FP32, Precision.TF32, Precision.BF16),
        accumulations=(1,),
    ),
}
"""By type of device."""


@dataclass(frozen=True)
class Network:
    """A network that schedules are generated for: three stages of one kind of block.

    Attributes:
        what: For people.
        block: Of its stages.
        channels: Of its stages, on a processor.
        depths: Blocks of them.
        expansion: Of all blocks.
        shares: Samples of its generated schedule over those of the constant recipe, by type of device.
    """

    what: str
    block: BlockType
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    expansion: int
    shares: Mapping[str, float]

    def architecture(self, device: torch.device) -> Architecture:
        """Return its description for a device."""
        channels = [RECIPES[device.type].widening * width for width in self.channels]
        return three_stages(self.block, channels, self.depths, self.expansion)


NETWORKS: Final = {
    "inverted": Network(
        "two inverted residuals in each stage, expansion 3",
        BlockType.MBCONV,
        channels=(12, 24, 48),
        depths=(2, 2, 2),
        expansion=3,
        shares={"cpu": 0.5, "cuda": 0.8},
    ),
    "fused": Network(
        "two fused blocks in each stage, expansion 2",
        BlockType.FUSED_MBCONV,
        channels=(16, 32, 64),
        depths=(2, 2, 2),
        expansion=2,
        shares={"cpu": 0.45, "cuda": 0.8},
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
        model=ModelSettings(resolution=SIDE, global_batch=RECIPES[device.type].batch),
        hardware=HardwareSettings(threads=1 if device.type == "cpu" else None),
    )


def problem(share: float, device: torch.device, trained: Recipe | None = None) -> GenerationProblem:
    """Return what is asked for, with a share of the constant recipe's samples: the same for every network.

    Args:
        share: Of the samples.
        device: Trains.
        trained: What it trains; ``None``: its kind's recipe.
    """
    base, own = recipe(device), trained or RECIPES[device.type]
    samples = round(share * own.samples)
    ranges = {
        "precision": own.precisions,
        "memory_format": (MemoryFormat.CONTIGUOUS, MemoryFormat.CHANNELS_LAST),
        "accumulation": own.accumulations,
    }
    return GenerationProblem(
        base=base,
        length=samples,
        growing=(Growth("resolution", RESOLUTIONS),),
        batches=(own.batch,),
        hardware=hardware_settings(base.hardware, ranges),
        batch_rule=own.optimizer.batch_rule,
        max_trials=own.measurements,
        evaluation_every=samples,
    )


def setup_of(own: Network, device: torch.device, folder: Path, trained: Recipe | None = None) -> Setup:
    """Return what all trainings of a network share; its images are written to a folder."""
    trained = trained or RECIPES[device.type]
    images = Images(folder, trained.images)
    return image_setup(own.architecture(device), images, trained.optimizer, device)


def prepare(name: str, device: torch.device, folder: Path) -> Comparison:
    """Return the comparison of one network."""
    own = NETWORKS[name]
    setup = setup_of(own, device, folder)
    asked, recipe_problem = problem(own.shares[device.type], device), problem(1, device)
    return Comparison(setup, KeptRuns(NAME, setup, asked), asked, recipe_problem, "efficientnetv2")


def measure(name: str, seeds: int, device: torch.device, folder: Path) -> Iterator[list[Row]]:
    """Measure one network; give its rows after each seed."""
    own, found = NETWORKS[name], prepare(name, device, folder)
    where = environment("torch", "timm", extra=f"{worker(device)}, {RECIPES[device.type].what}")
    for count in range(1, seeds + 1):
        own_seeds = seeds_of(count)
        found.train(own_seeds[-1])
        if count >= FEWEST_SEEDS:
            command = f"{COMMAND} --network {name} --seeds {count}{named_device(device)}"
            yield list(Table(own.what, found, own_seeds, About(where, command)).rows())


def given_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return what the command line says of networks, seeds and the device.

    Args:
        parser: With what a benchmark has beside them.
    """
    parser.add_argument("--network", choices=NETWORKS, action="append", help="default: all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"of each; default {SEEDS}")
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    """Measure the networks that are asked for, write rows as soon as they are known."""
    given = given_arguments(argparse.ArgumentParser(description=__doc__))
    device = chosen_device(given)
    name = of_device(NAME, device)
    for network in given.network or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            for found in measure(network, given.seeds, device, Path(folder)):
                write_rows_about(name, NETWORKS[network].what, found)
    show(name)


if __name__ == "__main__":
    main()
