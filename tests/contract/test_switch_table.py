"""The table in ``docs/progressive.md`` is the one that operator and trainer go by."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic.alias_generators import to_camel

from nascale.contract.run_order import StageOrder
from nascale.contract.run_report import SwitchPhase
from nascale.contract.stage_settings import Compilation, HardwareSettings, ModelSettings
from nascale.contract.switch_class import HARDWARE_CLASSES, MODEL_CLASSES, ORDER, SwitchClass, classify

PAGE = (Path(__file__).parents[2] / "docs/progressive.md").read_text()
CHANGES: dict[str, tuple[object, object]] = {
    "resolution": (None, 8),
    "parameters": ({}, {"length": 32}),
    "depth": (1.0, 0.5),
    "global_batch": (64, 128),
    "precision": ("FP32", "BF16"),
    "matmul_precision": ("Highest", "High"),
    "compilation": ("Default", "ReduceOverhead"),
    "memory_format": ("Contiguous", "ChannelsLast"),
    "gradient_checkpointing": ("None", "Blocks"),
    "parallelism": ("DDP", "FSDP"),
    "communication_hook": ("None", "BF16"),
    "environment": ({}, {"NCCL_DEBUG": "WARN"}),
    "threads": (1, 2),
    "resources": ({}, {"cpu": "2"}),
}
"""Two values of each setting that is no small number."""


def _table(head: str) -> dict[str, str]:
    (rows,) = re.findall(rf"\| {re.escape(head)} \|[^\n]*\n\| ---[^\n]*\n((?:\|[^\n]*\n)+)", PAGE)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.strip().splitlines()]
    return {row[0].strip("`"): row[1] for row in cells}


def _class_of(name: str, *, compiled: bool, alone: bool) -> SwitchClass:
    """Return what a change of one setting takes."""
    old, new = CHANGES.get(name, (0.25, 0.5) if name in ModelSettings.model_fields else (1, 2))
    base = {"compilation": Compilation.DEFAULT if compiled else Compilation.NONE}
    base |= {"workers": 1 if alone else 2}

    def stage(value: object) -> StageOrder:
        own = {name: value}
        model = ModelSettings.model_validate(own if name in ModelSettings.model_fields else {})
        hardware = HardwareSettings.model_validate(
            base | (own if name not in ModelSettings.model_fields else {})
        )
        return StageOrder(name="a", model=model, hardware=hardware)

    return classify(stage(old), stage(new))


def _in_words(name: str) -> str:
    plain = _class_of(name, compiled=False, alone=False)
    words = f"`{plain.value}`"
    if (compiled := _class_of(name, compiled=True, alone=False)) is not plain:
        words += f", compiled: `{compiled.value}`"
    if (alone := _class_of(name, compiled=False, alone=True)) is not plain:
        words += f", one process alone: `{alone.value}`"
    return words


def test_the_page_names_every_model_setting_with_its_class():
    assert _table("setting of `model`") == {to_camel(name): _in_words(name) for name in MODEL_CLASSES}


def test_the_page_names_every_hardware_setting_with_its_class():
    assert _table("setting of `hardware`") == {to_camel(name): _in_words(name) for name in HARDWARE_CLASSES}


def test_the_page_names_the_classes_and_the_phases_in_order():
    assert list(_table("class")) == [kind.value for kind in ORDER[1:]]
    assert list(_table("phase")) == [phase.value for phase in SwitchPhase]
