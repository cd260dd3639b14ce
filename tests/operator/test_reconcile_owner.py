"""One reconcile: plans and writes until nothing more is due, one status, nothing told twice or lost."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from nascale.cluster.cache import ObjectCache
from nascale.cluster.client import Listing
from nascale.cluster.errors import UnavailableError
from nascale.cluster.resources import SEARCHES, SWEEPS, TRIALS
from nascale.handlers.reconcile_owner import MOST_PASSES, Edges, OwnerReconciler
from nascale.handlers.series import SeriesDesk
from nascale.prometheus.exporter import OperatorMetrics
from nascale.reconcile.actions import (
    Counted,
    CreateTrial,
    DeleteOwner,
    Event,
    EventType,
    Plan,
    Reading,
    ReadMetrics,
)
from nascale.reconcile.observed import Observed, OperatorSettings

SEARCH: dict[str, Any] = {
    "apiVersion": "nascale.io/v1alpha1",
    "kind": "ArchitectureSearch",
    "metadata": {"name": "s", "namespace": "n", "uid": "u", "resourceVersion": "1"},
    "spec": {"metricsCollection": {"timeoutSeconds": 42}},
}
STARTED = Event(EventType.NORMAL, "SearchStarted", "the search has begun")
SHARES = {"nvidia.com/gpu.replicas": "4"}
FINISHED = Counted("trials_finished", {"outcome": "Succeeded"})


def trial_manifest(name: str) -> dict[str, Any]:
    owner = {"kind": "ArchitectureSearch", "name": "s", "uid": "u", "controller": True}
    return {"metadata": {"name": name, "namespace": "n", "ownerReferences": [owner]}}


@dataclass
class FakeClient:
    """Stores what is written; fails as often as told."""

    failures: int = 0
    status_patches: list[dict[str, Any]] = field(default_factory=list)
    version: int = 10

    def _answer(self, document: dict[str, Any], **more: Any) -> dict[str, Any]:
        self.version += 1
        metadata = {"uid": f"uid-{document['metadata']['name']}", **document["metadata"]}
        return {**document, **more, "metadata": {**metadata, "resourceVersion": str(self.version)}}

    async def create_owned(self, _resource, document):
        return self._answer(document)

    async def patch_status(self, _resource, _namespace, _name, _uid, status):
        if self.failures:
            self.failures -= 1
            raise UnavailableError("away")
        self.status_patches.append(status)
        return self._answer(SEARCH, status=status)

    async def delete(self, *_):
        return None

    async def list_objects(self, resource, namespace, *, metadata_only):
        assert (resource.plural, namespace, metadata_only) == ("nodes", None, True)
        return Listing(({"metadata": {"labels": SHARES}},), 1)


@dataclass
class FakeReadings:
    requests: list[tuple[str, str, float]] = field(default_factory=list)
    taken: dict[str, dict[str, Reading]] = field(default_factory=dict)

    def request(self, _uid, namespace, request, patience):
        self.requests.append((namespace, request.trial, patience))

    def of(self, _uid):
        return dict(self.taken)

    def keep_only(self, _uid, trials):
        self.taken = {name: readings for name, readings in self.taken.items() if name in trials}

    def forget(self, _uid):
        self.taken = {}


@dataclass
class FakeEvents:
    recorded: list[tuple[str, Event]] = field(default_factory=list)

    def record(self, about, event):
        self.recorded.append((about["metadata"]["name"], event))


@dataclass
class World:
    """A reconciler whose plans are a list."""

    plans: list[Plan]
    cache: ObjectCache = field(default_factory=ObjectCache)
    client: FakeClient = field(default_factory=FakeClient)
    readings: FakeReadings = field(default_factory=FakeReadings)
    events: FakeEvents = field(default_factory=FakeEvents)
    metrics: OperatorMetrics = field(default_factory=OperatorMetrics)
    observed: list[Observed] = field(default_factory=list)
    wanted: bool = False
    settings: OperatorSettings = field(default_factory=OperatorSettings)

    def planner(self, observed: Observed) -> Plan:
        self.observed.append(observed)
        return self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]

    def reconciler(self) -> OwnerReconciler:
        self.cache.observe(SEARCHES, SEARCH)
        self.series = SeriesDesk(None, lambda _uid: None, 5.0)
        edges = Edges(self.cache, self.client, self.events, self.metrics, self.readings, self.series)
        threads = ThreadPoolExecutor(1)
        return OwnerReconciler(
            edges,
            self.settings,
            threads,
            is_wanted=lambda _uid: self.wanted,
            planners={"ArchitectureSearch": self.planner},
        )

    def finished(self) -> float:
        labels = {"outcome": "Succeeded"}
        return self.metrics.registry.get_sample_value("nascale_trials_finished_total", labels) or 0.0


async def test_a_plan_that_asks_for_another_look_at_once_is_followed_by_one_that_sees_its_writes():
    world = World(
        [
            Plan((CreateTrial(trial_manifest("t")),), {"a": 1}, (STARTED,), requeue_after_seconds=0.0),
            Plan(status={"a": 2}, events=(STARTED,), requeue_after_seconds=30.0),
        ]
    )
    assert await world.reconciler().reconcile("u") == 30.0
    assert [len(observed.trials) for observed in world.observed] == [0, 1]
    assert world.client.status_patches == [{"a": 2}]
    assert world.events.recorded == [("s", STARTED)]


async def test_plans_that_never_have_enough_come_back_through_the_queue():
    world = World([Plan(requeue_after_seconds=0.0)])
    assert await world.reconciler().reconcile("u") == 0.0
    assert len(world.observed) == MOST_PASSES


async def test_an_unended_search_is_looked_at_again_in_any_case_and_an_ended_one_is_not():
    world = World([Plan(), Plan(status={"completionTime": "2026-01-01T00:00:00Z"}), Plan()])
    reconciler = world.reconciler()
    assert await reconciler.reconcile("u") == OperatorSettings().resync_seconds
    assert await reconciler.reconcile("u") is None
    assert await reconciler.reconcile("u") is None


async def test_a_status_that_is_there_already_is_not_written():
    world = World([Plan(status={"a": 1})])
    reconciler = world.reconciler()
    await reconciler.reconcile("u")
    await reconciler.reconcile("u")
    assert world.client.status_patches == [{"a": 1}]


async def test_while_more_happens_the_status_waits_but_an_end_does_not():
    world = World(
        [
            Plan(status={"finished": 1}, events=(STARTED,)),
            Plan(status={"finished": 2}, counted=(FINISHED,)),
            Plan(status={"finished": 3, "completionTime": "2026-01-01T00:00:00Z"}),
        ],
        wanted=True,
    )
    reconciler = world.reconciler()
    await reconciler.reconcile("u")
    assert world.client.status_patches == [{"finished": 1}]
    assert await reconciler.reconcile("u") == 0.0
    assert world.client.status_patches == [{"finished": 1}]
    assert world.finished() == 0.0
    await reconciler.reconcile("u")
    assert world.client.status_patches[1:] == [{"finished": 3, "completionTime": "2026-01-01T00:00:00Z"}]
    assert world.finished() == 1.0


async def test_after_a_failed_write_nothing_is_told_until_it_succeeds_and_then_once():
    news = Plan(status={"a": 1}, events=(STARTED,), counted=(FINISHED,))
    later = Plan(status={"a": 1}, events=(STARTED,))
    world = World([news, later], client=FakeClient(failures=1))
    reconciler = world.reconciler()
    with pytest.raises(UnavailableError):
        await reconciler.reconcile("u")
    assert world.events.recorded == []
    assert world.finished() == 0.0
    await reconciler.reconcile("u")
    assert world.events.recorded == [("s", STARTED)]
    assert world.finished() == 1.0


async def test_an_event_about_a_trial_is_recorded_on_it():
    blocked = Event(EventType.WARNING, "TrialBlocked", "no image", trial="t")
    world = World([Plan((CreateTrial(trial_manifest("t")),), events=(blocked,))])
    await world.reconciler().reconcile("u")
    assert world.events.recorded == [("t", blocked)]


async def test_readings_are_asked_for_with_the_searchs_patience_and_dropped_when_recorded():
    asked = [
        ReadMetrics("t", "p", {}, 0.0, 1.0),
        ReadMetrics("quick", "p", {}, 0.0, 1.0, patience_seconds=5.0),
    ]
    world = World([Plan(tuple(asked))])
    world.readings.taken = {"t": {}, "recorded": {}}
    for name, status in (("t", {}), ("recorded", {"outcome": "Succeeded"})):
        document = trial_manifest(name)
        document["metadata"] |= {"uid": name, "resourceVersion": "3"}
        world.cache.observe(TRIALS, {**document, "status": status})
    await world.reconciler().reconcile("u")
    assert world.readings.requests == [("n", "t", 42.0), ("n", "quick", 5.0)]
    assert set(world.observed[0].readings) == {"t", "recorded"}
    assert set(world.readings.taken) == {"t"}


async def test_a_search_that_is_going_is_left_alone():
    world = World([Plan()])
    reconciler = world.reconciler()
    going = {**SEARCH, "metadata": {**SEARCH["metadata"], "resourceVersion": "2", "deletionTimestamp": "now"}}
    world.cache.observe(SEARCHES, going)
    assert await reconciler.reconcile("u") is None
    assert world.observed == []


async def test_the_series_of_a_search_go_with_it():
    world = World([Plan(gauges={"pareto_size": 2.0})])
    reconciler = world.reconciler()
    labels = {"namespace": "n", "search": "s"}
    await reconciler.reconcile("u")
    assert world.metrics.registry.get_sample_value("nascale_search_pareto_size", labels) == 2.0
    world.cache.remove(SEARCHES, "u")
    assert await reconciler.reconcile("u") is None
    assert world.metrics.registry.get_sample_value("nascale_search_pareto_size", labels) is None


async def test_an_owner_that_the_plan_deletes_is_forgotten():
    world = World([Plan((DeleteOwner("u"),), status={"a": 1}, gauges={"pareto_size": 2.0})])
    assert await world.reconciler().reconcile("u") is None
    assert world.client.status_patches == []
    labels = {"namespace": "n", "search": "s"}
    assert world.metrics.registry.get_sample_value("nascale_search_pareto_size", labels) is None


async def test_a_plan_is_made_beside_the_event_loop():
    world = World([Plan()])
    threads: list[object] = []

    def planner(_observed: Observed) -> Plan:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        threads.append(None)
        return Plan()

    reconciler = world.reconciler()
    reconciler._planners = {"ArchitectureSearch": planner}
    await reconciler.reconcile("u")
    assert len(threads) == 1


async def test_a_sweep_that_waits_for_a_search_wakes_when_the_searchs_status_is_written():
    world = World([Plan(status={"a": 1})])
    waiting = {
        "metadata": {"name": "w", "namespace": "n", "uid": "w", "resourceVersion": "1"},
        "spec": {"base": {"searchName": "s"}},
    }
    world.cache.observe(SWEEPS, waiting)
    woken: list[str] = []
    reconciler = world.reconciler()
    reconciler._wake = woken.append
    await reconciler.reconcile("u")
    await reconciler.reconcile("u")
    assert woken == ["w"]


class TestSweeps:
    WAITING: dict[str, Any] = {  # noqa: RUF012 - a document, never changed
        "metadata": {"name": "w", "namespace": "n", "uid": "w", "resourceVersion": "1"},
        "spec": {"base": {"searchName": "s"}, "reuseTrialsFrom": "other"},
    }

    def reconciler(self, world: World) -> OwnerReconciler:
        reconciler = world.reconciler()
        reconciler._planners = {"ScalingSweep": world.planner}
        world.cache.observe(SWEEPS, self.WAITING)
        return reconciler

    async def test_its_plan_sees_the_search_and_the_sweep_that_its_spec_names(self):
        world = World([Plan()])
        reconciler = self.reconciler(world)
        await reconciler.reconcile("w")
        other = {**self.WAITING, "metadata": {**self.WAITING["metadata"], "name": "other", "uid": "o"}}
        world.cache.observe(SWEEPS, other)
        trial = trial_manifest("t")
        trial["metadata"] |= {"uid": "t", "resourceVersion": "3"}
        trial["metadata"]["ownerReferences"][0] |= {"kind": "ScalingSweep", "uid": "o"}
        world.cache.observe(TRIALS, trial)
        await reconciler.reconcile("w")
        before, after = (observed.related for observed in world.observed)
        assert before.search == world.cache.get(SEARCHES, "u")
        assert (before.sweep, before.trials) == (None, ())
        assert after.sweep == other
        assert [found["metadata"]["name"] for found in after.trials] == ["t"]

    async def test_it_sees_the_trials_of_the_whole_chain_of_sweeps_that_reuse_each_other(self):
        world = World([Plan()])
        reconciler = self.reconciler(world)
        for name, reused in (("other", "third"), ("third", "other")):
            found = {
                "metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "1"},
                "spec": {"reuseTrialsFrom": reused},
            }
            world.cache.observe(SWEEPS, found)
            trial = trial_manifest(f"of-{name}")
            trial["metadata"] |= {"uid": f"of-{name}", "resourceVersion": "3"}
            trial["metadata"]["ownerReferences"][0]["uid"] = name
            world.cache.observe(TRIALS, trial)
        await reconciler.reconcile("w")
        (observed,) = world.observed
        assert [found["metadata"]["name"] for found in observed.related.trials] == ["of-other", "of-third"]

    async def test_its_series_go_with_it(self):
        world = World([Plan(gauges={"latency_model_error": 0.1})])
        reconciler = self.reconciler(world)
        labels = {"namespace": "n", "sweep": "w"}
        await reconciler.reconcile("w")
        assert world.metrics.registry.get_sample_value("nascale_sweep_latency_model_error", labels) == 0.1
        assert reconciler.kind_of("w") == "ScalingSweep"
        world.cache.remove(SWEEPS, "w")
        assert reconciler.kind_of("w") == "ScalingSweep"
        await reconciler.reconcile("w")
        assert world.metrics.registry.get_sample_value("nascale_sweep_latency_model_error", labels) is None


@pytest.mark.parametrize(("reads", "known"), [(True, {"nvidia.com/gpu": (SHARES,)}), (False, {})])
async def test_a_plan_sees_nodes_with_shares_of_its_devices_where_the_operator_may(reads, known):
    world = World([Plan()], settings=OperatorSettings(reads_nodes=reads))
    reconciler = world.reconciler()
    spec = {"target": {"resources": {"limits": {"nvidia.com/gpu": 1}}}}
    metadata = {**SEARCH["metadata"], "resourceVersion": "9"}
    world.cache.observe(SEARCHES, {**SEARCH, "metadata": metadata, "spec": spec})
    await reconciler.reconcile("u")
    assert [observed.sharing_nodes for observed in world.observed] == [known]
