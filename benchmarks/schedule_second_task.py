"""A second task, with the same generator and the same rules: sequence length in place of resolution.

The character-level transformer of ``examples/trainings/characters`` learns the text of Python's own manual.
The constant recipe trains it in FP32 with sequences of 128 characters. The generator may begin with shorter
sequences, larger batches, and BF16. Arms and method are those of ``schedule-speedup``; the published schedule
that stands for the model level alone is the warm-up of the sequence length, and there are no pictures whose
layout in memory could change. Accuracy is that of the next character over the whole held-out tenth of the
text, each predicted from all that go before it in its sequence of 128.

A sample is a place in the text where a sequence begins: a stage with short sequences reads fewer characters
in as many samples. All arms but the shortened ones train the same number of samples.

The rows of a processor with instructions for BF16 are older: one profile served all seeds.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import torch

from nascale.contract.run_order import OptimizerOrder, StageOrder
from nascale.contract.stage_settings import HardwareSettings, ModelSettings
from nascale.contract.work_order import Precision
from nascale.progressive.generation.grid import hardware_settings
from nascale.progressive.generation.problem import GenerationProblem, Growth
from rows import Row, environment, show, write_rows
from schedule_arms import FEWEST_SEEDS, About, Comparison, Table
from schedule_profiles import KeptRuns
from schedule_runs import Setup, add_device, chosen_device, named_device, of_device, worker

NAME = "schedule-second-task"
COMMAND: Final = "python benchmarks/schedule_second_task.py"
WHAT: Final = "characters"
SEEDS: Final = 5
EPOCHS: Final = 3
BATCH: Final = 16
CONTEXTS: Final = (32, 64, 96, 128)
MOST_MEASUREMENTS: Final = 8
LAYERS: Final = 2
WIDTH: Final = 64
OPTIMIZER: Final = OptimizerOrder(learning_rate=0.003, base_batch=BATCH)
SCRIPT: Final = Path(__file__).parent.parent / "examples/trainings/characters/train.py"


def example() -> ModuleType:
    """Load the example's script."""
    spec = importlib.util.spec_from_file_location("characters", SCRIPT)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def problem(samples: int, device: torch.device) -> GenerationProblem:
    """Return what is asked for."""
    base = StageOrder(
        name="full",
        model=ModelSettings(global_batch=BATCH, parameters={"context": CONTEXTS[-1]}),
        hardware=HardwareSettings(threads=1 if device.type == "cpu" else None),
    )
    return GenerationProblem(
        base=base,
        length=samples,
        growing=(Growth("context", CONTEXTS, own=True),),
        batches=(BATCH, 2 * BATCH, 4 * BATCH),
        hardware=hardware_settings(base.hardware, {"precision": (Precision.FP32, Precision.BF16)}),
        batch_rule=OPTIMIZER.batch_rule,
        max_trials=MOST_MEASUREMENTS,
        evaluation_every=samples,
    )


def prepare(device: torch.device) -> Comparison:
    """Return the comparison."""
    characters = example().Characters
    setup = Setup(
        optimizer=OPTIMIZER,
        make_task=lambda order, _: characters(order),
        judge=lambda _, report: report.metrics["accuracy"],
        parameters={"layers": LAYERS, "width": WIDTH},
        device=device,
    )
    samples = EPOCHS * characters(setup.order((problem(1, device).base,), 1, 0)).samples
    asked = problem(samples, device)
    return Comparison(setup, KeptRuns(NAME, setup, asked), asked, asked, "length-warm-up")


def described_task(found: Comparison) -> str:
    """Write what is trained, for people."""
    return f"{LAYERS} layers of width {WIDTH}, {found.asked.whole} samples"


def measure(seeds: int, device: torch.device) -> Iterator[list[Row]]:
    """Give all rows after each seed."""
    found = prepare(device)
    where = environment("torch", extra=f"{worker(device)}, {described_task(found)}")
    for seed in range(seeds):
        found.train(seed)
        if seed + 1 >= FEWEST_SEEDS:
            about = About(where, f"{COMMAND} --seeds {seed + 1}{named_device(device)}")
            yield list(Table(WHAT, found, range(seed + 1), about).rows())


def main() -> None:
    """Measure, write rows as soon as they are known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"default {SEEDS}")
    add_device(parser)
    given = parser.parse_args()
    device = chosen_device(given)
    name = of_device(NAME, device)
    for rows in measure(given.seeds, device):
        write_rows(name, rows)
    show(name)


if __name__ == "__main__":
    main()
