"""Whatever arrives at the metrics port: it is answered or dropped, and the next scrape is served."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nascale_trainer.exporter import Metrics
from nascale_trainer.scrape_server import MAX_REQUEST_BYTES

SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE_SECONDS = 10.0

words = st.sampled_from(
    [
        b"GET ",
        b"POST ",
        b"/metrics",
        b"/../../etc/passwd",
        b" HTTP/1.1",
        b" HTTP/9.9",
        b"\r\n",
        b"\r\n\r\n",
        b"Accept: application/openmetrics-text; version=",
        b"Accept: \xff\x00;q=nan,",
        b"Content-Length: 99999999999999999999",
        b"Transfer-Encoding: chunked",
        b"%00%0d%0a",
        b"A" * MAX_REQUEST_BYTES,
    ]
)
requests = st.lists(st.one_of(words, st.binary(max_size=64)), max_size=12).map(b"".join)


@pytest.fixture(scope="module")
def metrics() -> Iterator[Metrics]:
    served = Metrics("127.0.0.1", 0)
    served.set("t", "accuracy", 0.5)
    yield served
    served.close()


def _exchange(metrics: Metrics, pieces: list[bytes], *, reset: bool = False) -> bytes:
    """Send pieces, then close this side, or break off; return the answer as far as it came."""
    assert metrics.address is not None
    received = b""
    with (
        socket.create_connection(metrics.address, timeout=PATIENCE_SECONDS) as client,
        contextlib.suppress(ConnectionError),  # it may be refused before it is all there
    ):
        for piece in pieces:
            client.sendall(piece)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return b""
        client.shutdown(socket.SHUT_WR)
        while more := client.recv(65_536):
            received += more
    return received


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=requests, cut=st.integers(min_value=0, max_value=200), reset=st.booleans())
@example(sent=SCRAPE * 50, cut=3, reset=False)
@example(sent=b"GET /metrics HTTP/1.1\r\nAccept: " + b"," * 7000 + b"\r\n\r\n", cut=0, reset=False)
@example(sent=SCRAPE, cut=0, reset=True)
def test_the_port_survives_everything(metrics: Metrics, sent: bytes, cut: int, *, reset: bool):
    answer = _exchange(metrics, [sent[:cut], sent[cut:]], reset=reset)

    assert answer == b"" or answer.startswith(
        (b"HTTP/1.1 200", b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 405", b"HTTP/1.1 431")
    )
    assert b'nascale_trial_metric{metric="accuracy",trial="t"} 0.5' in _exchange(metrics, [SCRAPE])
