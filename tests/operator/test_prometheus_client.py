"""Readings from Prometheus: a value or a problem with its reason, never an exception, never a hang."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from nascale.prometheus.client import (
    EVALUATION_MARGIN_SECONDS,
    PrometheusClient,
    QueryPolicy,
    interpret,
)
from nascale.reconcile.actions import Reading, ReadingProblem, ReadMetrics

QUICK = QueryPolicy(first_pause_seconds=0.01, longest_pause_seconds=0.02, missing_seconds=0.1)


def vector(*values: str) -> dict:
    result = [{"metric": {"pod": f"p{i}"}, "value": [1.0, value]} for i, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


def scalar(value: str) -> dict:
    return {"status": "success", "data": {"resultType": "scalar", "result": [1.0, value]}}


def read_metrics(end: float, *metrics: str) -> ReadMetrics:
    return ReadMetrics("t", "p", {metric: f"query_{metric}" for metric in metrics}, start=end - 5, end=end)


class TestInterpretation:
    @pytest.mark.parametrize("answer", [vector("0.0125"), scalar("0.0125")])
    def test_a_scalar_and_a_vector_of_one_are_values(self, answer):
        assert interpret_json(200, answer) == Reading(value=0.0125)

    @pytest.mark.parametrize("text", ["NaN", "+Inf", "-Inf"])
    @pytest.mark.parametrize("shape", [vector, scalar])
    def test_what_is_not_finite_is_no_value(self, text, shape):
        reading = interpret_json(200, shape(text))
        assert (reading.value, reading.problem) == (None, ReadingProblem.NOT_A_NUMBER)
        assert text in reading.message

    def test_no_series(self):
        assert interpret_json(200, vector()).problem is ReadingProblem.NO_SERIES

    def test_several_series_are_named(self):
        reading = interpret_json(200, vector("1", "2"))
        assert reading.problem is ReadingProblem.SEVERAL_SERIES
        assert "not 2" in reading.message
        assert '"pod": "p1"' in reading.message

    def test_a_broken_query_keeps_what_prometheus_says_of_it(self):
        answer = {"status": "error", "errorType": "bad_data", "error": 'parse error: unexpected "}"'}
        reading = interpret_json(400, answer)
        assert reading.problem is ReadingProblem.BAD_QUERY
        assert reading.message == 'bad_data: parse error: unexpected "}"'

    def test_a_range_is_a_broken_query(self):
        answer = {"status": "success", "data": {"resultType": "matrix", "result": []}}
        assert interpret_json(200, answer).problem is ReadingProblem.BAD_QUERY

    def test_a_histogram_is_no_number(self):
        answer = vector("1")
        answer["data"]["result"][0] = {"metric": {}, "histogram": [1.0, {}]}
        assert interpret_json(200, answer).problem is ReadingProblem.NOT_A_NUMBER

    def test_an_overloaded_prometheus_is_not_a_broken_query(self):
        answer = {"status": "error", "errorType": "timeout", "error": "query timed out"}
        assert interpret_json(503, answer).problem is ReadingProblem.UNREACHABLE

    @pytest.mark.parametrize("body", [b"<html>login</html>", b"[]", b"{}", b"", b"[" * 200_000])
    def test_whatever_else_answers_is_not_prometheus(self, body):
        assert interpret(200, body).problem is ReadingProblem.UNREACHABLE


def interpret_json(status: int, answer: dict) -> Reading:
    return interpret(status, json.dumps(answer).encode())


class TestReading:
    async def test_queries_are_evaluated_just_after_the_pods_end(self, scripted_server):
        scripted_server.answer(200, vector("1"))
        async with PrometheusClient(f"{scripted_server.url}/prefix/", QUICK) as client:
            readings = await client.read(read_metrics(1000.0, "a", "b"), 30.0, "n")
        assert readings == {"a": Reading(value=1.0), "b": Reading(value=1.0)}
        assert {seen.path for seen in scripted_server.seen} == {"/prefix/api/v1/query"}
        moment = f"time={1000.0 + EVALUATION_MARGIN_SECONDS:.3f}"
        assert all(moment in seen.body for seen in scripted_server.seen)

    async def test_a_sample_that_shows_up_a_moment_later_is_found(self, scripted_server):
        scripted_server.answer(200, vector())
        scripted_server.answer(200, vector())
        scripted_server.answer(200, vector("7"))
        async with PrometheusClient(scripted_server.url, QUICK) as client:
            readings = await client.read(read_metrics(time.time(), "a"), 30.0, "n")
        assert readings["a"].value == 7.0

    async def test_what_stays_missing_is_given_up_soon(self, scripted_server):
        scripted_server.answer(200, vector())
        async with PrometheusClient(scripted_server.url, QUICK) as client:
            readings = await client.read(read_metrics(time.time(), "a"), 3600.0, "n")
        assert readings["a"].problem is ReadingProblem.NO_SERIES
        assert len(scripted_server.seen) > 1

    async def test_a_broken_query_is_asked_once(self, scripted_server):
        scripted_server.answer(400, {"status": "error", "errorType": "bad_data", "error": "parse error"})
        async with PrometheusClient(scripted_server.url, QUICK) as client:
            readings = await client.read(read_metrics(time.time(), "a"), 3600.0, "n")
        assert readings["a"].problem is ReadingProblem.BAD_QUERY
        assert len(scripted_server.seen) == 1

    async def test_an_unreachable_prometheus_is_asked_until_patience_ends(self):
        begun = time.time()
        async with PrometheusClient("http://127.0.0.1:1", QUICK) as client:
            readings = await client.read(read_metrics(begun, "a"), 0.3, "n")
        assert readings["a"].problem is ReadingProblem.UNREACHABLE
        assert time.time() >= begun + 0.3

    async def test_one_that_comes_back_in_time_still_gives_the_value(self, scripted_server):
        scripted_server.answer(502, "bad gateway")
        scripted_server.answer(502, "bad gateway")
        scripted_server.answer(200, vector("3"))
        async with PrometheusClient(scripted_server.url, QUICK) as client:
            readings = await client.read(read_metrics(time.time(), "a"), 30.0, "n")
        assert readings["a"].value == 3.0

    async def test_long_after_the_end_it_is_still_asked_once(self, scripted_server):
        scripted_server.answer(200, vector("3"))
        async with PrometheusClient(scripted_server.url, QUICK) as client:
            readings = await client.read(read_metrics(time.time() - 86_400, "a"), 30.0, "n")
        assert readings["a"].value == 3.0
        assert len(scripted_server.seen) == 1

    async def test_a_prometheus_that_never_answers_does_not_hang_us(self):
        async def silent(_reader, writer):
            await asyncio.sleep(30)
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        policy = QueryPolicy(timeout_seconds=0.1, first_pause_seconds=0.01, longest_pause_seconds=0.02)
        async with PrometheusClient(f"http://127.0.0.1:{port}", policy) as client:
            readings = await client.read(read_metrics(time.time(), "a"), 0.2, "n")
        assert readings["a"].problem is ReadingProblem.UNREACHABLE
        server.close()


class TestConfinement:
    async def test_a_prometheus_that_cannot_tell_is_not_asked(self, scripted_server):
        scripted_server.answer(404, {"status": "no such page"})
        async with PrometheusClient(scripted_server.url, QUICK, confined=True) as client:
            reading = await client.query('up{namespace="n"}', 1.0, "n")
        assert reading.problem is ReadingProblem.BAD_QUERY
        assert "no /api/v1/parse_query" in reading.message
        assert [seen.path for seen in scripted_server.seen] == ["/api/v1/parse_query"]

    async def test_unconfined_queries_are_not_looked_at(self, scripted_server):
        scripted_server.answer(200, vector("1"))
        async with PrometheusClient(scripted_server.url, QUICK) as client:
            assert (await client.query("up", 1.0, "n")).value == 1.0
        assert [seen.path for seen in scripted_server.seen] == ["/api/v1/query"]
