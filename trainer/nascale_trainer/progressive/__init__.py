"""Training in stages: a loop that changes its settings while it runs, for any network.

For a model of one's own, subclass ``TrainingTask`` and hand it to ``train``::

    from nascale_trainer.progressive import TrainingTask, train

    class MyTask(TrainingTask): ...

    if __name__ == "__main__":
        train(lambda order: MyTask(order.parameters))

The names are loaded on first use: the launcher's process needs no torch.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn

from nascale.contract.run_order import RunOrder

if TYPE_CHECKING:
    import torch

    from nascale.contract.run_order import StageOrder
    from nascale_trainer.progressive.refusal import CannotTrain
    from nascale_trainer.progressive.task import MicroBatchPlace, Share, TrainingTask

_HOME: Final[dict[str, str]] = {
    "CannotTrain": "nascale_trainer.progressive.refusal",
    "MicroBatchPlace": "nascale_trainer.progressive.task",
    "Share": "nascale_trainer.progressive.task",
    "StageOrder": "nascale.contract.run_order",
    "TrainingTask": "nascale_trainer.progressive.task",
}

__all__ = [
    "CannotTrain",
    "MicroBatchPlace",
    "RunOrder",
    "Share",
    "StageOrder",
    "TrainingTask",
    "train",
]


def train(make_task: Callable[[RunOrder], TrainingTask]) -> NoReturn:
    """Train what a task brings, as the run order says; the process exits with the container's code.

    A script that calls it is both: as a container's first process it is the launcher, which starts the script
    again for each training process. Given a profile order, it measures what the task's steps take, or tries
    schedules.

    Args:
        make_task: Makes the task from the order; called in the processes that train or measure alone.
    """
    from nascale_trainer.progressive import container, processes, profile_container  # noqa: PLC0415  # see above

    def make(order: RunOrder, _device: torch.device) -> TrainingTask:
        return make_task(order)

    profiles = profile_container.is_profile_order(os.environ)
    if profiles or not processes.is_training_process(os.environ):
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
        if profiles:
            profile_container.begin_anew()
            processes.leave(profile_container.main(make))
        sys.exit(container.main(container.own_command()))
    from nascale_trainer.progressive import worker  # noqa: PLC0415  # when it is needed

    processes.leave(worker.main(make))


def __getattr__(name: str) -> Any:
    """Load a public name from the module that it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*globals(), *__all__])
