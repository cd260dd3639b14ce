"""The optimizer: parameter groups, the loss scale of FP16, state by parameters' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nascale.contract.run_order import OptimizerName, OptimizerOrder, StageOrder
from nascale.contract.stage_settings import MemoryFormat
from nascale.contract.work_order import Precision
from nascale_trainer.progressive.tensors import arranged, like

_SECOND_BETA = 0.999
"""AdamW's own default; the first beta is the stage's momentum."""

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
        self._weight_decay = 0.0
        weights = [parameter for parameter in self._names if parameter.ndim > 1]
        others = [parameter for parameter in self._names if parameter.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": part} for part in (weights, others)]
        self.optimizer = self._make([group for group in groups if group["params"]])
        self._decayed = weights

    def _make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        rate = self._order.learning_rate
        if self._order.name is OptimizerName.ADAMW:
            return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0, fused=True)
        # Not fused: a fused one is called for gradients that overflowed too, and would be decayed for them.
        optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True, foreach=True)
        optimizer.register_step_pre_hook(lambda *_: self._decay())
        return optimizer

    def set_stage(self, stage: StageOrder) -> None:
        """Put a stage's settings in force: weight decay, momentum, loss scale."""
        self._weight_decay = stage.model.weight_decay
        momentum = stage.model.momentum
        for group in self.optimizer.param_groups:
            if self._order.name is OptimizerName.ADAMW:
                decayed = group["params"][0].ndim > 1
                group["weight_decay"] = self._weight_decay if decayed else 0.0
                group["betas"] = (momentum, _SECOND_BETA)
            else:
                group["momentum"], group["nesterov"] = momentum, momentum > 0
        if momentum == 0 and self._order.name is OptimizerName.SGD:
            # What it gathered before would come back, out of date, with the next momentum.
            for state in self.optimizer.state.values():
                state.pop("momentum_buffer", None)
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

    def step(self) -> None:
        """Take a step with the gradients, and drop them."""
        scaler = self._scaler if self._scaled else None
        if self._order.gradient_clip is not None:
            if scaler is not None:
                scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._names, self._order.gradient_clip)
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def arrange(self, memory_format: MemoryFormat) -> None:
        """Put the state's tensors into the weights' order in memory."""
        for state in self.optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    state[name] = arranged(value, memory_format)

    def state(self) -> OptimizerState:
        """Return the state by parameters' names; a parameter that had no gradient yet has none."""
        return {
            self._names[parameter]: {
                name: value for name, value in state.items() if isinstance(value, torch.Tensor)
            }
            for parameter, state in self.optimizer.state.items()
            if state
        }

    def load(self, state: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
        """Take up a state, whatever number of processes it comes from.

        Raises:
            KeyError: it is of another network.
        """
        parameters = {name: parameter for parameter, name in self._names.items()}
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()
        for name, values in state.items():
            parameter = parameters[name]
            self.optimizer.state[parameter] = {
                key: like(value, parameter)
                if value.shape == parameter.shape and value.dim()
                else value.to(self._device)
                for key, value in values.items()
            }

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

    def _decay(self) -> None:
        """Shrink the weights by rate times decay, apart from the gradient (Loshchilov, Hutter, 2019)."""
        active = [parameter for parameter in self._decayed if parameter.grad is not None]
        if self._weight_decay and active:
            with torch.no_grad():
                torch._foreach_mul_(active, 1 - self.rate * self._weight_decay)  # its name
