"""What a run shows to the outside while it trains."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from nascale.contract.remaining import measured_rates, remaining_seconds
from nascale.contract.run_order import RunOrder
from nascale.contract.stage_settings import micro_batch
from nascale_trainer.device import peak_memory_bytes
from nascale_trainer.progressive.manifest import Incidents
from nascale_trainer.progressive.numerics import compilations
from nascale_trainer.progressive.ranks import Ranks
from nascale_trainer.progressive.run_checkpoint import Checkpoints
from nascale_trainer.progressive.run_state import RunState
from nascale_trainer.progressive.snapshot import RunSnapshot, Totals
from nascale_trainer.progressive.trainee import Trainee

PUBLISH_SECONDS: Final = 0.25
"""Shortest time between two snapshots that nothing but steps has changed."""
WINDOW: Final = 50
"""Steps that throughput is taken over."""


class Observer(Protocol):
    """Who shows the run to the outside: the exporter."""

    def publish(self, snapshot: RunSnapshot) -> None:
        """Show a run's state."""

    def observe_step(self, seconds: float) -> None:
        """Count one step."""


class Silent:
    """Shows nothing: for ranks other than 0."""

    def publish(self, snapshot: RunSnapshot) -> None:
        """Do nothing."""

    def observe_step(self, seconds: float) -> None:
        """Do nothing."""


class Observation:
    """Gathers what the observer shows; only rank 0 has one to show it."""

    def __init__(self, order: RunOrder, observer: Observer, ranks: Ranks, clock: Callable[[], float]) -> None:
        """Prepare.

        Args:
            order: The run order.
            observer: Shows it.
            ranks: All processes.
            clock: Seconds.
        """
        self._order, self._clock = order, clock
        self._observer: Observer = observer if ranks.rank == 0 else Silent()
        self._device = ranks.device
        self._window: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._published = -PUBLISH_SECONDS

    def step(self, seconds: float, samples: int) -> None:
        """Take in a step."""
        self._window.append((seconds, samples))
        self._observer.observe_step(seconds)

    def new_stage(self) -> None:
        """Forget how fast the stage before was."""
        self._window.clear()

    @property
    def throughput(self) -> float | None:
        """Samples per second over the last steps; ``None``: there was none."""
        if not self._window:
            return None
        # The first step of a stage compiles and warms up; the median knows it for what it is.
        usual = statistics.median(seconds for seconds, _ in self._window)
        samples = self._window[-1][1]
        return samples / usual if usual > 0 else None

    @property
    def due(self) -> bool:
        """Whether the last snapshot is old."""
        return self._clock() - self._published >= PUBLISH_SECONDS

    def publish(
        self, state: RunState, trainee: Trainee, checkpoints: Checkpoints, incidents: Incidents
    ) -> None:
        """Show the run as it is."""
        self._published = self._clock()
        stage = trainee.stage
        present = state.history.present if state.history.begun else None
        throughput = self.throughput
        committed = checkpoints.committed
        self._observer.publish(
            RunSnapshot(
                generation=self._order.generation,
                revision=state.revision,
                refused=state.refused,
                step=state.step,
                samples=state.samples,
                whole=state.whole,
                remaining_seconds=_remaining_seconds(state, throughput),
                place=state.place,
                stage=stage,
                micro_batch=micro_batch(stage.model, stage.hardware) or 0,
                learning_rate=trainee.optimization.rate,
                throughput=throughput,
                p50=present.quantile(0.5) if present else None,
                p99=present.quantile(0.99) if present else None,
                loss=present.loss if present else None,
                metrics=dict(state.metrics),
                history=state.history.reports(),
                places=state.history.places(),
                ends=state.schedule.bounds.ends,
                checkpoint_seconds=checkpoints.seconds,
                checkpoint_timestamp=checkpoints.timestamp,
                checkpoint_step=committed.step if committed else None,
                checkpoint_samples=committed.samples if committed else None,
                totals=Totals(
                    non_finite=incidents.non_finite,
                    diverged_at=incidents.diverged_at,
                    roll_backs=incidents.roll_backs,
                    lost_steps=incidents.lost_steps,
                    repeated_samples=incidents.repeated_samples,
                    damaged_checkpoints=incidents.damaged_checkpoints,
                    switches=dict(state.switches),
                ),
                recompiles=compilations(),
                peak_memory=peak_memory_bytes(self._device),
                waited=state.waited,
            )
        )


def _remaining_seconds(state: RunState, throughput: float | None) -> float | None:
    reports = zip(state.history.places(), state.history.reports(), strict=True)
    medians = {place: report.p50 for place, report in reports}
    rates = measured_rates(state.schedule.stages, state.place, medians)
    return remaining_seconds(state.samples, state.place, state.schedule.bounds.ends, rates, throughput)
