"""What a process does in the tests of groups: each function runs in a process of its own, by gloo."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nascale.contract import environment
from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.stage_settings import (
    CommunicationHook,
    HardwareSettings,
    ModelSettings,
    Parallelism,
)
from nascale.contract.work_order import RunIdentity
from nascale_trainer.progressive import group, processes, sharded
from nascale_trainer.progressive.ranks import PeerLost, Ranks, Signals

Scenario = Callable[[Ranks, Path], Any]
STEPS = 4
BATCH = 12


def order(workers: int, processes_per_worker: int = 1, generation: int = 1) -> RunOrder:
    hardware = HardwareSettings(workers=workers, processes_per_worker=processes_per_worker)
    return RunOrder(
        run=RunIdentity(namespace="default", name="run", uid="u", kind="ProgressiveTraining"),
        generation=generation,
        length="1ep",
        stages=(StageOrder(name="only", model=ModelSettings(), hardware=hardware),),
        workers=workers,
        processes_per_worker=processes_per_worker,
    )


def environ(index: int, folder: Path, local: int = 0, **more: str) -> dict[str, str]:
    return {
        environment.WORKER_INDEX: str(index),
        environment.RUN_DIRECTORY: str(folder),
        processes.LOCAL_RANK: str(local),
        group.MEETING_TIMEOUT: "60",
        group.COLLECTIVE_TIMEOUT: "20",
        **more,
    }


def enter(name: str, place: tuple[int, int], folder: Path, answers: Any, more: dict[str, str]) -> None:
    """Meet, run a scenario, answer with what it returns or raises."""
    index, world = place
    torch.set_num_threads(1)
    try:
        ranks = group.form_ranks(order(world), environ(index, folder, **more))
        found = globals()[name](ranks, folder)
        ranks.close()
    except Exception as error:  # noqa: BLE001  # it is the answer
        found = f"{type(error).__name__}: {error}"
    answers.put((index, found))


def talk(ranks: Ranks, _folder: Path) -> dict[str, Any]:
    """Use everything that ranks agree with."""
    rank, last = ranks.rank, ranks.world - 1
    seen = [ranks.exchange(Signals(stop=rank == last, revision=7 if rank == 0 else 0))]
    seen.append(ranks.exchange(Signals()))
    seen.append(ranks.exchange(Signals(diverged=rank == 1)))
    # A step that nobody makes: other collectives come between two exchanges.
    total = ranks.total(torch.tensor([1.0, float(rank)]))
    seen.append(ranks.exchange(Signals()))
    seen.append(ranks.exchange(Signals(checkpoint=True)))
    documents = [
        ranks.broadcast("schrittweise: ä" if rank == 0 else None),
        ranks.broadcast("" if rank == 0 else "not rank 0's"),
        ranks.broadcast(None),
    ]
    agreed = ranks.objections(None)
    objections = ranks.objections(f"objection of {rank}" if rank != 0 else None)
    ranks.barrier()
    network = nn.BatchNorm1d(2)
    network.running_mean = torch.tensor([float(rank), 1.0])
    ranks.settle(network)
    return {
        "signals": [vars(signals) for signals in seen],
        "total": total.tolist(),
        "documents": documents,
        "agreed": agreed,
        "objections": objections,
        "mean": network.running_mean.tolist(),
        "count": int(network.num_batches_tracked or 0),
    }


class Net(nn.Module):
    """Small; its second block may be left out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.head = nn.Linear(8, 3)
        self.active = 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.stem(x))
        for block in self.blocks[: self.active]:
            x = x + torch.tanh(block(x))
        return self.head(x)  # type: ignore[no-any-return]


def samples(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 6, generator=generator), torch.randn(BATCH, 3, generator=generator)


def steps(
    ranks: Ranks, wrapped: nn.Module, optimizer: torch.optim.Optimizer, begin: int, accumulation: int = 2
) -> None:
    """Train a few steps; each process takes its part of the global batch in micro-batches."""
    micro = BATCH // ranks.world // accumulation
    for step in range(begin, begin + STEPS):
        inputs, targets = samples(step)
        for turn in range(accumulation):
            place = (ranks.rank * accumulation + turn) * micro
            part = slice(place, place + micro)

            last = turn == accumulation - 1
            with group.watching_peers(), nullcontext() if last else ranks.no_sync(wrapped):
                loss = nn.functional.mse_loss(wrapped(inputs[part]), targets[part]) / accumulation
                loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def whole(value: Any) -> torch.Tensor:
    return value.full_tensor().cpu() if hasattr(value, "full_tensor") else value.detach()  # type: ignore[no-any-return]


def trained(ranks: Ranks, hardware: HardwareSettings, *, active: int = 2) -> dict[str, list[float]]:
    network = Net()
    network.active = active
    wrapped = ranks.wrap(network, hardware)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    steps(ranks, wrapped, optimizer, 0)
    network.active = 2  # a block begins: the network is wrapped once more
    steps(ranks, ranks.wrap(network, hardware), optimizer, STEPS)
    return {name: whole(value).flatten().tolist() for name, value in network.state_dict().items()}


def train_ddp(ranks: Ranks, _folder: Path) -> Any:
    return trained(ranks, HardwareSettings())


def train_ddp_with_a_block_left_out(ranks: Ranks, _folder: Path) -> Any:
    return trained(ranks, HardwareSettings(), active=1)


def train_bf16_hook(ranks: Ranks, _folder: Path) -> Any:
    return trained(ranks, HardwareSettings(communication_hook=CommunicationHook.BF16))


def train_fp16_hook(ranks: Ranks, _folder: Path) -> Any:
    return trained(ranks, HardwareSettings(communication_hook=CommunicationHook.FP16))


def train_fsdp(ranks: Ranks, _folder: Path) -> Any:
    return trained(ranks, HardwareSettings(parallelism=Parallelism.FSDP))


def train_fsdp_with_a_block_left_out(ranks: Ranks, _folder: Path) -> Any:
    return trained(ranks, HardwareSettings(parallelism=Parallelism.FSDP), active=1)


def _state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {
        "network": dict(network.state_dict()),
        "optimizer": {names[parameter]: dict(state) for parameter, state in optimizer.state.items()},
    }


def _save_and_load(ranks: Ranks, folder: Path, hardware: HardwareSettings) -> Any:
    """Take up what the last world has left, train, leave it to the next one."""
    network = Net()
    wrapped = ranks.wrap(network, hardware)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    parameters = dict(network.named_parameters())
    control = ranks.control if isinstance(ranks, group.GroupRanks) else None
    saved = sorted(folder.glob("saved-*"))
    if saved:

        def placement(path: tuple[str, ...], shape: torch.Size) -> torch.Tensor | None:
            parameter = parameters[path[1]]
            return parameter.detach() if parameter.shape == shape else None

        state = sharded.read(saved[-1], placement, control)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state["network"][name])
        optimizer.state.update({parameters[name]: value for name, value in state["optimizer"].items()})
    steps(ranks, wrapped, optimizer, STEPS * len(saved), accumulation=1)
    target = folder / f"saved-{len(saved)}"
    ranks.barrier()
    target.mkdir(exist_ok=True)
    sharded.write(target, _state(network, optimizer), control)
    ranks.barrier()
    return {name: whole(value).flatten().tolist() for name, value in network.state_dict().items()}


def reshard_ddp(ranks: Ranks, folder: Path) -> Any:
    return _save_and_load(ranks, folder, HardwareSettings())


def reshard_fsdp(ranks: Ranks, folder: Path) -> Any:
    return _save_and_load(ranks, folder, HardwareSettings(parallelism=Parallelism.FSDP))


def die(ranks: Ranks, _folder: Path) -> Any:
    """The last rank is killed between two steps; the others must notice at the next one."""
    network = Net()
    wrapped = ranks.wrap(network, HardwareSettings())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    steps(ranks, wrapped, optimizer, 0, accumulation=1)
    if ranks.rank == ranks.world - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        steps(ranks, wrapped, optimizer, STEPS, accumulation=1)
    except PeerLost:
        pass
    else:
        return "did not notice in a backward pass"
    for _ in range(2):
        ranks.exchange(Signals())
    return "did not notice in an exchange"


def hang(ranks: Ranks, _folder: Path) -> Any:
    """The last rank stops answering."""
    if ranks.rank == ranks.world - 1:
        time.sleep(8)
        return "slept"
    ranks.exchange(Signals())
    ranks.exchange(Signals())
    return "did not notice"


def own_fault(_ranks: Ranks, _folder: Path) -> Any:
    with group.watching_peers():
        raise RuntimeError("shapes differ")
