# ruff: noqa: INP001  # a script, run by path
"""Your own model in a sweep: a small character-level transformer in plain torch.

The work order brings three sizes, scaled by the sweep: ``layers`` (depth), ``width`` (width) and ``context``,
the length of the sequence (resolution). Asked to measure, it times a forward pass; asked to train, it learns
to predict the next character of a text that it makes by itself, and reports how often it is right.
"""

from __future__ import annotations

import random
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional

from nascale_trainer import CandidateReport, Metrics, Outcome, WorkOrder, load_work_order, report

NAMES = ("ada", "bo", "chen", "dara", "emil", "fay", "gita", "hugo")
PLACES = ("lake", "mill", "tower", "garden", "harbour")
VERBS = ("meets", "calls", "thanks", "follows")
ALPHABET = "abcdefghijklmnopqrstuvwxyz .\n"
TRAINING_SENTENCES, HELD_OUT_SENTENCES = 1500, 200
HEAD = 8
"""Width of an attention head."""
BATCH_CONTEXT = 32
"""The order's batch size counts sequences of so many characters: a longer context has as many steps."""


def make_text(sentences: int, seed: int) -> torch.Tensor:
    """Return character codes; who is named last was named before, so a longer context predicts more."""
    draw = random.Random(seed)  # noqa: S311  # data, not a secret
    lines = []
    for _ in range(sentences):
        first, second = draw.sample(NAMES, 2)
        verb, place = draw.choice(VERBS), draw.choice(PLACES)
        lines.append(f"{first} {verb} {second} at the {place}. then {second} and {first} go.\n")
    return torch.tensor([ALPHABET.index(letter) for letter in "".join(lines)])


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

    def __init__(self, layers: int, width: int, context: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.letters, self.places = nn.Embedding(len(ALPHABET), width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)), nn.LayerNorm(width))
        self.logits = nn.Linear(width, len(ALPHABET))

    def forward(self, letters: torch.Tensor) -> torch.Tensor:
        """Map codes (batch, context) to logits (batch, context, letters)."""
        places = self.places(torch.arange(letters.shape[1], device=letters.device))
        return self.logits(self.blocks(self.letters(letters) + places))


def latency(model: Transformer, context: int, order: WorkOrder) -> dict[str, float]:
    """Time single forward passes until there are enough of them, after a warm-up."""
    letters = torch.zeros((order.target.batch_size, context), dtype=torch.long)
    seconds: list[float] = []
    with torch.inference_mode():
        for _ in range(20):
            model(letters)
        while len(seconds) < order.measurement.min_calls or sum(seconds) < order.measurement.min_seconds:
            begin = time.perf_counter()
            model(letters)
            seconds.append(time.perf_counter() - begin)
    p50, p90 = statistics.median(seconds), statistics.quantiles(seconds, n=10)[-1]
    throughput = order.target.batch_size / statistics.fmean(seconds)
    return {
        "latency_p50_seconds": p50,
        "latency_p90_seconds": p90,
        "throughput_samples_per_second": throughput,
    }


def windows(text: torch.Tensor, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a text into sequences, and the same sequences one character later."""
    count = (len(text) - 1) // context
    return text[: count * context].view(count, context), text[1 : count * context + 1].view(count, context)


def train(model: Transformer, context: int, order: WorkOrder, seed: int) -> dict[str, float]:
    """Train at the order's fidelity; return the share of held-out characters that are predicted right."""
    fidelity = order.fidelity
    epochs, share = (fidelity.epochs, fidelity.data_fraction) if fidelity else (1, 1.0)
    inputs, targets = windows(make_text(round(TRAINING_SENTENCES * share), seed=1), context)
    batch = max(1, order.training.batch_size * BATCH_CONTEXT // context)
    shuffle = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=order.training.learning_rate)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(inputs), generator=shuffle).split(batch):
            optimizer.zero_grad()
            logits = model(inputs[chosen])
            functional.cross_entropy(logits.flatten(0, 1), targets[chosen].flatten()).backward()
            optimizer.step()
    model.eval()
    inputs, targets = windows(make_text(HELD_OUT_SENTENCES, seed=2), context)
    with torch.inference_mode():
        right = model(inputs).argmax(dim=-1) == targets
    return {"accuracy": float(right.float().mean())}


def work(order: WorkOrder, parameters: dict[str, int | float | str], seed: int) -> dict[str, float]:
    """Build one candidate and return what the order asks for: latency first, it costs little."""
    torch.manual_seed(seed)
    layers, width, context = (int(parameters[name]) for name in ("layers", "width", "context"))
    model = Transformer(layers, width, context).eval()
    values = {"parameters": float(sum(parameter.numel() for parameter in model.parameters()))}
    values |= latency(model, context, order)
    if order.task != "Measure":
        values |= train(model, context, order, seed)
    return values


def main() -> int:
    """Read the work order, work on each candidate, write the report, wait for the last scrape."""
    order = load_work_order()
    metrics = Metrics()
    results = []
    for candidate in order.candidates:
        begin = time.perf_counter()
        try:
            values = work(order, candidate.parameters, candidate.seed)
        except (KeyError, ValueError, RuntimeError) as error:
            message = f"parameters: must be layers, width (a multiple of {HEAD}) and context: {error!r}"
            results.append(
                CandidateReport(
                    trial=candidate.trial, outcome=Outcome.FAILED, reason="BadParameter", message=message
                )
            )
            continue
        for name, value in values.items():
            metrics.set(candidate.trial, name, value)
        results.append(
            CandidateReport(
                trial=candidate.trial,
                outcome=Outcome.SUCCEEDED,
                metrics=values,
                device_seconds=time.perf_counter() - begin,
            )
        )
    report(order, results)
    metrics.close(order.exporter.wait_for, order.exporter.max_linger_seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
