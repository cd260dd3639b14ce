"""``/metrics`` of a training: the contract's series, made from the latest snapshot when they are asked for.

A training step pays for one assignment; the page is made in the server's own thread. Counters show the run's
own totals, which a checkpoint holds, so that they go on where an earlier process left off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nascale.contract import training_series as series
from nascale.contract.run_order import RunOrder
from nascale.contract.run_report import StageReport
from nascale_trainer.progressive.snapshot import RunSnapshot
from nascale_trainer.scraped_registry import STEP_BUCKETS, ScrapedRegistry

_Values = dict[tuple[str, ...], float | None]
"""Values of a series by its labels' values; a value that is not known is left out."""

_SNAPSHOT: Final = "snapshot"
"""The one thing that a scrape acknowledges."""

_COUNTERS: Final[Mapping[str, tuple[str, Callable[[RunSnapshot], float]]]] = {
    series.STEPS: ("Optimizer steps of the run so far.", lambda run: run.step),
    series.SAMPLES: ("Samples of the run so far.", lambda run: run.samples),
    series.NON_FINITE: ("Losses that were NaN or infinite.", lambda run: run.totals.non_finite),
    series.ROLL_BACKS: ("Returns to a checkpoint because of such a loss.", lambda run: run.totals.roll_backs),
    series.LOST_STEPS: (
        "Steps that had to be done again after a process ended without a checkpoint.",
        lambda run: run.totals.lost_steps,
    ),
    series.REPEATED_SAMPLES: (
        "Samples that a checkpoint holds and that were trained again all the same.",
        lambda run: run.totals.repeated_samples,
    ),
    series.DAMAGED_CHECKPOINTS: (
        "Checkpoints that were skipped because they were damaged.",
        lambda run: run.totals.damaged_checkpoints,
    ),
    series.RECOMPILES: ("Compilations by torch.compile in this process.", lambda run: run.recompiles),
}
_GAUGES: Final[Mapping[str, tuple[str, Callable[[RunSnapshot], float | None]]]] = {
    series.WHOLE: ("Length of the run, samples.", lambda run: run.whole),
    series.REMAINING: ("Estimated time to the run's end, seconds.", lambda run: run.remaining_seconds),
    series.STAGE: ("Place of the present stage in the schedule, from 0.", lambda run: run.place),
    series.GENERATION: ("Generation of the Job that trains.", lambda run: run.generation),
    series.REVISION: ("Revision of the desired state that was last applied.", lambda run: run.revision),
    series.THROUGHPUT: ("Samples per second over the last steps.", lambda run: run.throughput),
    series.LOSS: ("Training loss, mean of the last steps.", lambda run: run.loss),
    series.CHECKPOINT_SECONDS: (
        "Duration of the last checkpoint, seconds.",
        lambda run: run.checkpoint_seconds,
    ),
    series.CHECKPOINT_TIMESTAMP: (
        "When the last checkpoint was committed, seconds since the epoch.",
        lambda run: run.checkpoint_timestamp,
    ),
    series.CHECKPOINT_STEP: (
        "Optimizer steps that the last committed checkpoint holds.",
        lambda run: run.checkpoint_step,
    ),
    series.CHECKPOINT_SAMPLES: (
        "Samples that the last committed checkpoint holds.",
        lambda run: run.checkpoint_samples,
    ),
    series.DIVERGED_STEP: (
        "Step at which a loss was last found not to be finite.",
        lambda run: run.totals.diverged_at,
    ),
    series.PEAK_MEMORY: (
        "Highest memory that the device (on a CPU: the process) held in the present stage, bytes.",
        lambda run: run.peak_memory,
    ),
    series.WAITED: (
        "Evaluations since the metric of the present stage's plateau last got better.",
        lambda run: run.waited,
    ),
}
_STAGE_VALUES: Final[Mapping[str, Callable[[StageReport], float | None]]] = {
    "begin_samples": lambda stage: stage.begin,
    "end_samples": lambda stage: stage.end,
    "steps": lambda stage: stage.steps,
    "seconds": lambda stage: stage.seconds,
    "p50_seconds": lambda stage: stage.p50,
    "p99_seconds": lambda stage: stage.p99,
    "loss": lambda stage: stage.loss,
}


class RunMetrics:
    """Serves a run's series until closed; where the port can't be bound, ``address`` is ``None``."""

    def __init__(
        self,
        order: RunOrder,
        *,
        threads: int | None = None,
        bind_address: str | None = None,
        port: int | None = None,
    ) -> None:
        """Start to serve; there is no run to be seen before the first snapshot.

        Args:
            order: Holds what stands behind settings that a stage leaves to the network.
            threads: CPU threads of this process, shown where a stage leaves them to the container's limit.
            bind_address: See ``ScrapedRegistry``.
            port: See ``ScrapedRegistry``.
        """
        resolution = order.architecture.resolution if order.architecture else None
        self._served = ScrapedRegistry(bind_address, port)
        self._series = _RunSeries({"resolution": resolution, "threads": threads})
        self._served.registry.register(self._series)
        self._steps = Histogram(
            series.STEP_SECONDS,
            "Wall time of one optimizer step, seconds.",
            buckets=STEP_BUCKETS,
            registry=self._served.registry,
        )

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port on which ``/metrics`` is served; ``None`` where it is not."""
        return self._served.address

    def publish(self, snapshot: RunSnapshot) -> None:
        """Show this snapshot from now on."""
        self._series.snapshot = snapshot
        self._served.changed(_SNAPSHOT)

    def observe_step(self, seconds: float) -> None:
        """Count one optimizer step in the histogram."""
        self._steps.observe(seconds)

    def acknowledged(self) -> bool:
        """Say whether the last snapshot has been scraped; where there was none, there is nothing to be."""
        return self._served.acknowledged(lambda _: True)

    def close(self, max_linger_seconds: float) -> bool:
        """Wait until the last snapshot has been scraped, at most so long, then stop serving.

        SIGTERM ends the wait.

        Returns:
            Whether it was scraped.
        """
        return self._served.close(lambda _: True, max_linger_seconds)


class _RunSeries(Collector):
    """Turns the latest snapshot into series.

    Attributes:
        snapshot: The latest; replaced as a whole, so that a page never mixes two.
    """

    def __init__(self, left_to_others: Mapping[str, float | None]) -> None:
        """Take the values of settings that a stage may leave open."""
        self.snapshot: RunSnapshot | None = None
        self._left_to_others = left_to_others

    def describe(self) -> Iterable[Metric]:
        """Name the series without making them."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Make the series."""
        run = self.snapshot
        if run is None:
            return
        for name, (text, counted) in _COUNTERS.items():
            yield CounterMetricFamily(name, text, counted(run))
        for name, (text, value_of) in _GAUGES.items():
            value = value_of(run)
            if value is not None:
                yield GaugeMetricFamily(name, text, value)
        yield _labelled(
            CounterMetricFamily(series.SWITCHES, "Switches by class.", labels=("class",)),
            {(kind,): count for kind, count in run.totals.switches.items()},
        )
        yield _gauges(series.STAGE_INFO, "Settings in force.", series.STAGE_INFO_LABELS, {_info(run): 1})
        settings: _Values = {(name,): value for name, value in self._settings(run).items()}
        yield _gauges(series.SETTING, "Numeric settings in force.", ("setting",), settings)
        if run.refused is not None:
            revision, reason = run.refused
            yield _gauges(series.REFUSED, "Revision last refused.", ("reason",), {(reason,): revision})
        yield _gauges(
            series.STEP_QUANTILE,
            "Exact quantile of the present stage's steps, seconds.",
            ("quantile",),
            {("0.5",): run.p50, ("0.99",): run.p99},
        )
        metrics: _Values = {(name,): value for name, value in run.metrics.items()}
        yield _gauges(series.METRIC, "Value of the last evaluation.", ("metric",), metrics)
        yield from _history(run)

    def _settings(self, run: RunSnapshot) -> dict[str, float | None]:
        model, hardware = run.stage.model, run.stage.hardware
        values: dict[str, float | None] = {
            name: getattr(model, name) for name in type(model).model_fields if name != "parameters"
        }
        values |= {
            "accumulation": hardware.accumulation,
            "threads": hardware.threads,
            "workers": hardware.workers,
            "processes_per_worker": hardware.processes_per_worker,
            "world": hardware.world,
            "micro_batch": run.micro_batch,
            "learning_rate": run.learning_rate,
        }
        for name, value in self._left_to_others.items():
            if values.get(name) is None:
                values[name] = value
        for name, own in model.parameters.items():
            if not isinstance(own, str):
                values[f"parameter:{name}"] = own
        return values


def _info(run: RunSnapshot) -> tuple[str, ...]:
    hardware = run.stage.hardware
    return (
        run.stage.name,
        *(str(getattr(hardware, name)) for name in series.STAGE_INFO_LABELS if name != "stage"),
    )


def _history(run: RunSnapshot) -> Iterator[Metric]:
    values: _Values = {}
    phases: _Values = {}
    places = run.places if len(run.places) == len(run.history) else range(len(run.history))
    for place, stage in zip(places, run.history, strict=True):
        for name, value_of in _STAGE_VALUES.items():
            values[str(place), name] = value_of(stage)
        for metric, value in stage.metrics.items():
            values[str(place), f"metric:{metric}"] = value
        for phase, seconds in stage.phases.items():
            phases[str(place), str(stage.switch), str(phase)] = seconds
    bounds: _Values = {(str(place),): end for place, end in enumerate(run.ends)}
    yield _gauges(series.STAGE_BOUND, "Where the schedule ends a stage, samples.", ("stage",), bounds)
    yield _gauges(series.STAGE_VALUE, "What a stage has cost and reached.", ("stage", "value"), values)
    labels = ("stage", "class", "phase")
    yield _gauges(series.SWITCH_SECONDS, "What the switch into a stage has cost, seconds.", labels, phases)


def _gauges(name: str, text: str, labels: tuple[str, ...], values: _Values) -> Metric:
    return _labelled(GaugeMetricFamily(name, text, labels=labels), values)


def _labelled(family: GaugeMetricFamily | CounterMetricFamily, values: _Values) -> Metric:
    for labels, value in values.items():
        if value is not None:
            family.add_metric(labels, value)
    return family
