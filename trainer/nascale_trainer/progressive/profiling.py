"""Answers a profile order: what settings cost, or what a schedule brings, one candidate after the other.

``profile`` is the whole of it, for containers and for programs that want the figures in their own process.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import torch

from nascale.contract import metric_names
from nascale.contract.profile_order import (
    EPOCH_SAMPLES,
    LOSS_DEVIATION,
    SETTLE,
    START,
    STEP_P50,
    STEP_SPREAD,
    ProfileCandidate,
    ProfileOrder,
    ProfileTask,
)
from nascale.contract.report import CandidateReport, Outcome, Report
from nascale.contract.run_order import RunOrder
from nascale_trainer.answering import log_result
from nascale_trainer.device import choose_device, describe_device
from nascale_trainer.outcomes import CandidateEnd, DataNotFound, Stopped
from nascale_trainer.postponed import postpone
from nascale_trainer.progressive.compiler_start import cold_compiler, is_compiled, loading_seconds
from nascale_trainer.progressive.guard import Guard
from nascale_trainer.progressive.profile_bench import (
    Bench,
    TaskMaker,
    TrialObserver,
    Unwatched,
    check_settings,
    clear_memory,
    failures_of_settings,
    run_order_of,
)
from nascale_trainer.progressive.profile_group import ProfileGroup
from nascale_trainer.progressive.proxy import try_schedule, without_resources
from nascale_trainer.progressive.ranks import PeerLost
from nascale_trainer.progressive.refusal import CannotTrain
from nascale_trainer.progressive.run_start import together
from nascale_trainer.progressive.step_measurement import measure_steps
from nascale_trainer.progressive.task import TrainingTask
from nascale_trainer.progressive.usable_profile import check_usable

_MOST_MESSAGE: Final = 1024
_START_FIELD: Final = 19
"""Of ``/proc/self/stat``, counted from the one after the program's name: ticks since the system's boot."""

log = logging.getLogger(__name__)


class MissingMetric(CandidateEnd):
    """The task's evaluation lacks a metric that the order asks for."""

    reason = "MissingMetric"


def profile(
    order: ProfileOrder,
    make_task: TaskMaker | None = None,
    *,
    observer: TrialObserver | None = None,
    stop: Callable[[], bool] = lambda: False,
    environ: Mapping[str, str] | None = None,
    started_at: float | None = None,
    device: torch.device | None = None,
    group: ProfileGroup | None = None,
) -> Report:
    """Carry out a profile order in this process.

    Args:
        order: The order.
        make_task: Brings model, data and loss; ``None``: those of the built-in trainer.
        observer: Shows the work to the outside; ``None``: nobody does.
        stop: Says whether the process was asked to end.
        environ: The container's environment; ``None`` means that of the process.
        started_at: When the process was started, seconds since the epoch; ``None`` asks the kernel.
        device: Trains; ``None``: the GPU that the container was given, else the processor.
        group: The processes that do so together, of which this is one; ``None``: it is alone.

    Returns:
        One result per candidate, whatever became of it.

    Raises:
        ContractError: the order asks for what nobody can do.
        Stopped: the process was asked to end; nothing may be reported.
        PeerLost: another process is gone, or a candidate's failure has left them at different places.
    """
    check_usable(order)
    if group is not None:
        device = group.ranks.device
    bench = Bench(
        device=choose_device() if device is None else device,
        environ=os.environ if environ is None else environ,
        observer=observer or Unwatched(),
        stop=stop,
        group=None if group is None else group.ranks,
    )
    started = process_start() if started_at is None else started_at
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        results = _Profile(order, make_task or _image_task, bench, started, group).run()
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(products)
    return Report(attempt=order.attempt, results=results, device=describe_device(bench.device))


class _Profile:
    """The work of one order."""

    def __init__(
        self,
        order: ProfileOrder,
        make_task: TaskMaker,
        bench: Bench,
        started: float,
        group: ProfileGroup | None,
    ) -> None:
        self._order, self._make_task, self._bench, self._started = order, make_task, bench, started
        self._group = group
        self._task: TrainingTask | None = None
        self._start_seconds = math.nan
        self._loading_seconds: float | None = None

    def run(self) -> tuple[CandidateReport, ...]:
        """Return one result per candidate."""
        known = {} if self._group is None else self._group.known()
        results = []
        for candidate in self._order.candidates:
            result = known.get(candidate.trial)
            if result is None:
                result = self._result(candidate)
                log_result(result)
                if self._group is not None:
                    self._group.keep(result)
            results.append(result)
        return tuple(results)

    def _result(self, candidate: ProfileCandidate) -> CandidateReport:
        trial, observer = candidate.trial, self._bench.observer
        self._bench.check_stop()
        observer.progress(trial, 0.0)
        begin = time.perf_counter()
        values: dict[str, float] = {}
        outcome, reason, message = self._attempt(candidate, values)
        clear_memory(self._bench.device)
        for name, value in values.items():
            observer.set(trial, name, value)
        observer.progress(trial, 1.0)
        return CandidateReport(
            trial=trial,
            outcome=outcome,
            reason=reason,
            message=message[:_MOST_MESSAGE] or None,
            metrics=values,
            device_seconds=time.perf_counter() - begin,
        )

    def _attempt(
        self, candidate: ProfileCandidate, values: dict[str, float]
    ) -> tuple[Outcome, str | None, str]:
        try:
            with nullcontext() if self._group is None else self._group.at_work(candidate):
                message = self._work(candidate, values)
        except CandidateEnd as end:
            return end.outcome, end.reason, str(end)
        except CannotTrain as refusal:
            missing = refusal.reason == DataNotFound.reason
            return Outcome.FAILED if missing else Outcome.INFEASIBLE, refusal.reason, str(refusal)
        except (Stopped, PeerLost):
            raise
        except Exception as error:
            # The border of a candidate: its error is its result, and the others go on.
            log.exception("%s failed", candidate.trial)
            return Outcome.FAILED, "Error", f"{type(error).__name__}: {error}"
        return Outcome.SUCCEEDED, None, message

    def _work(self, candidate: ProfileCandidate, values: dict[str, float]) -> str:
        """Do what is asked for; return a sentence on how."""
        if self._order.task is ProfileTask.TRAIN_SCHEDULE:
            return self._try(candidate, values)
        return self._measure(candidate, values)

    def _measure(self, candidate: ProfileCandidate, values: dict[str, float]) -> str:
        bench, (stage,) = self._bench, candidate.stages
        order = run_order_of(self._order, candidate.stages, self._order.seed)
        if self._task is None:
            self._task = self._opened(order)
        opened = self._task
        values |= {EPOCH_SAMPLES: float(opened.samples), START: self._start_seconds}
        together(bench.ranks, lambda: check_settings(stage, opened, bench.device, order))

        def observe(seconds: float) -> None:
            bench.observer.step(candidate.trial, seconds)

        with failures_of_settings(lambda: stage):
            loading = self._loading(candidate)
            with cold_compiler():
                # A copy that is not prepared for any stage: each candidate pays for its own switch.
                measured = measure_steps(
                    copy.copy(opened), order, stage, self._order.measurement, bench, observe=observe
                )
        values |= {
            STEP_P50: measured.p50,
            STEP_SPREAD: measured.spread,
            metric_names.TRAINING_THROUGHPUT: measured.samples_per_second,
            metric_names.PEAK_MEMORY: float(measured.peak_memory),
            SETTLE: measured.settle + loading,
        }
        # The slowest start, the largest memory: what counts is when, and whether, all can go on.
        values |= dict(zip(values, bench.largest(list(values.values())), strict=True))
        if candidate.guarded and self._order.reference is not None:
            clear_memory(bench.device)
            guard = Guard(opened, order, self._order.reference, self._order.reference_steps, bench)
            values[LOSS_DEVIATION] = guard.deviation(stage, observe)
        return f"{measured.steps} steps, windows differ by {measured.spread:.3f}"

    def _loading(self, candidate: ProfileCandidate) -> float:
        """Return what each compiled candidate would pay for the compiler, were it the first one."""
        if not is_compiled(candidate.stages):
            return 0.0
        if self._loading_seconds is None:
            self._loading_seconds = loading_seconds(self._bench.device)
        return self._loading_seconds

    def _try(self, candidate: ProfileCandidate, values: dict[str, float]) -> str:
        bench = self._bench
        order = run_order_of(self._order, without_resources(candidate.stages), candidate.seed)
        task = self._opened(order)  # anew for each: its randomness is a function of the candidate's seed
        values |= {EPOCH_SAMPLES: float(task.samples), START: self._start_seconds}
        with cold_compiler():
            tried = try_schedule(task, order, bench, candidate.trial)
        values |= tried.metrics
        values |= {
            metric_names.TRAINING_SECONDS: tried.seconds,
            metric_names.TRAINING_THROUGHPUT: tried.samples / tried.seconds,
            metric_names.PEAK_MEMORY: float(tried.peak_memory),
        }
        missing = sorted(set(self._order.metrics) - set(values))
        if missing:
            raise MissingMetric(f"metrics: must be of {sorted(values)}, not {missing}")
        return f"{tried.report.step} steps in {len(tried.report.stages)} stages"

    def _opened(self, order: RunOrder) -> TrainingTask:
        """Make the task; from the first time on, a step could be taken."""
        task = together(self._bench.ranks, lambda: self._make_task(order, self._bench.device))
        if math.isnan(self._start_seconds):
            torch.zeros(1, device=self._bench.device)  # lets a GPU's driver make its context
            self._start_seconds = max(time.time() - self._started, 0.0)
        return task


def process_start() -> float:
    """Return when this process was started, seconds since the epoch; now, where the kernel doesn't say."""
    try:
        text = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace")
        ticks = int(text.rpartition(")")[2].split()[_START_FIELD])
        running = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return time.time() - (running - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return time.time()


def _image_task(order: RunOrder, device: torch.device) -> TrainingTask:
    """Make the built-in trainer's task."""
    postpone()
    from nascale_trainer.progressive.image_task import ImageTask  # noqa: PLC0415  # not for tasks of one's own

    return ImageTask(order, device=device)
