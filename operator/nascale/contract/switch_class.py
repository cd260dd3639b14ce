"""How much a change between two stages disturbs a running training.

The classes and their mechanisms are those of ``docs/progressive.md``. Operator and trainer both go by this
function: the trainer does what the class says, the operator makes new Jobs for the last one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from nascale.contract.run_order import StageOrder
from nascale.contract.stage_settings import Compilation


class SwitchClass(StrEnum):
    """Classes of a change, from the cheapest to the dearest."""

    NONE = "None"
    """Nothing changes."""
    LIVE = "Live"
    """Values that every step reads: at a step boundary."""
    RECOMPILE = "Recompile"
    """Shapes, number formats, layouts, the graph: in the same process, at a step boundary."""
    RESTART = "Restart"
    """What a process reads when it starts: new processes in the same pods, from a checkpoint."""
    RESCHEDULE = "Reschedule"
    """Pods or their resources: a new Job, from a checkpoint."""


ORDER: Final = tuple(SwitchClass)
"""From the cheapest to the dearest."""

MODEL_CLASSES: Final[Mapping[str, SwitchClass]] = {
    "resolution": SwitchClass.RECOMPILE,
    "depth": SwitchClass.RECOMPILE,
    "stochastic_depth": SwitchClass.LIVE,
    "dropout": SwitchClass.LIVE,
    "augmentation": SwitchClass.LIVE,
    "mixup": SwitchClass.LIVE,
    "label_smoothing": SwitchClass.LIVE,
    "learning_rate_factor": SwitchClass.LIVE,
    "weight_decay": SwitchClass.LIVE,
    "momentum": SwitchClass.LIVE,
    "global_batch": SwitchClass.LIVE,
    "parameters": SwitchClass.RECOMPILE,
}
HARDWARE_CLASSES: Final[Mapping[str, SwitchClass]] = {
    "precision": SwitchClass.RECOMPILE,
    "matmul_precision": SwitchClass.RECOMPILE,
    "compilation": SwitchClass.RECOMPILE,
    "memory_format": SwitchClass.RECOMPILE,
    "gradient_checkpointing": SwitchClass.RECOMPILE,
    "accumulation": SwitchClass.LIVE,
    "parallelism": SwitchClass.RESTART,
    "communication_hook": SwitchClass.RESTART,
    "environment": SwitchClass.RESTART,
    "threads": SwitchClass.RESTART,
    "workers": SwitchClass.RESCHEDULE,
    "processes_per_worker": SwitchClass.RESCHEDULE,
    "resources": SwitchClass.RESCHEDULE,
}
_COMPILED_IN: Final = ("stochastic_depth", "dropout", "global_batch", "accumulation")
"""Live as long as nothing is compiled: torch.compile takes them, or the batch's shape, into its code."""
_BETWEEN_PROCESSES: Final = ("parallelism", "communication_hook", "environment")
"""Nothing to change where one process trains alone before and after."""


def changed_settings(before: StageOrder, after: StageOrder) -> Mapping[str, SwitchClass]:
    """Return the settings that differ, in the models' order, each with the class that its change needs."""
    alone = before.hardware.world == after.hardware.world == 1
    compiled = after.hardware.compilation is not Compilation.NONE
    found: dict[str, SwitchClass] = {}
    for classes, old, new in (
        (MODEL_CLASSES, before.model, after.model),
        (HARDWARE_CLASSES, before.hardware, after.hardware),
    ):
        for name, kind in classes.items():
            if getattr(old, name) == getattr(new, name):
                continue
            if name in _BETWEEN_PROCESSES and alone:
                found[name] = SwitchClass.LIVE
            elif name in _COMPILED_IN and compiled:
                found[name] = SwitchClass.RECOMPILE
            else:
                found[name] = kind
    return found


def classify(before: StageOrder, after: StageOrder) -> SwitchClass:
    """Return the cheapest class that can carry out a change between two stages."""
    return max(changed_settings(before, after).values(), key=ORDER.index, default=SwitchClass.NONE)
