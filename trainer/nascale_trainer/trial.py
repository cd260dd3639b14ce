"""Takes the candidates of a work order from architecture to result, one after the other."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from nascale.contract import environment, metric_names
from nascale.contract.architecture import Architecture
from nascale.contract.metric_names import MEASURED_BEFORE_TRAINING
from nascale.contract.report import CandidateReport, DeviceReport, Outcome
from nascale.contract.work_order import CandidateOrder, DataOrder, Fidelity, Task, WorkOrder
from nascale_trainer.answering import log_result
from nascale_trainer.batches import Batches, Split, normalisation_of, split
from nascale_trainer.build import MBConvNetwork, build_network, check_resolution
from nascale_trainer.checkpoint import CandidateFolder, ExactResult, fingerprint
from nascale_trainer.counting import count_flops, count_parameters
from nascale_trainer.data import ImageSource, load_source
from nascale_trainer.device import choose_device, describe_device, peak_memory_bytes, reset_peak_memory
from nascale_trainer.exporter import Metrics
from nascale_trainer.measuring import LatencyRecord, measure_network
from nascale_trainer.outcomes import CandidateEnd, ConstraintBroken, OutOfMemory, Stopped
from nascale_trainer.threads import available_threads
from nascale_trainer.training import Training, evaluate

log = logging.getLogger(__name__)

WITHOUT_DATA_CHANNELS: Final = 3
WITHOUT_DATA_CLASSES: Final = 1000
"""A network that is only measured, without data, is built for ImageNet's images and classes."""


class TrialRun:
    """The work of one pod."""

    def __init__(
        self,
        order: WorkOrder,
        metrics: Metrics,
        stop_requested: Callable[[], bool],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Choose the device and the number of threads; nothing is built yet.

        Args:
            order: A usable order.
            metrics: Where values are published as soon as they are final.
            stop_requested: Says whether the process was asked to end.
            environ: The environment; ``None`` means that of the process.
        """
        self._order, self._metrics, self._stop_requested = order, metrics, stop_requested
        self._environ = os.environ if environ is None else environ
        self._device = choose_device()
        torch.set_num_threads(available_threads(order.training.max_threads, self._environ))
        self.device = describe_device(self._device)
        self._data = OpenedData(order.data, self._environ) if order.data else None

    def run(self) -> tuple[CandidateReport, ...]:
        """Return one result per candidate, whatever became of it.

        Raises:
            Stopped: the process was asked to end; nothing may be reported.
        """
        results = []
        for candidate in self._order.candidates:
            work = CandidateWork(self._order, candidate, self._metrics, self._device, self._stop_requested)
            result = work.run(self._data, self._folder(candidate), self.device)
            log_result(result)
            results.append(result)
        return tuple(results)

    def _folder(self, candidate: CandidateOrder) -> CandidateFolder | None:
        root = self._environ.get(environment.CHECKPOINT_DIRECTORY)
        if not root:
            return None
        try:
            return CandidateFolder(Path(root), candidate.trial, fingerprint(self._order, candidate))
        except OSError as error:
            log.warning("%s: nothing is kept: %s", environment.CHECKPOINT_DIRECTORY, error)
            return None


class OpenedData:
    """The order's data, opened when it is first needed and shared by all candidates."""

    def __init__(self, order: DataOrder, environ: Mapping[str, str]) -> None:
        """Note where the data are."""
        self._order, self._environ = order, environ
        self._source: ImageSource | None = None
        self._split: Split | None = None
        self._parts: dict[tuple[int, float], tuple[Batches, Batches]] = {}

    @property
    def source(self) -> ImageSource:
        """The images; raises ``DataNotFound``."""
        if self._source is None:
            self._source = load_source(self._order, self._environ)
        return self._source

    def parts(self, resolution: int, fraction: float, device: torch.device) -> tuple[Batches, Batches]:
        """Return the training and the validation part; the last ones are kept for the next candidate."""
        key = (resolution, fraction)
        if key not in self._parts:
            if self._split is None:
                self._split = split(self.source.labels, self._order)
            normalisation = normalisation_of(self.source, self._split.training)
            self._parts.clear()  # one resolution at a time in memory
            self._parts[key] = (
                Batches(self.source, self._split.fraction(fraction), resolution, normalisation, device),
                Batches(self.source, self._split.validation, resolution, normalisation, device),
            )
        return self._parts[key]


class CandidateWork:
    """The work on one candidate; it follows its own training."""

    def __init__(
        self,
        order: WorkOrder,
        candidate: CandidateOrder,
        metrics: Metrics,
        device: torch.device,
        stop_requested: Callable[[], bool],
    ) -> None:
        """Prepare."""
        if candidate.architecture is None:
            raise ValueError(f"{candidate.trial}: architecture: must be given")  # see usable_order
        self._order, self._candidate, self._device = order, candidate, device
        self._architecture: Architecture = candidate.architecture
        self._exporter, self._stop_requested = metrics, stop_requested
        self._values: dict[str, float] = {}
        self._record: LatencyRecord | None = None
        self._seconds_before = 0.0

    def run(
        self, data: OpenedData | None, folder: CandidateFolder | None, device: DeviceReport
    ) -> CandidateReport:
        """Do the work and return its result.

        Raises:
            Stopped: the process was asked to end.
        """
        trial = self._candidate.trial
        finished = folder.load_result() if folder else None
        if finished:
            log.info("%s: finished by an earlier pod", trial)
            for name, value in finished.result.metrics.items():
                self._publish(name, value)
            return finished.result
        begin = time.perf_counter()
        self._exporter.progress(trial, 0.0)
        outcome, reason, message = self._attempt(data, folder)
        result = CandidateReport(
            trial=trial,
            outcome=outcome,
            reason=reason,
            message=message[:1024] or None,
            metrics=self._values,
            device_seconds=time.perf_counter() - begin + self._seconds_before,
        )
        self._exporter.progress(trial, 1.0)
        # A failure may be another attempt's success; whatever else a candidate came to is final.
        if folder and outcome is not Outcome.FAILED:
            with _kept_if_possible(folder):
                folder.save_result(self._exact(result, folder, device))
        return result

    def _attempt(
        self, data: OpenedData | None, folder: CandidateFolder | None
    ) -> tuple[Outcome, str | None, str]:
        try:
            with _out_of_memory_is_infeasible():
                self._work(data, folder)
        except CandidateEnd as end:
            return end.outcome, end.reason, str(end)
        except Stopped:
            raise
        except Exception as error:
            # The border of a candidate: its error is its result, and the others go on.
            log.exception("%s failed", self._candidate.trial)
            return Outcome.FAILED, "Error", f"{type(error).__name__}: {error}"
        return Outcome.SUCCEEDED, None, self._record.summary() if self._record else ""

    def _work(self, data: OpenedData | None, folder: CandidateFolder | None) -> None:
        order = self._order
        reset_peak_memory(self._device)
        fidelity = order.fidelity or Fidelity(epochs=0)
        resolution = fidelity.resolution or self._architecture.resolution
        channels = data.source.channels if data else WITHOUT_DATA_CHANNELS
        classes = data.source.classes if data else WITHOUT_DATA_CLASSES
        if order.task is Task.TRAIN_AND_MEASURE:
            check_resolution(self._architecture, resolution)
        network = build_network(self._architecture, channels, classes, self._candidate.seed).to(self._device)
        state = folder.load_checkpoint() if folder else None
        normalisation = None
        self._measure(network, channels, state)
        if order.task is Task.TRAIN_AND_MEASURE and data:
            training, validation = data.parts(resolution, fidelity.data_fraction, self._device)
            normalisation = training.normalisation
            self._train(network, training, fidelity, state, folder)
            accuracy, loss = evaluate(network, validation, self.check_stop)
            self._publish(metric_names.ACCURACY, accuracy)
            self._publish(metric_names.LOSS, loss)
        self._publish(metric_names.PEAK_MEMORY, peak_memory_bytes(self._device))
        if folder and order.task is Task.TRAIN_AND_MEASURE:
            with _kept_if_possible(folder):
                folder.save_weights(network, self._architecture, classes, channels, normalisation)
        self._check_constraints(self._values)

    def _measure(self, network: MBConvNetwork, channels: int, state: dict[str, Any] | None) -> None:
        """Count, then measure; each constraint is checked as soon as its metric is known."""
        self._publish(metric_names.PARAMETERS, count_parameters(network))
        flops = count_flops(network, channels, self._architecture.resolution)
        self._publish(metric_names.FLOPS, flops)
        self._check_constraints(self._values)
        before = state.get("latency") if state else None
        self._record = LatencyRecord.from_state(before) if before else None
        if self._record is None or self._record.device != describe_device(self._device).name:
            shape = (
                self._order.target.batch_size,
                channels,
                self._architecture.resolution,
                self._architecture.resolution,
            )
            self._record = measure_network(
                network,
                shape,
                self._device,
                self._order.target.precision,
                self._order.measurement,
                with_p99=self._p99_wanted(),
                check_stop=self.check_stop,
            )
        for name, value in self._record.metrics().items():
            self._publish(name, value)
        self._check_constraints(
            {name: self._values[name] for name in MEASURED_BEFORE_TRAINING & set(self._values)}
        )

    def _train(
        self,
        network: MBConvNetwork,
        data: Batches,
        fidelity: Fidelity,
        state: dict[str, Any] | None,
        folder: CandidateFolder | None,
    ) -> None:
        begin = time.perf_counter()
        training = Training(network, data, self._order.training, fidelity, self._candidate.seed)
        if state:
            training.restore(state)
            self._seconds_before = float(state["device_seconds"])
            log.info("%s: goes on after epoch %d", self._candidate.trial, training.epoch)

        def keep(reached: dict[str, Any]) -> None:
            if folder:
                spent = time.perf_counter() - begin + self._seconds_before
                latency = self._record.to_state() if self._record else None
                with _kept_if_possible(folder):
                    folder.save_checkpoint(
                        reached["epoch"], {**reached, "latency": latency, "device_seconds": spent}
                    )

        trained = training.run(self, keep)
        self._publish(metric_names.TRAINING_SECONDS, trained.seconds)
        self._publish(metric_names.TRAINING_THROUGHPUT, trained.samples_per_second)

    def check_stop(self) -> None:
        """Raise ``Stopped`` where the process was asked to end."""
        if self._stop_requested():
            raise Stopped

    def step(self, seconds: float, done: float) -> None:
        """Publish a training step."""
        self._exporter.step(self._candidate.trial, seconds)
        self._exporter.progress(self._candidate.trial, done)

    def epoch(self, loss: float) -> None:
        """Publish an epoch's loss."""
        self._exporter.training_loss(self._candidate.trial, loss)

    def _publish(self, name: str, value: float) -> None:
        if math.isfinite(value):
            self._values[name] = float(value)
            self._exporter.set(self._candidate.trial, name, float(value))

    def _p99_wanted(self) -> bool:
        wanted = {*self._order.metrics, *(constraint.metric for constraint in self._order.constraints)}
        return metric_names.LATENCY_P99 in wanted

    def _check_constraints(self, known: Mapping[str, float]) -> None:
        broken = [
            text
            for constraint in self._order.constraints
            if constraint.metric in known
            for text in broken_bounds(
                constraint.metric, known[constraint.metric], constraint.at_most, constraint.at_least
            )
        ]
        if broken:
            raise ConstraintBroken("; ".join(broken))

    def _exact(self, result: CandidateReport, folder: CandidateFolder, device: DeviceReport) -> ExactResult:
        return ExactResult(
            fingerprint=folder.work,
            result=result,
            device=device,
            measurement=self._record.to_state() if self._record else {},
            order=self._order.model_copy(update={"candidates": (self._candidate,)}).model_dump(
                mode="json", by_alias=True
            ),
        )


def broken_bounds(metric: str, value: float, at_most: float | None, at_least: float | None) -> Sequence[str]:
    """Say which bounds a value breaks; a value equal to its bound keeps it."""
    broken = []
    if at_most is not None and value > at_most:
        broken.append(f"{metric}: must be at most {at_most:g}, not {value:.6g}")
    if at_least is not None and value < at_least:
        broken.append(f"{metric}: must be at least {at_least:g}, not {value:.6g}")
    return broken


@contextmanager
def _out_of_memory_is_infeasible() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemory(str(error).partition("\n")[0]) from error


@contextmanager
def _kept_if_possible(folder: CandidateFolder) -> Iterator[None]:
    """A full volume costs a checkpoint, never the trial."""
    try:
        yield
    except OSError as error:
        log.warning("not kept in %s: %s", folder.path, error)
