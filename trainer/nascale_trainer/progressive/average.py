"""The exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from nascale_trainer.progressive.tensors import like


class Average:
    """Follows the weights; buffers (batch norm's statistics) stay the network's own.

    The decay begins low, ``(1 + n) / (10 + n)`` after n steps, so that the first weights are soon forgotten
    (as TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Begin at the present weights.

        Args:
            network: As it is trained.
            decay: Per step, above 0 and below 1.
        """
        self._parameters = dict(network.named_parameters())
        self._decay = decay
        self._values = {name: value.detach().clone() for name, value in self._parameters.items()}

    def update(self, step: int) -> None:
        """Take in the weights after a step; ``step`` counts those of the run, from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(  # its name
                list(self._values.values()),
                [value.detach() for value in self._parameters.values()],
                1 - decay,
            )

    def state(self) -> dict[str, torch.Tensor]:
        """Return the averages by parameters' names."""
        return dict(self._values)

    def load(self, state: Mapping[str, torch.Tensor] | None) -> None:
        """Take up a state; ``None``: begin at the present weights."""
        for name, parameter in self._parameters.items():
            value = parameter.detach().clone() if state is None else like(state[name], parameter.detach())
            self._values[name] = value

    @contextmanager
    def taking_over_changes(self) -> Iterator[None]:
        """Take over what is set anew within the block: a block that begins has no past to average."""
        before = {name: value.detach().clone() for name, value in self._parameters.items()}
        yield
        for name, parameter in self._parameters.items():
            if not torch.equal(before[name], parameter.detach()):
                self._values[name] = parameter.detach().clone()

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let the network have the averages as weights within the block."""
        before = {name: value.detach().clone() for name, value in self._parameters.items()}
        self._put(self._values)
        try:
            yield
        finally:
            self._put(before)

    def _put(self, values: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(values[name])
