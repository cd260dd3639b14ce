"""JSON merge patches (RFC 7396): write only what changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return the patch that turns ``old`` into ``new``; empty where they are equal.

    Absent keys become ``null``; lists are replaced as a whole, which is all that a merge patch can do.
    Neither document may hold ``None`` as a value (the API server's documents do not).
    """
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old:
            patch[key] = value
        elif isinstance(value, Mapping) and isinstance(old[key], Mapping):
            if inner := merge_patch(old[key], value):
                patch[key] = inner
        elif value != old[key]:
            patch[key] = value
    return patch


def narrow(old: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a merge patch that changes ``old``; empty where nothing would change."""
    narrowed: dict[str, Any] = {}
    for key, value in patch.items():
        if value is None:
            if key in old:
                narrowed[key] = None
        elif isinstance(value, Mapping) and isinstance(old.get(key), Mapping):
            if inner := narrow(old[key], value):
                narrowed[key] = inner
        elif value != old.get(key):
            narrowed[key] = value
    return narrowed
