"""Starting, watching and ending real processes, without a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nascale.local.node import shim
from nascale.local.node.environment import Invocation
from nascale.local.node.errors import StartRefusedError
from nascale.local.node.process import (
    CONTAINER_MARK,
    ContainerKey,
    ContainerProcess,
    kill_marked,
    marked_processes,
    read_exit_record,
)
from nascale.local.node.spawner import SHIM_MARK, Spawner

PATH = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}


class Runner:
    """Starts containers in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spawner = Spawner(folder)
        self.uid = str(uuid.uuid4())

    def start(self, *arguments: str, name: str = "c", **environment: str) -> ContainerProcess:
        made = Invocation(arguments, {**PATH, **environment}, str(self.folder))
        return ContainerProcess.start(
            self.spawner,
            ContainerKey(self.uid, name, 0),
            made,
            log=self.folder / f"{name}.log",
            record=self.folder / f"{name}.exit",
        )

    def left(self) -> list[int]:
        return [pid for pid, value in marked_processes() if value.startswith(self.uid)]


async def until(probe: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not probe():  # noqa: ASYNC110  other processes signal no event
            await asyncio.sleep(0.01)


@pytest.fixture
async def runner(tmp_path: Path):
    made = Runner(tmp_path)
    yield made
    made.spawner.close()
    await kill_marked(lambda value: value.startswith(made.uid))


async def test_exit_code_times_and_output_are_kept(runner: Runner):
    ended = await runner.start("sh", "-c", "echo out; echo err >&2; exit 5").wait()
    assert ended is not None
    assert (ended.exit_code, ended.error) == (5, "")
    assert ended.started <= ended.finished
    assert (runner.folder / "c.log").read_text() == "out\nerr\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 137), (signal.SIGSEGV, 139)])
async def test_death_by_a_signal_has_the_exit_code_of_a_container_runtime(
    runner: Runner, number: int, code: int
):
    ended = await runner.start("sh", "-c", f"kill -{int(number)} $$").wait()
    assert ended is not None
    assert ended.exit_code == code


async def test_the_environment_arrives_byte_for_byte_with_the_containers_mark(runner: Runner):
    values = {"EMPTY": "", "LINES": "a\nb", "my.dotted-name": "x=y", "UNICODE": "é"}
    await runner.start("python", "-c", "import os; print(sorted(os.environ.items()))", **values).wait()
    found = dict(eval((runner.folder / "c.log").read_text()))  # noqa: S307  our own output
    # Python itself adds LC_CTYPE where no locale is set.
    found.pop("LC_CTYPE", None)
    assert found == {**PATH, **values, CONTAINER_MARK: f"{runner.uid}/c/0"}


@pytest.fixture
def background_of_a_shell() -> Iterator[None]:
    """Ignore what a shell lets its background processes ignore."""
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("background_of_a_shell")
async def test_a_container_starts_with_default_signals_and_a_session_of_its_own(runner: Runner):
    script = (
        "import os, signal; print(signal.getsignal(signal.SIGTERM), os.getsid(0) == os.getpid(), "
        "signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    )
    await runner.start("python", "-c", script).wait()
    assert (runner.folder / "c.log").read_text() == "0 True set()\n"
    # Python ignores SIGPIPE from its start on, so a shell shows what it got.
    await runner.start("sh", "-c", "grep SigIgn /proc/$$/status", name="s").wait()
    ignored = int((runner.folder / "s.log").read_text().split()[1], 16)
    # 32 and above are the C library's own.
    assert ignored & 0x7FFFFFFF == 0


async def test_sigterm_right_after_the_start_reaches_the_main_process(runner: Runner):
    for index in range(5):
        process = runner.start("sleep", "600", name=f"c{index}")
        process.terminate()
        ended = await process.wait()
        assert ended is not None
        assert ended.exit_code == 143


async def test_kill_ends_every_process_and_the_record_is_still_written(runner: Runner):
    process = runner.start(
        "sh", "-c", "setsid sleep 600 & trap '' TERM; echo up; while :; do sleep 0.05; done"
    )
    log = runner.folder / "c.log"
    await until(lambda: log.exists() and "up" in log.read_text())
    process.kill()
    ended = await process.wait()
    assert ended is not None
    assert ended.exit_code == 137
    await kill_marked(lambda value: value.startswith(runner.uid))
    assert runner.left() == []


async def test_what_stays_in_the_process_group_dies_with_the_main_process(runner: Runner):
    await runner.start("sh", "-c", "sleep 600 & sleep 600 & exit 0").wait()
    await until(lambda: not runner.left())


async def test_a_running_container_can_be_taken_over_and_a_finished_one_can_not(runner: Runner):
    first = runner.start("sh", "-c", "sleep 0.5; exit 8")
    key, record = first.key, runner.folder / "c.exit"
    taken = ContainerProcess.adopt(key, record)
    assert taken is not None
    ended = await taken.wait()
    assert ended is not None
    assert ended.exit_code == 8
    await first.wait()
    assert ContainerProcess.adopt(key, record) is None
    assert read_exit_record(record) == ended


async def test_a_killed_watcher_leaves_no_record_and_the_process_is_found_by_its_mark(runner: Runner):
    process = runner.start("sleep", "600")
    await until(runner.left)
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() is None
    await kill_marked(lambda value: value == str(process.key))
    assert runner.left() == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such-program",), r'exec: "no-such-program": executable file not found in \$PATH'),
        (("./no-such-file",), r'exec: "./no-such-file": executable file not found'),
    ],
)
async def test_a_program_that_does_not_exist_is_refused(runner: Runner, arguments: tuple[str], message: str):
    with pytest.raises(StartRefusedError, match=message):
        runner.start(*arguments)


async def test_a_file_that_is_no_program_is_reported_by_the_record(runner: Runner):
    script = runner.folder / "text"
    script.write_text("not a program")
    script.chmod(0o755)
    ended = await runner.start("./text").wait()
    assert ended is not None
    assert ended.exit_code == 128
    assert "Exec format error" in ended.error


async def test_containers_survive_the_server_that_forked_their_parents(runner: Runner):
    first = runner.start("sh", "-c", "sleep 0.5; exit 8")
    runner.spawner.close()
    second = runner.start("sh", "-c", "exit 9", name="second")
    assert [await first.wait(), await second.wait()] == [
        read_exit_record(runner.folder / "c.exit"),
        read_exit_record(runner.folder / "second.exit"),
    ]
    assert (await first.wait()).exit_code == 8
    assert (await second.wait()).exit_code == 9


async def test_a_server_that_was_killed_is_started_again(runner: Runner):
    await runner.start("true").wait()
    server = next(pid for pid, value in marked_processes(SHIM_MARK) if value == str(runner.folder))
    os.kill(server, signal.SIGKILL)
    ended = await runner.start("sh", "-c", "exit 4", name="again").wait()
    assert ended is not None
    assert ended.exit_code == 4


async def test_a_pid_that_is_another_process_by_now_is_not_taken_over(runner: Runner):
    process = runner.start("true")
    await process.wait()
    (runner.folder / "c.exit.shim").write_text(f"{os.getpid()} 1 {shim.boot()}")
    assert ContainerProcess.adopt(process.key, runner.folder / "c.exit") is None
    (runner.folder / "c.exit.shim").write_text(f"{os.getpid()} {shim.start_ticks(os.getpid())} another-boot")
    assert ContainerProcess.adopt(process.key, runner.folder / "c.exit") is None
