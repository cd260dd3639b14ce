"""The learning rate: the course over the run, the stage's factor, the batch rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nascale.contract.run_order import BatchRule, LearningRateCourse, OptimizerOrder
from nascale.contract.stage_settings import ModelSettings
from nascale_trainer.progressive.course import batch_factor, course_share, learning_rate

SHARES = st.floats(0, 1)
WARM_UPS = st.floats(0, 0.9)


@given(SHARES, WARM_UPS, st.sampled_from(LearningRateCourse))
def test_the_course_stays_between_zero_and_the_peak(done, warm_up, course):
    assert 0 <= course_share(OptimizerOrder(course=course, warm_up=warm_up), done) <= 1 + 1e-12


@given(st.tuples(SHARES, SHARES), WARM_UPS, st.sampled_from(LearningRateCourse))
def test_the_course_rises_to_the_warm_ups_end_and_never_again(both, warm_up, course):
    order = OptimizerOrder(course=course, warm_up=warm_up)
    first, second = sorted(both)
    if second < warm_up:
        assert course_share(order, first) <= course_share(order, second) + 1e-12
    if first >= warm_up:
        assert course_share(order, first) >= course_share(order, second) - 1e-12


@pytest.mark.parametrize(
    ("course", "done", "share"),
    [
        ("Cosine", 0.0, 0.1),
        ("Cosine", 0.1, 0.55),
        ("Cosine", 0.2, 1.0),
        ("Cosine", 0.6, 0.5),
        ("Cosine", 1.0, 0.0),
        ("Linear", 0.4, 0.75),
        ("Linear", 1.0, 0.0),
        ("Constant", 0.9, 1.0),
    ],
)
def test_known_points_of_the_course(course, done, share):
    assert course_share(OptimizerOrder(course=course, warm_up=0.2), done) == pytest.approx(share)


@pytest.mark.parametrize(("rule", "factor"), [("None", 1), ("Linear", 4), ("SquareRoot", 2)])
def test_the_batch_rule(rule, factor):
    assert batch_factor(BatchRule(rule), 4) == factor


def test_the_rate_is_the_product_of_all():
    order = OptimizerOrder(
        learning_rate=0.5, course="Linear", warm_up=0, batch_rule="SquareRoot", base_batch=16
    )
    model = ModelSettings(learning_rate_factor=3, global_batch=64)
    assert learning_rate(order, model, 0.5) == pytest.approx(0.5 * 0.5 * 3 * 2)
