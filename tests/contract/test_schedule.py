"""From lengths to boundaries."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nascale.contract.run_order import StageOrder
from nascale.contract.schedule import Boundaries, ScheduleError, resolve
from nascale.contract.stage_settings import HardwareSettings, ModelSettings


def _stages(lengths: Sequence[str | None], batches: Sequence[int] | None = None) -> list[StageOrder]:
    sizes = batches or [64] * len(lengths)
    return [
        StageOrder(
            name=f"s{place}",
            length=length,
            model=ModelSettings(global_batch=sizes[place]),
            hardware=HardwareSettings(),
        )
        for place, length in enumerate(lengths)
    ]


def _ends(length: str, *lengths: str | None, epoch: int = 1000) -> tuple[int, ...]:
    return resolve(length, _stages(lengths), epoch).ends


def test_units_may_be_mixed():
    assert _ends("10ep", "2ep", "0.5dur", "1000sp", None) == (2000, 7000, 8000, 10_000)


def test_batches_count_at_the_stage_s_own_batch_and_the_whole_at_the_first_one_s():
    stages = _stages(["10ba", "5ba", None], [64, 128, 64])

    assert resolve("100ba", stages, 1000).ends == (640, 1280, 6400)


def test_a_stage_begins_where_the_one_before_ends():
    bounds = Boundaries((10, 30, 60))

    assert [bounds.begin(place) for place in range(3)] == [0, 10, 30]
    assert bounds.whole == 60


def test_thirds_with_few_digits_fill_the_whole():
    assert _ends("3000ep", "0.333dur", "0.333dur", "0.333dur") == (999_000, 1_998_000, 3_000_000)


@pytest.mark.parametrize(
    ("length", "lengths", "fault"),
    [
        ("4ep", ["1ep", "2ep"], "stages: lengths must sum to the whole length, 4000 samples, not 3000"),
        ("4ep", ["3ep", "2ep"], "stages: lengths must sum to the whole length, 4000 samples, not 5000"),
        ("100sp", ["50sp", "49sp"], "100 samples, not 99"),
        ("4ep", ["2ep", "2ep", None], "stages[2].length: must be left something of the 4000 samples"),
        ("10sp", ["0.9995dur", "0.1dur"], "stages[1].length: must be left something of the 10 samples"),
        ("4ep", [None, "2ep"], "stages[0].length: must be given for every stage but the last one"),
        ("0.5dur", ["1ep"], "length: must have the unit ep, sp or ba, not '0.5dur'"),
        ("4ep", ["0ep", "4ep"], "stages[0].length: must be at least one sample"),
    ],
)
def test_what_makes_no_schedule_is_refused_by_name(length: str, lengths: list[str | None], fault: str):
    with pytest.raises(ScheduleError) as refused:
        _ends(length, *lengths)

    assert fault in str(refused.value)


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=16),
    st.integers(1, 10**5),
    st.sampled_from(["given", "left out"]),
)
def test_bounds_increase_and_end_at_the_whole(lengths: list[int], epoch: int, last: str):
    written: list[str | None] = [f"{length}ep" for length in lengths]
    if last == "left out":
        written[-1] = None

    ends = _ends(f"{sum(lengths)}ep", *written, epoch=epoch)

    assert ends == tuple(sum(lengths[: place + 1]) * epoch for place in range(len(lengths)))
    assert all(low < high for low, high in zip((0, *ends), ends, strict=False))


@given(
    st.lists(st.integers(1, 999), min_size=1, max_size=16),
    st.integers(1, 10**6),
    st.sampled_from([64, 96, 1024]),
)
def test_a_schedule_is_refused_or_its_bounds_increase(shares: list[int], epoch: int, batch: int):
    stages = _stages([f"0.{share:03d}dur" for share in shares], [batch] * len(shares))
    try:
        bounds = resolve("7ep", stages, epoch)
    except ScheduleError:
        # What is refused misses the whole, or leaves a stage without a sample.
        each = [max(round(share * 7 * epoch / 1000), 0) for share in shares]
        assert abs(sum(shares) - 1000) > 0 or min(each) < 1 or sum(each[:-1]) >= 7 * epoch - 1
        return
    assert bounds.whole == 7 * epoch
    assert all(low < high for low, high in zip((0, *bounds.ends), bounds.ends, strict=False))
    assert [bounds.begin(place) for place in range(len(shares))] == [0, *bounds.ends[:-1]]


@given(st.lists(st.integers(1, 100), min_size=2, max_size=8), st.data())
def test_a_change_of_the_batch_moves_no_bound_that_is_not_in_batches(lengths: list[int], data: st.DataObject):
    written = [f"{length}ep" for length in lengths]
    batches = data.draw(st.lists(st.integers(1, 4096), min_size=len(lengths), max_size=len(lengths)))

    changed = resolve(f"{sum(lengths)}ep", _stages(written, batches), 1000)

    assert changed == resolve(f"{sum(lengths)}ep", _stages(written), 1000)
