"""The Lease: whatever is slow, lost or killed, two replicas never believe to hold it at the same time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from nascale.cluster.client import ClusterClient, RetryPolicy
from nascale.cluster.connection import Connection
from nascale.cluster.errors import (
    AlreadyExistsError,
    ConflictError,
    FencedError,
    NotFoundError,
    UnavailableError,
)
from nascale.cluster.lease import Lease
from nascale.cluster.resources import JOBS, LEASES, SEARCHES
from nascale.handlers.leadership import EXIT_LEASE_LOST, Leadership

SECONDS = 12


@dataclass
class Server:
    """Keeps one Lease as an API server does, on a clock that tests move."""

    now: float = 0.0
    document: dict[str, Any] | None = None
    version: int = 0
    faults: list[str] = field(default_factory=list)
    """What happens to the next requests: ``refuse``, ``lose`` (done, but the answer is lost)."""
    slow_seconds: float = 0.0

    async def get(self, _resource: Any, _namespace: str, _name: str) -> dict[str, Any]:
        self._fail()
        if self.document is None:
            raise NotFoundError("no such Lease")
        return self._copy()

    async def create(self, _resource: Any, manifest: dict[str, Any]) -> dict[str, Any]:
        lost = self._fail()
        if self.document is not None:
            raise AlreadyExistsError("taken")
        self.document = {**manifest, "metadata": {**manifest["metadata"], "uid": "u"}}
        return self._written(lost=lost)

    async def patch(
        self, _resource: Any, _namespace: str, _name: str, uid: str, body: dict[str, Any]
    ) -> dict[str, Any]:
        lost = self._fail()
        if self.document is None:
            raise NotFoundError("no such Lease")
        if uid != self.document["metadata"]["uid"]:
            raise ConflictError("another one")
        if body["metadata"]["resourceVersion"] != str(self.version):
            raise ConflictError("out of date")
        self.document["spec"] = {**self.document.get("spec", {}), **body["spec"]}
        return self._written(lost=lost)

    def touch(self) -> None:
        """Somebody writes a label."""
        self.version += 1

    def lose(self, event: str) -> None:
        """Let somebody else take it, or delete it."""
        self.version += 1
        if event == "taken":
            self.document["spec"]["holderIdentity"] = "somebody else"
        else:
            self.document = None

    def _fail(self) -> bool:
        self.now += self.slow_seconds
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "refuse":
            raise UnavailableError("away")
        return fault == "lose"

    def _written(self, *, lost: bool) -> dict[str, Any]:
        self.version += 1
        if lost:
            raise UnavailableError("no answer")
        return self._copy()

    def _copy(self) -> dict[str, Any]:
        assert self.document is not None
        metadata = {**self.document["metadata"], "resourceVersion": str(self.version)}
        return {**self.document, "metadata": metadata, "spec": dict(self.document.get("spec") or {})}


def _replica(server: Server, identity: str, drift: float = 0.0) -> Lease:
    """Return a replica whose clock is ahead by ``drift`` seconds."""
    return Lease(
        server,
        "system",
        "nascale",
        identity=identity,
        duration_seconds=SECONDS,
        clock=lambda: server.now + drift,
    )


async def test_the_first_one_makes_it_and_the_second_one_waits():
    server = Server()
    first, second = _replica(server, "first"), _replica(server, "second")

    assert await first.try_to_take()
    assert not await second.try_to_take()
    assert (first.held(), second.held(), second.holder) == (True, False, "first")
    assert server.document["spec"]["holderIdentity"] == "first"
    assert server.document["spec"]["leaseDurationSeconds"] == SECONDS


async def test_it_is_taken_over_when_nobody_has_renewed_it_for_its_duration_of_the_waiter_s_own_clock():
    server = Server()
    first, second = _replica(server, "first"), _replica(server, "second", drift=1e6)
    await first.try_to_take()

    taken = []
    for _ in range(SECONDS + 1):
        taken.append(await second.try_to_take())
        server.now += 1

    assert taken == [False] * SECONDS + [True]
    assert server.document["spec"]["leaseTransitions"] == 1


async def test_the_holder_stops_to_believe_before_anybody_else_may_begin():
    server = Server()
    lease = _replica(server, "only")
    server.slow_seconds = 3  # each answer takes so long: what counts is when the request was sent
    await lease.try_to_take()

    server.now = SECONDS * 2 / 3 - 0.001
    assert lease.held()
    server.now = SECONDS * 2 / 3
    assert not lease.held()


async def test_renewals_keep_it():
    server = Server()
    first, second = _replica(server, "first"), _replica(server, "second")
    await first.try_to_take()

    for _ in range(30):
        server.now += first.pause_seconds
        assert first.held()
        await first.renew()
        assert not await second.try_to_take()


async def test_it_goes_at_once_to_the_next_one_when_given_back():
    server = Server()
    first, second = _replica(server, "first"), _replica(server, "second")
    await first.try_to_take()
    await second.try_to_take()

    await first.release()

    assert not first.held()
    assert await second.try_to_take()


@pytest.mark.parametrize("faults", [["lose"], ["refuse"], ["refuse", "refuse"]])
async def test_it_is_given_back_though_an_answer_is_lost_or_the_server_away_for_a_moment(faults: list[str]):
    server = Server()
    lease = _replica(server, "only")
    await lease.try_to_take()
    server.faults = faults

    await lease.release()

    assert server.document["spec"]["holderIdentity"] == ""


@pytest.mark.parametrize("event", ["taken", "deleted"])
async def test_what_is_no_longer_ours_is_not_given_back(event: str):
    server = Server()
    lease = _replica(server, "only")
    await lease.try_to_take()
    server.lose(event)

    await lease.release()

    assert server.document is None or server.document["spec"]["holderIdentity"] == "somebody else"


async def test_who_can_t_give_it_back_says_so():
    server = Server()
    lease = _replica(server, "only")
    await lease.try_to_take()
    server.faults = ["refuse", "refuse", "refuse"]

    with pytest.raises(UnavailableError):
        await lease.release()

    assert not lease.held()


@pytest.mark.parametrize("event", ["a label", "a lost answer"])
async def test_a_change_by_nobody_else_does_not_lose_it(event: str):
    server = Server()
    lease = _replica(server, "only")
    await lease.try_to_take()

    if event == "a label":
        server.touch()
        await lease.renew()
    else:
        server.faults = ["lose"]
        with pytest.raises(UnavailableError):
            await lease.renew()
        await lease.renew()
    server.now += 2
    await lease.renew()
    server.now += SECONDS * 2 / 3 - 1

    assert lease.held()


@pytest.mark.parametrize("event", ["taken", "deleted"])
async def test_who_finds_it_gone_stops_to_believe_at_once(event: str):
    server = Server()
    lease = _replica(server, "only")
    await lease.try_to_take()
    server.lose(event)

    await lease.renew()

    assert not lease.held()


@pytest.mark.parametrize("seed", range(40))
async def test_at_most_one_believes_whatever_happens(seed: int):
    """Three replicas act in random order on a server that is slow, refuses and loses answers."""
    dice = random.Random(seed)
    server = Server()
    replicas = [_replica(server, f"life-0-{number}", drift=dice.uniform(-99, 99)) for number in range(3)]
    holders = set()

    for step in range(400):
        server.now += dice.choice([0.1, 0.5, 2.0, 2.0, 5.0])
        server.slow_seconds = dice.choice([0.0, 0.0, 0.3, 4.0])
        server.faults = [dice.choice(["", "", "", "refuse", "lose"]) for _ in range(3)]
        number = dice.randrange(3)
        if dice.random() < 0.02:  # killed, and started anew
            replicas[number] = _replica(server, f"life-{step}-{number}", drift=dice.uniform(-99, 99))
        replica = replicas[number]
        with contextlib.suppress(UnavailableError):
            await (replica.renew() if replica.held() else replica.try_to_take())
        believers = [each.identity for each in replicas if each.held()]
        assert len(believers) <= 1
        holders.update(believers)

    assert len(holders) > 3


async def test_a_process_whose_lease_is_lost_ends():
    server = Server()
    codes: list[int] = []
    ended = threading.Event()

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    leadership = Leadership(_replica(server, "only"), end)
    await leadership.take()
    server.now += SECONDS  # as after a process that was stopped for that long

    assert await asyncio.to_thread(ended.wait, 20)
    assert codes == [EXIT_LEASE_LOST]


async def test_a_process_that_gives_its_lease_back_goes_on_to_its_own_end():
    server = Server()
    codes: list[int] = []
    leadership = Leadership(_replica(server, "only"), codes.append)
    await leadership.take()
    (guard,) = [thread for thread in threading.enumerate() if thread.name == "lease"]

    await leadership.give_back()
    await asyncio.to_thread(guard.join, 20)

    assert not guard.is_alive()
    assert codes == []
    assert server.document["spec"]["holderIdentity"] == ""


class AnswersLate(Server):
    """Carries out every change, and keeps its answer back while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.silent = False
        self.kept_back = asyncio.Event()

    async def patch(self, *arguments: Any) -> dict[str, Any]:
        answer = await super().patch(*arguments)
        if self.silent:
            self.silent = False
            self.kept_back.set()
            await asyncio.Event().wait()
        return answer


async def test_it_is_given_back_while_a_renewal_is_under_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Lease, "pause_seconds", 0.01)
    server = AnswersLate()
    leadership = Leadership(_replica(server, "only"), lambda _: None)
    await leadership.take()
    server.silent = True
    await asyncio.wait_for(server.kept_back.wait(), 20)

    await leadership.give_back()

    assert server.document["spec"]["holderIdentity"] == ""


async def test_a_client_that_may_not_write_any_more_still_reads(scripted_server: Any, kubeconfig: Any):
    scripted_server.answer(200, {"metadata": {"resourceVersion": "1", "name": "n"}, "items": []})
    client = ClusterClient(
        Connection(kubeconfig(scripted_server.url)), retries=RetryPolicy(attempts=1), may_write=lambda: False
    )
    writes = (
        client.create(JOBS, {"metadata": {"namespace": "n", "name": "j"}}),
        client.patch_status(SEARCHES, "n", "s", "u", {}),
        client.patch(LEASES, "n", "l", "u", {}),
        client.delete(JOBS, "n", "j", "u"),
    )

    for write in writes:
        with pytest.raises(FencedError):
            await write
    await client.list_objects(JOBS, "n")
    await client.close()

    assert [request.method for request in scripted_server.seen] == ["GET"]
