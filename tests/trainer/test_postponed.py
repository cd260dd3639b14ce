"""Packages that are postponed: what is not imported, and that nothing is missing to who asks for more."""

import os
import subprocess
import sys

import pytest


def printed(code, variables=None):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables
    )
    return done.stdout.split()


def test_the_training_process_imports_no_compiler_and_no_other_models():
    code = """
import sys
from nascale_trainer.progressive import worker
worker._import_all()
for name in ("torch._dynamo", "sympy", "torchvision.datasets", "timm.models.resnet"):
    print(name in sys.modules)
"""
    assert printed(code) == ["False"] * 4


@pytest.mark.parametrize(
    ("task", "compiler"), [("Measure", "False"), ("TrainAndMeasure", "True")], ids=["measure", "train"]
)
def test_a_trial_imports_no_other_models_and_a_compiler_only_where_it_trains(
    task, compiler, make_order, make_architecture, environ
):
    """torch's optimizers import the compiler; nothing that only measures should."""
    order = make_order(
        task=task,
        data={"name": "Digits"},
        fidelity={"epochs": 1, "dataFraction": 0.1},
        metrics=["latency_p50_seconds"],
        measurement={"minCalls": 20, "minSeconds": 0.0, "maxSpreadRatio": 10.0},
    )
    order["candidates"][0]["architecture"] = make_architecture()
    code = """
import sys
from nascale_trainer.__main__ import main
print(main())
for name in ("torchvision.datasets", "timm.models.resnet", "torch._dynamo", "sympy"):
    print(name in sys.modules)
"""
    variables = {**os.environ, **environ(order)}
    assert printed(code, variables) == ["0", "False", "False", compiler, compiler]


def test_whoever_asks_for_the_packages_has_them_whole():
    code = """
import sys
from nascale_trainer.postponed import postpone
postpone()
from nascale_trainer.network import DropPath
import timm, timm.layers
from torchvision import datasets
from torchvision.ops import nms
import torchvision.ops.misc, timm.layers.norm_act
print(timm.create_model("resnet18").__class__.__name__)
print(timm.models.resnet18.__name__)
print(timm.layers.DropPath is DropPath)
print(datasets.CIFAR10.__name__)
print(timm.layers.norm_act.FrozenBatchNorm2d is torchvision.ops.misc.FrozenBatchNorm2d)
print(type(torchvision).__name__, torchvision.__version__ != "")
import torch
print(nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5).tolist())
"""
    assert printed(code) == ["ResNet", "resnet18", "True", "CIFAR10", "True", "module", "True", "[0]"]


def test_an_inner_package_runs_after_the_outer_one():
    code = """
from nascale_trainer.postponed import postpone
postpone()
import sys
import timm.models._efficientnet_blocks
print(type(sys.modules["timm"]).__name__)
timm.models.resnet18
print(type(sys.modules["timm"]).__name__, type(sys.modules["timm.models"]).__name__)
"""
    assert printed(code) == ["_Postponed", "module", "module"]


def test_what_is_imported_or_absent_stays_as_it_is():
    code = """
import json, sys
from nascale_trainer.postponed import postpone
before = json
postpone(("json", "json.decoder", "of.nobody", "nobody"))
print(sys.modules["json"] is before, type(sys.modules["json"]).__name__, "nobody" in sys.modules)
"""
    assert printed(code) == ["True", "module", "False"]
