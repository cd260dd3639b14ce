"""A small HTTP server for one page, which knows when the page has reached its reader.

The standard library's server reads for as long as a client likes to send; this one gives each connection
one deadline, takes a bounded request, and serves a bounded number of clients at a time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

MAX_REQUEST_BYTES: Final = 8192
"""Prometheus sends about 300 bytes."""
MAX_CLIENTS: Final = 16
CLIENT_SECONDS: Final = 5.0
"""From the first byte to the last: shorter than any sensible scrape time-out."""

_START_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Exposition:
    """One answer to a scrape.

    Attributes:
        body: The page.
        content_type: Its media type.
        served: Called once the client has read all of it.
    """

    body: bytes
    content_type: str
    served: Callable[[], None]


class ScrapeServer:
    """Serves ``GET /metrics`` from a thread of its own; every other request is refused."""

    def __init__(
        self,
        host: str,
        port: int,
        expose: Callable[[str], Exposition],
        client_seconds: float = CLIENT_SECONDS,
    ) -> None:
        """Bind and start.

        Args:
            host: Address to listen on.
            port: Port, 0 for a free one.
            expose: Makes the page; its argument is the request's Accept header.
            client_seconds: The longest that one client is served.

        Raises:
            OSError: the address can't be bound.
        """
        self._expose = expose
        self._client_seconds = client_seconds
        self._clients = 0
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        started: Future[tuple[str, int]] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(host, port, started), name="nascale-metrics", daemon=True
        )
        self._thread.start()
        self.address = started.result(timeout=_START_SECONDS)

    def stop(self) -> None:
        """Stop listening and end the thread; the second time it does nothing."""
        with suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=self._client_seconds)

    def _run(self, host: str, port: int, started: Future[tuple[str, int]]) -> None:
        try:
            self._loop.run_until_complete(self._serve(host, port, started))
        except OSError as error:
            started.set_exception(error)
        finally:
            self._loop.close()

    async def _serve(self, host: str, port: int, started: Future[tuple[str, int]]) -> None:
        server = await asyncio.start_server(self._client, host, port, limit=MAX_REQUEST_BYTES)
        async with server:
            bound = server.sockets[0].getsockname()
            started.set_result((bound[0], bound[1]))
            await self._stop.wait()
        current = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is not current:
                task.cancel()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients += 1
        try:
            if self._clients <= MAX_CLIENTS:
                async with asyncio.timeout(self._client_seconds):
                    await self._answer(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # a client that went away or is too slow: its loss alone
        finally:
            self._clients -= 1
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            await _send(reader, writer, 431, b"request too large\n")
            return
        line, *header_lines = request.decode("latin-1").split("\r\n")
        method, _, rest = line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0]
        if not rest.partition(" ")[2].startswith("HTTP/1."):
            await _send(reader, writer, 400, b"bad request\n")
        elif path != "/metrics":
            await _send(reader, writer, 404, b"not found\n")
        elif method != "GET":
            await _send(reader, writer, 405, b"only GET is served\n")
        else:
            page = self._expose(_header(header_lines, "accept"))
            if await _send(reader, writer, 200, page.body, page.content_type):
                page.served()


_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
}


def _header(lines: list[str], name: str) -> str:
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip().lower() == name:
            return value.strip()
    return ""


async def _send(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    content_type: str = "text/plain; charset=utf-8",
) -> bool:
    """Send one answer and say whether the client has read all of it.

    It has when it closes its side in order, after the answer: Linux answers a close with unread data by a
    reset instead. A client that closed its side before the answer leaves that open.
    """
    closed_before = reader.at_eof()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.transport.set_write_buffer_limits(high=0)
    writer.write(head.encode("latin-1") + body)
    await writer.drain()
    writer.write_eof()
    while await reader.read(MAX_REQUEST_BYTES):
        pass  # whatever else it sends is not for us
    return not closed_before
