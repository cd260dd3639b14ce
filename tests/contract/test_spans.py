"""Lengths with a unit, and what they come to in samples."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nascale.contract.spans import MAX_SAMPLES, SpanParts, SpanUnit, parts, samples_of


def _samples(span: str, *, epoch: int = 1000, batch: int = 64, whole: int | None = 10_000) -> int:
    return samples_of(span, samples_per_epoch=epoch, batch=batch, whole=whole)


@pytest.mark.parametrize(
    ("span", "value", "unit"),
    [
        ("10ep", "10", SpanUnit.EPOCHS),
        ("5e6sp", "5000000", SpanUnit.SAMPLES),
        ("2000ba", "2000", SpanUnit.BATCHES),
        ("0.5dur", "0.5", SpanUnit.FRACTION),
        ("1.5e3sp", "1500", SpanUnit.SAMPLES),
    ],
)
def test_a_span_is_a_number_and_a_unit(span: str, value: str, unit: SpanUnit):
    assert parts(span) == SpanParts(Decimal(value), unit)


@pytest.mark.parametrize("span", ["", "10", "ep", "-1ep", "10 ep", "10EP", ".5dur", "1e-3dur", "1ep2", "10s"])
def test_anything_else_is_refused_by_value(span: str):
    with pytest.raises(ValueError, match="must be a number with the unit ep, sp, ba or dur") as refused:
        parts(span)
    assert repr(span) in str(refused.value)


@pytest.mark.parametrize(
    ("span", "samples"), [("3ep", 3000), ("250sp", 250), ("10ba", 640), ("0.25dur", 2500), ("0.5005ep", 501)]
)
def test_each_unit_has_its_measure(span: str, samples: int):
    assert _samples(span) == samples


def test_a_share_needs_a_whole():
    with pytest.raises(ValueError, match=r"must have the unit ep, sp or ba, not '0\.5dur'"):
        _samples("0.5dur", whole=None)


@pytest.mark.parametrize("span", ["0ep", "0.0001ep", "1e16sp", f"{MAX_SAMPLES // 1000 + 1}ep"])
def test_nothing_and_too_much_are_refused(span: str):
    with pytest.raises(ValueError, match="must be at least one sample and at most"):
        _samples(span)


@given(st.integers(1, 10**9), st.integers(1, 10**6))
def test_epochs_are_exact(epochs: int, size: int):
    assert _samples(f"{epochs}ep", epoch=size) == epochs * size


@given(st.integers(1, 999_999_999), st.integers(10**9, 10**12))
def test_rounding_is_off_by_half_a_sample_at_most(billionths: int, whole: int):
    samples = _samples(f"0.{billionths:09d}dur", whole=whole)

    assert abs(Decimal(samples) - Decimal(billionths) * whole / 10**9) <= Decimal("0.5")


@given(st.integers(1, 10**6), st.sampled_from(SpanUnit))
def test_a_longer_span_is_no_shorter_in_samples(tenths: int, unit: SpanUnit):
    shorter, longer = f"{tenths // 10}.{tenths % 10}{unit}", f"{tenths // 10 + 1}.{tenths % 10}{unit}"

    if tenths >= 10:
        assert _samples(shorter) < _samples(longer)
