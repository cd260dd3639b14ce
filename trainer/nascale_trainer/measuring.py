"""Latency and throughput of one network on the device, with the circumstances that a figure needs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from nascale.contract import metric_names
from nascale.contract.work_order import MeasurementOrder, Precision
from nascale_trainer.device import (
    check_precision,
    clock_megahertz,
    describe_device,
    dtype_of,
    set_matmul_precision,
)
from nascale_trainer.latency import CudaStopwatch, ProcessorStopwatch, Stopwatch, measure_latency
from nascale_trainer.threads import ControlGroup


@dataclass(frozen=True)
class LatencyRecord:
    """A latency and how it was measured.

    Attributes:
        p50: Median of a forward pass at the batch size, seconds.
        p90: 90th percentile, seconds.
        p99: 99th percentile, seconds; ``None`` below 1,000 calls.
        samples_per_second: Throughput.
        calls: Timed calls in the accepted windows.
        windows: Windows that were measured.
        spread: Relative difference between the medians of the accepted windows.
        device: The device's name.
        threads: Threads that computed (on a processor).
        clock_before: Megahertz before the measurement, where it can be read.
        clock_after: Megahertz after it.
        throttled: How often the kernel stopped the container for its quota meanwhile; ``None`` where unknown.
    """

    p50: float
    p90: float
    p99: float | None
    samples_per_second: float
    calls: int
    windows: int
    spread: float
    device: str
    threads: int
    clock_before: int | None
    clock_after: int | None
    throttled: int | None

    def metrics(self) -> dict[str, float]:
        """Return the values by metric name."""
        values = {
            metric_names.LATENCY_P50: self.p50,
            metric_names.LATENCY_P90: self.p90,
            metric_names.THROUGHPUT: self.samples_per_second,
        }
        if self.p99 is not None:
            values[metric_names.LATENCY_P99] = self.p99
        return values

    def summary(self) -> str:
        """Say in a line how good the measurement is."""
        text = f"latency of {self.calls} calls, medians within {self.spread:.1%}"
        return f"{text}, throttled {self.throttled} times" if self.throttled else text

    def to_state(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> LatencyRecord:
        """Read what ``to_state`` returned."""
        return cls(**state)


def measure_network(
    network: nn.Module,
    shape: tuple[int, int, int, int],
    device: torch.device,
    precision: Precision,
    order: MeasurementOrder,
    *,
    with_p99: bool = False,
    check_stop: Callable[[], None] = lambda: None,
) -> LatencyRecord:
    """Measure a network as it would serve: evaluation mode, no autograd, the target's number format.

    Args:
        network: On the device; stays as it is.
        shape: Of the input: batch, channels, height, width.
        device: Where to measure.
        precision: Number format of weights and input.
        order: How long, and how much spread is accepted.
        with_p99: Measure the 1,000 calls that p99 needs.
        check_stop: May raise to end the measurement.

    Raises:
        UnsupportedPrecision: the device lacks the format.
        NoisyMeasurement: the spread was above the bound in every attempt.
    """
    check_precision(device, precision)
    set_matmul_precision(precision)
    try:
        served = copy.deepcopy(network).to(dtype_of(precision)).eval()
        images = torch.randn(shape, device=device, dtype=dtype_of(precision))
        group = ControlGroup.of_this_process()
        throttled, clock = group.throttled(), clock_megahertz(device)
        with torch.inference_mode():
            stopwatch = stopwatch_for(lambda: served(images), device)
            latency = measure_latency(stopwatch, order, with_p99=with_p99, check_stop=check_stop)
        throttled_after = group.throttled()
    finally:
        set_matmul_precision(Precision.FP32)
    return LatencyRecord(
        p50=latency.p50,
        p90=latency.p90,
        p99=latency.p99,
        samples_per_second=shape[0] * latency.calls_per_second,
        calls=latency.calls,
        windows=latency.windows,
        spread=latency.spread,
        device=describe_device(device).name,
        threads=torch.get_num_threads(),
        clock_before=clock,
        clock_after=clock_megahertz(device),
        throttled=None if throttled is None or throttled_after is None else throttled_after - throttled,
    )


def stopwatch_for(call: Callable[[], object], device: torch.device) -> Stopwatch:
    """Return the way to time a call on this device."""
    return CudaStopwatch(call, device) if device.type == "cuda" else ProcessorStopwatch(call)
