"""Processes meet through a file; what an earlier meeting has left leads nobody astray."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.trainer.progressive.group_scenarios import order

from nascale.contract import environment
from nascale_trainer.progressive import processes, rendezvous
from nascale_trainer.progressive.ranks import PeerLost
from nascale_trainer.progressive.rendezvous import Address, Place, meet, meeting_file, read_address

_PLACE = Place(rank=0, world=2, generation=3, address="127.0.0.1")


@pytest.fixture
def in_background() -> Any:
    with ThreadPoolExecutor(8) as pool:
        yield pool.submit


Submit = Callable[..., Future[Any]]


def place(rank: int, world: int = 2) -> Place:
    return replace(_PLACE, rank=rank, world=world)


def test_all_meet_and_share_a_store(tmp_path: Path, in_background: Submit) -> None:
    guests = [in_background(meet, place(rank, 3), tmp_path, timeout_seconds=30) for rank in (1, 2)]
    store = meet(place(0, 3), tmp_path, timeout_seconds=30)
    store.set("word", "heard")
    for guest in guests:
        assert guest.result().get("word") == b"heard"


def test_stores_outlast_a_resolver_whose_servers_do_not_answer(
    tmp_path: Path, in_background: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch asks for the other name while it connects: 5 s, twice, for each of up to three servers."""
    patience = []

    class Store(rendezvous.TCPStore):
        def __init__(self, *arguments: Any, timeout: timedelta, **options: Any) -> None:
            patience.append(timeout.total_seconds())
            super().__init__(*arguments, timeout=timeout, **options)

    monkeypatch.setattr(rendezvous, "TCPStore", Store)
    guest = in_background(meet, place(1), tmp_path, timeout_seconds=30)
    host = meet(place(0), tmp_path, timeout_seconds=30)  # which lives as long as the store that it returns

    assert guest.result() is not host
    assert len(patience) == 2
    assert min(patience) > 3 * 2 * 5


def test_the_store_listens_at_the_pods_address_alone(tmp_path: Path, in_background: Submit) -> None:
    guest = in_background(meet, place(1), tmp_path, timeout_seconds=30)
    store = meet(place(0), tmp_path, timeout_seconds=30)
    guest.result()
    address = read_address(meeting_file(tmp_path, 3))
    assert address is not None
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    rows += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{address.port:04X}")]
    assert listening == [f"0100007F:{address.port:04X}"]
    del store


def test_a_file_that_nobody_listens_behind_is_read_again(tmp_path: Path, in_background: Submit) -> None:
    file = meeting_file(tmp_path, 3)
    file.parent.mkdir()
    file.write_bytes(Address("127.0.0.1", 1, "old").encode())
    guest = in_background(meet, place(1), tmp_path, timeout_seconds=30)
    time.sleep(0.2)
    host = meet(place(0), tmp_path, timeout_seconds=30)
    assert guest.result().check(["all"])
    assert host.check(["all"])


def test_a_store_of_an_earlier_meeting_is_left(tmp_path: Path, in_background: Submit) -> None:
    """Rank 0 comes back elsewhere while what it left, in another pod, still answers."""
    stuck = in_background(meet, place(0, 3), tmp_path, timeout_seconds=5)
    file = meeting_file(tmp_path, 3)
    while (before := read_address(file)) is None:
        time.sleep(0.01)
    guests = [in_background(meet, place(rank, 3), tmp_path, timeout_seconds=30) for rank in (1,)]
    time.sleep(0.5)
    host = in_background(meet, place(0, 3), tmp_path, timeout_seconds=30)
    time.sleep(0.5)
    guests.append(in_background(meet, place(2, 3), tmp_path, timeout_seconds=30))
    store = host.result()
    assert read_address(file) != before
    for guest in guests:
        assert guest.result().get("all") == store.get("all")
    with pytest.raises(PeerLost, match="have not come"):
        stuck.result()


def test_another_meeting_on_the_same_port_is_recognised(tmp_path: Path, in_background: Submit) -> None:
    elsewhere = tmp_path / "elsewhere"
    stranger = in_background(meet, place(0), elsewhere, timeout_seconds=2)
    while (found := read_address(meeting_file(elsewhere, 3))) is None:
        time.sleep(0.01)
    file = meeting_file(tmp_path, 3)
    file.parent.mkdir()
    file.write_bytes(replace(found, nonce="old").encode())
    with pytest.raises(PeerLost, match="earlier meeting"):
        meet(place(1), tmp_path, timeout_seconds=0.5)
    with pytest.raises(PeerLost, match="have not come"):
        stranger.result()


def test_who_comes_back_while_they_meet_is_met_once(tmp_path: Path, in_background: Submit) -> None:
    first = in_background(meet, place(1, 3), tmp_path, timeout_seconds=30)
    host = in_background(meet, place(0, 3), tmp_path, timeout_seconds=30)
    time.sleep(0.5)
    again = in_background(meet, place(1, 3), tmp_path, timeout_seconds=30)
    time.sleep(0.5)
    last = meet(place(2, 3), tmp_path, timeout_seconds=30)
    store = host.result()
    assert again.result().get("all") == last.get("all") == store.get("all")
    with pytest.raises(PeerLost, match="come back"):
        first.result()


def test_who_is_missing_is_named(tmp_path: Path, in_background: Submit) -> None:
    guest = in_background(meet, place(1, 4), tmp_path, timeout_seconds=2)
    with pytest.raises(PeerLost, match=r"ranks \[2, 3\] of 4 have not come"):
        meet(place(0, 4), tmp_path, timeout_seconds=1)
    with pytest.raises(PeerLost):
        guest.result()


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"host": 1, "port": 80, "nonce": ""}', '{"host": "a", "port": 99999, "nonce": "n"}'],
)
def test_a_file_that_is_none_is_waited_over(tmp_path: Path, content: str) -> None:
    file = tmp_path / "g1.json"
    file.write_text(content)
    assert read_address(file) is None


def test_the_place_follows_from_pod_and_process() -> None:
    found = Place.of(
        order(3, processes_per_worker=2, generation=5),
        {environment.WORKER_INDEX: "2", processes.LOCAL_RANK: "1", environment.BIND_ADDRESS: "10.0.0.7"},
    )
    assert found == Place(rank=5, world=6, generation=5, address="10.0.0.7")


@pytest.mark.parametrize("index", ["3", "-1", "x"])
def test_an_index_beyond_the_workers_is_refused(index: str) -> None:
    with pytest.raises(ValueError, match="JOB_COMPLETION_INDEX: must be 0 to 2"):
        Place.of(order(3), {environment.WORKER_INDEX: index})


def test_no_thread_is_left_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(PeerLost):
        meet(place(0), tmp_path, timeout_seconds=0.1)
    assert threading.active_count() == before
    assert json.loads(meeting_file(tmp_path, 3).read_bytes())["host"] == "127.0.0.1"
