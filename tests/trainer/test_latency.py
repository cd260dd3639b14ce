"""How latency is measured: windows that must agree, exact quantiles, refusal; on a clock that obeys."""

import itertools
import math

import pytest
import torch
from torch import nn

from nascale.contract.work_order import MeasurementOrder, Precision
from nascale_trainer.latency import (
    MIN_CALLS_FOR_P99,
    CudaStopwatch,
    ProcessorStopwatch,
    measure_latency,
    quantile,
)
from nascale_trainer.measuring import LatencyRecord, measure_network
from nascale_trainer.outcomes import NoisyMeasurement, Stopped, UnsupportedPrecision


class FakeStopwatch:
    """Calls that take what a function of their number says."""

    def __init__(self, seconds):
        self._seconds = seconds
        self.timed = []
        self.bursts = []

    def time_calls(self, count):
        chunk = [self._seconds(len(self.timed) + number) for number in range(count)]
        self.timed += chunk
        return chunk

    def time_burst(self, count):
        self.bursts.append(count)
        return count * self._seconds(len(self.timed))


def order(**fields):
    return MeasurementOrder(**{"min_calls": 30, "min_seconds": 0.0, **fields})


def measure(stopwatch, settings, **more):
    return measure_latency(stopwatch, settings, check_stop=lambda: None, **more)


def test_a_steady_device_is_measured_in_three_windows():
    stopwatch = FakeStopwatch(lambda _: 0.002)
    latency = measure(stopwatch, order())
    assert (latency.calls, latency.windows, latency.spread) == (30, 3, 0.0)
    assert (latency.p50, latency.p90) == (0.002, 0.002)
    assert latency.calls_per_second == pytest.approx(500)
    assert len(stopwatch.timed) == 30 + 10, "ten calls of warm-up"


def test_the_warm_up_counts_for_nothing():
    latency = measure(FakeStopwatch(lambda number: 5.0 if number < 10 else 0.001), order())
    assert latency.p90 == 0.001


def test_a_measurement_lasts_at_least_the_ordered_seconds():
    stopwatch = FakeStopwatch(lambda _: 0.001)
    latency = measure(stopwatch, order(min_calls=20, min_seconds=3.0))
    assert latency.calls >= 3000
    assert len(stopwatch.timed) >= 3000 + 250, "a quarter of a second of warm-up"


def test_a_disturbance_is_waited_out():
    """The first two windows differ; the three after the disturbance agree."""
    stopwatch = FakeStopwatch(lambda number: 0.004 if 10 <= number < 20 else 0.001)
    latency = measure(stopwatch, order())
    assert latency.windows == 4
    assert latency.p50 == latency.p90 == 0.001, "the rejected window is not in the result"


def test_windows_become_longer_with_each_attempt():
    settings = order(max_attempts=2)
    growing = itertools.count(1)
    stopwatch = FakeStopwatch(lambda _: 0.001 * 1.5 ** (next(growing) // 10))
    with pytest.raises(NoisyMeasurement):
        measure(stopwatch, settings)
    assert len(stopwatch.timed) == 10 + 3 * 10 + 3 * 20


def test_a_device_that_never_settles_is_refused_with_the_figures():
    growing = itertools.count(1)
    stopwatch = FakeStopwatch(lambda _: 0.001 * next(growing))
    with pytest.raises(
        NoisyMeasurement, match=r"must differ by at most 0.05, but at best differed by 0.\d+ in 6"
    ):
        measure(stopwatch, order(max_spread_ratio=0.05, max_attempts=2))


def test_a_spread_at_the_bound_is_accepted():
    values = {1: 0.0010, 2: 0.0011, 3: 0.0010}
    stopwatch = FakeStopwatch(lambda number: values.get(number // 10, 0.001))
    assert measure(stopwatch, order(max_spread_ratio=0.1001)).spread == pytest.approx(0.1)


def test_quantiles_are_ranks_of_the_single_calls():
    values = [float(number) for number in range(1, 1001)]
    assert quantile(values, 0.5) == 500.0
    assert quantile(values, 0.9) == 900.0
    assert quantile(values, 0.99) == 990.0
    assert quantile([3.0], 0.5) == 3.0
    assert quantile([2.0, 1.0], 0.5) == 1.0


def test_p99_needs_a_thousand_calls():
    few = measure(FakeStopwatch(lambda _: 0.001), order(min_calls=900))
    assert few.p99 is None
    asked = measure(FakeStopwatch(lambda _: 0.001), order(min_calls=30), with_p99=True)
    assert asked.p99 == 0.001
    assert asked.calls >= MIN_CALLS_FOR_P99


def test_a_tail_shows_in_p90_and_p99_and_not_in_p50():
    """Of twenty calls, one is ten times as slow and two are twice as slow."""

    def seconds(number):
        return 0.01 if number % 20 == 0 else 0.002 if number % 20 < 3 else 0.001

    latency = measure(FakeStopwatch(seconds), order(min_calls=3000))
    assert (latency.p50, latency.p90, latency.p99) == (0.001, 0.002, 0.01)


def test_throughput_is_the_median_of_bursts():
    stopwatch = FakeStopwatch(lambda _: 0.001)
    durations = iter([0.5, 0.001, 0.002])
    stopwatch.time_burst = lambda count: count * next(durations)
    assert measure(stopwatch, order()).calls_per_second == pytest.approx(500)


def test_a_request_to_stop_ends_a_measurement():
    calls = []

    def check_stop():
        calls.append(1)
        if len(calls) > 3:
            raise Stopped

    with pytest.raises(Stopped):
        measure_latency(FakeStopwatch(lambda _: 1.0), order(min_calls=1_000_000), check_stop=check_stop)
    assert len(calls) == 4


def test_a_processors_calls_are_timed_one_by_one():
    made = []
    stopwatch = ProcessorStopwatch(lambda: made.append(1))
    assert len(stopwatch.time_calls(7)) == 7
    assert stopwatch.time_burst(5) > 0
    assert len(made) == 12


def test_a_gpus_calls_are_timed_by_events_with_an_idle_gpu_before_each(monkeypatch):
    """The order of things, on a pretended GPU: its events count milliseconds."""
    course = []

    class Event:
        def __init__(self, device, enable_timing):
            assert (device, enable_timing) == ("cuda", True)

        def record(self):
            course.append("record")

        def synchronize(self):
            course.append("wait")

        def elapsed_time(self, _end):
            return 2.5

    monkeypatch.setattr(torch, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: course.append("idle"))
    stopwatch = CudaStopwatch(lambda: course.append("call"), torch.device("cuda", 0))
    assert stopwatch.time_calls(2) == [0.0025, 0.0025]
    assert course == ["idle", *["record", "call", "record", "wait"] * 2]
    course.clear()
    assert stopwatch.time_burst(3) > 0
    assert course == ["idle", "call", "call", "call", "idle"], "one wait for all of them"


LENIENT = MeasurementOrder(min_calls=20, min_seconds=0.0, max_spread_ratio=10, max_attempts=20)


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(3))


def test_a_network_is_measured_as_it_would_serve_and_stays_as_it_is():
    seen = []
    model = network()
    model(torch.zeros(2, 1, 8, 8))
    model.train()

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            seen.append((images.shape, self.training, torch.is_inference_mode_enabled()))
            return self.model(images)

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    record = measure_network(Spy(), (3, 1, 8, 8), torch.device("cpu"), Precision.FP32, LENIENT)
    assert set(seen) == {((3, 1, 8, 8), False, True)}
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert record.threads == torch.get_num_threads()
    assert record.device
    assert record.samples_per_second > 0
    assert LatencyRecord.from_state(record.to_state()) == record
    assert set(record.metrics()) == {
        "latency_p50_seconds",
        "latency_p90_seconds",
        "throughput_samples_per_second",
    }
    assert all(math.isfinite(value) for value in record.metrics().values())


def test_a_precision_that_the_device_lacks_is_refused_by_name():
    with pytest.raises(
        UnsupportedPrecision, match=r"target.precision: must be one of \['FP32'.*\(cpu\), not 'TF32'"
    ):
        measure_network(network(), (1, 1, 8, 8), torch.device("cpu"), Precision.TF32, LENIENT)
