"""Lets pods reach the embedded control plane, which listens on the loopback address alone, and Services.

There is no kube-proxy: an address of this machine stands for a Service's.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

CHUNK_BYTES = 65_536
Target: TypeAlias = Callable[[], tuple[str, int]]
"""Says where the next connection leads to."""


def loopback(port: int) -> Target:
    """Return a port of this machine's loopback address as a target."""
    return lambda: ("127.0.0.1", port)


@contextlib.contextmanager
def relay(address: str, port: int, target: Target) -> Iterator[None]:
    """Pass connections to ``address:port`` on."""
    with socket.create_server((address, port)) as server:
        thread = threading.Thread(target=_accept, args=(server, target), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(server: socket.socket, target: Target) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:  # the block has ended
            return
        threading.Thread(target=_serve, args=(client, target), daemon=True).start()


def _serve(client: socket.socket, target: Target) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(client)
        stack.enter_context(contextlib.suppress(OSError))  # a side that breaks off, or is not there
        server = stack.enter_context(socket.create_connection(target()))
        ready = stack.enter_context(selectors.DefaultSelector())
        ready.register(client, selectors.EVENT_READ, (client, server))
        ready.register(server, selectors.EVENT_READ, (server, client))
        while ready.get_map():
            for key, _ in ready.select():
                source, sink = key.data
                content = source.recv(CHUNK_BYTES)
                if content:
                    sink.sendall(content)
                else:
                    ready.unregister(source)
                    sink.shutdown(socket.SHUT_WR)
