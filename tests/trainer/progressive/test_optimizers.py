"""The trainer's own optimizers against torch's, bit by bit."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from nascale_trainer.progressive.optimizers import SGD, AdamW

STEPS = 6
RATE = 0.03


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 4))


def halves(module, **settings):
    weights = [value for value in module.parameters() if value.ndim > 1]
    others = [value for value in module.parameters() if value.ndim <= 1]
    return [
        {"params": weights, "lr": RATE, "weight_decay": 0.2, **settings},
        {"params": others, "lr": RATE, "weight_decay": 0.0, **settings},
    ]


def set_gradients(module, step, without):
    generator = torch.Generator().manual_seed(step)
    for place, value in enumerate(module.parameters()):
        value.grad = None if place in without(step) else torch.randn(value.shape, generator=generator)


def trained_alike(ours, theirs, mine, torchs, without):
    for step in range(STEPS):
        set_gradients(ours, step, without)
        set_gradients(theirs, step, without)
        mine.step()
        torchs.step()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other), step


GRADIENTS = {
    "always": lambda _: (),
    "a layer grows": lambda step: (0, 1) if step < 3 else (),
    "a layer pauses": lambda step: (2, 4) if step in (2, 3) else (),
    "each in turn": lambda step: (step,),
}


@pytest.mark.parametrize("without", GRADIENTS.values(), ids=GRADIENTS)
def test_adamw_is_torchs(without):
    ours, theirs = network(), network()
    mine = AdamW(halves(ours, betas=(0.8, 0.999)))
    torchs = torch.optim.AdamW(halves(theirs, betas=(0.8, 0.999)), fused=True)
    trained_alike(ours, theirs, mine, torchs, without)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert set(mine.state[one]) == set(torchs.state[other])
        for name, value in torchs.state[other].items():
            assert torch.equal(mine.state[one][name], value), name


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("without", GRADIENTS.values(), ids=GRADIENTS)
def test_sgd_is_torchs_with_the_decay_apart(without, momentum):
    ours, theirs = network(), network()
    mine = SGD(halves(ours, momentum=momentum))
    torchs = torch.optim.SGD(
        [{**group, "weight_decay": 0.0} for group in halves(theirs)],
        momentum=momentum,
        nesterov=momentum > 0,
        foreach=True,
    )

    def decay(*_):
        with torch.no_grad():
            for value in theirs.parameters():
                if value.ndim > 1 and value.grad is not None:
                    value.mul_(1 - RATE * 0.2)

    torchs.register_step_pre_hook(decay)
    trained_alike(ours, theirs, mine, torchs, without)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_under_a_loss_scale_overflows_leave_weights_and_counts(kind):
    module = network()
    optimizer = (
        AdamW(halves(module, betas=(0.9, 0.999))) if kind == "adamw" else SGD(halves(module, momentum=0.9))
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step, factor in enumerate((1.0, torch.inf, 1.0)):
        before = [value.detach().clone() for value in module.parameters()]
        scaler.scale(module(torch.ones(2, 2, 4, 4)).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        same = [torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True)]
        assert all(same) if step == 1 else not all(same)
    if kind == "adamw":
        assert {float(values["step"]) for values in optimizer.state.values()} == {2.0}


def test_a_state_that_was_loaded_goes_on_alike():
    straight, resumed = network(), network()
    first = AdamW(halves(straight, betas=(0.9, 0.999)))
    second = AdamW(halves(resumed, betas=(0.9, 0.999)))
    for step in range(STEPS):
        if step == 3:
            kept = {
                parameter: {name: value.clone() for name, value in values.items()}
                for parameter, values in second.state.items()
            }
            second = AdamW(halves(resumed, betas=(0.9, 0.999)))
            second.load(kept)
        for module, optimizer in ((straight, first), (resumed, second)):
            set_gradients(module, step, GRADIENTS["a layer grows"])
            optimizer.step()
    for one, other in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_states_that_are_moved_are_the_ones_that_go_on():
    module = network()
    optimizer = AdamW(halves(module, betas=(0.9, 0.999)))
    set_gradients(module, 0, lambda _: ())
    optimizer.step()
    optimizer.change(lambda value: value.clone())
    held = optimizer.state[module[0].weight]["exp_avg"]
    before = held.clone()
    set_gradients(module, 1, lambda _: ())
    optimizer.step()
    assert optimizer.state[module[0].weight]["exp_avg"] is held
    assert not torch.equal(held, before)


def test_no_step_imports_torchs_compiler():
    code = """
import sys, torch
from nascale_trainer.progressive.optimizers import SGD, AdamW
weight = torch.nn.Parameter(torch.ones(2, 2))
for kind in (AdamW, SGD):
    group = {"params": [weight], "lr": 0.1, "weight_decay": 0.1, "betas": (0.9, 0.999), "momentum": 0.9}
    optimizer = kind([group])
    weight.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
