"""How a process's part in a run ends, and what it says then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

import torch

from nascale.contract.run_order import RunOrder
from nascale.contract.run_report import RunOutcome, RunReport
from nascale_trainer.device import describe_device
from nascale_trainer.progressive.manifest import FinishedRun, Incidents
from nascale_trainer.progressive.ranks import Ranks
from nascale_trainer.progressive.refusal import CannotTrain
from nascale_trainer.progressive.run_folder import RunFolder, digest_of
from nascale_trainer.progressive.run_state import RunState
from nascale_trainer.progressive.task import TrainingTask
from nascale_trainer.progressive.trainee import Trainee

MOST_METRICS: Final = 8
_MOST_MESSAGE: Final = 1024


class EndKind(Enum):
    """What follows for the process."""

    REPORTED = "Reported"
    """The generation has ended; the report says how."""
    RESTART = "Restart"
    """The next stage needs a new process in the same pod."""
    STOPPED = "Stopped"
    """It was asked to end, and has saved what it could."""


@dataclass(frozen=True)
class RunEnd:
    """How a process's part in a run ended.

    Attributes:
        kind: What follows.
        report: Where the generation has ended.
        told: Whether this very process was asked to end.
    """

    kind: EndKind
    report: RunReport | None = None
    told: bool = False


def exported(task: TrainingTask, trainee: Trainee, folder: RunFolder, ranks: Ranks) -> str | None:
    """Let rank 0 write the trained network; return the file's name, ``None``: the task keeps none.

    All processes call it alike: the whole network may lie in parts on all of them.

    Raises:
        OSError: the volume takes no file.
    """
    with trainee.for_evaluation():
        network = trainee.complete()
        network.eval()
        try:
            path = task.export(network, folder.path) if ranks.rank == 0 else None
        finally:
            network.train()
    return ranks.broadcast(path.name if path else None)


def finished_run(
    order: RunOrder, state: RunState, work: str, folder: RunFolder, model: str | None
) -> FinishedRun:
    """Return the result of a run that is trained whole.

    Args:
        order: The run order.
        state: The run's, all stages ended.
        work: Fingerprint of the run.
        folder: The run's.
        model: Name of the weights' file in it.
    """
    refusal, why = state.refused or (None, None)
    return FinishedRun(
        uid=order.run.uid,
        fingerprint=work,
        generation=order.generation,
        revision=state.revision,
        refused=refusal,
        refused_reason=why,
        step=state.step,
        samples=state.samples,
        whole=state.whole,
        model=model,
        digest=digest_of(folder.path / model) if model else None,
        metrics=state.metrics,
        stages=state.history.reports(),
    )


def refused(order: RunOrder, refusal: CannotTrain, device: torch.device) -> RunReport:
    """Return the report of a run that can't be carried out here."""
    return RunReport(
        generation=order.generation,
        revision=order.revision,
        outcome=RunOutcome.REFUSED,
        reason=refusal.reason,
        message=str(refusal)[:_MOST_MESSAGE],
        device=describe_device(device),
    )


def reported(
    order: RunOrder,
    state: RunState,
    incidents: Incidents,
    outcome: RunOutcome,
    device: torch.device,
    *,
    reason: str | None = None,
    message: str | None = None,
) -> RunReport:
    """Return the report of a generation that has trained."""
    refusal, why = state.refused or (None, None)
    return RunReport(
        generation=order.generation,
        revision=state.revision,
        refused=refusal,
        refused_reason=why,
        outcome=outcome,
        reason=reason,
        message=message[:_MOST_MESSAGE] if message else None,
        step=state.step,
        samples=state.samples,
        whole=state.whole,
        stage=state.stage.name,
        stages=state.history.reports(),
        metrics=_bounded(state.metrics),
        lost_steps=incidents.lost_steps,
        roll_backs=incidents.roll_backs,
        device=describe_device(device),
    )


def completed(
    order: RunOrder, folder: RunFolder, finished: FinishedRun, incidents: Incidents, device: torch.device
) -> RunReport:
    """Return the report of a run whose result lies in its folder."""
    return RunReport(
        generation=order.generation,
        revision=max(finished.revision, order.revision),
        refused=finished.refused,
        refused_reason=finished.refused_reason,
        outcome=RunOutcome.COMPLETED,
        step=finished.step,
        samples=finished.samples,
        whole=finished.whole,
        stage=finished.stages[-1].name if finished.stages else None,
        stages=finished.stages,
        metrics=_bounded(finished.metrics),
        lost_steps=incidents.lost_steps,
        roll_backs=incidents.roll_backs,
        model=f"{folder.path.name}/{finished.model}" if finished.model else None,
        digest=finished.digest,
        device=describe_device(device),
    )


def _bounded(metrics: Mapping[str, float]) -> dict[str, float]:
    return dict(list(metrics.items())[:MOST_METRICS])
