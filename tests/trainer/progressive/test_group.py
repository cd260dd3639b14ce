"""Several processes train together: what they agree on, what they compute, what they do when one is gone."""

from __future__ import annotations

import multiprocessing
import queue
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.trainer.progressive import group_scenarios

from nascale_trainer.progressive import group, sharded
from nascale_trainer.progressive.ranks import AloneRanks, PeerLost

_PATIENCE_SECONDS = 100
Together = Callable[..., dict[int, Any]]


@pytest.fixture(scope="module")
def context() -> Any:
    """Processes that find torch imported: the server that forks them has done so once."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([group.__name__, sharded.__name__])
    return made


@pytest.fixture
def together(context: Any, tmp_path: Path) -> Iterator[Together]:
    """Run a scenario in several processes; return what each has answered, by rank."""
    started: list[BaseProcess] = []

    def run(
        name: str, world: int, *, silent: int = 0, late: int | None = None, **environ: str
    ) -> dict[int, Any]:
        answers = context.Queue()
        order = sorted(range(world), key=lambda rank: rank == late)
        for rank in order:
            if rank == late:
                time.sleep(1.0)
            process = context.Process(
                target=group_scenarios.enter, args=(name, (rank, world), tmp_path, answers, environ)
            )
            process.start()
            started.append(process)
        found = {}
        for _ in range(world - silent):
            try:
                rank, answer = answers.get(timeout=_PATIENCE_SECONDS)
            except queue.Empty:
                pytest.fail(f"answered in {_PATIENCE_SECONDS} s: {found}")
            found[rank] = answer
        return found

    yield run
    for process in started:
        process.kill()
        process.join()


def close(one: dict[str, list[float]], other: dict[str, list[float]], tolerance: float = 1e-5) -> bool:
    """Compare weights: sums over processes are reduced in another order."""
    assert one.keys() == other.keys()
    return all(
        torch.allclose(torch.tensor(one[name]), torch.tensor(other[name]), atol=tolerance, rtol=0)
        for name in one
    )


def alone(name: str, folder: Path) -> Any:
    return getattr(group_scenarios, name)(AloneRanks(torch.device("cpu")), folder)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_agree(together: Together, world: int) -> None:
    nothing = {"stop": False, "revision": 0, "diverged": False, "checkpoint": False}
    found = together("talk", world, late=0)
    assert sorted(found) == list(range(world))
    for answer in found.values():
        assert answer == {
            # One step late: what was told in a step is known in the next one, the first and last included.
            "signals": [
                nothing,
                {**nothing, "stop": True, "revision": 7},
                nothing,
                {**nothing, "diverged": True},
                nothing,
            ],
            "total": [world, sum(range(world))],
            "documents": ["schrittweise: ä", "", None],
            "agreed": (),
            "objections": tuple(f"objection of {rank}" for rank in range(1, world)),
            "mean": [sum(range(world)) / world, 1.0],
            "count": 0,
        }


@pytest.mark.parametrize("kind", ["train_ddp", "train_fsdp"])
def test_several_processes_learn_what_one_does(together: Together, kind: str, tmp_path: Path) -> None:
    expected = alone("train_ddp", tmp_path)
    for weights in together(kind, 2).values():
        assert close(weights, expected)


@pytest.mark.parametrize("kind", ["train_ddp_with_a_block_left_out", "train_fsdp_with_a_block_left_out"])
def test_a_block_may_be_left_out_and_begin(together: Together, kind: str, tmp_path: Path) -> None:
    expected = alone("train_ddp_with_a_block_left_out", tmp_path)
    for weights in together(kind, 2).values():
        assert close(weights, expected)


@pytest.mark.parametrize("kind", ["train_bf16_hook", "train_fp16_hook"])
def test_gradients_may_travel_in_half_the_bytes(together: Together, kind: str, tmp_path: Path) -> None:
    exact = alone("train_ddp", tmp_path)
    found = together(kind, 2)
    assert found[0] == found[1]
    assert found[0] != exact
    assert close(found[0], exact, tolerance=0.02)


def test_checkpoints_are_read_by_any_number_of_processes(
    together: Together, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    straight = tmp_path_factory.mktemp("straight")
    for name, world in (("ddp", 1), ("fsdp", 2), ("ddp", 3), ("fsdp", 3), ("ddp", 1)):
        expected = alone("reshard_ddp", straight)
        scenario = f"reshard_{name}"
        found = together(scenario, world) if world > 1 else {0: alone(scenario, tmp_path)}
        assert len(found) == world
        for weights in found.values():
            assert isinstance(weights, dict), weights
            assert close(weights, expected)


def test_a_process_that_is_killed_is_noticed(together: Together) -> None:
    found = together("die", 3, silent=1)
    assert sorted(found) == [0, 1]
    for answer in found.values():
        assert answer.startswith("PeerLost: ")


def test_a_process_that_hangs_is_noticed(together: Together) -> None:
    found = together("hang", 2, **{group.COLLECTIVE_TIMEOUT: "2"})
    assert found[0].startswith("PeerLost: ")


def test_a_fault_of_ones_own_is_no_lost_peer(together: Together) -> None:
    assert together("own_fault", 2) == dict.fromkeys(range(2), "RuntimeError: shapes differ")


@pytest.mark.parametrize("rank", [0, 1])
def test_who_waits_in_vain_ends_in_time(tmp_path: Path, rank: int) -> None:
    environ = {**group_scenarios.environ(rank, tmp_path), group.MEETING_TIMEOUT: "0.5"}
    with pytest.raises(PeerLost):
        group.form_ranks(group_scenarios.order(2), environ)


def test_alone_nobody_is_met(tmp_path: Path) -> None:
    ranks = group.form_ranks(group_scenarios.order(1), group_scenarios.environ(0, tmp_path))
    assert isinstance(ranks, AloneRanks)
    assert list(tmp_path.iterdir()) == []


def test_several_processes_need_a_folder() -> None:
    with pytest.raises(ValueError, match="NASCALE_RUN_DIRECTORY: must be set"):
        group.form_ranks(group_scenarios.order(2), {})


def test_the_interface_is_found_by_the_address() -> None:
    assert group.interface_of("127.0.0.1") == "lo"
    assert group.interface_of("203.0.113.77") is None


def test_the_interface_is_found_by_an_ipv6_address(tmp_path: Path) -> None:
    (tmp_path / "if_inet6").write_text("00000000000000000000000000000001 01 80 10 80       lo\n")
    assert group.interface_of("::1", tmp_path) == "lo"
    assert group.interface_of("::2", tmp_path) is None
