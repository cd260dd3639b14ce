"""Which objective a sweep's budgets bound, and which one decides at equal latency."""

from __future__ import annotations

from typing import Any

import pytest

from nascale.api.scaling_sweep import ScalingSweepSpec

ACCURACY = {"metric": "accuracy", "direction": "Maximize"}
FLOPS = {"metric": "flops", "direction": "Minimize"}
P50 = {"metric": "latency_p50_seconds", "direction": "Minimize"}
P90 = {"metric": "latency_p90_seconds", "direction": "Minimize"}
OWN = {"command": ["train"]}


def _spec(objectives: list[dict[str, Any]], template: dict[str, Any]) -> ScalingSweepSpec:
    return ScalingSweepSpec.model_validate(
        {
            "base": {"searchName": "digits"},
            "family": [{"name": "s", "latencyMultiple": "2"}],
            "target": {"nodeSelector": {"accelerator": "a"}},
            "objectives": objectives,
            "budget": {"maxTrials": 10},
            "trialTemplate": template,
        }
    )


@pytest.mark.parametrize(
    ("objectives", "template", "latency", "quality"),
    [
        ([ACCURACY, P50], {}, "latency_p50_seconds", "accuracy"),
        ([P90, FLOPS, P50, ACCURACY], {}, "latency_p90_seconds", "accuracy"),
        # A container of the user's own says by itself what it knows when.
        ([P90, FLOPS, ACCURACY], OWN, "latency_p90_seconds", "flops"),
        ([P50, P90], OWN, "latency_p50_seconds", None),
        ([FLOPS, P50], {}, "latency_p50_seconds", None),
        ([ACCURACY, FLOPS], {}, None, "accuracy"),
    ],
)
def test_the_first_latency_is_bounded_and_the_first_that_needs_training_decides(
    objectives: list[dict[str, Any]], template: dict[str, Any], latency: str | None, quality: str | None
):
    spec = _spec(objectives, template)

    assert (spec.latency_objective and spec.latency_objective.metric) == latency
    assert (spec.quality_objective and spec.quality_objective.metric) == quality


def test_a_query_is_read_after_training_unless_it_is_a_latency():
    asked = {"source": "Prometheus", "query": 'value{trial="$trial"}'}
    spec = _spec([{**P50, **asked}, {"metric": "perplexity", "direction": "Minimize", **asked}], {})

    assert spec.latency_objective == spec.objectives[0]
    assert spec.quality_objective == spec.objectives[1]
