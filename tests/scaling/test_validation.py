"""What makes a sweep impossible, and how it is said."""

from __future__ import annotations

import pytest
from tests.scaling.simulation import BASE, TRANSFORMER, sweep

from nascale.scaling import engine
from nascale.scaling.errors import (
    InvalidBaseError,
    InvalidExplorationError,
    InvalidFamilyError,
    InvalidRangeError,
    ScalingError,
)
from nascale.scaling.problem import Axis, Member, Range, ScaledParameter

POINT = Range(1.0, 1.0)

CASES = [
    (
        {"base": BASE.model_copy(update={"resolution": 6})},
        InvalidBaseError,
        "base.architecture.resolution: must be at least the network's total stride, 8 pixels, not 6",
    ),
    ({"base": ()}, InvalidBaseError, "base.parameters: must be at least 1, not 0"),
    (
        {"base": (*TRANSFORMER, ScaledParameter("layers", 2, Axis.DEPTH))},
        InvalidBaseError,
        "base.parameters: name: must differ between parameters, not layers 2 times",
    ),
    (
        {"base": (ScaledParameter("layers", 0, Axis.DEPTH),)},
        InvalidBaseError,
        "base.parameters[0].value: must be at least 1, not 0",
    ),
    (
        {"base": (ScaledParameter("layers", 2, Axis.DEPTH, 0),)},
        InvalidBaseError,
        "base.parameters[0].multipleOf: must be at least 1, not 0",
    ),
    (
        {"depth": Range(1.3, 1.2)},
        InvalidRangeError,
        "coefficients.depth: must have min at most max (1.2), not 1.3",
    ),
    (
        {"width": Range(0.9, 1.2)},
        InvalidRangeError,
        "coefficients.width.min: must be at least 1, not 0.9: members never shrink the base",
    ),
    (
        {"resolution": Range(1.0, 4.5)},
        InvalidRangeError,
        "coefficients.resolution.max: must be at most 4, not 4.5",
    ),
    (
        {"depth": Range(1.2, 1.2), "width": POINT, "resolution": POINT},
        InvalidRangeError,
        (
            "coefficients: must have a range with min below max, not three points: there is but one vector "
            "to choose from"
        ),
    ),
    (
        {"base": (ScaledParameter("layers", 2, Axis.DEPTH),), "depth": POINT},
        InvalidRangeError,
        "coefficients.depth: must have a max above 1 for an axis that something grows along, not 1",
    ),
    (
        {"resolution": Range(1.0, 1.3), "largest_side": 80},
        InvalidRangeError,
        (
            "coefficients.resolution.max: must be at most 1.25 for a base of 64 pixels, not 1.3: the "
            "training data can give 80 pixels a side at most"
        ),
    ),
    (
        {"largest_side": 63},
        InvalidRangeError,
        (
            "base.architecture.resolution: must be at most 63 pixels, the largest side that the training "
            "data can give, not 64"
        ),
    ),
    ({"members": ()}, InvalidFamilyError, "family: must have at least 1 member, not 0"),
    (
        {"members": (Member("s", multiple=1.5), Member("s", multiple=2.0))},
        InvalidFamilyError,
        "family: name: must differ between members, not s 2 times",
    ),
    (
        {"members": (Member("s", multiple=2.0), Member("m", multiple=2.0))},
        InvalidFamilyError,
        (
            "family[1].latencyMultiple: must be more than 2, the budget of member s, not 2: members go "
            "from small to large"
        ),
    ),
    (
        {"members": (Member("s", seconds=0.2), Member("x", multiple=3.0), Member("m", seconds=0.1))},
        InvalidFamilyError,
        (
            "family[2].latencySeconds: must be more than 0.2, the budget of member s, not 0.1: members go "
            "from small to large"
        ),
    ),
    (
        {"members": (Member("s", multiple=0.9),)},
        InvalidFamilyError,
        "family[0].latencyMultiple: must be at least 1, not 0.9",
    ),
    (
        {"members": (Member("s", seconds=0.0),)},
        InvalidFamilyError,
        "family[0].latencySeconds: must be above 0 seconds, not 0",
    ),
    (
        {"members": (Member("s"),)},
        InvalidFamilyError,
        "family[0]: must have exactly one of latencySeconds, latencyMultiple, not 0",
    ),
    (
        {"members": (Member("s", seconds=0.1, multiple=2.0),)},
        InvalidFamilyError,
        "family[0]: must have exactly one of latencySeconds, latencyMultiple, not 2",
    ),
    (
        {"per_pod": 1},
        InvalidExplorationError,
        "budget.trialsPerPod: must be at least 2, a network and the reference beside it, not 1",
    ),
    (
        {"vectors": 1, "trained_vectors": 1, "finalists": 1},
        InvalidExplorationError,
        "exploration.vectors: must be at least 2, not 1",
    ),
    (
        {"vectors": 4, "trained_vectors": 5},
        InvalidExplorationError,
        "exploration.trainedVectors: must be from 1 to vectors (4), not 5",
    ),
    (
        {"trained_vectors": 3, "finalists": 4},
        InvalidExplorationError,
        "exploration.finalists: must be from 1 to trainedVectors (3), not 4",
    ),
    ({"repeats": 0}, InvalidExplorationError, "exploration.repeats: must be at least 1, not 0"),
    (
        {"tolerance": 0.0},
        InvalidExplorationError,
        "exploration.toleranceRatio: must be above 0 and below 1, not 0",
    ),
    (
        {"drift": 1.0},
        InvalidExplorationError,
        "exploration.driftRatio: must be above 0 and below 1, not 1",
    ),
    (
        {"max_remeasurements": -1},
        InvalidExplorationError,
        "exploration.maxRemeasurements: must be at least 0, not -1",
    ),
    ({"rungs": 0}, InvalidExplorationError, "fidelities.levels: must be at least 1, not 0"),
    (
        {"rungs": 2, "reduction_factor": 1},
        InvalidExplorationError,
        "fidelities.reductionFactor: must be at least 2, not 1",
    ),
]


class TestASweepThatCanNotBeRun:
    @pytest.mark.parametrize(("changes", "kind", "message"), CASES, ids=[case[2][:50] for case in CASES])
    def test_is_refused_with_field_value_and_range(self, changes, kind, message):
        with pytest.raises(kind) as refused:
            engine.validate(sweep(**changes))
        assert str(refused.value) == message

    def test_names_every_fault(self):
        with pytest.raises(ScalingError) as refused:
            engine.validate(sweep(per_pod=1, repeats=0, members=(), depth=Range(0.5, 1.2)))
        assert type(refused.value) is ScalingError
        for field in ("budget.trialsPerPod", "exploration.repeats", "family", "coefficients.depth.min"):
            assert f"{field}: must" in str(refused.value)


class TestASweepThatCanBeRun:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"base": TRANSFORMER},
            {"resolution": POINT},
            {"members": (Member("s", seconds=0.5), Member("m", multiple=1.0))},
            {"base": (ScaledParameter("layers", 2, Axis.DEPTH),), "width": POINT, "resolution": POINT},
        ],
    )
    def test_is_not(self, changes):
        engine.validate(sweep(**changes))
