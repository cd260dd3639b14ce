"""One look at a search, a sweep or a training: what a demo shows of it, whatever its kind."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from rich.console import RenderableType

from nascale.api import architecture_search, progressive_training, scaling_sweep
from nascale.api.architecture_search import ArchitectureSearch
from nascale.api.names import LABEL_SEARCH, LABEL_SWEEP
from nascale.api.progressive_training import ProgressiveTraining
from nascale.api.resource import Condition, ConditionStatus
from nascale.api.scaling_sweep import ScalingSweep
from nascale.api.trial import Trial
from nascale.cli import search_view, sweep_view, training_view
from nascale.cli.kubectl import Kubectl

RESOURCES: Final = {
    architecture_search.KIND: "nas",
    scaling_sweep.KIND: "sweep",
    progressive_training.KIND: "ptrain",
}
"""Short names of the kinds that can be looked at."""
_LABELS: Final = {architecture_search.KIND: LABEL_SEARCH, scaling_sweep.KIND: LABEL_SWEEP}

Step = tuple[str, str]
"""A command, and what it does."""


class Sight(Protocol):
    """What one look has shown."""

    @property
    def ended(self) -> bool:
        """Whether it has reached its end, well or badly."""

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well."""

    def live(self, now: datetime) -> RenderableType:
        """Show progress."""

    def one_line(self, now: datetime) -> str:
        """Show progress in one line."""

    def result(self) -> RenderableType:
        """Show the end."""

    def next_steps(self) -> tuple[Step, ...]:
        """Return commands to go on with."""


@dataclass(frozen=True)
class SearchSight:
    """A look at a search."""

    search: ArchitectureSearch
    trials: tuple[Trial, ...]

    @property
    def ended(self) -> bool:
        """Whether it has reached its end, well or badly."""
        return search_view.ended(self.search)

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well."""
        return _succeeded(self.search.status.conditions)

    def live(self, now: datetime) -> RenderableType:
        """Show progress."""
        return search_view.live(self.search, self.trials, now)

    def one_line(self, now: datetime) -> str:
        """Show progress in one line."""
        return search_view.one_line(self.search, now)

    def result(self) -> RenderableType:
        """Show the Pareto front and the base network."""
        return search_view.result(self.search)

    def next_steps(self) -> tuple[Step, ...]:
        """Return commands to go on with."""
        name, where = self.search.metadata.name, f"-n {self.search.metadata.namespace}"
        return (
            (f"kubectl get trials {where}", "every measurement"),
            (f"kubectl describe nas {name} {where}", "what happened and why"),
            (
                f"kubectl get nas {name} {where} -o jsonpath='{{.status.baseNetwork.architecture}}'",
                "the base network as JSON",
            ),
        )


@dataclass(frozen=True)
class SweepSight:
    """A look at a sweep."""

    sweep: ScalingSweep
    trials: tuple[Trial, ...]

    @property
    def ended(self) -> bool:
        """Whether it has reached its end, well or badly."""
        return sweep_view.ended(self.sweep)

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well."""
        return _succeeded(self.sweep.status.conditions)

    def live(self, now: datetime) -> RenderableType:
        """Show progress."""
        return sweep_view.live(self.sweep, self.trials, now)

    def one_line(self, now: datetime) -> str:
        """Show progress in one line."""
        return sweep_view.one_line(self.sweep, self.trials, now)

    def result(self) -> RenderableType:
        """Show the family beside the baselines."""
        return sweep_view.result(self.sweep)

    def next_steps(self) -> tuple[Step, ...]:
        """Return commands to go on with."""
        name, where = self.sweep.metadata.name, f"-n {self.sweep.metadata.namespace}"
        steps = [
            (f"kubectl get trials {where} -l {LABEL_SWEEP}={name}", "every measurement and training"),
            (f"kubectl describe sweep {name} {where}", "what happened and why"),
        ]
        if self.sweep.status.family:
            member = self.sweep.status.family[-1].name
            program = Path(sys.executable).with_name("nascale")
            export = f"{program} family export {name} {where} --member {member} --to {member}"
            steps.append((export, "a folder with network, weights and three lines to load them"))
        return tuple(steps)


@dataclass(frozen=True)
class TrainingSight:
    """A look at a training."""

    training: ProgressiveTraining

    @property
    def ended(self) -> bool:
        """Whether it has reached its end, well or badly."""
        return training_view.ended(self.training)

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well."""
        return _succeeded(self.training.status.conditions)

    def live(self, now: datetime) -> RenderableType:
        """Show progress."""
        return training_view.live(self.training, now)

    def one_line(self, now: datetime) -> str:
        """Show progress in one line."""
        return training_view.one_line(self.training, now)

    def result(self) -> RenderableType:
        """Show stages, switches and the trained model."""
        return training_view.result(self.training)

    def next_steps(self) -> tuple[Step, ...]:
        """Return commands to go on with."""
        name, where = self.training.metadata.name, f"-n {self.training.metadata.namespace}"
        return (
            (f"kubectl describe ptrain {name} {where}", "what happened and why"),
            (
                f"kubectl get ptrain {name} {where} -o jsonpath='{{.status.stages}}'",
                "stages: settings in force, figures, what each switch has cost",
            ),
        )


def look(kubectl: Kubectl, kind: str, name: str, namespace: str) -> Sight:
    """Look at a search or a sweep and its trials, or at a training.

    Args:
        kubectl: Reads them.
        kind: A key of ``RESOURCES``.
        name: Of the object.
        namespace: Of the object.
    """
    found = kubectl.get(RESOURCES[kind], name, f"--namespace={namespace}")
    if kind == progressive_training.KIND:
        return TrainingSight(ProgressiveTraining.model_validate(found))
    listed = kubectl.get("trials", f"--namespace={namespace}", f"--selector={_LABELS[kind]}={name}")
    trials = tuple(Trial.model_validate(item) for item in listed["items"])
    if kind == scaling_sweep.KIND:
        return SweepSight(ScalingSweep.model_validate(found), trials)
    return SearchSight(ArchitectureSearch.model_validate(found), trials)


def _succeeded(conditions: tuple[Condition, ...]) -> bool:
    return any(each.type == "Succeeded" and each.status is ConditionStatus.TRUE for each in conditions)
