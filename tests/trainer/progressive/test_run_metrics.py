"""A run's series over real connections: all names of the contract, the run's totals, an exit that waits."""

import dataclasses
import math
import socket
import threading
import time
import urllib.request

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from nascale.contract import training_series as series
from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.run_report import StageReport
from nascale_trainer.progressive.run_metrics import RunMetrics, _RunSeries
from nascale_trainer.progressive.snapshot import RunSnapshot, Totals

LONG = 60.0
STAGE = StageOrder.model_validate(
    {
        "name": "late",
        "model": {"globalBatch": 32, "dropout": 0.25, "parameters": {"heads": 4, "kind": "rotary"}},
        "hardware": {"precision": "BF16", "accumulation": 2, "workers": 2, "processesPerWorker": 4},
    }
)
HISTORY = (
    StageReport(name="early", begin=0, end=640, steps=20, seconds=4.5, p50=0.2, p99=0.4, loss=1.5),
    StageReport(
        name="late",
        begin=640,
        metrics={"accuracy": 0.75},
        switch="Recompile",
        phases={"apply": 0.5, "firstStep": 1.25},
    ),
)
FULL = RunSnapshot(
    generation=3,
    revision=5,
    refused=(4, "EditOfPast"),
    step=25,
    samples=800,
    whole=1600,
    remaining_seconds=12.5,
    place=2,
    stage=STAGE,
    micro_batch=2,
    learning_rate=0.0625,
    throughput=64.0,
    p50=0.5,
    p99=0.75,
    loss=0.1 + 0.2,
    metrics={"accuracy": 0.875},
    history=HISTORY,
    places=(0, 2),
    ends=(640, 700, 1600),
    checkpoint_step=22,
    checkpoint_samples=704,
    checkpoint_seconds=0.125,
    checkpoint_timestamp=1.8e9,
    totals=Totals(1, 2, 3, 4, 5, {"Live": 6, "Recompile": 7}, 21),
    recompiles=8,
    peak_memory=2**31,
    waited=0,
)


@pytest.fixture
def order(make_architecture):
    return RunOrder.model_validate(
        {
            "run": {"kind": "ProgressiveTraining", "name": "r", "namespace": "d", "uid": "u"},
            "generation": 3,
            "architecture": make_architecture(resolution=24),
            "length": "1ep",
            "stages": [STAGE.model_dump(by_alias=True)],
        }
    )


@pytest.fixture
def metrics(order):
    served = RunMetrics(order, threads=3, bind_address="127.0.0.1", port=0)
    yield served
    served.close(0)


def scrape(metrics):
    host, port = metrics.address
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


def parsed(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def contract_names():
    return {
        value
        for name, value in vars(series).items()
        if name.isupper() and isinstance(value, str) and name != "PREFIX"
    }


def test_every_series_of_the_contract_is_served_and_no_other(metrics):
    metrics.publish(FULL)
    metrics.observe_step(0.5)
    served = {key[0] for key in scrape(metrics)}
    histogram = {f"{series.STEP_SECONDS}_{part}" for part in ("bucket", "count", "sum", "created")}
    assert served - histogram == contract_names() - {series.STEP_SECONDS}
    assert histogram - {f"{series.STEP_SECONDS}_created"} <= served


def test_the_values_are_those_of_the_snapshot(metrics):
    metrics.publish(FULL)
    found = scrape(metrics)
    plain = {
        series.STEPS: 25,
        series.SAMPLES: 800,
        series.WHOLE: 1600,
        series.REMAINING: 12.5,
        series.STAGE: 2,
        series.GENERATION: 3,
        series.REVISION: 5,
        series.THROUGHPUT: 64,
        series.LOSS: 0.1 + 0.2,
        series.CHECKPOINT_SECONDS: 0.125,
        series.CHECKPOINT_TIMESTAMP: 1.8e9,
        series.CHECKPOINT_STEP: 22,
        series.CHECKPOINT_SAMPLES: 704,
        series.DIVERGED_STEP: 21,
        series.NON_FINITE: 1,
        series.ROLL_BACKS: 2,
        series.LOST_STEPS: 3,
        series.REPEATED_SAMPLES: 4,
        series.DAMAGED_CHECKPOINTS: 5,
        series.RECOMPILES: 8,
        series.PEAK_MEMORY: 2**31,
        series.WAITED: 0,
    }
    assert {name: found[(name,)] for name in plain} == plain
    assert found[series.REFUSED, ("reason", "EditOfPast")] == 4
    assert found[series.SWITCHES, ("class", "Recompile")] == 7
    assert found[series.METRIC, ("metric", "accuracy")] == 0.875
    assert found[series.STEP_QUANTILE, ("quantile", "0.99")] == 0.75
    (info,) = [dict(key[1:]) for key in found if key[0] == series.STAGE_INFO]
    assert set(info) == set(series.STAGE_INFO_LABELS)
    assert (info["stage"], info["precision"], info["parallelism"]) == ("late", "BF16", "DDP")


def test_settings_are_those_in_force(metrics):
    """What a stage leaves to network and container is shown as what it comes to."""
    metrics.publish(FULL)
    found = {key[1][1]: value for key, value in scrape(metrics).items() if key[0] == series.SETTING}
    assert found["resolution"] == 24
    assert found["threads"] == 3
    assert found["dropout"] == 0.25
    assert (found["world"], found["workers"], found["micro_batch"]) == (8, 2, 2)
    assert found["learning_rate"] == 0.0625
    assert found["parameter:heads"] == 4
    assert not any("kind" in name for name in found), "it is no number"
    assert {name for name in type(STAGE.model).model_fields if name != "parameters"} <= set(found)


def test_a_stages_history_stands_at_its_place_in_the_schedule(metrics):
    metrics.publish(FULL)
    found = scrape(metrics)
    stage = {
        (dict(key[1:])["stage"], dict(key[1:])["value"]): value
        for key, value in found.items()
        if key[0] == series.STAGE_VALUE
    }
    assert {value for place, value in stage if place == "0"} == set(series.STAGE_VALUES)
    assert stage["0", "end_samples"] == 640
    assert stage["2", "metric:accuracy"] == 0.75
    assert ("2", "end_samples") not in stage, "it has not ended"
    bounds = {key[1][1]: value for key, value in found.items() if key[0] == series.STAGE_BOUND}
    assert bounds == {"0": 640, "1": 700, "2": 1600}
    assert (
        found[series.SWITCH_SECONDS, ("class", "Recompile"), ("phase", "firstStep"), ("stage", "2")] == 1.25
    )


def test_counters_go_on_after_a_restart_and_never_show_two_moments(order, metrics):
    metrics.publish(FULL)
    assert scrape(metrics)[(series.STEPS,)] == 25
    later = RunMetrics(order, bind_address="127.0.0.1", port=0)
    later.publish(dataclasses.replace(FULL, step=26, samples=832))
    found = scrape(later)
    assert (found[(series.STEPS,)], found[(series.SAMPLES,)]) == (26, 832)
    later.close(0)


def test_without_a_snapshot_there_is_no_run_to_be_seen(metrics):
    assert all(key[0].startswith(series.STEP_SECONDS) for key in scrape(metrics))
    assert metrics.acknowledged()
    assert metrics.close(LONG), "nothing is to be scraped"


def test_a_bare_snapshot_is_served(metrics):
    bare = RunSnapshot(
        1, 0, 0, 0, 100, 0, StageOrder.model_validate({"name": "s", "model": {}, "hardware": {}}), 64
    )
    metrics.publish(bare)
    found = scrape(metrics)
    assert found[(series.STEPS,)] == 0
    assert (series.LOSS,) not in found
    assert (series.THROUGHPUT,) not in found


def test_the_last_snapshot_keeps_the_process_until_it_is_scraped(metrics):
    metrics.publish(FULL)
    scrape(metrics)
    wait_until(metrics.acknowledged)
    metrics.publish(dataclasses.replace(FULL, step=26))
    assert not metrics.acknowledged()
    timer = threading.Timer(0.2, scrape, [metrics])
    timer.start()
    before = time.monotonic()
    assert metrics.close(LONG)
    assert time.monotonic() - before < LONG / 2
    timer.join()


def test_a_linger_without_a_scrape_is_bounded(metrics):
    metrics.publish(FULL)
    assert not metrics.close(0.1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(metrics.address, timeout=5)


def test_a_port_in_use_harms_nothing(order, metrics):
    host, port = metrics.address
    second = RunMetrics(order, bind_address=host, port=port)
    assert second.address is None
    second.publish(FULL)
    second.observe_step(1)
    assert not second.close(LONG)


def test_pages_made_while_snapshots_change_are_each_of_one_moment(metrics):
    stop = threading.Event()

    def train():
        step = 0
        while not stop.is_set():
            step += 1
            metrics.publish(dataclasses.replace(FULL, step=step, samples=step * 32))

    thread = threading.Thread(target=train)
    thread.start()
    try:
        seen = []
        for _ in range(20):
            found = scrape(metrics)
            if (series.STEPS,) in found:
                assert found[(series.SAMPLES,)] == 32 * found[(series.STEPS,)]
                seen.append(found[(series.STEPS,)])
        assert seen == sorted(seen)
        assert seen
    finally:
        stop.set()
        thread.join()


NUMBERS = st.floats() | st.none()


@settings(max_examples=50)
@given(
    loss=NUMBERS,
    throughput=NUMBERS,
    metrics=st.dictionaries(st.text(max_size=5), st.floats(), max_size=3),
    switches=st.dictionaries(st.text(max_size=5), st.integers(0, 2**60), max_size=3),
    reason=st.text(max_size=10),
    places=st.lists(st.integers(0, 15), max_size=3),
)
def test_a_page_of_any_values_can_be_read(*, loss, throughput, metrics, switches, reason, places):
    registry = CollectorRegistry()
    collector = _RunSeries({})
    registry.register(collector)
    collector.snapshot = dataclasses.replace(
        FULL,
        loss=loss,
        throughput=throughput,
        metrics=metrics,
        refused=(9, reason),
        places=tuple(places),
        totals=Totals(switches=switches),
    )
    found = parsed(generate_latest(registry).decode())
    shown = found.get((series.LOSS,))
    assert shown == loss or (math.isnan(loss) and math.isnan(shown))
    assert sum(key[0] == series.SWITCHES for key in found) == len(switches)
