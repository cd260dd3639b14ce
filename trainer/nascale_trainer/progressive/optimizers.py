"""AdamW and SGD as torch computes them, without what a step of ``torch.optim`` costs beside its kernels.

``torch.optim.Optimizer`` imports torch's compiler with the first group of parameters (more than a second in
a fresh process), and each of its steps gathers parameters, states and counts anew and counts steps one by one
for each parameter. Here the lists are kept as long as the same parameters have gradients, and parameters of
the same age share one count. The kernels are torch's own, so the results are the same, bit by bit.

A ``torch.amp.GradScaler`` takes these as it takes torch's: it looks for ``param_groups`` and ``step``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

SECOND_BETA: Final = 0.999
EPSILON: Final = 1e-8
"""AdamW's own defaults."""

Group = dict[str, Any]
"""``params`` and the settings that hold for them, by torch's names."""
State = dict[str, torch.Tensor]


class Optimizer(ABC):
    """Takes steps with the gradients of groups of parameters.

    Attributes:
        param_groups: Settings may be changed between two steps; parameters may not.
        state: Tensors by parameter, by torch's names; changed through ``load``, ``change`` and ``drop``.
    """

    def __init__(self, groups: Iterable[Group]) -> None:
        """Take the groups; a parameter has no state before its first gradient."""
        self.param_groups = list(groups)
        self.state: dict[torch.Tensor, State] = {}

    @abstractmethod
    def step(self) -> None:
        """Change all parameters that have a gradient."""

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def load(self, state: Mapping[torch.Tensor, State]) -> None:
        """Take up a state; parameters that are not named begin anew."""
        self.state = dict(state)

    def change(self, part: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace every tensor of the state."""
        self.load(
            {
                parameter: {name: part(value) for name, value in values.items()}
                for parameter, values in self.state.items()
            }
        )

    def drop(self, name: str) -> None:
        """Forget one kind of tensor."""
        for values in self.state.values():
            values.pop(name, None)


@dataclass(frozen=True)
class _Cohort:
    """Parameters of one age that one call of the kernel takes.

    Attributes:
        places: Their places in the group.
        count: Steps they have taken, one tensor for all.
    """

    places: tuple[int, ...]
    parameters: list[torch.Tensor]
    first_moments: list[torch.Tensor]
    second_moments: list[torch.Tensor]
    count: torch.Tensor


class AdamW(Optimizer):
    """Loshchilov and Hutter, Decoupled weight decay regularization, 2019, by torch's fused kernel.

    A group has ``lr``, ``betas`` and ``weight_decay``.
    """

    _step_supports_amp_scaling = True
    """Tells the scaler to give this object ``grad_scale`` and ``found_inf`` for the time of a step."""

    def __init__(self, groups: Iterable[Group]) -> None:
        """Take the groups."""
        super().__init__(groups)
        self._cohorts: dict[int, tuple[tuple[bool, ...], list[_Cohort]]] = {}

    def load(self, state: Mapping[torch.Tensor, State]) -> None:
        """Take up a state."""
        super().load(state)
        self._cohorts = {}

    def drop(self, name: str) -> None:
        """Forget one kind of tensor."""
        super().drop(name)
        self._cohorts = {}

    @torch.no_grad()
    def step(self) -> None:
        """Change all parameters that have a gradient."""
        scale, overflowed = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for number, group in enumerate(self.param_groups):
            gradients = [parameter.grad for parameter in group["params"]]
            for cohort in self._cohorts_of(number, gradients):
                cohort.count.add_(1)
                torch._fused_adamw_(  # its name
                    cohort.parameters,
                    [gradients[place] for place in cohort.places],
                    cohort.first_moments,
                    cohort.second_moments,
                    [],
                    [cohort.count] * len(cohort.places),
                    lr=group["lr"],
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    weight_decay=group["weight_decay"],
                    eps=EPSILON,
                    amsgrad=False,
                    maximize=False,
                    grad_scale=scale,
                    found_inf=overflowed,
                )
                if overflowed is not None:
                    cohort.count.sub_(overflowed)  # the kernel has left the parameters as they were

    def _cohorts_of(self, number: int, gradients: Sequence[torch.Tensor | None]) -> list[_Cohort]:
        """Return the cohorts of a group's parameters with gradients; the step before's, if it can."""
        mask = tuple(gradient is not None for gradient in gradients)
        kept = self._cohorts.get(number)
        if kept is None or kept[0] != mask:
            kept = self._cohorts[number] = (mask, self._gathered(self.param_groups[number]["params"], mask))
        return kept[1]

    def _gathered(self, parameters: Sequence[torch.Tensor], mask: Sequence[bool]) -> list[_Cohort]:
        places: dict[tuple[float, torch.dtype, torch.device], list[int]] = {}
        for place, (parameter, taken) in enumerate(zip(parameters, mask, strict=True)):
            if not taken:
                continue  # its count is of an earlier cohort, which ages no more
            values = self.state.setdefault(parameter, {})
            for name in ("exp_avg", "exp_avg_sq"):
                if name not in values:
                    values[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            age = float(values["step"]) if "step" in values else 0.0
            places.setdefault((age, parameter.dtype, parameter.device), []).append(place)
        return [
            self._cohort(parameters, tuple(members), age, device)
            for (age, _, device), members in places.items()
        ]

    def _cohort(
        self, parameters: Sequence[torch.Tensor], places: tuple[int, ...], age: float, device: torch.device
    ) -> _Cohort:
        members = [parameters[place] for place in places]
        count = torch.full((), age, dtype=torch.float32, device=device)
        for parameter in members:
            self.state[parameter]["step"] = count
        return _Cohort(
            places,
            members,
            [self.state[parameter]["exp_avg"] for parameter in members],
            [self.state[parameter]["exp_avg_sq"] for parameter in members],
            count,
        )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, Nesterov's where there is any, and decoupled weight decay.

    A group has ``lr``, ``momentum`` and ``weight_decay``. The decay shrinks the weights by rate times decay,
    apart from the gradient. Nothing is fused: a fused kernel would be called for gradients that overflowed
    as well, and the weights be decayed for them.
    """

    @torch.no_grad()
    def step(self) -> None:
        """Change all parameters that have a gradient."""
        for group in self.param_groups:
            active = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not active:
                continue
            if group["weight_decay"]:
                torch._foreach_mul_(active, 1 - group["lr"] * group["weight_decay"])  # its name
            directions = [parameter.grad for parameter in active if parameter.grad is not None]
            if group["momentum"]:
                gathered = self._gathered(active, directions, group["momentum"])
                torch._foreach_add_(directions, gathered, alpha=group["momentum"])  # its name
            torch._foreach_add_(active, directions, alpha=-group["lr"])  # its name

    def _gathered(
        self, active: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor], momentum: float
    ) -> list[torch.Tensor]:
        """Take the gradients into the momentum's buffers, and return these."""
        buffers, known = [], []
        for parameter, gradient in zip(active, gradients, strict=True):
            values = self.state.setdefault(parameter, {})
            if "momentum_buffer" in values:
                buffers.append(values["momentum_buffer"])
                known.append(gradient)
            else:
                values["momentum_buffer"] = gradient.clone()
        if buffers:
            torch._foreach_mul_(buffers, momentum)  # its name
            torch._foreach_add_(buffers, known)  # its name
        return [self.state[parameter]["momentum_buffer"] for parameter in active]
