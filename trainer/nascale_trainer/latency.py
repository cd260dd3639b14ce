"""Measures latency and throughput of a forward pass on the device, and refuses what is too noisy.

After a warm-up, calls are timed one by one in windows. A measurement is accepted when the medians of the
last three windows agree (the rule of Triton's Perf Analyzer); as long as they don't, another window is
measured, up to a bound, and with every attempt of three windows they become longer, so that a disturbance
that comes and goes falls into each of them alike. Quantiles are exact: they are ranks of the single calls of
the three accepted windows, never of a histogram.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from nascale.contract.work_order import MeasurementOrder
from nascale_trainer.outcomes import NoisyMeasurement

WINDOWS: Final = 3
"""This many windows in a row must agree."""
MIN_CALLS_FOR_P99: Final = 1000
"""Below it, ten calls or fewer lie above the 99th percentile: no quantile, but luck."""

_WARM_UP_CALLS: Final = 10
_WARM_UP_SECONDS: Final = 0.25
_MAX_CHUNK: Final = 4096
"""Calls between two looks at the clock and at a request to stop."""
_CHUNK_SECONDS: Final = 0.25


class CallTimer(Protocol):
    """Times calls one by one."""

    def time_calls(self, count: int) -> list[float]:
        """Time calls one by one; return seconds each."""


class Stopwatch(CallTimer, Protocol):
    """Times forward passes."""

    def time_burst(self, count: int) -> float:
        """Time calls one behind the other without a wait in between; return seconds for all."""


class ProcessorStopwatch:
    """Times calls that are over when they return."""

    def __init__(self, call: Callable[[], object]) -> None:
        """Time this call."""
        self._call = call

    def time_calls(self, count: int) -> list[float]:
        """Time calls one by one; return seconds each."""
        call, clock = self._call, time.perf_counter_ns
        seconds = []
        for _ in range(count):
            begin = clock()
            call()
            seconds.append((clock() - begin) * 1e-9)
        return seconds

    def time_burst(self, count: int) -> float:
        """Time calls one behind the other; return seconds for all."""
        call = self._call
        begin = time.perf_counter_ns()
        for _ in range(count):
            call()
        return (time.perf_counter_ns() - begin) * 1e-9


class CudaStopwatch:
    """Times calls that a GPU works off on its own, by events on its stream."""

    def __init__(self, call: Callable[[], object], device: torch.device) -> None:
        """Time this call on this GPU's current stream."""
        self._call = call
        self._device = device

    def time_calls(self, count: int) -> list[float]:
        """Time calls one by one, each with an idle GPU before it; return seconds each.

        The launch of the kernels counts: a served request pays for it too.
        """
        seconds = []
        begin, end = torch.Event("cuda", enable_timing=True), torch.Event("cuda", enable_timing=True)
        torch.cuda.synchronize(self._device)
        for _ in range(count):
            begin.record()
            self._call()
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) * 1e-3)
        return seconds

    def time_burst(self, count: int) -> float:
        """Queue calls one behind the other and wait for the last; return seconds for all."""
        torch.cuda.synchronize(self._device)
        begin = time.perf_counter_ns()
        for _ in range(count):
            self._call()
        torch.cuda.synchronize(self._device)
        return (time.perf_counter_ns() - begin) * 1e-9


@dataclass(frozen=True)
class Windows:
    """Timed calls whose windows agree.

    Attributes:
        accepted: The last three windows, seconds of each call.
        measured: Windows that were measured, the rejected ones included.
        spread: Relative difference between the medians of the accepted windows.
    """

    accepted: tuple[list[float], ...]
    measured: int
    spread: float

    @property
    def calls(self) -> list[float]:
        """Seconds of each call of the accepted windows."""
        return [seconds for window in self.accepted for seconds in window]


@dataclass(frozen=True)
class Latency:
    """An accepted measurement.

    Attributes:
        p50: Median of a call, seconds.
        p90: 90th percentile, seconds.
        p99: 99th percentile, seconds; ``None`` below 1,000 calls.
        calls: Timed calls in the accepted windows.
        windows: Windows that were measured, the rejected ones included.
        spread: Relative difference between the medians of the accepted windows.
        calls_per_second: Median over bursts of calls without a wait in between.
    """

    p50: float
    p90: float
    p99: float | None
    calls: int
    windows: int
    spread: float
    calls_per_second: float


def measure_latency(
    stopwatch: Stopwatch, order: MeasurementOrder, *, with_p99: bool = False, check_stop: Callable[[], None]
) -> Latency:
    """Warm up and measure until three windows in a row agree.

    Args:
        stopwatch: Times the calls.
        order: How many calls and seconds at least, the accepted spread, and how many attempts (an attempt
            is three windows).
        with_p99: Make at least the 1,000 calls that p99 needs.
        check_stop: Called now and then; may raise to end the measurement.

    Raises:
        NoisyMeasurement: no three windows in a row agreed.
    """
    calls = max(order.min_calls, MIN_CALLS_FOR_P99 if with_p99 else 0)
    with _no_garbage_collection():
        warm_up = min(_WARM_UP_SECONDS, order.min_seconds / WINDOWS)
        _collect(stopwatch, _WARM_UP_CALLS, warm_up, check_stop)
        windows = agreeing_windows(stopwatch, order, "latency", calls=calls, check_stop=check_stop)
        return _summary(windows, _calls_per_second(stopwatch, windows.accepted, check_stop))


def agreeing_windows(
    timer: CallTimer, order: MeasurementOrder, what: str, *, calls: int, check_stop: Callable[[], None]
) -> Windows:
    """Measure until three windows in a row agree; what needs to warm up has done so.

    Args:
        timer: Times the calls.
        order: How many seconds at least, the accepted spread, and how many attempts.
        what: What is measured, for the message.
        calls: How many calls at least, in all three windows.
        check_stop: Called now and then; may raise to end the measurement.

    Raises:
        NoisyMeasurement: no three windows in a row agreed.
    """
    window_calls, window_seconds = math.ceil(calls / WINDOWS), order.min_seconds / WINDOWS
    spreads: list[float] = []
    windows: list[list[float]] = []
    while len(windows) < WINDOWS * order.max_attempts:
        longer = 1 + len(windows) // WINDOWS
        windows.append(_collect(timer, longer * window_calls, longer * window_seconds, check_stop))
        if len(windows) < WINDOWS:
            continue
        accepted = tuple(windows[-WINDOWS:])
        spreads.append(_spread([quantile(window, 0.5) for window in accepted]))
        if spreads[-1] <= order.max_spread_ratio:
            return Windows(accepted, len(windows), spreads[-1])
    raise NoisyMeasurement(
        f"{what}: the medians of three windows must differ by at most {order.max_spread_ratio:g}, "
        f"but at best differed by {min(spreads):.3g} in {len(windows)} windows of at least {window_calls} "
        "calls: is another process using the device?"
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed (nearest rank)."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def _collect(stopwatch: CallTimer, calls: int, seconds: float, check_stop: Callable[[], None]) -> list[float]:
    """Time at least so many calls that take at least so many seconds in sum."""
    timed: list[float] = []
    total = 0.0
    while len(timed) < calls or total < seconds:
        check_stop()
        mean = total / len(timed) if timed else 0.0
        for_seconds = math.ceil((seconds - total) / mean) if mean else 1
        at_once = max(1, math.floor(_CHUNK_SECONDS / mean)) if mean else 1
        chunk = stopwatch.time_calls(min(max(calls - len(timed), for_seconds, 1), at_once, _MAX_CHUNK))
        timed += chunk
        total += sum(chunk)
    return timed


def _calls_per_second(
    stopwatch: Stopwatch, accepted: Sequence[Sequence[float]], check_stop: Callable[[], None]
) -> float:
    """Return the rate without a wait between calls: the median over one burst per window.

    A median of three, so that one disturbance doesn't count.
    """
    rates = []
    for window in accepted:
        check_stop()
        at_once = math.ceil(_CHUNK_SECONDS / quantile(window, 0.5))
        count = max(1, min(len(window) // WINDOWS, at_once))
        rates.append(count / stopwatch.time_burst(count))
    return quantile(rates, 0.5)


def _summary(windows: Windows, calls_per_second: float) -> Latency:
    samples = windows.calls
    return Latency(
        p50=quantile(samples, 0.5),
        p90=quantile(samples, 0.9),
        p99=quantile(samples, 0.99) if len(samples) >= MIN_CALLS_FOR_P99 else None,
        calls=len(samples),
        windows=windows.measured,
        spread=windows.spread,
        calls_per_second=calls_per_second,
    )


def _spread(medians: Sequence[float]) -> float:
    return (max(medians) - min(medians)) / quantile(medians, 0.5)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python's garbage collector out of the timed calls, as ``timeit`` does."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
