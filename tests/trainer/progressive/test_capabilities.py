"""Stages that a machine can't carry out are refused by name; the others are let through."""

import pytest
import torch

from nascale.contract.run_order import StageOrder
from nascale.contract.stage_settings import HardwareSettings
from nascale.contract.work_order import Precision
from nascale_trainer.progressive import capabilities
from nascale_trainer.progressive.capabilities import check_stage
from nascale_trainer.progressive.task import CannotTrain

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


def stage(**hardware):
    return StageOrder.model_validate({"name": "fast", "model": {}, "hardware": hardware})


def refused(order, device=CPU, **more):
    with pytest.raises(CannotTrain) as caught:
        check_stage(order, device, **more)
    return caught.value.reason, str(caught.value)


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that there are two GPUs of a given capability."""

    def make(*, capability=(9, 0), triton=True, compiler=True):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(capabilities, "find_spec", lambda _: object() if triton else None)
        monkeypatch.setattr(capabilities.shutil, "which", lambda *_, **__: "/bin/cc" if compiler else None)

    return make


def test_ordinary_settings_pass():
    check_stage(stage(), CPU)
    check_stage(stage(communicationHook="BF16", matmulPrecision="Medium", memoryFormat="ChannelsLast"), CPU)
    check_stage(stage(parallelism="FSDP", communicationHook="BF16"), CPU)  # one process sends nothing
    check_stage(stage(workers=4, processesPerWorker=8), CPU)


@pytest.mark.parametrize("precision", list(Precision))
def test_a_processor_is_asked_only_for_what_it_computes_in(monkeypatch, precision):
    supported = (Precision.FP32, Precision.BF16)
    monkeypatch.setattr(capabilities, "supported_precisions", lambda _: supported)
    if precision in supported:
        check_stage(stage(precision=precision), CPU)
        return
    reason, message = refused(stage(precision=precision))
    assert reason == "UnsupportedPrecision"
    allowed = "must be one of ['FP32', 'BF16'] on this device (cpu)"
    assert message == f"stage fast: precision: {allowed}, not '{precision}'"


def test_tf32_is_not_of_a_processor():
    assert refused(stage(precision="TF32"))[0] == "UnsupportedPrecision"


@pytest.mark.parametrize("compilation", ["Default", "ReduceOverhead"])
def test_compilation_needs_a_compiler(tmp_path, monkeypatch, compilation):
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(capabilities.sysconfig, "get_path", lambda _: str(tmp_path))
    order = stage(compilation=compilation)
    reason, message = refused(order, environ={"PATH": str(tmp_path)})
    assert reason == "CannotCompile"
    assert message.startswith("stage fast: compilation: must be 'None' in this container, which has")
    assert "no C++ compiler g++" in message
    assert "C++ compiler other" in refused(order, environ={"PATH": str(tmp_path), "CXX": "other"})[1]
    compiler = tmp_path / "g++"
    compiler.touch(mode=0o755)
    check_stage(order, CPU, environ={"PATH": str(tmp_path)})
    check_stage(stage(), CPU, environ={"PATH": ""})


def test_compilation_needs_pythons_headers(tmp_path, monkeypatch):
    (tmp_path / "g++").touch(mode=0o755)
    monkeypatch.setattr(capabilities.sysconfig, "get_path", lambda _: str(tmp_path))
    assert "Python.h" in refused(stage(compilation="Default"), environ={"PATH": str(tmp_path)})[1]


@pytest.mark.parametrize(
    ("made", "missing"),
    [
        ({"triton": False}, "no triton"),
        ({"capability": (6, 1)}, "no GPU of compute capability 7.0"),
        ({"compiler": False}, "no C compiler"),
    ],
)
def test_compilation_for_a_gpu_needs_triton(gpu, made, missing):
    gpu(**made)
    assert missing in refused(stage(compilation="Default"), GPU)[1]
    gpu()
    check_stage(stage(compilation="Default", precision="TF32"), GPU)


def test_more_threads_than_processors_are_refused(monkeypatch):
    monkeypatch.setattr(capabilities, "available_threads", lambda *, environ: 4 if not environ else 1)
    check_stage(stage(threads=4), CPU)
    assert refused(stage(threads=5)) == (
        "TooManyThreads",
        "stage fast: threads: must be from 1 to 4, the processors of this container, not 5",
    )


def test_more_processes_than_gpus_are_refused(gpu):
    gpu()
    check_stage(stage(processesPerWorker=2), GPU)
    reason, message = refused(stage(processesPerWorker=3), GPU)
    assert reason == "TooFewDevices"
    assert message.endswith("processesPerWorker: must be from 1 to 2, the GPUs of this container, not 3")


def test_hooks_are_those_of_ddp():
    reason, message = refused(stage(parallelism="FSDP", communicationHook="FP16", workers=2))
    assert reason == "UnsupportedHook"
    assert message == "stage fast: communicationHook: must be 'None' with FSDP, not 'FP16'"
    check_stage(stage(communicationHook="FP16", workers=2), CPU)


def test_pods_of_other_resources_are_not_judged_by_these():
    other = stage(precision="TF32", resources={"nvidia.com/gpu": "1"})
    check_stage(other, CPU, present=HardwareSettings())
    assert refused(other, present=other.hardware)[0] == "UnsupportedPrecision"
    assert refused(other)[0] == "UnsupportedPrecision"
