"""Values read through PromQL from a real Prometheus: exact, sourced, and never waited for in vain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest
from tests.operator.searches import Namespace, scraped_search, total, wait_until

from nascale.local.instance import LocalCluster
from nascale.prometheus.client import PrometheusClient
from nascale.reconcile.actions import ReadingProblem

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def latency(trial: dict) -> dict:
    """The metric that is read from Prometheus."""
    return next(found for found in trial["status"]["metrics"] if found["name"] == "latency_p50_seconds")


def exact_latency(trial: dict) -> float:
    """What the trial's exporter shows; its report says 1,000 more."""
    (x,) = (float(found["value"]) for found in trial["spec"]["parameters"])
    return 0.001 / 3 + x


@pytest.fixture
def slow_scrapes(operator_cluster: LocalCluster) -> Iterator[LocalCluster]:
    """Prometheus scrapes every 15 s, as most installations do."""
    before = operator_cluster.options().scrape_seconds
    operator_cluster.up({"scrape_seconds": 15.0})
    yield operator_cluster
    operator_cluster.up({"scrape_seconds": before})


class TestSources:
    @pytest.mark.usefixtures("slow_scrapes")
    def test_a_trial_of_100_ms_under_a_15_s_interval_gives_its_exact_value(self, namespace: Namespace):
        search = scraped_search("s", trials=1, metricsCollection={"maxLingerSeconds": 60})
        namespace.apply(search)
        namespace.wait_for("s", "Succeeded", seconds=180)
        (trial,) = namespace.trials()
        assert latency(trial)["source"] == "Prometheus"
        assert float(latency(trial)["value"]) == exact_latency(trial)

    def test_every_value_says_where_it_was_read(self, namespace: Namespace):
        namespace.apply(scraped_search("s", trials=3))
        namespace.wait_for("s", "Succeeded")
        assert namespace.condition("s", "MetricsAvailable")["status"] == "True"
        for trial in namespace.trials():
            sources = {found["name"]: found["source"] for found in trial["status"]["metrics"]}
            assert sources["latency_p50_seconds"] == "Prometheus"
            assert sources["error"] == "Report"
            assert float(latency(trial)["value"]) == exact_latency(trial)

    def test_a_prometheus_that_goes_away_is_replaced_by_reports_and_told(
        self, namespace: Namespace, operator_cluster: LocalCluster
    ):
        fallbacks = "nascale_prometheus_fallbacks_total"
        before = total(operator_cluster, fallbacks, reason="Unreachable")
        # The first trial stays until it is scraped: a busy machine may need longer than usual for that.
        collection = {"maxLingerSeconds": 20, "timeoutSeconds": 10}
        search = scraped_search("s", trials=3, metricsCollection=collection)
        namespace.apply(search)
        wait_until(
            lambda: any(trial.get("status", {}).get("outcome") for trial in namespace.trials()),
            what="the first trial's end",
        )
        operator_cluster.stop("prometheus")
        namespace.wait_for("s", "Succeeded")
        sources = [latency(trial)["source"] for trial in namespace.trials()]
        assert sources[0] == "Prometheus"
        assert sources[-1] == "Report"
        last = namespace.trials()[-1]
        assert float(latency(last)["value"]) == pytest.approx(exact_latency(last) + 1000.0)
        assert total(operator_cluster, fallbacks, reason="Unreachable") - before == sources.count("Report")
        assert wait_until(lambda: namespace.events("PrometheusFallback"), what="the event")
        assert namespace.condition("s", "MetricsAvailable")["status"] == "False"

    def test_without_any_value_the_trial_ends_as_such(self, namespace: Namespace):
        search = scraped_search("s", trials=1, metricsCollection={"maxLingerSeconds": 0})
        search["spec"]["objectives"][1] |= {
            "metric": "energy_joules",
            "query": 'avg_over_time(no_such_series{pod="$pod"}[1m])',
        }
        search["spec"]["budget"]["maxFailedTrials"] = 0
        search["spec"]["trialTemplate"]["args"] = [REPORT_WITHOUT_ENERGY]
        namespace.apply(search)
        namespace.wait_for("s", "Failed")
        (trial,) = namespace.trials()
        assert trial["status"]["outcome"] == "MetricsUnavailable"
        assert wait_until(lambda: namespace.events("MetricsUnavailable"), what="the event")


REPORT_WITHOUT_ENERGY = """
from nascale_trainer import CandidateReport, Outcome, load_work_order
from nascale_trainer.sdk import write_report
from nascale.contract.report import Report
import os
order = load_work_order()
(candidate,) = order.candidates
result = CandidateReport(trial=candidate.trial, outcome=Outcome.SUCCEEDED, metrics={"error": 0.5})
write_report(Report(attempt=order.attempt, results=(result,)).encode(), os.environ)
"""


class TestQueries:
    @pytest.fixture
    def prometheus_url(self, operator_cluster: LocalCluster) -> str:
        operator_cluster.up()
        wait_until(lambda: self._has_series(operator_cluster), what="the first scrapes")
        return operator_cluster.prometheus_url

    @staticmethod
    def _has_series(cluster: LocalCluster) -> bool:
        async def count() -> float:
            async with PrometheusClient(cluster.prometheus_url) as client:
                return (await client.query("count(up == 1) or vector(0)", time.time())).value or 0.0

        return asyncio.run(count()) >= 2

    @pytest.mark.parametrize(
        ("query", "problem", "said"),
        [
            ("sum(up", ReadingProblem.BAD_QUERY, "parse error"),
            ("no_such_series", ReadingProblem.NO_SERIES, "no series"),
            ("up", ReadingProblem.SEVERAL_SERIES, "must yield one series"),
            ("0 / 0", ReadingProblem.NOT_A_NUMBER, "NaN"),
            ("vector(1) / 0", ReadingProblem.NOT_A_NUMBER, "Inf"),
            ("up[1m]", ReadingProblem.BAD_QUERY, "matrix"),
            ('"text"', ReadingProblem.BAD_QUERY, "string"),
        ],
    )
    async def test_every_fault_of_a_query_has_its_name(self, prometheus_url, query, problem, said):
        async with PrometheusClient(prometheus_url) as client:
            reading = await client.query(query, time.time())
        assert (reading.value, reading.problem) == (None, problem)
        assert said in reading.message

    @pytest.mark.parametrize("query", ["1.25", "vector(1.25)", "1.25 * max(up)"])
    async def test_scalars_and_vectors_of_one_are_values(self, prometheus_url, query):
        async with PrometheusClient(prometheus_url) as client:
            assert (await client.query(query, time.time())).value == 1.25


class TestConfinedQueries:
    """With the real parser of the real Prometheus."""

    @pytest.fixture
    def prometheus_url(self, operator_cluster: LocalCluster) -> str:
        operator_cluster.up()
        return operator_cluster.prometheus_url

    @staticmethod
    async def _ask(url: str, query: str):
        async with PrometheusClient(url, confined=True) as client:
            return await client.query(query, time.time(), "mine")

    @pytest.mark.parametrize(
        ("query", "foreign"),
        [
            ("up", "up{}"),
            ('up{namespace="theirs"}', 'up{namespace="theirs"}'),
            ('up{namespace=~"mine"}', 'up{namespace=~"mine"}'),
            ('up{namespace=~".*",pod="p"}', 'up{namespace=~".*",pod="p"}'),
            ('up{namespace!="theirs"}', 'up{namespace!="theirs"}'),
            ('{__name__="up"}', '{__name__="up"}'),
            ('up{namespace="mine"} + on() group_left sum(down)', "down{}"),
            ('up{namespace="mine"} unless (secret offset 5m)', "secret{}"),
            ("sum(rate(requests_total[5m]))", "requests_total{}"),
            ('max_over_time(x{namespace="mine"}[5m:1m]) or absent(y)', "y{}"),
            ('label_replace(x{pod="p"}, "namespace", "mine", "pod", ".*")', 'x{pod="p"}'),
            ('topk(scalar(secret), x{namespace="mine"})', "secret{}"),
        ],
    )
    async def test_what_reads_other_namespaces_is_refused(self, prometheus_url, query, foreign):
        reading = await self._ask(prometheus_url, query)
        assert (reading.value, reading.problem) == (None, ReadingProblem.BAD_QUERY)
        assert 'each selector must have namespace="$namespace"' in reading.message
        assert foreign in reading.message

    @pytest.mark.parametrize(
        "query",
        [
            'up{namespace="mine"}',
            'sum(rate(x{namespace="mine",pod=~"p.*"}[5m])) / count(x{namespace="mine"} offset 1m)',
            'avg_over_time((x{namespace="mine"} * 2)[5m:1m])',
        ],
    )
    async def test_what_reads_its_own_namespace_is_asked(self, prometheus_url, query):
        assert (await self._ask(prometheus_url, query)).problem is ReadingProblem.NO_SERIES

    async def test_a_query_without_series_is_asked(self, prometheus_url):
        assert (await self._ask(prometheus_url, "vector(2)")).value == 2.0

    async def test_a_broken_query_keeps_its_own_message(self, prometheus_url):
        reading = await self._ask(prometheus_url, "sum(up")
        assert "parse error" in reading.message
