"""Packages whose own code runs when something is asked of it, not when one of their modules is imported.

The network needs a few of timm's modules. Python runs the packages around them first: timm imports every
model that it has, and torchvision for one class; torchvision imports everything, and torch's compiler for one
question. That is half of what a training process imports before its first step. Postponed, a package is there
with its folder alone, so that its modules are found. Whoever asks it for anything else has it run then, and
finds what it would have found before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

AROUND_THE_NETWORK: Final = (
    "torchvision",
    "torchvision.models",
    "torchvision.ops",
    "timm",
    "timm.models",
)
"""Packages around what ``nascale_trainer.network`` imports; outer ones come first."""


class _Postponed(ModuleType):
    """A package before its own code has run."""

    def __getattr__(self, name: str) -> Any:
        """Run the package's code, and look again."""
        if name.startswith("__"):  # Python's own questions
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        _run(self)
        return getattr(self, name)


def postpone(packages: Sequence[str] = AROUND_THE_NETWORK) -> None:
    """Postpone packages that are not imported yet; those that are absent or imported stay as they are.

    Args:
        packages: Names; outer ones first.
    """
    for name in packages:
        outer, _, own = name.rpartition(".")
        if name in sys.modules or (outer and not isinstance(sys.modules.get(outer), _Postponed)):
            continue
        spec = find_spec(name)
        if spec is None or spec.loader is None or spec.submodule_search_locations is None:
            continue
        sys.modules[name] = _package(name, spec)
        if outer:
            setattr(sys.modules[outer], own, sys.modules[name])


def _package(name: str, spec: ModuleSpec) -> ModuleType:
    package = _Postponed(name)
    package.__spec__, package.__loader__, package.__package__ = spec, spec.loader, name
    package.__path__ = spec.submodule_search_locations or []
    package.__file__ = spec.origin
    return package


def _run(package: ModuleType) -> None:
    """Run the code of a package, after those around it, as Python does."""
    outer = sys.modules.get(package.__name__.rpartition(".")[0])
    if isinstance(outer, _Postponed):
        _run(outer)
    if not isinstance(package, _Postponed):
        return  # those around it have asked for it
    package.__class__ = ModuleType  # type: ignore[assignment]  # an ordinary one from here on
    spec = package.__spec__
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(package)
