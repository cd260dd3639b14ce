"""Series of running pods: followed in the background, kept over gaps, dropped when nobody follows them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.operator import virtual_time

from nascale.handlers.series import SeriesDesk, continued
from nascale.prometheus.client import PrometheusClient, interpret_series
from nascale.reconcile.actions import (
    FollowSeries,
    Question,
    Reading,
    ReadingProblem,
    Sample,
    SeriesReading,
)

STEPS = "nascale_training_steps_total"
START = datetime(2026, 1, 1, tzinfo=UTC)
AWAY = SeriesReading(problem=ReadingProblem.UNREACHABLE, message="away")


def steps(value: float) -> SeriesReading:
    return SeriesReading((Sample(STEPS, value),))


def follow(pod: str) -> FollowSeries:
    return FollowSeries(pod, "nascale_training_", STEPS)


@dataclass
class CountingPrometheus:
    """Answers the number of the question; fails where told."""

    failing: bool = False
    asked: list[str] = field(default_factory=list)

    async def series(self, query):
        self.asked.append(query)
        if self.failing:
            raise RuntimeError("a bug")
        return steps(float(len(self.asked)))


class TestWhatIsKnownAfterAnAnswer:
    def test_a_standstill_is_timed_from_the_last_move(self):
        first = continued(SeriesReading(), steps(3), STEPS, START)
        same = continued(first, steps(3), STEPS, START + timedelta(seconds=9))
        moved = continued(same, steps(4), STEPS, START + timedelta(seconds=20))
        assert [entry.still_since for entry in (first, same)] == [START, START]
        assert moved.still_since == START + timedelta(seconds=20)

    def test_samples_stay_while_prometheus_is_away(self):
        first = continued(SeriesReading(), steps(3), STEPS, START)
        gap = continued(first, AWAY, STEPS, START + timedelta(seconds=5))
        assert (gap.samples, gap.problem, gap.still_since) == (first.samples, AWAY.problem, START)
        back = continued(gap, steps(9), STEPS, START + timedelta(seconds=10))
        assert (back.samples, back.problem) == (steps(9).samples, None)

    def test_nothing_is_timed_that_was_never_seen(self):
        assert continued(SeriesReading(), AWAY, STEPS, START).still_since is None


class TestDesk:
    def test_a_pod_is_asked_about_until_nobody_follows_it(self):
        woken: list[str] = []
        prometheus = CountingPrometheus()

        async def scenario():
            desk = SeriesDesk(prometheus, woken.append, 5.0)
            desk.follow("u", "n", [follow("p")])
            await asyncio.sleep(11.0)
            desk.follow("u", "n", [follow("p")])
            assert desk.of("u")["p"].samples == steps(3).samples
            desk.follow("u", "n", [])
            assert desk.of("u") == {}
            await asyncio.sleep(60.0)
            await desk.close()

        virtual_time.run(scenario())
        assert woken == ["u"] * 3
        expected = '{__name__=~"nascale_training_.+",namespace="n",pod="p"}'
        assert prometheus.asked == [expected] * 3

    def test_a_bug_is_a_problem_and_not_an_end(self):
        prometheus = CountingPrometheus(failing=True)

        async def scenario():
            desk = SeriesDesk(prometheus, lambda _uid: None, 5.0)
            desk.follow("u", "n", [follow("p")])
            await asyncio.sleep(6.0)
            assert desk.of("u")["p"].problem is ReadingProblem.UNREACHABLE
            prometheus.failing = False
            await asyncio.sleep(5.0)
            assert desk.of("u")["p"].problem is None
            await desk.close()

        virtual_time.run(scenario())

    def test_the_same_answer_wakes_nobody_again(self):
        woken: list[str] = []

        async def scenario():
            desk = SeriesDesk(None, woken.append, 5.0)
            desk.follow("u", "n", [follow("p")])
            await asyncio.sleep(31.0)
            await desk.close()

        virtual_time.run(scenario())
        assert woken == ["u"]


class TestAnswers:
    def answer(self, result, kind="vector"):
        body = {"status": "success", "data": {"resultType": kind, "result": result}}
        return interpret_series(200, json.dumps(body).encode())

    def test_names_labels_and_finite_values_are_read(self):
        found = self.answer(
            [
                {"metric": {"__name__": "a", "pod": "p"}, "value": [1, "2.5"]},
                {"metric": {"__name__": "b"}, "value": [1, "NaN"]},
            ]
        )
        assert found == SeriesReading((Sample("a", 2.5, {"pod": "p"}),))

    def test_no_series_and_foreign_answers_are_problems(self):
        assert self.answer([]).problem is ReadingProblem.NO_SERIES
        assert self.answer([], "matrix").problem is ReadingProblem.BAD_QUERY
        assert interpret_series(502, b"<html>").problem is ReadingProblem.UNREACHABLE

    async def test_the_client_asks_for_now(self, scripted_server):
        body = {"status": "success", "data": {"resultType": "vector", "result": []}}
        scripted_server.answer(200, body)
        async with PrometheusClient(scripted_server.url, wall_clock=lambda: 12.5) as client:
            assert (await client.series("q")).problem is ReadingProblem.NO_SERIES


class TestFurtherQuestions:
    def test_a_question_is_answered_beside_the_series_and_a_new_one_takes_its_place(self):
        asked: list[str] = []

        class Answering(CountingPrometheus):
            async def query(self, query, _moment, _namespace):
                asked.append(query)
                return Reading(value=float(len(asked)))

        first, second = Question("a", "up"), Question("b", "down")

        async def scenario():
            desk = SeriesDesk(Answering(), lambda _: None, 5.0)
            desk.follow("u", "n", [FollowSeries("p", "nascale_training_", STEPS, first)])
            await asyncio.sleep(6.0)
            seen = desk.of("u")["p"]
            assert (seen.question, seen.answer) == (first, Reading(value=2.0))
            desk.follow("u", "n", [FollowSeries("p", "nascale_training_", STEPS, second)])
            assert desk.of("u")["p"].question == first, "an answer stays one to what was asked"
            await asyncio.sleep(5.0)
            assert desk.of("u")["p"].question == second
            desk.follow("u", "n", [follow("p")])
            await asyncio.sleep(5.0)
            assert (desk.of("u")["p"].question, desk.of("u")["p"].answer) == (None, None)
            await desk.close()

        virtual_time.run(scenario())
        assert asked == ["up", "up", "down"]
