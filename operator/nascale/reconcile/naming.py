"""Names of children: they follow from the owner and an index, so that nothing is made twice."""

from __future__ import annotations

import hashlib
from typing import Final

_OWNER_CHARACTERS: Final = 40
"""Leaves room for hash, index and attempt within the 63 characters of a label value."""


def child_prefix(owner_name: str, owner_uid: str) -> str:
    """Return what the names of all children of one owner begin with.

    The hash of the uid keeps children of a deleted owner apart from those of a new one of the same name.
    """
    readable = owner_name.replace(".", "-")[:_OWNER_CHARACTERS].rstrip("-")
    return f"{readable}-{hashlib.sha256(owner_uid.encode()).hexdigest()[:5]}"


def trial_name(prefix: str, index: int) -> str:
    """Return the name of a Trial."""
    return f"{prefix}-{index}"


def job_name(prefix: str, index: int, attempt: int) -> str:
    """Return the name of the Job that is led by a trial."""
    return f"{prefix}-{index}-a{attempt}"


def index_of(prefix: str, name: str) -> int | None:
    """Return the index in a Trial's name; ``None`` where the name is not of this owner."""
    start, _, digits = name.rpartition("-")
    return int(digits) if start == prefix and digits.isdecimal() else None


def candidate_seed(search_seed: int, candidate: int) -> int:
    """Return the seed of a candidate's training: the same at every rung and attempt.

    31 bits, because a JSON reader that keeps numbers as doubles would change a longer one.
    """
    digest = hashlib.sha256(f"{search_seed}/{candidate}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


def backoff_seconds(key: str, repetition: int) -> float:
    """Return how long to wait before a trial that the infrastructure ended is run again.

    Doubles from 10 s to 300 s; minus up to a fifth, by a hash of the key, so that trials which one node
    took down together don't come back in the same instant.

    Args:
        key: Name of the Job that ended.
        repetition: Interruptions so far, from 0.
    """
    share = hashlib.sha256(f"{key}/{repetition}".encode()).digest()[0] / 255
    return float(min(300.0, 10.0 * 2.0 ** min(repetition, 10)) * (1.0 - 0.2 * share))
