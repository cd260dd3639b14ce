"""Settings of samplers: text in, checked values out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TypeAlias

from nascale.search.errors import SearchError

SettingValue: TypeAlias = int | float | bool


@dataclass(frozen=True)
class WholeSetting:
    """A whole number from low to high."""

    name: str
    default: int
    low: int
    high: int

    @property
    def allowed(self) -> str:
        """The allowed values, for messages."""
        return f"a whole number from {self.low} to {self.high}"

    def read(self, text: str) -> int:
        """Read a value.

        Raises:
            ValueError: it is not allowed.
        """
        value = int(text)
        if not self.low <= value <= self.high:
            raise ValueError(text)
        return value


@dataclass(frozen=True)
class DecimalSetting:
    """A decimal from low to high."""

    name: str
    default: float
    low: float
    high: float

    @property
    def allowed(self) -> str:
        """The allowed values, for messages."""
        return f"a decimal from {self.low:g} to {self.high:g}"

    def read(self, text: str) -> float:
        """Read a value.

        Raises:
            ValueError: it is not allowed.
        """
        try:
            value = float(Decimal(text))
        except InvalidOperation as error:
            raise ValueError(text) from error
        if not self.low <= value <= self.high:
            raise ValueError(text)
        return value


@dataclass(frozen=True)
class SwitchSetting:
    """``true`` or ``false``."""

    name: str
    default: bool

    @property
    def allowed(self) -> str:
        """The allowed values, for messages."""
        return "true or false"

    def read(self, text: str) -> bool:
        """Read a value.

        Raises:
            ValueError: it is not allowed.
        """
        if text not in {"true", "false"}:
            raise ValueError(text)
        return text == "true"


Setting: TypeAlias = WholeSetting | DecimalSetting | SwitchSetting


@dataclass(frozen=True)
class Settings:
    """Checked values by name, defaults included."""

    values: Mapping[str, SettingValue]

    def whole(self, name: str) -> int:
        """Return a whole number."""
        return int(self.values[name])

    def decimal(self, name: str) -> float:
        """Return a decimal."""
        return float(self.values[name])

    def switch(self, name: str) -> bool:
        """Return a switch."""
        return bool(self.values[name])


def faults(algorithm: str, known: Sequence[Setting], given: Mapping[str, str]) -> Iterator[str]:
    """Say every fault of the given settings: name, value, what is allowed."""
    by_name = {setting.name: setting for setting in known}
    for name, text in sorted(given.items()):
        setting = by_name.get(name)
        if setting is None:
            names = ", ".join(sorted(by_name))
            allowed = f"one of {names}" if names else "absent: there is none"
            yield f"algorithm.settings: the name of a setting of {algorithm} must be {allowed}, not {name!r}"
            continue
        try:
            setting.read(text)
        except ValueError:
            yield f"algorithm.settings: {name}: must be {setting.allowed}, not {text!r}"


def read(algorithm: str, known: Sequence[Setting], given: Mapping[str, str]) -> Settings:
    """Read settings.

    Raises:
        SearchError: a setting is unknown or its value not allowed; every fault is named.
    """
    found = list(faults(algorithm, known, given))
    if found:
        raise SearchError("; ".join(found))
    values: dict[str, SettingValue] = {setting.name: setting.default for setting in known}
    values.update(
        {setting.name: setting.read(given[setting.name]) for setting in known if setting.name in given}
    )
    return Settings(values)
