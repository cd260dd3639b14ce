"""Measured steps are those of the training loop; what they cost is told exactly; one failure stays alone."""

import math
import os
from pathlib import Path

import pytest
import torch
from tests.trainer.progressive.profile_orders import (
    ALONE,
    OF_STEPS,
    QUICK,
    Clock,
    ClockedTask,
    candidate,
    profile_order,
    ticking,
)
from tests.trainer.progressive.tiny_task import CPU, SAMPLES, TinyTask, order, stage, train

from nascale.contract.errors import ContractError
from nascale.contract.report import Outcome, parse_report
from nascale_trainer.device import supported_precisions
from nascale_trainer.outcomes import Stopped
from nascale_trainer.progressive import profiling, step_measurement
from nascale_trainer.progressive.compiler_start import COMPILER_CACHE, KERNEL_CACHE, cold_compiler
from nascale_trainer.progressive.image_task import ImageTask
from nascale_trainer.progressive.profiling import process_start, profile

FAST = "BF16" if "BF16" in supported_precisions(CPU) else "FP32"


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    monkeypatch.setattr(step_measurement, "time", ticking())


def measure(task, profiled, **options):
    return profile(profiled, lambda _order, _device: task, device=CPU, environ=ALONE, **options).results


class SeeingTask(TinyTask):
    """Remembers what is in force at each forward pass."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def loss(self, network, batch, stage):
        loss = super().loss(network, batch, stage)
        _, images, logits = self.batches[-1]
        self.seen.append(
            (
                tuple(self.numbers[-1]),
                tuple(images.shape),
                images.stride(),
                logits.dtype,
                torch.get_float32_matmul_precision(),
                network.dropout.p,
                network.deep,
                network.checkpointing,
                network.stem.weight.stride(),
            )
        )
        return loss


SETTINGS = [
    ({}, {}),
    ({"resolution": 4, "globalBatch": 16, "depth": 0.5, "dropout": 0.2}, {"precision": FAST}),
    ({"globalBatch": 16}, {"accumulation": 4, "memoryFormat": "ChannelsLast", "matmulPrecision": "High"}),
    ({"augmentation": 0.5}, {"gradientCheckpointing": "Blocks", "threads": 1}),
]


@pytest.mark.parametrize(("model", "hardware"), SETTINGS)
def test_a_measured_step_is_a_step_of_the_loop(tmp_path, model, hardware):
    """The same forward passes over the same samples, with the same settings in force, and nothing else."""
    the_stage = stage("only", model=model, hardware=hardware)
    looped = SeeingTask()
    run = train(tmp_path / "run", order(the_stage, length="20ba"), looped)
    measured = SeeingTask()
    # The profile's own candidate is the second one: the first leaves nothing behind.
    (_, result) = measure(
        measured,
        profile_order(
            candidate(0, stage("other", model={"resolution": 5}, hardware={"matmulPrecision": "Medium"})),
            candidate(1, the_stage),
        ),
    )
    assert result.outcome is Outcome.SUCCEEDED, result.message
    accumulation = hardware.get("accumulation", 1)
    assert run.report.step == 20
    begin = next(place for place, seen in enumerate(measured.seen) if place and seen[0][0] == 0)
    of_candidate = measured.seen[begin:]
    assert of_candidate[: len(looped.seen)] == looped.seen
    assert len(looped.seen) == 20 * accumulation
    steps = len(of_candidate) // accumulation
    assert len(of_candidate) == steps * accumulation, "whole steps alone"
    assert steps == 3 + 21, "a warm-up and three windows of seven"


def test_the_losses_are_those_of_the_loop_at_the_same_rate(tmp_path):
    constant = {"course": "Constant", "warmUp": 0, "baseBatch": 8, "learningRate": 0.01}
    looped, measured = TinyTask(), TinyTask()
    train(tmp_path / "run", order(stage("only"), length="20ba", optimizer=constant), looped)
    measure(measured, profile_order(candidate(0, stage("only")), optimizer=constant))
    for one, other in zip(looped.batches, measured.batches[:20], strict=True):
        assert torch.equal(one[2], other[2])


def test_what_steps_and_the_switch_cost_is_told_exactly(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(step_measurement, "time", clock.module)
    task = ClockedTask(clock, prepare=5.0, first=9.0)
    results = measure(
        task,
        profile_order(
            candidate(0, stage("a", model={"resolution": 4})),
            candidate(1, stage("b", model={"resolution": 4})),
        ),
    )
    for result in results:
        assert set(result.metrics) == OF_STEPS
        assert result.metrics["step_p50_seconds"] == pytest.approx(1.0)
        assert result.metrics["step_spread_ratio"] == pytest.approx(0.0), "the clock is steady"
        assert result.metrics["training_samples_per_second"] == pytest.approx(8.0)
        assert result.metrics["settle_seconds"] == pytest.approx(14.0), "each pays for its own switch"
        assert result.metrics["epoch_samples"] == SAMPLES
        assert result.metrics["peak_memory_bytes"] > 0


def test_accumulation_makes_longer_steps(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(step_measurement, "time", clock.module)
    (result,) = measure(
        ClockedTask(clock), profile_order(candidate(0, stage("a", hardware={"accumulation": 4})))
    )
    assert result.metrics["step_p50_seconds"] == pytest.approx(4.0)
    assert result.metrics["training_samples_per_second"] == pytest.approx(2.0)


def test_steps_that_take_longer_and_longer_are_refused_as_noisy(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(step_measurement, "time", clock.module)
    strict = {**QUICK, "maxSpreadRatio": 0.1, "maxAttempts": 2}
    task = ClockedTask(clock, step=lambda number: 1.2**number)
    results = measure(task, profile_order(candidate(0, stage("a")), measurement=strict))
    assert (results[0].outcome, results[0].reason) == (Outcome.FAILED, "NoisyMeasurement")
    assert "stage a: optimizer steps" in results[0].message


def test_a_measurement_lasts_at_least_the_ordered_seconds(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(step_measurement, "time", clock.module)
    task = ClockedTask(clock)
    measure(task, profile_order(candidate(0, stage("a")), measurement={**QUICK, "minSeconds": 300}))
    assert len(task.steps) >= 300


@pytest.mark.parametrize(
    ("refused", "reason", "names"),
    [
        (stage("x", model={"resolution": 7}), "UnsupportedResolution", "resolution"),
        (
            stage("x", model={"globalBatch": 9}, hardware={"accumulation": 2}),
            "IndivisibleBatch",
            "globalBatch",
        ),
        (stage("x", hardware={"threads": 1024}), "TooManyThreads", "threads"),
        (stage("x", hardware={"workers": 2}), "WrongWorkers", "workers: must be 1"),
        (stage("x", hardware={"processesPerWorker": 2}), "WrongWorkers", "processesPerWorker: must be 1"),
    ],
)
def test_settings_that_can_not_be_had_are_infeasible_by_name_and_the_next_are_measured(
    refused, reason, names
):
    task = TinyTask()
    first, second = measure(task, profile_order(candidate(0, refused), candidate(1, stage("y"))))
    assert (first.outcome, first.reason) == (Outcome.INFEASIBLE, reason)
    assert names in first.message
    assert "x" in first.message
    assert first.metrics["epoch_samples"] == SAMPLES
    assert second.outcome is Outcome.SUCCEEDED


def test_a_number_format_that_the_device_lacks_is_infeasible():
    lacking = [name for name in ("FP16", "TF32") if name not in supported_precisions(CPU)]
    (result,) = measure(
        TinyTask(), profile_order(candidate(0, stage("x", hardware={"precision": lacking[0]})))
    )
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, "UnsupportedPrecision")
    assert "precision: must be one of" in result.message


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4503599627370496 bytes"
        ),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_is_infeasible_and_leaves_the_next_candidate_as_if_it_never_was(error):
    def run_out(the_stage):
        if the_stage.name == "big":
            raise error

    task, alone = TinyTask(), TinyTask()
    task.before_loss = run_out
    big = candidate(0, stage("big", model={"globalBatch": 16, "resolution": 5}))
    first, second = measure(task, profile_order(big, candidate(1, stage("y"))))
    assert (first.outcome, first.reason) == (Outcome.INFEASIBLE, "OutOfMemory")
    assert "globalBatch: must be less than 16" in first.message
    assert "16 samples at once at resolution 5 in FP32" in first.message
    assert second.outcome is Outcome.SUCCEEDED
    measure(alone, profile_order(candidate(1, stage("y"))))
    assert torch.equal(task.batches[10][2], alone.batches[10][2])


def test_a_loss_that_is_no_number_is_infeasible():
    task = TinyTask()
    task.before_loss = lambda _stage: math.nan
    (result,) = measure(task, profile_order(candidate(0, stage("x", hardware={"precision": FAST}))))
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, "NonFiniteLoss")
    assert FAST in result.message


def test_an_error_of_the_users_own_code_is_one_candidates_failure():
    def fail(the_stage):
        if the_stage.name == "bad":
            raise ValueError("no such thing")

    task = TinyTask()
    task.before_loss = fail
    first, second = measure(task, profile_order(candidate(0, stage("bad")), candidate(1, stage("y"))))
    assert (first.outcome, first.reason) == (Outcome.FAILED, "Error")
    assert "no such thing" in first.message
    assert second.outcome is Outcome.SUCCEEDED


def test_what_fails_to_compile_is_infeasible_by_name(monkeypatch):
    def broken(_wrapped, compilation, _device):
        if compilation != "None":
            from torch._inductor.exc import InductorError  # noqa: PLC0415  # takes seconds to import

            raise InductorError(RuntimeError("no code for this"), None)
        return _wrapped

    monkeypatch.setattr("nascale_trainer.progressive.trainee.compiled", broken)
    monkeypatch.setattr("nascale_trainer.progressive.capabilities._missing_for_compilation", lambda *_: None)
    (result,) = measure(
        TinyTask(), profile_order(candidate(0, stage("x", hardware={"compilation": "Default"})))
    )
    assert (result.outcome, result.reason) == (Outcome.INFEASIBLE, "CannotCompile")
    assert "compilation: must be 'None'" in result.message


def test_a_request_to_stop_is_honoured_at_the_next_step():
    task = TinyTask()
    with pytest.raises(Stopped):
        measure(task, profile_order(candidate(0, stage("x"))), stop=lambda: len(task.batches) >= 2)
    assert len(task.batches) == 2


def test_the_process_is_left_as_it_was():
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    measure(
        TinyTask(),
        profile_order(candidate(0, stage("x", hardware={"threads": 1, "matmulPrecision": "Medium"}))),
    )
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


def test_the_start_is_counted_from_the_processs_own():
    (result,) = measure(
        TinyTask(), profile_order(candidate(0, stage("x"))), started_at=process_start() - 1000
    )
    assert result.metrics["start_seconds"] > 1000


def test_data_that_are_missing_fail_every_candidate(make_architecture):
    answer = profile(
        profile_order(
            candidate(0, stage("a")),
            candidate(1, stage("b")),
            architecture=make_architecture(),
            data={"path": "/nowhere", "format": "IDX"},
        ),
        environ=ALONE,
        device=CPU,
    )
    assert [(result.outcome, result.reason) for result in answer.results] == [
        (Outcome.FAILED, "DataNotFound")
    ] * 2


def test_digits_are_profiled_by_the_built_in_trainer(make_architecture):
    """Resolution, depth, batch and precision reach the network that computes."""
    seen = []

    class Watched(ImageTask):
        def loss(self, network, batch, stage):
            seen.append((stage.name, tuple(batch.images.shape), network.depths))
            return super().loss(network, batch, stage)

    architecture = make_architecture(depth=3)
    small = {"globalBatch": 64, "resolution": 4, "depth": 0.4}
    answer = profile(
        profile_order(
            candidate(0, stage("full", model={"globalBatch": 32})),
            candidate(1, stage("small", model=small, hardware={"precision": FAST})),
            architecture=architecture,
            data={"name": "Digits"},
        ),
        lambda order, device: Watched(order, {}, device),
        environ=ALONE,
        device=CPU,
    )
    assert [result.outcome for result in answer.results] == [Outcome.SUCCEEDED] * 2
    assert {entry[1:] for entry in seen if entry[0] == "full"} == {((32, 1, 8, 8), (3, 1))}
    assert {entry[1:] for entry in seen if entry[0] == "small"} == {((64, 1, 4, 4), (1, 1))}
    assert {result.metrics["epoch_samples"] for result in answer.results} == {1438.0}
    assert all(value >= 0 for result in answer.results for value in result.metrics.values())
    names = [result.trial for result in answer.results]
    assert parse_report(answer.encode().decode(), names) == answer


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"candidates": [candidate(0, stage("a"), stage("b"))]}, "stages: must be one for task MeasureSteps"),
        ({"candidates": [candidate(0, stage("a")), candidate(0, stage("a"))]}, "each trial must appear once"),
        ({"candidates": [candidate(0, stage("a"), guarded=True)]}, "reference: must be given"),
        ({"metrics": ["accuracy"]}, "metrics: must be of"),
        ({"metrics": ["loss_deviation_ratio"]}, "for guarded candidates alone"),
        (
            {"task": "TrainSchedule", "candidates": [candidate(0, stage("a"), stage("a"))]},
            "each name must appear once",
        ),
        ({"task": "TrainSchedule", "metrics": ["step_p50_seconds"]}, "metrics: must not be"),
        (
            {"task": "TrainSchedule", "candidates": [candidate(0, stage("a"), guarded=True)]},
            "guarded: must be false",
        ),
    ],
)
def test_an_order_that_contradicts_itself_is_refused(fields, message):
    document = profile_order(candidate(0, stage("a"))).model_dump(by_alias=True)
    with pytest.raises(ContractError, match=message):
        profile(type(profile_order(candidate(0, stage("a")))).model_validate({**document, **fields}))


@pytest.fixture
def compiler(monkeypatch):
    """A compiler that returns what it was given, in a container that has all it needs."""
    monkeypatch.delenv(COMPILER_CACHE, raising=False)
    monkeypatch.setenv(KERNEL_CACHE, "/kept")
    for module in ("trainee", "compiler_start"):
        monkeypatch.setattr(f"nascale_trainer.progressive.{module}.compiled", lambda wrapped, *_: wrapped)
    monkeypatch.setattr("nascale_trainer.progressive.capabilities._missing_for_compilation", lambda *_: None)


COMPILED = {"compilation": "Default"}


@pytest.mark.usefixtures("compiler")
def test_each_candidate_compiles_into_an_empty_cache_that_is_gone_afterwards():
    seen = {}

    def look(the_stage):
        folder = Path(os.environ[COMPILER_CACHE])
        (folder / the_stage.name).touch()
        seen[the_stage.name] = (folder, os.environ[KERNEL_CACHE], [file.name for file in folder.iterdir()])

    task = TinyTask()
    task.before_loss = look
    stages = [stage("a", hardware=COMPILED), stage("b", hardware=COMPILED)]
    results = measure(task, profile_order(*(candidate(number, one) for number, one in enumerate(stages))))
    assert [result.outcome for result in results] == [Outcome.SUCCEEDED] * 2
    assert seen["a"][0] != seen["b"][0]
    assert not any(folder.exists() for folder, _, _ in seen.values())
    assert seen["b"][1:] == (str(seen["b"][0] / "triton"), ["b"]), "nothing of the candidate before"
    assert COMPILER_CACHE not in os.environ
    assert os.environ[KERNEL_CACHE] == "/kept"


@pytest.mark.usefixtures("compiler")
def test_each_compiled_candidate_pays_for_the_compiler_as_if_it_were_the_first(monkeypatch):
    clock, loaded = Clock(), []
    monkeypatch.setattr(step_measurement, "time", clock.module)

    def load(device):
        loaded.append(device)
        clock.pass_by(30.0)
        return 30.0

    monkeypatch.setattr(profiling, "loading_seconds", load)
    stages = [stage("eager"), stage("a", hardware=COMPILED), stage("b", hardware=COMPILED)]
    results = measure(
        ClockedTask(clock, first=9.0), profile_order(*(candidate(n, one) for n, one in enumerate(stages)))
    )
    assert [result.metrics["settle_seconds"] for result in results] == pytest.approx([9.0, 39.0, 39.0])
    assert loaded == [CPU], "once for the process"


def test_a_compilers_cache_that_the_container_names_stays_in_use(monkeypatch, tmp_path):
    monkeypatch.setenv(COMPILER_CACHE, str(tmp_path))
    with cold_compiler():
        assert os.environ[COMPILER_CACHE] == str(tmp_path)
