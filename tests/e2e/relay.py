"""Lets pods reach servers of the embedded control plane, which listen on the loopback address alone."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

CHUNK_BYTES = 65_536


@contextlib.contextmanager
def relay(address: str, port: int, target: int) -> Iterator[None]:
    """Pass connections to ``address:port`` on to port ``target`` of the loopback address."""
    with socket.create_server((address, port)) as server:
        thread = threading.Thread(target=_accept, args=(server, target), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(server: socket.socket, target: int) -> None:
    while True:
        try:
            client, _ = server.accept()
        except OSError:  # the block has ended
            return
        threading.Thread(target=_serve, args=(client, target), daemon=True).start()


def _serve(client: socket.socket, target: int) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(client)
        stack.enter_context(contextlib.suppress(OSError))  # a side that breaks off
        server = stack.enter_context(socket.create_connection(("127.0.0.1", target)))
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
