"""The time that the rest of a schedule takes, from what is known of the speed of its stages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nascale.contract.remaining import measured_rates, remaining_seconds, same_speed
from nascale.contract.run_order import StageOrder


def stage(name: str, *, batch: int = 10, **hardware: object) -> StageOrder:
    return StageOrder.model_validate(
        {"name": name, "length": "100sp", "model": {"globalBatch": batch}, "hardware": hardware}
    )


def changed(source: StageOrder, **model: object) -> StageOrder:
    return source.model_copy(update={"model": source.model.model_copy(update=model)})


@pytest.mark.parametrize("setting", ["learning_rate_factor", "weight_decay", "momentum", "label_smoothing"])
def test_settings_that_cost_no_time_do_not_make_another_speed(setting: str):
    first = stage("a")
    assert same_speed(first, changed(first, **{setting: 0.125}))


@pytest.mark.parametrize(("setting", "value"), [("resolution", 12), ("depth", 0.5), ("global_batch", 20)])
def test_settings_that_do_make_one(setting: str, value: float):
    first = stage("a")
    assert not same_speed(first, changed(first, **{setting: value}))
    assert not same_speed(first, stage("a", workers=2))
    assert not same_speed(first, stage("a", precision="BF16"))


def test_a_later_stage_is_as_fast_as_the_latest_one_with_its_settings():
    stages = [
        stage("a", batch=20),
        stage("b", batch=20),
        stage("c"),
        stage("d", batch=20),
        stage("e", batch=40),
    ]
    rates = measured_rates(stages, 2, {0: 1.0, 1: 0.5, 2: 0.1})
    assert rates == {3: 40.0}


def test_what_has_the_present_settings_is_as_fast_as_now_whatever_was_before():
    stages = [stage("a"), stage("b"), stage("c")]
    assert measured_rates(stages, 1, {0: 1.0, 1: 1.0}) == {}


def test_each_stage_counts_with_its_own_speed():
    # 50 samples at 10/s, then 100 at 40/s, then 100 as now.
    assert remaining_seconds(50, 0, [100, 200, 300], {1: 40.0}, 10.0) == 5.0 + 2.5 + 10.0


def test_without_a_present_speed_nothing_is_known():
    assert remaining_seconds(0, 0, [100], {}, None) is None
    assert remaining_seconds(0, 0, [100], {}, 0.0) is None


@given(
    lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=6),
    share=st.floats(0, 1),
    rate=st.floats(0.5, 1e6),
)
def test_where_all_stages_are_as_fast_it_is_what_is_left_over_the_speed(
    lengths: list[int], share: float, rate: float
):
    ends = [sum(lengths[: place + 1]) for place in range(len(lengths))]
    samples = int(share * ends[-1])
    place = next(place for place, end in enumerate(ends) if samples <= end)
    found = remaining_seconds(samples, place, ends, dict.fromkeys(range(len(ends)), rate), rate)
    assert found == pytest.approx((ends[-1] - samples) / rate)
