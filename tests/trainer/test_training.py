"""The recipe: deterministic, resumable between epochs, honest about a loss that is no number."""

import copy

import pytest
import torch

from nascale.contract.architecture import Architecture
from nascale.contract.work_order import DataOrder, Fidelity, TrainingOrder
from nascale_trainer.batches import Batches, normalisation_of, split
from nascale_trainer.build import build_network
from nascale_trainer.data import load_source
from nascale_trainer.outcomes import Diverged, Stopped
from nascale_trainer.training import Training, evaluate, learning_rate_factor

CPU = torch.device("cpu")


class Follower:
    def __init__(self, stop_after=None):
        self.steps, self.epochs, self._stop_after = [], [], stop_after

    def check_stop(self):
        if self._stop_after is not None and len(self.steps) >= self._stop_after:
            raise Stopped

    def step(self, seconds, done):
        self.steps.append((seconds, done))

    def epoch(self, loss):
        self.epochs.append(loss)


@pytest.fixture(scope="module")
def digits():
    source = load_source(DataOrder(name="Digits"), {})
    parts = split(source.labels, DataOrder(name="Digits"))
    normalisation = normalisation_of(source, parts.training)

    def make(fraction):
        training = Batches(source, parts.fraction(fraction), 8, normalisation, CPU)
        return training, Batches(source, parts.validation, 8, normalisation, CPU)

    return make


@pytest.fixture
def training(digits, make_architecture):
    def make(fraction=0.1, epochs=2, seed=0, **settings):
        network = build_network(Architecture.model_validate(make_architecture()), 1, 10, seed)
        data, validation = digits(fraction)
        return (
            network,
            Training(network, data, TrainingOrder(**settings), Fidelity(epochs=epochs), seed),
            validation,
        )

    return make


def weights(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_two_epochs_teach_a_tiny_network_to_read(training):
    network, work, validation = training(fraction=1.0, epochs=2, learning_rate=0.01)
    follower = Follower()
    trained = work.run(follower, lambda _: None)
    accuracy, loss = evaluate(network, validation, lambda: None)
    assert accuracy > 0.7
    assert 0 < loss < 1.5
    assert follower.epochs[1] < follower.epochs[0]
    assert follower.steps[-1][1] == 1.0
    assert [done for _, done in follower.steps] == sorted(done for _, done in follower.steps)
    assert trained.samples == 2 * len(work._data)
    assert trained.samples_per_second == pytest.approx(trained.samples / trained.seconds)


def test_the_seed_decides_everything(training):
    results = []
    for seed in (1, 1, 2):
        network, work, _ = training(seed=seed)
        work.run(Follower(), lambda _: None)
        results.append(weights(network))
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])


def test_a_training_that_goes_on_from_a_checkpoint_is_bitwise_the_unbroken_one(training):
    network, work, _ = training(epochs=3)
    epochs = []
    work.run(Follower(), lambda state: epochs.append(state["epoch"]))
    assert epochs == [1, 2], "the last epoch's state is the result"

    _, broken, _ = training(epochs=3)
    kept = []
    with pytest.raises(Stopped):
        broken.run(Follower(stop_after=4), lambda state: kept.append(copy.deepcopy(state)))
    assert [state["epoch"] for state in kept] == [1], "three steps are an epoch; it broke off in the second"
    torch.manual_seed(12345)
    resumed_network, resumed, _ = training(epochs=3)
    resumed.restore(kept[0])
    resumed.run(Follower(), lambda _: None)
    assert equal(weights(network), weights(resumed_network))


def test_a_loss_that_is_no_number_ends_the_training(training):
    network, work, validation = training()
    with torch.no_grad():
        network.classifier.bias.fill_(float("nan"))
    with pytest.raises(Diverged, match="training loss: must be finite, not nan in epoch 1 of 2"):
        work.run(Follower(), lambda _: None)
    with pytest.raises(Diverged, match="validation loss: must be finite, not nan"):
        evaluate(network, validation, lambda: None)


def test_a_request_to_stop_is_met_after_the_step(training):
    _, work, _ = training()
    follower = Follower(stop_after=2)
    with pytest.raises(Stopped):
        work.run(follower, lambda _: None)
    assert len(follower.steps) == 2


def test_no_epoch_at_all_leaves_the_network_as_it_was_built(training):
    network, work, _ = training(epochs=0)
    before = weights(network)
    trained = work.run(Follower(), lambda _: None)
    assert equal(before, weights(network))
    assert (trained.samples, trained.samples_per_second) == (0, 0.0)


def test_scales_shifts_and_biases_are_not_decayed(training):
    network, work, _ = training(weight_decay=0.5)
    decayed, others = work._optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(network.parameters()))


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
def test_the_learning_rate_rises_and_falls(steps):
    factors = [learning_rate_factor(step, steps) for step in range(steps)]
    peak = factors.index(max(factors))
    assert max(factors) == pytest.approx(1.0)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert min(factors) > 0
