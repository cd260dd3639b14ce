"""Several processes that train together: gloo for what they agree on, gloo or NCCL for gradients."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import distributed, nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from nascale.contract import environment
from nascale.contract.run_order import RunOrder
from nascale.contract.stage_settings import CommunicationHook, HardwareSettings, Parallelism
from nascale_trainer.progressive.processes import LOCAL_RANK
from nascale_trainer.progressive.ranks import AloneRanks, PeerLost, Ranks, Signals
from nascale_trainer.progressive.rendezvous import TIMEOUT_SECONDS as MEETING_SECONDS
from nascale_trainer.progressive.rendezvous import Place, meet

if TYPE_CHECKING:  # almost a second of imports, which a training with DDP does not need
    from torch.distributed.fsdp import FSDPModule

COLLECTIVE_SECONDS: Final = 600.0
"""Longest time that one process waits for the others: a compilation or a part of an evaluation fits in it."""
COLLECTIVE_TIMEOUT: Final = "NASCALE_COLLECTIVE_TIMEOUT_SECONDS"
"""Replaces ``COLLECTIVE_SECONDS``."""
MEETING_TIMEOUT: Final = "NASCALE_MEETING_TIMEOUT_SECONDS"
"""Replaces the longest time that all may take to meet."""
INTERFACE: Final = "GLOO_SOCKET_IFNAME"

_SIOCGIFADDR: Final = 0x8915
_HOOKS: Final = {
    CommunicationHook.BF16: default_hooks.bf16_compress_hook,
    CommunicationHook.FP16: default_hooks.fp16_compress_hook,
}
_SIGNS_OF_LOSS: Final = (
    "gloo",
    "nccl",
    "connection closed by peer",
    "connection reset by peer",
    "timed out waiting",
    "broken pipe",
    "tcpstore",
    "socket",
)


@contextmanager
def watching_peers() -> Iterator[None]:
    """Turn what torch raises when another process is gone into ``PeerLost``.

    Collectives run within backward passes as well, where torch raises a plain ``RuntimeError``.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, distributed.DistError) or any(sign in text.lower() for sign in _SIGNS_OF_LOSS):
            raise PeerLost(text.partition("\n")[0]) from error
        raise


class GroupRanks:
    """One process among several."""

    def __init__(
        self,
        place: Place,
        store: Store,
        device: torch.device,
        *,
        timeout_seconds: float = COLLECTIVE_SECONDS,
    ) -> None:
        """Form the groups; all processes do so together.

        Args:
            place: Which process this is.
            store: What ``meet`` has returned.
            device: Device of this process.
            timeout_seconds: Longest time to wait for the others in one operation.

        Raises:
            PeerLost: one of them was lost meanwhile.
        """
        self.rank = place.rank
        self.world = place.world
        self.device = device
        if INTERFACE not in os.environ and (name := interface_of(place.address)) is not None:
            # By default gloo takes what the host's name resolves to, which need not be the pod's address.
            os.environ[INTERFACE] = name
        timeout = timedelta(seconds=timeout_seconds)
        with watching_peers():
            distributed.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=PrefixStore("data", store),
                rank=place.rank,
                world_size=place.world,
                timeout=timeout,
                device_id=device if device.type == "cuda" else None,
            )
            # Apart from gradients: a vector of flags under way must not stand between two of their sums.
            group = distributed.new_group(backend="gloo", timeout=timeout)
        self.control = cast("distributed.ProcessGroup", group)
        self._flags: torch.Tensor | None = None
        self._under_way: distributed.Work | None = None

    def exchange(self, signals: Signals) -> Signals:
        """Give this step's signals, without waiting; return all processes' maximum of the step before.

        The first call returns nothing but defaults: nobody has told anything before.
        """
        with watching_peers():
            before = self._received(type(signals))
            self._flags = torch.tensor([int(value) for value in vars(signals).values()], dtype=torch.int64)
            self._under_way = distributed.all_reduce(
                self._flags, distributed.ReduceOp.MAX, group=self.control, async_op=True
            )
        return before

    def broadcast(self, document: str | None) -> str | None:
        """Return rank 0's document to all."""
        with watching_peers():
            encoded = b"" if document is None else b"\1" + document.encode()
            length = torch.tensor([len(encoded) if self.rank == 0 else 0], dtype=torch.int64)
            distributed.broadcast(length, 0, group=self.control)
            size = int(length)
            if size == 0:
                return None
            content = (
                torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
                if self.rank == 0
                else torch.empty(size, dtype=torch.uint8)
            )
            distributed.broadcast(content, 0, group=self.control)
        return bytes(content.tolist())[1:].decode()

    def objections(self, mine: str | None) -> tuple[str, ...]:
        """Return what any process has against a proposal, in order of rank."""
        with watching_peers():
            anybody = torch.tensor([int(mine is not None)], dtype=torch.int64)
            distributed.all_reduce(anybody, distributed.ReduceOp.MAX, group=self.control)
            if not int(anybody):
                return ()
            gathered: list[str | None] = [None] * self.world
            distributed.all_gather_object(gathered, mine, group=self.control)
        return tuple(objection for objection in gathered if objection is not None)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes, float64, on the CPU."""
        summed = values.detach().to("cpu", torch.float64, copy=True)
        with watching_peers():
            distributed.all_reduce(summed, group=self.control)
        return summed

    def barrier(self) -> None:
        """Wait for all."""
        with watching_peers():
            distributed.barrier(group=self.control)

    def wrap(self, network: nn.Module, hardware: HardwareSettings) -> nn.Module:
        """Return the network ready for training together.

        FSDP shards the network in place: the bare network's parameters are then ``DTensor``. It does so once;
        a process that has sharded a network can't take it back (the change needs a Restart).
        """
        with watching_peers():
            if _is_sharded(network):
                return network
            if hardware.parallelism is Parallelism.FSDP:
                return self._sharded(network)
            with warnings.catch_warnings():
                # The newer name of ``broadcast_buffers`` is unknown to the oldest torch that we take.
                warnings.filterwarnings("ignore", message="`broadcast_buffers`", category=FutureWarning)
                wrapped = DistributedDataParallel(
                    network,
                    device_ids=[self.device] if self.device.type == "cuda" else None,
                    # Statistics are averaged by ``settle``, when they are used, not sent before every step.
                    broadcast_buffers=False,
                    # Blocks that a stage's depth or stochastic depth leaves out get no gradient.
                    find_unused_parameters=True,
                )
            hook = _HOOKS.get(hardware.communication_hook)
            if hook is not None:
                wrapped.register_comm_hook(None, hook)
        return wrapped

    def no_sync(self, wrapped: nn.Module) -> AbstractContextManager[Any]:
        """Leave gradients unsynchronised within the block."""
        if _is_sharded(wrapped):
            return _without_reduction(cast("FSDPModule", wrapped))
        if isinstance(wrapped, DistributedDataParallel):
            return cast("AbstractContextManager[Any]", wrapped.no_sync())
        return nullcontext()

    def settle(self, network: nn.Module) -> None:
        """Give the bare network's buffers the mean over all processes; counts are the same everywhere."""
        floating = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        if not floating:
            return
        together = self.total(torch.cat([buffer.detach().double().cpu().flatten() for buffer in floating]))
        parts = torch.split(together / self.world, [buffer.numel() for buffer in floating])
        with torch.no_grad():
            for buffer, part in zip(floating, parts, strict=True):
                buffer.copy_(part.view_as(buffer))

    def close(self) -> None:
        """Leave the group, after what is under way; peers that are gone don't matter any more."""
        try:
            with watching_peers():
                self._received(Signals)
        except PeerLost:
            pass
        finally:
            distributed.destroy_process_group()

    def _received(self, kind: type[Signals]) -> Signals:
        if self._under_way is None or self._flags is None:
            return kind()
        self._under_way.wait()
        names = vars(kind()).items()
        values = self._flags.tolist()
        self._under_way = self._flags = None
        return kind(**{name: type(value)(got) for (name, value), got in zip(names, values, strict=True)})

    def _sharded(self, network: nn.Module) -> nn.Module:
        from torch.distributed.device_mesh import DeviceMesh  # noqa: PLC0415  # see FSDPModule's import
        from torch.distributed.fsdp import fully_shard  # noqa: PLC0415  # see FSDPModule's import

        mesh = DeviceMesh(self.device.type, list(range(self.world)))
        for child in _blocks(network):
            fully_shard(child, mesh=mesh)
        return cast("nn.Module", fully_shard(network, mesh=mesh))


def form_ranks(order: RunOrder, environ: Mapping[str, str]) -> Ranks:
    """Meet the generation's other processes, if there are any, and form the groups.

    Args:
        order: The run order.
        environ: The environment: the pod's index and address, the run's folder, the time limits.

    Raises:
        PeerLost: they have not met in time.
        ValueError: the environment names no place among them.
    """
    place = Place.of(order, environ)
    device = device_of(int(environ.get(LOCAL_RANK) or "0"))
    if place.world == 1:
        return AloneRanks(device)
    folder = environ.get(environment.RUN_DIRECTORY)
    if not folder:
        raise ValueError(f"{environment.RUN_DIRECTORY}: must be set where several processes train together")
    store = meet(place, Path(folder), timeout_seconds=_seconds(environ, MEETING_TIMEOUT, MEETING_SECONDS))
    timeout = _seconds(environ, COLLECTIVE_TIMEOUT, COLLECTIVE_SECONDS)
    return GroupRanks(place, store, device, timeout_seconds=timeout)


def interface_of(address: str, folder: Path = Path("/proc/net")) -> str | None:
    """Return the name of the network interface that has an address; ``None``: not found."""
    if ":" in address:
        wanted = socket.inet_pton(socket.AF_INET6, address).hex()
        try:
            lines = (folder / "if_inet6").read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        return next((line.split()[-1] for line in lines if line.split()[0] == wanted), None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, request)
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def device_of(local_rank: int) -> torch.device:
    """Return the device of a pod's process: a GPU for each, else the processor."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    try:
        seconds = float(environ.get(name) or default)
    except ValueError:
        return default
    return seconds if seconds > 0 else default


def _is_sharded(network: nn.Module) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # what was not imported has sharded nothing
    return fsdp is not None and isinstance(network, fsdp.FSDPModule)


@contextmanager
def _without_reduction(wrapped: FSDPModule) -> Iterator[None]:
    wrapped.set_requires_gradient_sync(requires_gradient_sync=False)
    try:
        yield
    finally:
        wrapped.set_requires_gradient_sync(requires_gradient_sync=True)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Return the parts that are gathered one at a time: members of the network's lists of blocks.

    What lies within one is left whole, for its parameters are wanted together.
    """
    found: list[nn.Module] = []
    for child in network.children():
        if isinstance(child, (nn.ModuleList, nn.Sequential)):
            found += [block for block in child if any(True for _ in block.parameters())]
        else:
            found += _blocks(child)
    return found
