"""PromQL queries for the final values of trials."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp

from nascale.prometheus.scope import foreign_selectors
from nascale.reconcile.actions import Reading, ReadingProblem, ReadMetrics, Sample, SeriesReading

A = TypeVar("A", Reading, SeriesReading)

EVALUATION_MARGIN_SECONDS: Final = 2.0
"""A pod's end is known to the second only, and clocks differ a little: queries look this much past it.
Series carry the pod's name, so that no other pod's samples can slip in."""
LONGEST_MESSAGE: Final = 512
SAMPLE_PARTS: Final = 2
"""A sample of the HTTP API is a pair: time, value as text."""


@dataclass(frozen=True)
class QueryPolicy:
    """How patiently a reading is taken.

    Attributes:
        timeout_seconds: Longest wait for one response.
        parallel: Most queries at the same time, over all trials.
        first_pause_seconds: Before a query is repeated; each further pause is twice as long.
        longest_pause_seconds: Bound on a pause.
        missing_seconds: How long a query without result is repeated after the first try: a sample is
            visible a moment after its scrape. What is missing then was never scraped.
    """

    timeout_seconds: float = 10.0
    parallel: int = 16
    first_pause_seconds: float = 0.05
    longest_pause_seconds: float = 5.0
    missing_seconds: float = 2.0


class PrometheusClient:
    """Instant queries through Prometheus' HTTP API.

    Args:
        url: Base URL, for example ``http://prometheus:9090`` (a path prefix is kept).
        policy: How patiently readings are taken.
        wall_clock: Seconds since the epoch.
        confined: Whether a query may only read series of the namespace that it is asked for.
    """

    def __init__(
        self,
        url: str,
        policy: QueryPolicy = QueryPolicy(),
        wall_clock: Callable[[], float] = time.time,
        *,
        confined: bool = False,
    ) -> None:
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._parse_url = f"{url.rstrip('/')}/api/v1/parse_query"
        self._confined = confined
        self._policy = policy
        self._wall_clock = wall_clock
        self._slots = asyncio.Semaphore(policy.parallel)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def read(self, request: ReadMetrics, patience_seconds: float, namespace: str) -> dict[str, Reading]:
        """Take a finished trial's readings, all metrics at the same time.

        Args:
            request: The queries, and when the pod ran.
            patience_seconds: How long after the pod's end an unreachable Prometheus is asked again.
            namespace: Of the trial.

        Returns:
            A reading for every metric of the request: a value or a problem, never an exception.
        """
        give_up = request.end + patience_seconds
        moment = request.end + EVALUATION_MARGIN_SECONDS
        readings = await asyncio.gather(
            *(self._settle(query, moment, give_up, namespace) for query in request.queries.values())
        )
        return dict(zip(request.queries, readings, strict=True))

    async def query(self, query: str, moment: float, namespace: str = "") -> Reading:
        """Evaluate a query once.

        Args:
            query: PromQL.
            moment: Seconds since the epoch.
            namespace: Of the object that asks; empty: the operator itself asks.
        """
        if self._confined and namespace:
            refusal = await self._refusal(query, namespace)
            if refusal is not None:
                return refusal
        return await self._ask(query, moment, interpret, _problem)

    async def series(self, query: str) -> SeriesReading:
        """Evaluate a query now, and return all series that it yields."""
        return await self._ask(query, self._wall_clock(), interpret_series, _series_problem)

    async def _ask(
        self,
        query: str,
        moment: float,
        understand: Callable[[int, bytes], A],
        excuse: Callable[[ReadingProblem, str], A],
    ) -> A:
        form = {"query": query, "time": f"{moment:.3f}"}
        return await self._post(self._url, form, understand, excuse)

    async def _refusal(self, query: str, namespace: str) -> Reading | None:
        """Say why a query may not be asked; ``None``: it may."""

        def understand(status: int, body: bytes) -> Reading:
            if status == HTTPStatus.NOT_FOUND:
                return _problem(
                    ReadingProblem.BAD_QUERY,
                    "queries are confined to their namespace, but this Prometheus does not tell which series "
                    "a query reads (no /api/v1/parse_query)",
                )
            data = _data_of(status, body)
            if isinstance(data, Reading):
                return data
            foreign = foreign_selectors(data, namespace)
            if foreign:
                return _problem(
                    ReadingProblem.BAD_QUERY,
                    f'each selector must have namespace="$namespace": {", ".join(foreign)} would read series '
                    "of other namespaces",
                )
            return Reading()

        answer = await self._post(self._parse_url, {"query": query}, understand, _problem)
        return answer if answer.problem is not None else None

    async def _post(
        self,
        url: str,
        form: Mapping[str, str],
        understand: Callable[[int, bytes], A],
        excuse: Callable[[ReadingProblem, str], A],
    ) -> A:
        try:
            async with self._slots, self._connections().post(url, data=form) as response:
                return understand(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return excuse(ReadingProblem.UNREACHABLE, f"{type(error).__name__}: {error}")

    def _connections(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._policy.timeout_seconds)
            )
        return self._session

    async def _settle(self, query: str, moment: float, give_up: float, namespace: str) -> Reading:
        """Evaluate a query until its answer won't change by waiting."""
        begun = self._wall_clock()
        pause = self._policy.first_pause_seconds
        while True:
            reading = await self.query(query, moment, namespace)
            if reading.problem is ReadingProblem.NO_SERIES:
                until = min(give_up, begun + self._policy.missing_seconds)
            elif reading.problem is ReadingProblem.UNREACHABLE:
                until = give_up
            else:
                return reading
            left = until - self._wall_clock()
            if left <= 0:
                return reading
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, self._policy.longest_pause_seconds)


def interpret(status: int, body: bytes) -> Reading:
    """Turn an HTTP response of ``/api/v1/query`` into a reading.

    A scalar and a vector of one element are values; everything else is a problem with its reason.
    """
    data = _data_of(status, body)
    return data if isinstance(data, Reading) else _interpret_data(data)


def interpret_series(status: int, body: bytes) -> SeriesReading:
    """Turn an HTTP response of ``/api/v1/query`` into samples; values that are not finite are left out."""
    data = _data_of(status, body)
    if isinstance(data, Reading):
        return SeriesReading(problem=data.problem, message=data.message)
    result = data.get("result")
    if data.get("resultType") != "vector" or not isinstance(result, list):
        return _series_problem(ReadingProblem.BAD_QUERY, "the query must yield an instant vector")
    if not result:
        return _series_problem(ReadingProblem.NO_SERIES, "the query yields no series")
    samples: list[Sample] = []
    for series in result:
        value = _value(series.get("value")).value
        labels = dict(series.get("metric") or {})
        if value is not None:
            samples.append(Sample(str(labels.pop("__name__", "")), value, labels))
    return SeriesReading(tuple(samples))


def _data_of(status: int, body: bytes) -> Mapping[str, Any] | Reading:
    """Return the data of an answer, or what is wrong with it."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict) or "status" not in answer:
        # Something in between answered: a proxy, a login page, another program on this port.
        text = body[:LONGEST_MESSAGE].decode(errors="replace")
        return _problem(ReadingProblem.UNREACHABLE, f"HTTP {status}, not an answer of Prometheus: {text}")
    if answer["status"] != "success":
        message = f"{answer.get('errorType', 'error')}: {answer.get('error', '')}"
        refused = status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY)
        return _problem(ReadingProblem.BAD_QUERY if refused else ReadingProblem.UNREACHABLE, message)
    data: Mapping[str, Any] = answer.get("data") or {}
    return data


def _interpret_data(data: Mapping[str, Any]) -> Reading:
    kind, result = data.get("resultType"), data.get("result")
    if kind == "scalar" and isinstance(result, list):
        return _value(result)
    if kind != "vector" or not isinstance(result, list):
        return _problem(
            ReadingProblem.BAD_QUERY, f"the query must yield a scalar or an instant vector, not a {kind}"
        )
    if not result:
        return _problem(ReadingProblem.NO_SERIES, "the query yields no series")
    if len(result) > 1:
        labels = [json.dumps(series.get("metric", {}), sort_keys=True) for series in result[:3]]
        return _problem(
            ReadingProblem.SEVERAL_SERIES,
            f"the query must yield one series, not {len(result)}: {', '.join(labels)}",
        )
    return _value(result[0].get("value"))


def _value(sample: Any) -> Reading:
    if not isinstance(sample, list) or len(sample) != SAMPLE_PARTS:
        return _problem(ReadingProblem.NOT_A_NUMBER, "the query must yield a number, not a histogram")
    try:
        value = float(sample[1])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        return _problem(ReadingProblem.NOT_A_NUMBER, f"the query must yield a finite number, not {sample[1]}")
    return Reading(value=value)


def _problem(problem: ReadingProblem, message: str) -> Reading:
    return Reading(problem=problem, message=message[:LONGEST_MESSAGE])


def _series_problem(problem: ReadingProblem, message: str) -> SeriesReading:
    return SeriesReading(problem=problem, message=message[:LONGEST_MESSAGE])
