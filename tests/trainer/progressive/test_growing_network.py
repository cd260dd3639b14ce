"""The network's settings that change while it trains: depth, stochastic depth, dropout, checkpointing."""

import copy

import pytest
import torch
from torch import nn

from nascale.contract.architecture import Architecture
from nascale_trainer.build import build_network
from nascale_trainer.network import active_blocks


@pytest.fixture
def network(make_architecture):
    """A network with a stage of four fused blocks and one of three."""
    document = make_architecture(depth=4)
    document["stages"][1]["depth"] = 3
    return build_network(Architecture.model_validate(document), 1, 10, 3)


@pytest.fixture
def images():
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def learn(network, images):
    """Take a few steps so that running statistics and scales are not those of the beginning."""
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.05)
    network.train()
    for _ in range(3):
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("share", "depth", "active"),
    [(1, 7, 7), (0.5, 4, 2), (0.5, 3, 2), (0.01, 64, 1), (0.001, 1, 1), (0.55, 20, 11), (1 / 3, 3, 1)],
)
def test_a_share_of_the_blocks_is_active(share, depth, active):
    assert active_blocks(share, depth) == active


def test_skipped_blocks_neither_compute_nor_learn_nor_leave_the_state(network, images):
    names = set(network.state_dict())
    network.set_depth(0.5)
    assert network.depths == (2, 2)
    assert set(network.state_dict()) == names
    called = []
    for name, block in network.stages.named_modules():
        if name.count(".") == 1:
            block.register_forward_hook(lambda *_, name=name: called.append(name))
    network.train()(images).sum().backward()
    assert called == ["0.0", "0.1", "1.0", "1.1"]
    for name, parameter in network.named_parameters():
        skipped = name.startswith(("stages.0.2", "stages.0.3", "stages.1.2"))
        assert (parameter.grad is None) == skipped
    network.set_depth(1)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_grown_network_computes_what_it_did_and_then_learns(network, images):
    network.set_depth(0.5)
    learn(network, images)
    before = network.eval()(images)
    network.begin_as_identity(0.5, 1)
    network.set_depth(1)
    assert network.depths == (4, 3)
    assert torch.equal(network.eval()(images), before)
    kept = copy.deepcopy(network.stages[0][3].state_dict())
    learn(network, images)
    assert not torch.equal(network.stages[0][3].bn2.weight, kept["bn2.weight"]), "the scale wakes"
    assert not torch.equal(network.eval()(images), before)


def test_blocks_that_were_active_are_left_alone(network, images):
    learn(network, images)
    before = copy.deepcopy(network.state_dict())
    network.begin_as_identity(1, 0.5)
    network.begin_as_identity(0.5, 0.5)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    network.begin_as_identity(0.5, 0.75)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == {"stages.0.2.bn2.weight", "stages.0.2.bn2.bias"}


def test_stochastic_depth_grows_to_the_last_active_block(network):
    network.set_depth(0.5)
    network.set_stochastic_depth(0.4)
    rates = [
        block.drop_path.drop_prob if block.has_skip else None
        for blocks in network.stages
        for block in blocks[: blocks.active]
    ]
    assert rates == [None, pytest.approx(0.2), None, pytest.approx(0.4)]


def test_stochastic_depth_skips_whole_samples_and_only_while_training(network, images):
    network.set_stochastic_depth(0.999)
    block = network.stages[1][2]
    features = torch.randn(400, 24, 2, 2)
    torch.manual_seed(0)
    whole = block.train()(features)
    skipped = (whole == features).flatten(1).all(dim=1)
    assert int(skipped.sum()) > 350
    network.eval()
    certain = network(images)
    network.set_stochastic_depth(0)
    assert torch.equal(network(images), certain)


def test_dropout_drops_the_classifiers_inputs_while_training(network, images):
    seen = []
    network.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network.set_dropout(0.75)
    network.train()(images)
    network.eval()(images)
    assert 0.6 < float((seen[0] == 0).float().mean()) < 0.9
    assert not bool((seen[1] == 0).all(dim=0).any())


def test_a_network_that_drops_nothing_draws_nothing(network, images):
    """The search's trainings must stay what they were: no random number is taken."""
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    network.train()(images)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("dropping", [0.0, 0.5])
def test_gradient_checkpointing_changes_no_number(network, images, dropping):
    network.set_stochastic_depth(dropping)
    network.set_dropout(dropping)
    results = []
    for on in (False, True):
        copied = copy.deepcopy(network).train()
        copied.set_gradient_checkpointing(on=on)
        kept = []
        torch.manual_seed(4)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: (kept.append(t), t)[1], lambda t: t
        ):
            output = copied(images)
        output.square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in copied.named_parameters()}
        results.append((output, gradients, copied.state_dict(), len(kept)))
    plain, again = results
    assert torch.equal(plain[0], again[0])
    for before, after in zip(plain[1:3], again[1:3], strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert again[3] < plain[3] / 2, "fewer tensors are kept"
    assert all(module.momentum == 0.1 for module in copied.modules() if isinstance(module, nn.BatchNorm2d))


def test_evaluation_computes_nothing_twice(network, images):
    network.set_gradient_checkpointing(on=True)
    plain = copy.deepcopy(network)
    plain.set_gradient_checkpointing(on=False)
    assert torch.equal(network.eval()(images), plain.eval()(images))
