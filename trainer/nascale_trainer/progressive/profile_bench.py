"""What candidates of a profile order are carried out with, one after the other in one process."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from nascale.contract.profile_order import NON_FINITE_LOSS, ProfileOrder
from nascale.contract.report import Outcome
from nascale.contract.run_order import (
    CheckpointOrder,
    DivergenceAction,
    DivergenceOrder,
    RunOrder,
    StageOrder,
)
from nascale.contract.stage_settings import Compilation, micro_batch
from nascale_trainer.outcomes import CandidateEnd, OutOfMemory, Stopped
from nascale_trainer.progressive.capabilities import check_stage
from nascale_trainer.progressive.proposals import Objection, check_batch
from nascale_trainer.progressive.ranks import AloneRanks, Ranks
from nascale_trainer.progressive.refusal import CannotTrain
from nascale_trainer.progressive.task import TrainingTask
from nascale_trainer.threads import available_threads

TaskMaker = Callable[[RunOrder, torch.device], TrainingTask]

_SELDOM_SECONDS: Final = 86_400.0
_NO_MEMORY: Final = ("can't allocate memory", "out of memory")
_COMPILER: Final = ("torch._dynamo", "torch._inductor")


class NonFiniteLoss(CandidateEnd):
    """A loss is no number: nothing can be trained with these settings."""

    outcome = Outcome.INFEASIBLE
    reason = NON_FINITE_LOSS


class CannotCompile(CandidateEnd):
    """The compiler fails on this network with these settings."""

    outcome = Outcome.INFEASIBLE
    reason = "CannotCompile"


class TrialObserver(Protocol):
    """Who shows the work to the outside: the exporter of trials."""

    def set(self, trial: str, name: str, value: float) -> None:
        """Show a metric's final value."""

    def progress(self, trial: str, ratio: float) -> None:
        """Show how much of the work is done, 0 to 1."""

    def training_loss(self, trial: str, nats: float) -> None:
        """Show the loss so far."""

    def step(self, trial: str, seconds: float) -> None:
        """Count a step."""


class Unwatched:
    """Shows nothing."""

    def set(self, trial: str, name: str, value: float) -> None:
        """Do nothing."""

    def progress(self, trial: str, ratio: float) -> None:
        """Do nothing."""

    def training_loss(self, trial: str, nats: float) -> None:
        """Do nothing."""

    def step(self, trial: str, seconds: float) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Bench:
    """Where the work is done.

    Attributes:
        device: Trains.
        environ: The container's environment.
        observer: Shows the work to the outside.
        stop: Says whether the process was asked to end.
        group: The processes that work together; ``None``: this one alone.
    """

    device: torch.device
    environ: Mapping[str, str]
    observer: TrialObserver
    stop: Callable[[], bool]
    group: Ranks | None = None

    @property
    def ranks(self) -> Ranks:
        """The processes that work together."""
        return AloneRanks(self.device) if self.group is None else self.group

    def largest(self, values: Sequence[float]) -> list[float]:
        """Return each value's maximum over all processes, which all call this alike.

        A step takes as long as the slowest of them; and what they go by must be the same for all.
        """
        ranks = self.ranks
        if ranks.world == 1 or not values:
            return list(values)
        everyone = torch.zeros(ranks.world, len(values), dtype=torch.float64)
        everyone[ranks.rank] = torch.tensor(values, dtype=torch.float64)
        return [float(value) for value in ranks.total(everyone).amax(dim=0)]

    def check_stop(self) -> None:
        """Raise ``Stopped`` where the process was asked to end."""
        if self.stop():
            raise Stopped

    def set_threads(self, stage: StageOrder) -> None:
        """Compute with as many threads as a training process of this stage does."""
        available = available_threads(environ=self.environ)
        shared = max(1, available // stage.hardware.processes_per_worker)
        torch.set_num_threads(stage.hardware.threads or shared)


def run_order_of(order: ProfileOrder, stages: tuple[StageOrder, ...], seed: int) -> RunOrder:
    """Return the run that trains these stages; a loss that is no number ends it."""
    return RunOrder(
        run=order.run,
        generation=1,
        seed=seed,
        architecture=order.architecture,
        parameters=order.parameters,
        data=order.data,
        length=order.length,
        stages=stages,
        workers=order.workers,
        processes_per_worker=order.processes_per_worker,
        optimizer=order.optimizer,
        evaluation=order.evaluation,
        checkpoints=CheckpointOrder(every_seconds=_SELDOM_SECONDS),
        divergence=DivergenceOrder(action=DivergenceAction.STOP),
        exporter=order.exporter,
    )


def check_settings(stage: StageOrder, task: TrainingTask, device: torch.device, order: RunOrder) -> None:
    """Refuse settings that model, data, device or the present processes don't allow.

    Raises:
        CannotTrain: naming the stage, the setting, its value and the range.
    """
    check_processes(stage, order)
    try:
        check_batch(0, stage)
    except Objection as objection:
        raise CannotTrain(objection.reason, str(objection.args[0])) from objection
    task.check(stage)
    check_stage(stage, device)


def check_processes(stage: StageOrder, order: RunOrder) -> None:
    """Refuse a stage of more or fewer processes than are at work.

    Raises:
        CannotTrain: it is one.
    """
    hardware = stage.hardware
    for field, count, present in (
        ("workers", hardware.workers, order.workers),
        ("processesPerWorker", hardware.processes_per_worker, order.processes_per_worker),
    ):
        if count != present:
            raise CannotTrain(
                "WrongWorkers",
                f"stage {stage.name}: {field}: must be {present}, as in its profile order, not {count}",
            )


@contextmanager
def failures_of_settings(present: Callable[[], StageOrder]) -> Iterator[None]:
    """Tell what settings are to blame for from other errors.

    Args:
        present: Returns the stage in force.

    Raises:
        OutOfMemory: the device's memory, or the process's, does not suffice.
        CannotCompile: the compiler has failed.
    """
    try:
        yield
    except MemoryError as error:
        raise OutOfMemory(_too_much(present(), "the process's memory")) from error
    except RuntimeError as error:
        stage = present()
        text = str(error).partition("\n")[0]
        if isinstance(error, torch.OutOfMemoryError) or any(sign in text.lower() for sign in _NO_MEMORY):
            raise OutOfMemory(_too_much(stage, text)) from error
        if stage.hardware.compilation is not Compilation.NONE and _is_of_compiler(error):
            raise CannotCompile(
                f"stage {stage.name}: compilation: must be {str(Compilation.NONE)!r} for this network, "
                f"not {str(stage.hardware.compilation)!r}: {text}"
            ) from error
        raise


def clear_memory(device: torch.device) -> None:
    """Give back what the candidate before has left, so that it doesn't count for the next one."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    with suppress(OSError, AttributeError):  # glibc alone has it, and keeps freed memory without it
        ctypes.CDLL(None).malloc_trim(0)


def _too_much(stage: StageOrder, what: str) -> str:
    model, hardware = stage.model, stage.hardware
    resolution = f" at resolution {model.resolution}" if model.resolution else ""
    return (
        f"stage {stage.name}: globalBatch: must be less than {model.global_batch}, or accumulation more than "
        f"{hardware.accumulation}: {micro_batch(model, hardware)} samples at once{resolution} in "
        f"{hardware.precision} don't fit: {what}"
    )


def _is_of_compiler(error: BaseException) -> bool:
    return any(kind.__module__.startswith(_COMPILER) for kind in type(error).__mro__)
