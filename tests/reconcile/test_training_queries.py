"""Stages that a query to Prometheus ends: asked for the present stage alone, told once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.reconcile.trainings import (
    SimulatedTraining,
    condition,
    ended,
    operator_of,
    run_until,
    stage,
    training,
)

from nascale.reconcile.actions import Question, Reading, ReadingProblem, SeriesReading

QUERY = 'watts{pod="$pod",namespace="$namespace"}'


def ending(name: str, samples: int, **bound: str) -> dict[str, Any]:
    return {**stage(name, samples), "until": {"query": {"promql": QUERY, **bound}}}


def begun_at(cluster: SimulatedTraining) -> dict[str, int]:
    return {entry["name"]: entry["beginSamples"] for entry in cluster.owner["status"]["stages"]}


@pytest.mark.parametrize(
    ("bound", "value", "ends"),
    [
        ({"atLeast": "5"}, 5.0, True),
        ({"atLeast": "5"}, 4.9, False),
        ({"atMost": "5"}, 5.0, True),
        ({"atMost": "5"}, 5.1, False),
    ],
)
def test_a_value_at_the_bound_ends_the_stage_and_another_does_not(bound, value, ends):
    cluster = SimulatedTraining(training(ending("a", 200, **bound), stage("b", 100)))
    cluster.answers = lambda _: Reading(value=value)
    run_until(cluster, operator_of(cluster), lambda: ended(cluster))
    assert (begun_at(cluster)["b"] < 200) is ends
    assert [reason for reason, _ in cluster.events].count("StageEnded") == int(ends)
    assert cluster.trained[-1][1] == 300, "the whole length stays"


def test_the_query_names_the_first_workers_pod_and_is_asked_in_its_stage_alone():
    cluster = SimulatedTraining(training(ending("a", 100, atLeast="5"), stage("b", 100)))
    asked: list[Question] = []

    def answer(question: Question) -> Reading:
        asked.append(question)
        return Reading(value=1.0)

    cluster.answers = answer
    run_until(cluster, operator_of(cluster), lambda: ended(cluster))
    (leader,) = cluster.pods
    assert {question.promql for question in asked} == {f'watts{{pod="{leader}",namespace="default"}}'}
    assert {question.about for question in asked} == {"a"}
    assert cluster.questions == {leader: None}


def test_stages_with_the_same_query_end_one_after_the_other():
    stages = [ending("a", 200, atLeast="5"), ending("b", 200, atLeast="5"), stage("c", 100)]
    cluster = SimulatedTraining(training(*stages))
    cluster.answers = lambda _: Reading(value=float(cluster.owner["status"].get("samples", 0)))
    run_until(cluster, operator_of(cluster), lambda: ended(cluster))
    begins = begun_at(cluster)
    assert 0 < begins["b"] < begins["c"] < 200
    assert cluster.owner["status"]["appliedRevision"] == 2


class LatePrometheus(SimulatedTraining):
    """Answers every question as if it had been asked for the first stage."""

    def _reading(self, name: str) -> SeriesReading:
        found = super()._reading(name)
        late = None if found.question is None else replace(found.question, about="a")
        return replace(found, question=late)


def test_an_answer_about_the_stage_before_ends_nothing():
    stages = [ending("a", 100, atLeast="5"), ending("b", 200, atLeast="5"), stage("c", 100)]
    cluster = LatePrometheus(training(*stages))
    cluster.answers = lambda _: Reading(value=9.0)
    run_until(cluster, operator_of(cluster), lambda: ended(cluster))
    begins = begun_at(cluster)
    assert begins["b"] < 100, "the first stage's own answer counts"
    assert begins["c"] == 300


def test_a_query_without_an_answer_lets_the_stage_take_its_length_and_is_told():
    cluster = SimulatedTraining(training(ending("a", 4000, atLeast="5"), stage("b", 100)))
    bad = Reading(problem=ReadingProblem.BAD_QUERY, message="parse error")
    cluster.answers = lambda _: bad
    operator = operator_of(cluster)
    run_until(cluster, operator, lambda: condition(cluster, "MetricsAvailable")["status"] == "False")
    found = condition(cluster, "MetricsAvailable")
    assert found["reason"] == "StageQueryFailed"
    assert "parse error" in found["message"]
    run_until(cluster, operator, lambda: ended(cluster))
    assert begun_at(cluster)["b"] == 4000


def test_a_move_survives_a_restart_of_the_operator_and_is_not_told_twice():
    cluster = SimulatedTraining(training(ending("a", 200, atLeast="5"), stage("b", 100)))
    cluster.answers = lambda _: Reading(value=9.0 if cluster.owner["status"].get("samples", 0) >= 50 else 0.0)
    run_until(cluster, operator_of(cluster), lambda: cluster.owner.get("status", {}).get("revision", 0) == 1)
    run_until(cluster, operator_of(cluster), lambda: ended(cluster))
    assert cluster.owner["status"]["revision"] == 1
    assert cluster.writes.count("AnnotatePod") == 1


def test_a_query_in_the_last_stage_moves_nothing():
    cluster = SimulatedTraining(training(stage("a", 100), ending("b", 100, atLeast="5")))
    cluster.answers = lambda _: Reading(value=9.0)
    run_until(cluster, operator_of(cluster), lambda: ended(cluster))
    assert cluster.owner["status"]["revision"] == 0
    assert cluster.trained[-1][1] == 200
