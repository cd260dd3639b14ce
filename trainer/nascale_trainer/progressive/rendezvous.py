"""How the processes of a generation find each other: through a file on the run's volume, which all mount.

Rank 0 listens on a free port at its pod's own address and writes address, port and a nonce into
``rendezvous/g<generation>.json``. The others read it there, connect, and check in. When all have, rank 0
writes the list of those who are in; so a process that has died and come back meanwhile never meets halfway.
A file of an earlier meeting leads to a refused connection, or to a store with another nonce, and is read
again.
"""

from __future__ import annotations

import json
import logging
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from torch import distributed
from torch._C._distributed_c10d import Store, TCPStore  # where torch's types say that they are

from nascale.contract import environment
from nascale.contract.run_order import RunOrder
from nascale_trainer.durable_file import write_atomically
from nascale_trainer.progressive import processes
from nascale_trainer.progressive.ranks import PeerLost

TIMEOUT_SECONDS: Final = 300.0
"""Longest time that all may take to meet: pods are scheduled and images pulled in it."""
_LOOK_SECONDS: Final = 0.05
_CONNECT_SECONDS: Final = 3.0
_STORE_SECONDS: Final = 60.0
"""Longest time that a store may take to connect. It asks DNS for the name of the other side: where no server
answers, that alone takes 5 s, twice for each of at most three servers."""
_MAX_FILE_BYTES: Final = 4096
_STORE_ERRORS: Final = (distributed.DistError, RuntimeError, OSError)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Which process this is.

    Attributes:
        rank: From 0.
        world: Number of processes.
        generation: Generation of the run.
        address: Where this process listens.
    """

    rank: int
    world: int
    generation: int
    address: str

    @classmethod
    def of(cls, order: RunOrder, environ: Mapping[str, str]) -> Place:
        """Read it from the order, the pod's index and the place in the pod.

        Raises:
            ValueError: the pod's index is none of the order's workers.
        """
        text = environ.get(environment.WORKER_INDEX) or "0"
        if not text.isdecimal() or int(text) >= order.workers:
            raise ValueError(f"{environment.WORKER_INDEX}: must be 0 to {order.workers - 1}, not {text!r}")
        local = int(environ.get(processes.LOCAL_RANK) or "0")
        return cls(
            rank=int(text) * order.processes_per_worker + local,
            world=order.workers * order.processes_per_worker,
            generation=order.generation,
            address=environ.get(environment.BIND_ADDRESS) or "127.0.0.1",
        )


@dataclass(frozen=True)
class Address:
    """Where a meeting takes place.

    Attributes:
        host: Address of rank 0.
        port: Its port.
        nonce: Names the meeting; another process on the same port knows another one.
    """

    host: str
    port: int
    nonce: str

    def encode(self) -> bytes:
        """Return the file's content."""
        return json.dumps({"host": self.host, "port": self.port, "nonce": self.nonce}).encode()


def meeting_file(run_folder: Path, generation: int) -> Path:
    """Return where the address of a generation's rank 0 stands."""
    return run_folder / "rendezvous" / f"g{generation}.json"


def read_address(file: Path) -> Address | None:
    """Return the address in a file; ``None`` where there is none that can be used."""
    try:
        with file.open("rb") as opened:
            raw = json.loads(opened.read(_MAX_FILE_BYTES))
        found = Address(host=raw["host"], port=raw["port"], nonce=raw["nonce"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    usable = isinstance(found.host, str) and isinstance(found.nonce, str) and isinstance(found.port, int)
    return found if usable and 0 < found.port < 1 << 16 else None


def meet(place: Place, run_folder: Path, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Store:
    """Meet all processes of the generation; return the store through which they form their groups.

    Args:
        place: Which process this is.
        run_folder: The run's folder on the volume.
        timeout_seconds: Longest time to wait for all.

    Raises:
        PeerLost: not all came in time, or one was lost while they met.
        OSError: rank 0 can't listen, or can't write its address.
    """
    deadline = time.monotonic() + timeout_seconds
    file = meeting_file(run_folder, place.generation)
    if place.rank == 0:
        return _host(place, file, deadline)
    last = "no address yet"
    while time.monotonic() < deadline:
        address = read_address(file)
        if address is not None:
            try:
                store = _join(place, address, file, deadline)
            except _STORE_ERRORS as error:
                last = str(error).partition("\n")[0]
            else:
                if store is not None:
                    return store
                last = f"{address.host}:{address.port} belongs to an earlier meeting"
        time.sleep(_LOOK_SECONDS)
    raise PeerLost(f"rank {place.rank} has not met rank 0 within {timeout_seconds:g} s: {last}")


def _host(place: Place, file: Path, deadline: float) -> Store:
    family = socket.AF_INET6 if ":" in place.address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Bound here, to the pod's own address alone: the store by itself would listen on every one.
        listener.bind((place.address, 0))
        listener.listen(place.world)
        port = listener.getsockname()[1]
    except OSError:
        listener.close()
        raise
    store = TCPStore(
        place.address,
        port,
        is_master=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=_STORE_SECONDS),
        master_listen_fd=listener.detach(),
    )
    address = Address(place.address, port, secrets.token_hex(8))
    store.set("nonce", address.nonce)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, address.encode())
    guests = [f"here/{rank}" for rank in range(1, place.world)]
    while not store.check(guests):
        if time.monotonic() >= deadline:
            missing = [rank for rank in range(1, place.world) if not store.check([f"here/{rank}"])]
            raise PeerLost(f"ranks {missing[:16]} of {place.world} have not come")
        time.sleep(_LOOK_SECONDS)
    store.set("all", json.dumps([store.get(guest).decode() for guest in guests]))
    log.info("%d processes have met at %s:%d", place.world, place.address, port)
    return store


def _join(place: Place, address: Address, file: Path, deadline: float) -> Store | None:
    """Check in and wait for all; ``None``: the address belongs to another meeting."""
    # A store's own connection tries for long, and complains: first see whether anybody listens.
    with socket.create_connection((address.host, address.port), timeout=_CONNECT_SECONDS):
        pass
    store = TCPStore(
        address.host,
        address.port,
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=_STORE_SECONDS),
    )
    if not store.check(["nonce"]) or store.get("nonce").decode() != address.nonce:
        return None
    me = secrets.token_hex(8)
    store.set(f"here/{place.rank}", me)
    while not store.check(["all"]):
        # Rank 0 may have come back at another port while what it left still answers.
        if read_address(file) != address:
            return None
        if time.monotonic() >= deadline:
            raise PeerLost(f"rank {place.rank} has met rank 0, but not all others have come")
        time.sleep(_LOOK_SECONDS)
    if me not in json.loads(store.get("all")):
        raise PeerLost(f"rank {place.rank} has come back to a meeting that had begun without it")
    return store
