"""The samplers by the name that ``spec.algorithm.name`` gives them.

A sampler is imported when it is first asked for: Optuna's cost a second at start-up, which an operator
without a search that uses them need not pay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import MappingProxyType

from nascale.search.errors import SearchError
from nascale.search.sampler import Sampler
from nascale.search.settings import Setting


@dataclass(frozen=True)
class _Entry:
    module: str
    name: str


_ENTRIES: Mapping[str, _Entry] = MappingProxyType(
    {
        "Adaptive": _Entry("adaptive", "Adaptive"),
        "Random": _Entry("random_search", "Random"),
        "RegularizedEvolution": _Entry("regularized_evolution", "RegularizedEvolution"),
        "TPE": _Entry("optuna_samplers", "TPE"),
        "NSGAII": _Entry("optuna_samplers", "NSGAII"),
        "NSGAIII": _Entry("optuna_samplers", "NSGAIII"),
        "GP": _Entry("optuna_samplers", "GP"),
    }
)


def names() -> tuple[str, ...]:
    """Return the names of all samplers."""
    return tuple(_ENTRIES)


@cache
def create(name: str) -> Sampler:
    """Return the sampler of a name (it holds no state, so that all searches share it).

    Raises:
        SearchError: there is no such sampler.
        MissingDependencyError: its library is not installed.
    """
    entry = _entry(name)
    sampler: Sampler = getattr(import_module(f"nascale.search.samplers.{entry.module}"), entry.name)()
    return sampler


def settings_of(name: str) -> tuple[Setting, ...]:
    """Return the settings of a sampler: its class's or its module's ``SETTINGS``.

    Raises:
        SearchError: there is no such sampler.
    """
    entry = _entry(name)
    module = import_module(f"nascale.search.samplers.{entry.module}")
    sampler = getattr(module, entry.name)
    found: tuple[Setting, ...] = getattr(sampler, "SETTINGS", getattr(module, "SETTINGS", ()))
    return found


def _entry(name: str) -> _Entry:
    try:
        return _ENTRIES[name]
    except KeyError:
        raise SearchError(f"algorithm.name: must be one of {', '.join(_ENTRIES)}, not {name!r}") from None
