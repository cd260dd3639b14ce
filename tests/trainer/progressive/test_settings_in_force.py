"""Every setting that changes within a process: what the network and the optimizer really see."""

import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.trainer.progressive.tiny_task import TinyTask, order, stage, train
from torch import nn

from nascale.contract.run_report import RunOutcome, SwitchPhase
from nascale.contract.switch_class import SwitchClass
from nascale_trainer.progressive import trainee
from nascale_trainer.progressive.average import Average
from nascale_trainer.progressive.optimization import Optimization


def two_stages(tmp_path, *, model=None, hardware=None, first=None, task=None, **fields):
    """Train two steps in a stage with usual settings, then two in one that changes some."""
    run_order = order(
        stage("first", "16sp", **(first or {})),
        stage("second", model=model, hardware=hardware),
        length="32sp",
        **fields,
    )
    run = train(tmp_path / "run", run_order, task)
    assert run.report.outcome is RunOutcome.COMPLETED, run.report
    return run


def switch(run):
    return run.report.stages[1].switch


def test_weight_decay_reaches_weights_alone(tmp_path):
    run = two_stages(tmp_path, model={"weightDecay": 0.5})
    decays = {
        group["params"][0].ndim > 1: group["weight_decay"]
        for group in run.trainee.optimization.optimizer.param_groups
    }
    assert decays == {True: 0.5, False: 0.0}
    assert switch(run) is SwitchClass.LIVE


def test_weight_decay_of_sgd_is_decoupled(tmp_path):
    without = two_stages(
        tmp_path / "a",
        optimizer={"name": "SGD", "learningRate": 0.1, "baseBatch": 8, "course": "Constant", "warmUp": 0},
        first={"model": {"momentum": 0, "weightDecay": 0}},
        model={"momentum": 0, "weightDecay": 0},
    )
    assert all(group["weight_decay"] == 0 for group in without.trainee.optimization.optimizer.param_groups)
    network, optimization = without.trainee.network, without.trainee.optimization
    optimization.set_stage(order(stage("x", model={"weightDecay": 0.5, "momentum": 0})).stages[0])
    optimization.rate = 0.1
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimization.step()
    for name, value in network.named_parameters():
        factor = 1 - 0.1 * 0.5 if value.ndim > 1 else 1.0
        assert torch.allclose(value, before[name] * factor), name


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_momentum_changes_live(tmp_path, name):
    run = two_stages(tmp_path, model={"momentum": 0.5}, optimizer={"name": name, "baseBatch": 8})
    group = run.trainee.optimization.optimizer.param_groups[0]
    assert (group["betas"][0] if name == "AdamW" else group["momentum"]) == 0.5
    assert switch(run) is SwitchClass.LIVE


def test_momentum_of_zero_forgets_what_was_gathered(tmp_path):
    run = two_stages(tmp_path, model={"momentum": 0}, optimizer={"name": "SGD", "baseBatch": 8})
    assert all(not values for values in run.trainee.optimization.state().values())


def test_the_learning_rate_follows_factor_and_batch(tmp_path):
    optimizer = {"learningRate": 0.01, "baseBatch": 8, "course": "Constant", "warmUp": 0}
    run = two_stages(tmp_path, model={"learningRateFactor": 3, "globalBatch": 16}, optimizer=optimizer)
    assert run.recorder.snapshots[-1].learning_rate == pytest.approx(0.01 * 3 * 2)


@pytest.mark.parametrize(
    ("setting", "value", "attribute"),
    [("dropout", 0.4, lambda network: network.dropout.p), ("depth", 1.0, lambda network: network.deep)],
)
def test_the_tasks_own_settings_reach_the_network(tmp_path, setting, value, attribute):
    run = two_stages(tmp_path, first={"model": {"depth": 0.5}}, model={"depth": 0.5, setting: value})
    assert attribute(run.trainee.network) == value


def test_label_smoothing_and_resolution_reach_the_loss(tmp_path):
    run = two_stages(tmp_path, model={"resolution": 4, "labelSmoothing": 0.1})
    assert [images.shape[-1] for _, images, _ in run.task.batches] == [6, 6, 4, 4]
    assert switch(run) is SwitchClass.RECOMPILE
    assert run.trainee.stage.model.label_smoothing == 0.1


def test_accumulation_and_global_batch_decide_the_micro_batches(tmp_path):
    run = two_stages(tmp_path, model={"globalBatch": 16}, hardware={"accumulation": 4})
    assert [len(numbers) for numbers in run.task.numbers] == [8, 8, 4, 4, 4, 4]
    assert [number for numbers in run.task.numbers for number in numbers] == list(range(32))
    assert run.report.step == 3


def test_accumulation_equals_one_large_batch():
    # Without batch norm, whose statistics are those of a micro-batch.

    class Plain(TinyTask):
        def build(self, seed):
            network = super().build(seed)
            network.norm = nn.Identity()
            return network

    weights = []
    for accumulation in (1, 4):
        with tempfile.TemporaryDirectory() as folder:
            run_order = order(stage("one", hardware={"accumulation": accumulation}), length="32sp")
            run = train(Path(folder) / "run", run_order, Plain())
            weights.append(run.trainee.network.state_dict())
            assert run.report.step == 4
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-6), name


@pytest.mark.parametrize(("accumulation", "copies"), [(1, 0), (2, 1), (4, 1)])
def test_gradients_leave_the_memory_of_graphs_before_the_next_micro_batch(
    tmp_path, monkeypatch, accumulation, copies
):
    """The next replay of a CUDA graph overwrites them; of a single micro-batch they are used by then."""
    run_order = order(stage("only", hardware={"accumulation": accumulation}), length="16sp")
    plain = train(tmp_path / "plain", run_order)
    marks, moved, keep = [], [], Optimization.keep_gradients

    def watched(optimization):
        parameters = [own for group in optimization.optimizer.param_groups for own in group["params"]]
        before = [(own.grad.data_ptr(), own.grad.clone()) for own in parameters]
        keep(optimization)
        for own, (place, value) in zip(parameters, before, strict=True):
            assert own.grad.data_ptr() != place
            assert torch.equal(own.grad, value)
        moved.append(len(marks))

    monkeypatch.setattr(trainee, "has_graphs", lambda *_: True)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(None))
    monkeypatch.setattr(Optimization, "keep_gradients", watched)
    graphs = train(tmp_path / "graphs", run_order)

    steps = 2
    assert len(marks) == steps * accumulation
    assert moved == [step * accumulation + 1 for step in range(steps)][: steps * copies]
    for one, other in zip(
        plain.trainee.network.parameters(), graphs.trainee.network.parameters(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("emulated_bf16")
def test_precision_is_in_force_for_the_forward_pass_alone(tmp_path):
    run = two_stages(tmp_path, hardware={"precision": "BF16"})
    assert [logits.dtype for _, _, logits in run.task.batches] == [torch.float32] * 2 + [torch.bfloat16] * 2
    assert {value.dtype for value in run.trainee.network.parameters()} == {torch.float32}
    assert switch(run) is SwitchClass.RECOMPILE


@pytest.mark.parametrize("precision", ["High", "Medium"])
def test_matmul_precision_is_set_and_not_left_over(tmp_path, precision):
    seen = []

    def look(_stage):
        seen.append(torch.get_float32_matmul_precision())

    task = TinyTask()
    task.before_loss = look
    run_order = order(
        stage("one", "8sp"),
        stage("two", "8sp", hardware={"matmulPrecision": precision}),
        stage("three"),
        length="24sp",
    )
    train(tmp_path / "run", run_order, task)
    assert seen == ["highest", precision.lower(), "highest"]


def test_memory_format_is_that_of_weights_and_optimizer_state(tmp_path):
    run = two_stages(tmp_path, hardware={"memoryFormat": "ChannelsLast"})
    weight = run.trainee.network.stem.weight
    states = run.trainee.optimization.optimizer.state[weight]
    for value in (weight, states["exp_avg"], states["exp_avg_sq"]):
        assert value.is_contiguous(memory_format=torch.channels_last)
        assert not value.is_contiguous()


def test_memory_format_goes_back(tmp_path):
    run = two_stages(tmp_path, first={"hardware": {"memoryFormat": "ChannelsLast"}})
    weight = run.trainee.network.stem.weight
    assert weight.is_contiguous()
    assert run.trainee.optimization.optimizer.state[weight]["exp_avg"].is_contiguous()


def test_depth_grows_from_the_identity_with_the_optimizers_state_kept(tmp_path):
    run = two_stages(
        tmp_path,
        first={"model": {"depth": 0.5}},
        model={"depth": 1},
        optimizer={"baseBatch": 8, "averageDecay": 0.9},
    )
    assert run.task.grown == [("first", "second")]
    optimizer = run.trainee.optimization.optimizer
    network = run.trainee.network
    assert float(optimizer.state[network.stem.weight]["step"]) == 4
    assert float(optimizer.state[network.deeper.weight]["step"]) == 2


@pytest.mark.slow
def test_compilation_wraps_the_call_and_leaves_the_parameters_where_they_are(tmp_path):
    run = two_stages(tmp_path, hardware={"compilation": "Default"})
    called = [type(network).__name__ for network, _, _ in run.task.batches]
    assert called == ["Picture", "Picture", "OptimizedModule", "OptimizedModule"]
    assert not any(name.startswith("_orig_mod") for name in run.trainee.state()["network"])
    assert run.recorder.snapshots[-1].recompiles >= 1
    assert switch(run) is SwitchClass.RECOMPILE


def test_a_switch_in_process_measures_its_phases(tmp_path):
    run = two_stages(tmp_path, hardware={"memoryFormat": "ChannelsLast"})
    phases = run.report.stages[1].phases
    assert set(phases) == {SwitchPhase.APPLY, SwitchPhase.FIRST_STEP}
    assert run.recorder.snapshots[-1].totals.switches == {"Recompile": 1}


def test_the_loss_scale_of_fp16_skips_a_step_that_overflows():

    network = nn.Linear(3, 2)
    stated = order(stage("half", hardware={"precision": "FP16"}))
    optimization = Optimization(network, stated.optimizer, torch.device("cpu"))
    optimization.set_stage(stated.stages[0])
    scale = optimization.scale
    before = network.weight.detach().clone()
    optimization.backward(network(torch.ones(1, 3)).sum() * torch.inf)
    optimization.step()
    assert torch.equal(network.weight, before)
    assert optimization.scale == scale / 2
    kept = optimization.scaler_state()
    again = Optimization(network, stated.optimizer, torch.device("cpu"))
    again.set_stage(stated.stages[0])
    again.load_scaler(kept)
    assert again.scale == scale / 2
    assert again.scaler_state() == kept


def test_the_average_follows_the_weights_and_is_what_is_kept(tmp_path):

    run = two_stages(tmp_path, optimizer={"baseBatch": 8, "averageDecay": 0.9})
    kept = load_file(tmp_path / "run" / "model.safetensors")
    averages = run.trainee.average.state()
    assert not torch.equal(averages["head.weight"], run.trainee.network.head.weight)
    for name, value in averages.items():
        assert torch.equal(kept[name], value), name


def test_the_average_is_the_textbooks():

    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = Average(network, 0.5)
    expected = 0.0
    for step in range(1, 20):
        nn.init.constant_(network.weight, float(step))
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert float(average.state()["weight"]) == pytest.approx(expected, rel=1e-5)
    with average.in_force():
        assert network.weight.item() == pytest.approx(expected, rel=1e-5)
    assert network.weight.item() == 19.0
