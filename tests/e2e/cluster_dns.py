"""A cluster's DNS as far as pods need it here: addresses of Services; every other name does not exist.

RFC 1035: a message is a header of 12 bytes, questions, answers. What is answered here has one question.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Final

DOMAIN: Final = "svc.cluster.local"
PORT: Final = 53
_HEADER: Final = struct.Struct("!HHHHHH")
_IS_ANSWER: Final = 0x8400
"""It is an answer, and one with authority."""
_WANTS_RECURSION: Final = 0x0100
_NO_SUCH_NAME: Final = 3
_ADDRESS: Final = (1, 1)
"""Type A, class IN."""
_LARGEST: Final = 512


@contextlib.contextmanager
def cluster_dns(address: str, service: Callable[[str, str], str]) -> Iterator[None]:
    """Answer questions at ``address``.

    Args:
        address: Of this machine, as pods reach it.
        service: Returns the address of a Service by name and namespace; "": there is none.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, PORT))
        thread = threading.Thread(target=_serve, args=(server, service), daemon=True)
        thread.start()
        try:
            yield
        finally:
            _wake(address)
            thread.join()


def _wake(address: str) -> None:
    """End the thread: nobody else sends an empty message."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"", (address, PORT))


def _serve(server: socket.socket, service: Callable[[str, str], str]) -> None:
    while True:
        message, client = server.recvfrom(_LARGEST)
        if not message:
            return
        with contextlib.suppress(ValueError, struct.error):  # not a question
            server.sendto(answer(message, service), client)


def answer(message: bytes, service: Callable[[str, str], str]) -> bytes:
    """Return the answer to a message.

    Raises:
        ValueError: it is none with one question.
        struct.error: it ends too early.
    """
    number, flags, questions, *_ = _HEADER.unpack_from(message)
    if questions != 1 or flags & _IS_ANSWER:
        raise ValueError("must be one question")
    name, end = _name(message)
    kind = struct.unpack_from("!HH", message, end)
    question = message[_HEADER.size : end + 4]
    found = _found(name, service)
    flags = _IS_ANSWER | flags & _WANTS_RECURSION | (0 if found else _NO_SUCH_NAME)
    records = b""
    if found and kind == _ADDRESS:
        # The name is that at byte 12; the address may be kept for no time.
        records = struct.pack("!HHHIH", 0xC00C, *_ADDRESS, 0, 4) + ipaddress.IPv4Address(found).packed
    return _HEADER.pack(number, flags, 1, bool(records), 0, 0) + question + records


def _name(message: bytes) -> tuple[str, int]:
    """Return the question's name, and where it ends."""
    labels, place = [], _HEADER.size
    while length := message[place : place + 1]:
        place += 1
        if length == b"\0":
            return ".".join(labels), place
        labels.append(message[place : place + length[0]].decode("ascii").lower())
        place += length[0]
    raise ValueError("the name must have an end")


def _found(name: str, service: Callable[[str, str], str]) -> str:
    own, _, rest = name.partition(".")
    namespace, _, domain = rest.partition(".")
    return service(own, namespace) if domain == DOMAIN else ""
