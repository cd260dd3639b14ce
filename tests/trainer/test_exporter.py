# ruff: noqa: S310  # the only addresses here are this machine's own
"""``/metrics`` over real connections: what is served, what is refused, and when an exit need not wait."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nascale_trainer import Metrics
from nascale_trainer.scrape_server import CLIENT_SECONDS, MAX_CLIENTS, Exposition, ScrapeServer
from nascale_trainer.scraped_registry import metrics_port

LONG = 60.0


@pytest.fixture
def metrics():
    with Metrics("127.0.0.1", 0) as served:
        yield served


def url(metrics, path="/metrics"):
    host, port = metrics.address
    return f"http://{host}:{port}{path}"


def scrape(metrics, **headers):
    with urllib.request.urlopen(urllib.request.Request(url(metrics), headers=headers), timeout=10) as answer:
        return answer.read().decode()


def samples(text):
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


def test_a_scrape_holds_the_exact_values_by_trial_and_metric(metrics):
    metrics.set("a", "latency_p50_seconds", 0.1 + 0.2)
    metrics.set("b", "latency_p50_seconds", 2.0)
    metrics.progress("a", 1.5)
    metrics.training_loss("a", 0.25)
    metrics.step("a", 0.003)
    found = samples(scrape(metrics))
    assert found["nascale_trial_metric", ("metric", "latency_p50_seconds"), ("trial", "a")] == 0.1 + 0.2
    assert found["nascale_trial_metric", ("metric", "latency_p50_seconds"), ("trial", "b")] == 2.0
    assert found["nascale_trial_progress_ratio", ("trial", "a")] == 1.0
    assert found["nascale_trial_training_loss", ("trial", "a")] == 0.25
    assert found["nascale_trial_step_duration_seconds_count", ("trial", "a")] == 1


def test_open_metrics_is_served_to_who_asks_for_it(metrics):
    metrics.set("a", "accuracy", 0.5)
    text = scrape(metrics, Accept="application/openmetrics-text;version=1.0.0")
    assert text.endswith("# EOF\n")


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text;version=x", "text/plain;version=1.y", ",;,"]
)
def test_an_accept_header_of_any_kind_is_answered(metrics, accept):
    metrics.set("a", "accuracy", 0.5)
    assert "nascale_trial_metric" in scrape(metrics, Accept=accept)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/", "GET", 404), ("/debug", "GET", 404), ("/metrics", "POST", 405), ("/metrics/", "GET", 404)],
)
def test_everything_but_get_metrics_is_refused(metrics, path, method, status):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url(metrics, path), method=method), timeout=10)
    assert caught.value.code == status


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [(b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 20_000, b"431"), (b"nonsense\r\n\r\n", b"400")],
)
def test_a_request_that_is_too_large_or_none_is_refused(metrics, request_bytes, status):
    with socket.create_connection(metrics.address, timeout=10) as client:
        client.sendall(request_bytes)
        assert client.recv(12) == b"HTTP/1.1 " + status


def test_a_scraped_trial_ends_without_any_wait(metrics):
    metrics.set("a", "accuracy", 0.5)
    scrape(metrics)
    wait_until(lambda: metrics.acknowledged(["accuracy"]))
    assert metrics.close(["accuracy"], max_linger_seconds=0)


def test_a_metric_that_nobody_waits_for_keeps_nobody(metrics):
    metrics.set("a", "accuracy", 0.5)
    assert metrics.close(["latency_p50_seconds"], max_linger_seconds=LONG)
    assert not metrics.acknowledged(["accuracy"])


def test_a_value_set_after_the_scrape_is_not_acknowledged_by_it(metrics):
    metrics.set("a", "accuracy", 0.5)
    scrape(metrics)
    wait_until(lambda: metrics.acknowledged(["accuracy"]))
    metrics.set("a", "accuracy", 0.6)
    assert not metrics.acknowledged(["accuracy"])
    metrics.set("b", "accuracy", 0.7)
    scrape(metrics)
    wait_until(lambda: metrics.acknowledged(["accuracy"]))


def test_a_scrape_that_began_before_the_last_value_does_not_acknowledge_it(metrics):
    """The page is made while the value is old; the client reads it only after the new one is set."""
    metrics.set("a", "accuracy", 0.5)
    with socket.create_connection(metrics.address, timeout=10) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert client.recv(12, socket.MSG_PEEK)
        metrics.set("a", "accuracy", 0.6)
        while client.recv(65536):
            pass
    wait_until(lambda: metrics._served._scraped.get(("a", "accuracy")) == 1)
    assert not metrics.acknowledged(["accuracy"])


def test_a_client_that_breaks_off_does_not_count(metrics):
    metrics.set("a", "accuracy", 0.5)
    client = socket.create_connection(metrics.address, timeout=10)
    client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert client.recv(1) == b"H"
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    scrape(metrics)  # served after it by the same loop
    versions = metrics._served._scraped
    wait_until(lambda: metrics.acknowledged(["accuracy"]))
    assert versions == {("a", "accuracy"): 1}


def test_the_server_tells_a_read_page_from_an_unread_one():
    """Without a second scrape that would hide the difference."""
    served = []
    server = ScrapeServer(
        "127.0.0.1", 0, lambda _: Exposition(b"x" * 4_000_000, "text/plain", lambda: served.append(1))
    )
    for read_all in (False, True):
        client = socket.create_connection(server.address, timeout=10)
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        while client.recv(65536) and read_all:
            pass
        client.close()
    wait_until(lambda: served)
    server.stop()
    assert served == [1]


def test_slow_clients_neither_block_a_scrape_nor_stay():
    served = []
    page = Exposition(b"page", "text/plain", lambda: served.append(1))
    server = ScrapeServer("127.0.0.1", 0, lambda _: page, client_seconds=0.5)
    slow = [socket.create_connection(server.address, timeout=10) for _ in range(MAX_CLIENTS - 1)]
    for client in slow:
        client.sendall(b"GET /met")
    host, port = server.address
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        assert answer.read() == b"page"
    for client in slow:
        assert not client.recv(1), "the server has closed"
        client.close()
    server.stop()
    assert served == [1]
    assert CLIENT_SECONDS < 10, "below Prometheus' default scrape time-out"


def test_a_linger_ends_with_the_scrape_not_with_its_limit(metrics):
    metrics.set("a", "accuracy", 0.5)
    timer = threading.Timer(0.2, scrape, [metrics])
    timer.start()
    before = time.monotonic()
    assert metrics.close(["accuracy"], max_linger_seconds=LONG)
    assert time.monotonic() - before < LONG / 2
    timer.join()


def test_a_linger_without_a_scrape_is_bounded(metrics):
    metrics.set("a", "accuracy", 0.5)
    assert not metrics.close(["accuracy"], max_linger_seconds=0.1)


def test_nothing_is_served_after_the_close(metrics):
    address = metrics.address
    metrics.close()
    metrics.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)


def test_sigterm_ends_the_linger_and_its_handler_is_put_back(metrics):
    metrics.set("a", "accuracy", 0.5)
    calls = []
    before = signal.signal(signal.SIGTERM, lambda *_: calls.append("own"))
    try:
        own = signal.getsignal(signal.SIGTERM)
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()
        started = time.monotonic()
        assert not metrics.close(["accuracy"], max_linger_seconds=LONG)
        assert time.monotonic() - started < LONG / 2
        assert calls == ["own"], "the program's own handler is still called"
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_port_in_use_harms_nothing(metrics, caplog):
    second = Metrics(*metrics.address)
    assert second.address is None
    assert "metrics are not served" in caplog.text
    second.set("a", "accuracy", 0.5)
    assert not second.close(["accuracy"], max_linger_seconds=LONG), "no wait for a scrape that can't come"


@pytest.mark.parametrize(
    ("text", "port"), [("", 9464), ("0", 0), ("8080", 8080), ("-1", 9464), ("70000", 9464)]
)
def test_the_port_comes_from_the_environment(text, port):
    assert metrics_port({"NASCALE_METRICS_PORT": text}) == port


SHORT_TRIAL = """
from nascale_trainer import Metrics, load_work_order, report
order = load_work_order()
metrics = Metrics()
print(metrics.address[1], flush=True)
metrics.set("demo-0", "accuracy", 0.8125)
report(order, {"demo-0": {"accuracy": 0.8125}})
print(metrics.close(order.exporter.wait_for, order.exporter.max_linger_seconds), flush=True)
"""


def test_a_trial_shorter_than_the_scrape_interval_stays_until_it_is_scraped(make_order, environ, tmp_path):
    order = make_order(exporter={"waitFor": ["accuracy"], "maxLingerSeconds": LONG})
    with subprocess.Popen(
        [sys.executable, "-c", SHORT_TRIAL], env=environ(order), stdout=subprocess.PIPE, text=True
    ) as trial:
        port = int(trial.stdout.readline())
        wait_until((tmp_path / "termination-log").exists)
        assert trial.poll() is None, "its work is done, and it waits for the scrape"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert "0.8125" in answer.read().decode()
        assert trial.wait(timeout=LONG / 2) == 0
        assert trial.stdout.read().strip() == "True"
