"""The optimizer: parameter groups, the loss scale of FP16, state by parameters' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nascale.contract.run_order import OptimizerName, OptimizerOrder, StageOrder
from nascale.contract.stage_settings import MemoryFormat
from nascale.contract.work_order import Precision
from nascale_trainer.progressive.optimizers import SECOND_BETA, SGD, AdamW, Optimizer
from nascale_trainer.progressive.tensors import arranged, like

OptimizerState = dict[str, dict[str, torch.Tensor]]
"""By parameter's name, then by the optimizer's own name for it."""


class Optimization:
    """Takes steps with a network's gradients."""

    def __init__(self, network: nn.Module, order: OptimizerOrder, device: torch.device) -> None:
        """Prepare.

        Args:
            network: As it is trained: on its device, spread over processes where it will be.
            order: Which optimizer.
            device: The network's.
        """
        self._order, self._device = order, device
        self._names: dict[torch.Tensor, str] = {
            parameter: name for name, parameter in network.named_parameters()
        }
        self._scaler: torch.amp.GradScaler | None = None
        self._scaled = False
        weights = [parameter for parameter in self._names if parameter.ndim > 1]
        others = [parameter for parameter in self._names if parameter.ndim <= 1]
        groups = [
            {"params": part, "lr": order.learning_rate, "weight_decay": 0.0}
            for part in (weights, others)
            if part
        ]
        self.optimizer: Optimizer = AdamW(groups) if order.name is OptimizerName.ADAMW else SGD(groups)

    def set_stage(self, stage: StageOrder) -> None:
        """Put a stage's settings in force: weight decay, momentum, loss scale."""
        momentum = stage.model.momentum
        for group in self.optimizer.param_groups:
            decayed = group["params"][0].ndim > 1
            group["weight_decay"] = stage.model.weight_decay if decayed else 0.0
            if self._order.name is OptimizerName.ADAMW:
                group["betas"] = (momentum, SECOND_BETA)
            else:
                group["momentum"] = momentum
        if momentum == 0 and self._order.name is OptimizerName.SGD:
            # What it gathered before would come back, out of date, with the next momentum.
            self.optimizer.drop("momentum_buffer")
        self._scaled = stage.hardware.precision is Precision.FP16
        if self._scaled and self._scaler is None:
            self._scaler = torch.amp.GradScaler(self._device.type)

    @property
    def rate(self) -> float:
        """Learning rate in force."""
        return float(self.optimizer.param_groups[0]["lr"])

    @rate.setter
    def rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = value

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        if self._scaled and self._scaler is not None:
            loss = self._scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def keep_gradients(self) -> None:
        """Copy the gradients so far out of memory that the next micro-batch's CUDA graphs write anew."""
        for parameter in self._names:
            if parameter.grad is not None:
                parameter.grad = parameter.grad.clone()

    def step(self) -> None:
        """Take a step with the gradients, and drop them."""
        scaler = self._scaler if self._scaled else None
        if self._order.gradient_clip is not None:
            if scaler is not None:
                scaler.unscale_(self.optimizer)  # type: ignore[arg-type]  # see below
            nn.utils.clip_grad_norm_(self._names, self._order.gradient_clip)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)  # type: ignore[arg-type]  # it looks at param_groups and step alone
            scaler.update()
        self.optimizer.zero_grad()

    def arrange(self, memory_format: MemoryFormat) -> None:
        """Put the state's tensors into the weights' order in memory."""
        self.optimizer.change(lambda value: arranged(value, memory_format))

    def state(self) -> OptimizerState:
        """Return the state by parameters' names; a parameter that had no gradient yet has none."""
        return {
            self._names[parameter]: dict(state) for parameter, state in self.optimizer.state.items() if state
        }

    def load(self, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Take up a state, whatever number of processes it comes from.

        Raises:
            KeyError: it is of another network.
        """
        parameters = {name: parameter for parameter, name in self._names.items()}
        self.optimizer.zero_grad()
        self.optimizer.load(
            {
                parameters[name]: {
                    key: like(value, parameters[name])
                    if value.shape == parameters[name].shape and value.dim()
                    else value.to(self._device)
                    for key, value in values.items()
                }
                for name, values in state.items()
            }
        )

    def scaler_state(self) -> dict[str, Any] | None:
        """Return the loss scale's state as JSON values; ``None``: there was never one."""
        return self._scaler.state_dict() if self._scaler is not None else None

    def load_scaler(self, state: Mapping[str, Any] | None) -> None:
        """Take up the loss scale's state."""
        if state is None:
            self._scaler = torch.amp.GradScaler(self._device.type) if self._scaled else None
            return
        self._scaler = torch.amp.GradScaler(self._device.type)
        self._scaler.load_state_dict(dict(state))

    @property
    def scale(self) -> float | None:
        """Loss scale in force; ``None``: losses are not scaled."""
        return self._scaler.get_scale() if self._scaled and self._scaler is not None else None
