"""Folders that change at once, termination messages, log ends, the pod's record, addresses, settings."""

from __future__ import annotations

import ipaddress
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nascale.local.node.addresses import AddressPool
from nascale.local.node.atomic_files import FileContent, write_files
from nascale.local.node.log_server import tail_offset
from nascale.local.node.record import ContainerRecord, PodDirectory, PodRecord, stored_uids
from nascale.local.node.settings import parse_capacity, parse_pod_range
from nascale.local.node.termination import message_limit, read_message

file_names = st.sampled_from(["a", "b", "sub/a", "sub/deep/b", "c.json"])
contents = st.dictionaries(file_names, st.binary(max_size=8).map(FileContent), max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(contents, min_size=1, max_size=4))
def test_a_folder_holds_exactly_the_latest_files(
    tmp_path_factory: pytest.TempPathFactory, versions: list[dict]
):
    folder = tmp_path_factory.mktemp("volume")
    for version in versions:
        write_files(folder, version)
        visible = {
            str(path.relative_to(folder)): path.read_bytes()
            for name in folder.iterdir()
            if not name.name.startswith("..")
            for path in ([name] if name.is_file() else name.rglob("*"))
            if path.is_file()
        }
        assert visible == {name: file.content for name, file in version.items()}
        assert write_files(folder, version) is False
    # The folder behind the link, the link itself, and nothing of older versions.
    assert len([name for name in folder.iterdir() if name.name.startswith("..")]) == 2


def test_a_reader_sees_all_of_one_version(tmp_path: Path):
    def version(number: int) -> dict[str, FileContent]:
        return {name: FileContent(str(number).encode()) for name in ("first", "second")}

    write_files(tmp_path, version(0))
    stop = threading.Event()
    torn: list[tuple[bytes, bytes]] = []

    def read() -> None:
        while not stop.is_set():
            folder = (tmp_path / "..data").resolve()
            try:
                seen = ((folder / "first").read_bytes(), (folder / "second").read_bytes())
            except FileNotFoundError:
                continue  # this version was replaced while it was read
            if seen[0] != seen[1]:
                torn.append(seen)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 200):
        write_files(tmp_path, version(number))
    stop.set()
    reader.join()
    assert torn == []


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "..data"])
def test_a_file_can_not_leave_its_folder(tmp_path: Path, path: str):
    with pytest.raises(ValueError, match="path: must be relative and stay inside the volume"):
        write_files(tmp_path / "volume", {path: FileContent(b"")})


def test_the_modes_are_those_asked_for(tmp_path: Path):
    write_files(tmp_path, {"token": FileContent(b"t", 0o600)})
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("ab\n", max_size=40), st.integers(0, 12))
def test_the_last_lines_of_a_log(tmp_path_factory: pytest.TempPathFactory, text: str, lines: int):
    path = tmp_path_factory.mktemp("log") / "0.log"
    path.write_text(text)
    every = text.splitlines(keepends=True)
    assert text[tail_offset(path, lines) :] == "".join(every[len(every) - min(lines, len(every)) :])


def test_the_last_lines_of_a_log_that_is_larger_than_one_read(tmp_path: Path):
    path = tmp_path / "0.log"
    path.write_text("".join(f"line {number}\n" for number in range(20_000)))
    assert path.read_text()[tail_offset(path, 10_000) :].startswith("line 10000\n")


def test_a_message_comes_from_its_file_before_the_log(tmp_path: Path):
    message, log = tmp_path / "message", tmp_path / "log"
    log.write_text("".join(f"{number}\n" for number in range(200)))
    assert read_message(message, None, 4096) == ""
    assert read_message(message, log, 4096).splitlines() == [str(number) for number in range(120, 200)]
    message.write_text("report")
    assert read_message(message, log, 4096) == "report"
    assert [message_limit(count) for count in (1, 3, 4, 12)] == [4096, 4096, 3072, 1024]


def test_a_record_comes_back_as_it_was_saved(tmp_path: Path):
    uid = "0b7e8a54-1f0c-4d7e-9d68-0f3f3a5f8a11"
    directory = PodDirectory(tmp_path, "n", "p" * 253, uid)
    directory.create()
    assert directory.load() is None
    record = PodRecord(uid, "n", "p", "2030-01-01T00:00:00Z", "127.88.0.1", devices={"main": [1]})
    record.containers["main"] = ContainerRecord(attempt=2, started=1.5, last={"exitCode": 1}, crashes=2)
    directory.save(record)
    assert directory.load() == record
    assert stored_uids(tmp_path) == {uid: directory.path}


def test_an_address_comes_back_only_after_all_others():
    pool = AddressPool(ipaddress.IPv4Network("127.88.0.0/29"))
    taken = [pool.take() for _ in range(6)]
    assert taken == [f"127.88.0.{number}" for number in range(1, 7)]
    with pytest.raises(RuntimeError, match="all 6 pod addresses are taken"):
        pool.take()
    for address in ("127.88.0.4", "127.88.0.2"):
        pool.release(address)
    assert [pool.take(), pool.take()] == ["127.88.0.2", "127.88.0.4"]


def test_addresses_of_an_earlier_run_are_not_given_again():
    pool = AddressPool(ipaddress.IPv4Network("127.88.0.0/29"))
    pool.claim("127.88.0.1")
    pool.claim("127.88.0.3")
    assert [pool.take() for _ in range(4)] == [f"127.88.0.{number}" for number in (4, 5, 6, 2)]


def test_capacity_is_read_and_completed():
    assert parse_capacity("cpu=2, memory=8Gi,nvidia.com/gpu=1") == {
        "pods": "110",
        "cpu": "2",
        "memory": "8Gi",
        "nvidia.com/gpu": "1",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu=2", "memory: must be given"),
        ("cpu=2,memory=-1", "memory: must be at least 0, not -1"),
        ("cpu=2,memory", "must be name=quantity pairs"),
        ("cpu=two,memory=1", "must be a number"),
    ],
)
def test_a_wrong_capacity_is_named(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_capacity(text)


@pytest.mark.parametrize("text", ["10.0.0.0/16", "127.0.0.0/30", "127.0.0.0/7"])
def test_pods_have_loopback_addresses(text: str):
    with pytest.raises(ValueError, match=r"pod-cidr: must be|has host bits set"):
        parse_pod_range(text)
