"""Evaluations on the validation part, and the early ends of stages that follow from them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import torch
from torch import nn

from nascale.contract.run_order import Goal, MetricEnd, PlateauEnd, StageOrder
from nascale_trainer.progressive.manifest import PlateauRecord
from nascale_trainer.progressive.ranks import Ranks
from nascale_trainer.progressive.task import Share, TrainingTask

log = logging.getLogger(__name__)


def evaluate(task: TrainingTask, network: nn.Module, ranks: Ranks) -> dict[str, float]:
    """Return the metrics over the whole validation part; all processes call it alike.

    In FP32, whatever the stage trains in, so that values of different stages can be compared. A value that is
    not finite is left out.
    """
    network.eval()
    try:
        with torch.no_grad():
            shares = task.evaluate(network, Share(rank=ranks.rank, world=ranks.world, device=ranks.device))
    finally:
        network.train()
    sums = torch.tensor(
        [[float(total), float(count)] for total, count in shares.values()], dtype=torch.float64
    )
    totals = ranks.total(sums.reshape(-1)).reshape(-1, 2).tolist()
    values = {
        name: total / count if count else math.nan
        for name, (total, count) in zip(shares, totals, strict=True)
    }
    for name, value in values.items():
        if not math.isfinite(value):
            log.warning("metric %s is not finite (%s) and left out", name, value)
    return {name: value for name, value in values.items() if math.isfinite(value)}


def due(every: int, before: int, after: int) -> bool:
    """Say whether a step from one cursor to another passes a multiple of so many samples."""
    return after // every > before // every


def judge(
    stage: StageOrder, metrics: Mapping[str, float], plateau: PlateauRecord
) -> tuple[bool, PlateauRecord]:
    """Say whether a stage ends with this evaluation, and how long its metric has waited since."""
    reached = stage.until_metric is not None and _reached(stage.until_metric, metrics)
    if stage.until_plateau is None:
        return reached, plateau
    plateau = _waited(stage.until_plateau, metrics, plateau)
    return reached or plateau.waited >= stage.until_plateau.evaluations, plateau


def _reached(end: MetricEnd, metrics: Mapping[str, float]) -> bool:
    value = metrics.get(end.metric)
    if value is None:
        return False
    if end.at_least is not None and value >= end.at_least:
        return True
    return end.at_most is not None and value <= end.at_most


def _waited(end: PlateauEnd, metrics: Mapping[str, float], plateau: PlateauRecord) -> PlateauRecord:
    value, evaluated = metrics.get(end.metric), plateau.evaluated + 1
    waits = PlateauRecord(best=plateau.best, waited=plateau.waited + 1, evaluated=evaluated)
    if value is None:
        return waits
    if plateau.best is None:
        return PlateauRecord(best=value, evaluated=evaluated)
    gain = value - plateau.best if end.goal is Goal.MAXIMIZE else plateau.best - value
    if gain > 0 and gain >= end.min_change:
        return PlateauRecord(best=value, evaluated=evaluated)
    return waits
