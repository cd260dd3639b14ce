"""Packages that are postponed: what is not imported, and that nothing is missing to who asks for more."""

import subprocess
import sys


def printed(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
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
