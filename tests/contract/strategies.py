"""Stages at random, for the contract's properties."""

from __future__ import annotations

from hypothesis import strategies as st

from nascale.contract.run_order import StageOrder
from nascale.contract.stage_settings import (
    CommunicationHook,
    Compilation,
    GradientCheckpointing,
    HardwareSettings,
    MatmulPrecision,
    MemoryFormat,
    ModelSettings,
    Parallelism,
)
from nascale.contract.work_order import Precision

RATIOS = st.sampled_from([0.0, 0.1, 0.5, 0.9])

models = st.builds(
    ModelSettings,
    resolution=st.sampled_from([None, 8, 32]),
    depth=st.sampled_from([0.5, 1.0]),
    stochastic_depth=RATIOS,
    dropout=RATIOS,
    augmentation=RATIOS,
    mixup=RATIOS,
    label_smoothing=RATIOS,
    learning_rate_factor=st.sampled_from([0.5, 1.0]),
    weight_decay=RATIOS,
    momentum=RATIOS,
    global_batch=st.sampled_from([64, 128]),
    parameters=st.sampled_from([{}, {"length": 32}, {"length": 64, "name": "x"}]),
)
hardware = st.builds(
    HardwareSettings,
    precision=st.sampled_from(Precision),
    matmul_precision=st.sampled_from(MatmulPrecision),
    compilation=st.sampled_from(Compilation),
    memory_format=st.sampled_from(MemoryFormat),
    gradient_checkpointing=st.sampled_from(GradientCheckpointing),
    accumulation=st.sampled_from([1, 2]),
    parallelism=st.sampled_from(Parallelism),
    communication_hook=st.sampled_from(CommunicationHook),
    environment=st.sampled_from([{}, {"NCCL_DEBUG": "WARN"}]),
    threads=st.sampled_from([None, 1, 2]),
    workers=st.sampled_from([1, 2]),
    processes_per_worker=st.sampled_from([1, 2]),
    resources=st.sampled_from([{}, {"cpu": "2"}]),
)
stages = st.builds(
    StageOrder,
    name=st.sampled_from(["a", "b-1"]),
    length=st.sampled_from([None, "1ep", "0.5dur"]),
    until_metric=st.none(),
    until_plateau=st.none(),
    model=models,
    hardware=hardware,
)
