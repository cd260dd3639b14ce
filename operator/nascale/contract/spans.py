"""Lengths of training as text with a unit, as in Composer: ``10ep``, ``5e6sp``, ``2000ba``, ``0.5dur``.

A span is turned into samples once, when the size of the data is known: afterwards a change of batch or of
the number of workers moves no boundary.
"""

from __future__ import annotations

import re
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

from pydantic import Field

SPAN_PATTERN: Final = r"^[0-9]{1,15}(\.[0-9]{1,9})?(e[0-9]{1,2})?(ep|sp|ba|dur)$"
Span = Annotated[str, Field(pattern=SPAN_PATTERN, max_length=32)]
"""A length with its unit."""

_PARTS: Final = re.compile(r"^(?P<value>[0-9.]+(?:e[0-9]+)?)(?P<unit>ep|sp|ba|dur)$")
MAX_SAMPLES: Final = 10**15


class SpanUnit(StrEnum):
    """Units of a span."""

    EPOCHS = "ep"
    """Passes over the training part."""
    SAMPLES = "sp"
    """Samples."""
    BATCHES = "ba"
    """Optimizer steps, at the stage's global batch."""
    FRACTION = "dur"
    """Share of the whole length."""


class SpanParts(NamedTuple):
    """A span taken apart."""

    value: Decimal
    unit: SpanUnit


def parts(span: str) -> SpanParts:
    """Take a span apart.

    Raises:
        ValueError: it is none.
    """
    if re.match(SPAN_PATTERN, span) is None:
        raise ValueError(f"must be a number with the unit ep, sp, ba or dur, not {span!r}")
    found = _PARTS.match(span)
    if found is None:
        raise ValueError(f"must be a number with the unit ep, sp, ba or dur, not {span!r}")
    return SpanParts(Decimal(found["value"]), SpanUnit(found["unit"]))


def samples_of(span: str, *, samples_per_epoch: int, batch: int, whole: int | None) -> int:
    """Return a span's length in samples, rounded to the nearest whole number.

    Args:
        span: The span.
        samples_per_epoch: Size of the training part.
        batch: Samples per optimizer step, for the unit ``ba``.
        whole: Length that ``dur`` is a share of, samples; ``None`` where there is none.

    Raises:
        ValueError: it is ``dur`` without a whole, it comes to no sample, or to more than 10**15.
    """
    value, unit = parts(span)
    if unit is SpanUnit.FRACTION and whole is None:
        raise ValueError(f"must have the unit ep, sp or ba, not {span!r}")
    each = {
        SpanUnit.EPOCHS: samples_per_epoch,
        SpanUnit.SAMPLES: 1,
        SpanUnit.BATCHES: batch,
        SpanUnit.FRACTION: whole or 0,
    }[unit]
    samples = int((value * each).to_integral_value(ROUND_HALF_UP))
    if not 1 <= samples <= MAX_SAMPLES:
        raise ValueError(f"must be at least one sample and at most {MAX_SAMPLES}, not {span!r} ({samples})")
    return samples
