# ruff: noqa: INP001  # a script, run by path
"""Your own model in stages: a small character-level transformer, trained with a growing length of sequence.

What is yours are the model and the class ``Characters``: some thirty lines that bring model, data and loss.
Stages, checkpoints, metrics and several workers come from the loop. The text is that of Python's own manual,
which every Python carries. ``context`` is a setting of the stages: short sequences first, long ones later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from nascale.contract.run_order import RunOrder, StageOrder
from nascale_trainer.progressive import MicroBatchPlace, Share, TrainingTask, train

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 .,:;'\"()[]{}=+-*/<>_#@\n"
LONGEST = 128
HELD_OUT = 0.1
HEAD = 16


class Block(nn.Module):
    """Causal self-attention and a feed-forward part, each normalised before and added to its input."""

    def __init__(self, width: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.before_attention, self.before_feeding = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feeding = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, context, width) to the same shape."""
        batch, context, width = x.shape
        parts = self.queries_keys_values(self.before_attention(x)).view(batch, context, 3, -1, HEAD)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        heads = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.joined(heads.transpose(1, 2).reshape(batch, context, width))
        return x + self.feeding(self.before_feeding(x))


class Transformer(nn.Module):
    """Predicts the next character at each place of a sequence."""

    def __init__(self, layers: int, width: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.letters, self.places = nn.Embedding(len(ALPHABET), width), nn.Embedding(LONGEST, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)), nn.LayerNorm(width))
        self.logits = nn.Linear(width, len(ALPHABET))

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        """Map codes (batch, context) to logits (batch, context, letters)."""
        places = self.places(torch.arange(letters.shape[1], device=letters.device))
        return self.logits(self.blocks(self.letters(letters) + places))


def read_text() -> torch.Tensor:
    """Return the manual as character codes; what is not of the alphabet is left out."""
    codes = {letter: code for code, letter in enumerate(ALPHABET)}
    text = "\n".join(topics[name] for name in sorted(topics)).lower()
    return torch.tensor([codes[letter] for letter in text if letter in codes])


class Characters(TrainingTask):
    """Model, data and loss. A sample is the place in the text where a sequence begins."""

    def __init__(self, order: RunOrder) -> None:
        """Read the text; the sizes of the model come from the object's ``spec.model.parameters``."""
        self.layers, self.width = int(order.parameters["layers"]), int(order.parameters["width"])
        text = read_text()
        cut = int(len(text) * (1 - HELD_OUT))
        self.text, self.held_out = text[:cut], text[cut:]

    @property
    def samples(self) -> int:
        """Sequences that don't overlap count as one pass over the text."""
        return (len(self.text) - 1) // LONGEST

    def build(self, seed: int) -> nn.Module:
        """Draw the weights by the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Transformer(self.layers, self.width)

    def batch(self, place: MicroBatchPlace, stage: StageOrder) -> Any:
        """Take so many characters from where each sequence begins, and the ones that follow them."""
        context = int(stage.model.parameters["context"])
        window = place.indices[:, None] * LONGEST + torch.arange(context + 1)
        letters = place.sent(self.text[window])
        return letters[:, :-1], letters[:, 1:]

    def loss(self, network: nn.Module, batch: Any, stage: StageOrder) -> torch.Tensor:
        """Return the mean cross-entropy of a character, nats."""
        letters, following = batch
        smoothing = stage.model.label_smoothing
        return functional.cross_entropy(
            network(letters).flatten(0, 1), following.flatten(), label_smoothing=smoothing
        )

    def evaluate(self, network: nn.Module, share: Share) -> Mapping[str, tuple[float, float]]:
        """Predict each character of the held-out text from all that go before it in its sequence."""
        windows = self.held_out[: len(self.held_out) // (LONGEST + 1) * (LONGEST + 1)].view(-1, LONGEST + 1)
        right = loss = count = 0.0
        for part in windows[share.rank :: share.world].split(64):
            letters, following = part[:, :-1].to(share.device), part[:, 1:].to(share.device)
            logits = network(letters).float()
            right += float((logits.argmax(-1) == following).sum())
            loss += float(
                functional.cross_entropy(logits.flatten(0, 1), following.flatten(), reduction="sum")
            )
            count += following.numel()
        return {"accuracy": (right, count), "loss": (loss, count)}


if __name__ == "__main__":
    train(Characters)
