"""The container's first process: what it starts, hands on, starts anew, and with which code it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nascale.contract import environment
from nascale.contract.stage_settings import HardwareSettings
from nascale_trainer.progressive import processes
from nascale_trainer.progressive.launcher import Next, Verdict, committed_step, verdict

_LAUNCH = """
import json, logging, sys
from nascale_trainer.progressive.launcher import Limits, main
class Order:  # all that the launcher reads of it
    processes_per_worker = int(sys.argv[1])
import os
limits = Limits(**json.loads(sys.argv[3]))
code = main([sys.executable, sys.argv[2]], Order(), os.environ, limits=limits)
assert "torch" not in sys.modules
sys.exit(code)
"""
_PRELUDE = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(os.environ["FOLDER"])
rank, attempt = int(os.environ["NASCALE_LOCAL_RANK"]), int(os.environ["NASCALE_START_ATTEMPT"])
def note(text):
    with (folder / "notes").open("a") as file:
        file.write(text + "\\n")
def commit(step):
    (folder / "checkpoints" / f"step-{step:09}.g1").mkdir(parents=True)
"""
_FAST = {"pause_seconds": 0.01, "linger_seconds": 0.3, "switch_seconds": 0.3}

Launch = Callable[..., "Launched"]


class Launched:
    """A launcher in a process of its own, with a script as training process."""

    def __init__(self, folder: Path, script: str, count: int, limits: dict[str, float]) -> None:
        self.folder = folder
        program = folder / "worker.py"
        program.write_text(_PRELUDE + textwrap.dedent(script))
        environ = {**os.environ, "FOLDER": str(folder), environment.RUN_DIRECTORY: str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(count), str(program), json.dumps({**_FAST, **limits})],
            env=environ,
        )

    def code(self) -> int:
        return self.process.wait(timeout=60)

    def notes(self) -> list[str]:
        file = self.folder / "notes"
        return file.read_text().splitlines() if file.exists() else []

    def wait_for(self, count: int) -> list[str]:
        deadline = time.monotonic() + 60
        while len(self.notes()) < count:
            assert time.monotonic() < deadline, self.notes()
            time.sleep(0.02)
        return self.notes()


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    return lambda script, count=1, **limits: Launched(tmp_path, script, count, limits)


@pytest.mark.parametrize(
    ("codes", "terminating", "expected"),
    [
        ((0,), False, Verdict(Next.END, 0)),
        ((0, 0), True, Verdict(Next.END, 0)),
        ((2, 86), False, Verdict(Next.END, 2)),
        ((2, -9), True, Verdict(Next.END, 2)),
        ((143, 86), False, Verdict(Next.END, 143)),
        ((0, 143), False, Verdict(Next.END, 143)),
        ((0, 143), True, Verdict(Next.END, 143)),
        ((86, 86), True, Verdict(Next.END, 143)),
        ((-9, 0), True, Verdict(Next.END, 143)),
        ((85, 85), True, Verdict(Next.END, 143)),
        ((85, 85), False, Verdict(Next.RESTART, 85)),
        ((0, 85), False, Verdict(Next.RESTART, 85)),
        ((85, 86), False, Verdict(Next.MEET, 86)),
        ((0, 86), False, Verdict(Next.MEET, 86)),
        ((86, 1), False, Verdict(Next.CRASH, 1)),
        ((-9, 86), False, Verdict(Next.CRASH, 137)),
        ((0, -11), False, Verdict(Next.CRASH, 139)),
        ((85, 3), False, Verdict(Next.CRASH, 3)),
    ],
)
def test_the_exit_codes_together_decide(
    codes: tuple[int, ...],
    terminating: bool,  # noqa: FBT001  # a column of the table
    expected: Verdict,
) -> None:
    assert verdict(codes, terminating=terminating) == expected


@pytest.mark.parametrize("code", [0, 2, 143])
def test_ends_are_passed_on(launch: Launch, code: int) -> None:
    launched = launch(f"note(str(rank)); sys.exit({code})", 2)
    assert launched.code() == code
    assert sorted(launched.notes()) == ["0", "1"]


def test_restarts_and_lost_peers_start_all_processes_anew(launch: Launch) -> None:
    launched = launch(
        """
        note(f"{attempt}.{rank}")
        sys.exit({1: 85, 2: 86, 3: 0}[attempt])
        """,
        2,
    )
    assert launched.code() == 0
    assert sorted(launched.notes()) == ["1.0", "1.1", "2.0", "2.1", "3.0", "3.1"]


def test_a_crash_ends_and_restarts_its_neighbours(launch: Launch) -> None:
    launched = launch(
        """
        note(f"{attempt}.{rank}")
        if attempt == 1:
            if rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        """,
        2,
    )
    assert launched.code() == 0
    assert sorted(launched.notes()) == ["1.0", "1.1", "2.0", "2.1"]


def test_crashes_without_progress_are_bounded(launch: Launch) -> None:
    launched = launch("note(str(attempt)); sys.exit(7)", crashes=3)
    assert launched.code() == 7
    assert launched.notes() == ["1", "2", "3"]


def test_death_by_a_signal_is_told_as_shells_do(launch: Launch) -> None:
    launched = launch("os.kill(os.getpid(), signal.SIGSEGV)", crashes=1)
    assert launched.code() == 128 + signal.SIGSEGV


def test_a_newly_committed_checkpoint_begins_the_count_anew(launch: Launch) -> None:
    launched = launch(
        """
        note(str(attempt))
        if attempt == 2:
            commit(10)
        sys.exit(7)
        """,
        crashes=2,
    )
    assert launched.code() == 7
    assert launched.notes() == ["1", "2", "3"]


@pytest.mark.parametrize("code", [85, 86])
def test_starts_without_progress_are_bounded(launch: Launch, code: int) -> None:
    launched = launch(f"note(str(attempt)); sys.exit({code})", meetings=4)
    assert launched.code() == code
    assert launched.notes() == ["1", "2", "3", "4"]


def test_sigterm_reaches_all_and_nobody_is_killed(launch: Launch) -> None:
    launched = launch(
        """
        def stop(*_):
            time.sleep(1.0)  # an emergency checkpoint that outlasts every other patience
            note(f"saved {rank}")
            sys.exit(143 if rank else 86)
        signal.signal(signal.SIGTERM, stop)
        note("ready")
        time.sleep(600)
        """,
        2,
    )
    launched.wait_for(2)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.code() == 143
    assert sorted(launched.notes()[2:]) == ["saved 0", "saved 1"]


def test_sigterm_between_two_starts_ends_the_container(launch: Launch) -> None:
    launched = launch("note('crash'); sys.exit(7)", pause_seconds=600.0)
    launched.wait_for(1)
    time.sleep(0.3)
    launched.process.send_signal(signal.SIGTERM)
    assert launched.code() == 143
    assert launched.notes() == ["crash"]


_ANNOUNCER = """
from nascale_trainer.progressive import processes
standby = processes.STANDBY in os.environ
note(f"{attempt} begins, OMP {os.environ.get('OMP_NUM_THREADS')}, early {standby}")
if not processes.wait_for_start(os.environ):
    sys.exit(0)
attempt = int(os.environ["NASCALE_START_ATTEMPT"])
note(f"{attempt} goes")
if attempt == 1:
    processes.announce_restart({"OMP_NUM_THREADS": "7"}, os.environ)
    while len((folder / "notes").read_text().splitlines()) < 3:
        time.sleep(0.02)
    END
fit = processes.adopt({"OMP_NUM_THREADS": WANTED}, os.environ)
note(f"fit {fit}")
sys.exit(0 if fit else 85)
"""


def _announcer(end: str, wanted: str) -> str:
    return _ANNOUNCER.replace("END", end).replace("WANTED", repr(wanted))


@pytest.fixture
def threads_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(processes.OMP_THREADS, raising=False)


@pytest.mark.usefixtures("threads_unset")
def test_an_announced_restart_finds_a_process_that_waits(launch: Launch) -> None:
    launched = launch(_announcer("sys.exit(85)", "7"))
    assert launched.code() == 0
    assert launched.notes() == [
        "1 begins, OMP None, early False",
        "1 goes",
        "1 begins, OMP 7, early True",
        "2 goes",
        "fit True",
    ]


@pytest.mark.usefixtures("threads_unset")
def test_a_process_that_waited_for_another_stage_is_replaced(launch: Launch) -> None:
    launched = launch(_announcer("sys.exit(85)", "5"))
    assert launched.code() == 0
    assert launched.notes()[3:] == [
        "2 goes",
        "fit False",
        "3 begins, OMP None, early False",
        "3 goes",
        "fit True",
    ]


@pytest.mark.usefixtures("threads_unset")
def test_a_crash_lets_no_waiting_process_go(launch: Launch) -> None:
    launched = launch(_announcer("sys.exit(7)", "7"))
    assert launched.code() == 0
    assert launched.notes()[3:] == ["2 begins, OMP None, early False", "2 goes", "fit True"]


def test_training_processes_end_with_their_launcher(launch: Launch) -> None:
    launched = launch(
        """
        from nascale_trainer.progressive import processes
        processes.end_with_launcher(os.environ)
        note(str(os.getpid()))
        time.sleep(600)
        """
    )
    pid = int(launched.wait_for(1)[0])
    launched.process.kill()
    launched.process.wait()
    deadline = time.monotonic() + 30
    while _lives(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_orphans_are_taken_over_by_process_1(tmp_path: Path) -> None:
    """In a process name space of its own, where the kernel allows one."""
    unshare = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel gives no name spaces to users")
    program = tmp_path / "worker.py"
    program.write_text(
        _PRELUDE
        + textwrap.dedent(
            """
            assert os.getppid() == 1
            if os.fork() == 0:
                if os.fork() == 0:
                    time.sleep(0.3)  # by then an orphan: process 1 is its parent
                    os._exit(0)
                os._exit(0)
            os.wait()
            time.sleep(1.0)
            files = pathlib.Path("/proc").glob("[0-9]*/stat")
            states = [file.read_text().rpartition(")")[2].split()[0] for file in files]
            note("".join(sorted(states)))
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            os.kill(1, signal.SIGTERM)
            time.sleep(600)
            """
        )
    )
    environ = {**os.environ, "FOLDER": str(tmp_path)}
    done = subprocess.run(
        [*unshare, sys.executable, "-c", _LAUNCH, "1", str(program), "{}"],
        env=environ,
        check=False,
        timeout=60,
    )
    assert done.returncode == 143
    assert "Z" not in (tmp_path / "notes").read_text()


def test_only_committed_checkpoints_count_as_progress(tmp_path: Path) -> None:
    environ = {environment.RUN_DIRECTORY: str(tmp_path)}
    assert committed_step({}) == -1
    assert committed_step(environ) == -1
    for name in ("step-000000007.g1", "step-000000012.g2", "step-000000099.g3.tmp", "other"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert committed_step(environ) == 12


def test_a_stage_sets_threads_and_its_own_variables() -> None:
    hardware = HardwareSettings(threads=3, environment={"GLOO_SOCKET_IFNAME": "lo"})
    found = processes.stage_environment(hardware, 2, {})
    assert found == {"OMP_WAIT_POLICY": "PASSIVE", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "3"}
    shared = processes.stage_environment(HardwareSettings(), 64, {"OMP_WAIT_POLICY": "ACTIVE"})
    assert shared == {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "1"}
