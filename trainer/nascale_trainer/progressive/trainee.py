"""The network in training, with all that changes from stage to stage put in force on it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from nascale.contract.run_order import RunOrder, StageOrder
from nascale.contract.stage_settings import micro_batch
from nascale.contract.switch_class import SwitchClass
from nascale_trainer.progressive.average import Average
from nascale_trainer.progressive.numerics import autocast, compiled, has_graphs, set_matmul_precision
from nascale_trainer.progressive.optimization import Optimization
from nascale_trainer.progressive.ranks import Ranks
from nascale_trainer.progressive.refusal import CannotTrain
from nascale_trainer.progressive.run_checkpoint import State
from nascale_trainer.progressive.sampling import SampleOrder, derived_seed
from nascale_trainer.progressive.task import MicroBatchPlace, TrainingTask
from nascale_trainer.progressive.tensors import all_finite, arrange, is_spread, like, whole

_NUMPY_SEEDS = 2**32


class Trainee:
    """A network, its optimizer, the average of its weights, and what is called to train it.

    Attributes:
        network: The bare network, owner of all parameters.
        optimization: The optimizer.
        average: Moving average of the weights, where the order asks for one.
    """

    def __init__(
        self,
        task: TrainingTask,
        order: RunOrder,
        ranks: Ranks,
        stage: StageOrder,
        network: nn.Module | None = None,
    ) -> None:
        """Build the network, where it isn't given, and put a stage in force on it."""
        self._task, self._order, self._ranks = task, order, ranks
        self._samples = SampleOrder(order.seed, task.samples)
        self._stage = stage
        self.network = (task.build(order.seed) if network is None else network).to(ranks.device)
        self.network.train()
        task.prepare(stage)
        task.apply(self.network, stage)
        set_matmul_precision(stage.hardware)
        arrange(self.network, stage.hardware.memory_format)
        self._wrapped = ranks.wrap(self.network, stage.hardware)
        self._call = compiled(self._wrapped, stage.hardware.compilation, ranks.device)
        self.optimization = Optimization(self.network, order.optimizer, ranks.device)
        self.optimization.set_stage(stage)
        decay = order.optimizer.average_decay
        self.average = Average(self.network, decay) if decay > 0 else None

    @property
    def stage(self) -> StageOrder:
        """The stage in force."""
        return self._stage

    @property
    def call(self) -> nn.Module:
        """What the task's loss is given: wrapped and compiled as the stage says."""
        return self._call

    def grow(self, before: StageOrder, after: StageOrder) -> None:
        """Let what becomes active with the next stage begin as the identity."""
        with self.average.taking_over_changes() if self.average else nullcontext():
            self._task.initialise_grown(self.network, before, after)

    def put_in_force(self, stage: StageOrder, kind: SwitchClass) -> None:
        """Change to a stage within this process.

        Args:
            stage: The stage.
            kind: Class of the change; a Live one leaves the graph and the layout alone.
        """
        self._stage = stage
        self._task.prepare(stage)
        self._task.apply(self.network, stage)
        self.optimization.set_stage(stage)
        if kind in (SwitchClass.NONE, SwitchClass.LIVE):
            return
        hardware = stage.hardware
        set_matmul_precision(hardware)
        arrange(self.network, hardware.memory_format)
        self.optimization.arrange(hardware.memory_format)
        self._wrapped = self._ranks.wrap(self.network, hardware)
        self._call = compiled(self._wrapped, hardware.compilation, self._ranks.device)

    def step(self, step: int, cursor: int, rate: float) -> torch.Tensor:
        """Take one optimizer step.

        Args:
            step: Steps of the run before this one.
            cursor: Number of the step's first sample.
            rate: Learning rate.

        Returns:
            Mean loss of this process's samples, a scalar on the device.
        """
        stage, ranks = self._stage, self._ranks
        accumulation = stage.hardware.accumulation
        graphs = has_graphs(stage.hardware.compilation, ranks.device)
        self.optimization.rate = rate
        total: torch.Tensor | None = None
        for number in range(accumulation):
            batch = self._batch(step, cursor, number)
            last = number == accumulation - 1
            with nullcontext() if last else ranks.no_sync(self._wrapped):
                if graphs:
                    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                with autocast(ranks.device, stage.hardware.precision):
                    loss = self._task.loss(self._call, batch, stage)
                share = loss.detach().float()
                if accumulation > 1:
                    loss, share = loss / accumulation, share / accumulation
                total = share if total is None else total + share
                self.optimization.backward(loss)
            if graphs and number == 0 and not last:
                self.optimization.keep_gradients()  # further ones are added to these, in place
        self.optimization.step()
        if self.average is not None:
            self.average.update(step + 1)
        if total is None:
            raise RuntimeError("a step must have a micro-batch")
        return total

    def numbers(self, cursor: int, number: int) -> tuple[int, int]:
        """Return the first and the count of this process's samples: a fixed place in the global batch."""
        stage, ranks = self._stage, self._ranks
        size = micro_batch(stage.model, stage.hardware)
        if size is None:
            raise CannotTrain(
                "IndivisibleBatch", f"stage {stage.name}: globalBatch: must be shared evenly by its processes"
            )
        return cursor + (number * ranks.world + ranks.rank) * size, size

    @contextmanager
    def for_evaluation(self) -> Iterator[nn.Module]:
        """Give the network as it is evaluated and kept: with averaged weights, where there are any."""
        self._ranks.settle(self.network)
        with self.average.in_force() if self.average else nullcontext():
            yield self.network

    def complete(self) -> nn.Module:
        """Return a network with whole weights, within ``for_evaluation``; all processes call it alike."""
        state = self.network.state_dict()
        if not any(is_spread(value) for value in state.values()):
            return self.network
        weights = {name: whole(value) for name, value in state.items()}
        network = self._task.build(self._order.seed)
        network.load_state_dict(weights)
        self._task.apply(network, self._stage)
        return network.to(self._ranks.device).eval()

    def is_finite(self) -> bool:
        """Say whether this process's weights are all finite."""
        return all_finite(list(self.network.parameters()))

    def state(self) -> State:
        """Return all tensors that a checkpoint keeps; they are not copied."""
        state: State = {"network": dict(self.network.state_dict()), "optimizer": self.optimization.state()}
        if self.average is not None:
            state["average"] = self.average.state()
        return state

    def template(self) -> State:
        """Return how tensors are spread, for reading a checkpoint."""
        return {"network": dict(self.network.state_dict())}

    def load(self, state: State, scaler: dict[str, Any] | None) -> None:
        """Take up a state.

        Raises:
            CannotTrain: it is of another network.
        """
        templates = self.network.state_dict()
        found = state.get("network", {})
        if set(found) != set(templates) or any(
            found[name].shape != value.shape for name, value in templates.items() if torch.is_tensor(value)
        ):
            raise CannotTrain(
                "ForeignCheckpoint", "volume: its checkpoints must be of this network; names or shapes differ"
            )
        weights = {
            name: like(found[name], value) if torch.is_tensor(value) else found[name]
            for name, value in templates.items()
        }
        self.network.load_state_dict(weights)
        self.optimization.load(state.get("optimizer", {}))
        self.optimization.load_scaler(scaler)
        if self.average is not None:
            self.average.load(state.get("average"))

    def begin_anew(self) -> None:
        """Go back to the weights that the run began with."""
        fresh = self._task.build(self._order.seed)
        self.load({"network": dict(fresh.state_dict())}, None)

    def _batch(self, step: int, cursor: int, number: int) -> Any:
        begin, count = self.numbers(cursor, number)
        _seed(derived_seed(self._order.seed, "step", step, number, self._ranks.rank), self._ranks.device)
        place = MicroBatchPlace(
            torch.arange(begin, begin + count), self._samples.consecutive(begin, count), self._ranks.device
        )
        return self._task.batch(place, self._stage)


def _seed(seed: int, device: torch.device) -> None:
    """Seed all generators that a model or its data may draw from: no random state depends on history."""
    # torch.manual_seed would visit every kind of device.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed % _NUMPY_SEEDS)
