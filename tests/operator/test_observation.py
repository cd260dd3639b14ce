"""From watches and listings to wake-ups; what a watch has missed is found all the same."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.operator import virtual_time

from nascale.cluster.cache import ObjectCache
from nascale.cluster.client import Listing
from nascale.cluster.errors import UnavailableError
from nascale.cluster.resources import JOBS, PODS, SEARCHES, SWEEPS, TRIALS
from nascale.handlers.observation import REGULARLY_SECONDS, Observation
from nascale.prometheus.exporter import OperatorMetrics


def document(uid: str, version: int, owner: str | None = None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": uid, "namespace": "n", "uid": uid, "resourceVersion": str(version)}
    if owner is not None:
        metadata["ownerReferences"] = [{"kind": "K", "name": "o", "uid": owner, "controller": True}]
    return {"metadata": metadata}


@dataclass
class Listings:
    """Lists what is stored, as the API server would."""

    stored: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    version: int = 100
    requests: list[tuple[str, bool]] = field(default_factory=list)
    failing: bool = False

    async def list_objects(self, resource, _namespace, *, metadata_only=False):
        self.requests.append((resource.plural, metadata_only))
        if self.failing:
            raise UnavailableError("away")
        return Listing(tuple(self.stored.get(resource.plural, ())), self.version)


@dataclass
class World:
    cache: ObjectCache = field(default_factory=ObjectCache)
    listings: Listings = field(default_factory=Listings)
    woken: list[str] = field(default_factory=list)
    metrics: OperatorMetrics = field(default_factory=OperatorMetrics)

    def observation(self) -> Observation:
        return Observation(self.cache, self.listings, self.metrics, (None,), self.woken.append)


@pytest.fixture
def world() -> World:
    return World()


def event(kind: str | None, found: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": found}


class TestEvents:
    def test_news_wake_the_search_that_they_concern_and_echoes_nobody(self, world):
        async def scenario() -> None:
            observation = world.observation()
            observation.take_event(SEARCHES, event("ADDED", document("s", 1)))
            observation.take_event(JOBS, event("ADDED", document("j", 2, "s")))
            observation.take_event(PODS, event("ADDED", document("p", 3, "j")))
            observation.take_event(PODS, event("MODIFIED", document("p", 3, "j")))
            world.cache.wrote(TRIALS, document("t", 4, "s"))
            observation.take_event(TRIALS, event("ADDED", document("t", 4, "s")))

        virtual_time.run(scenario())
        assert world.woken == ["s", "s", "s"]

    def test_a_deletion_wakes_also_where_the_job_went_before_its_pod(self, world):
        async def scenario() -> None:
            observation = world.observation()
            observation.take_event(JOBS, event("ADDED", document("j", 2, "s")))
            observation.take_event(PODS, event("ADDED", document("p", 3, "j")))
            world.woken.clear()
            observation.take_event(JOBS, event("DELETED", document("j", 9, "s")))

        virtual_time.run(scenario())
        assert world.woken == ["s"]
        assert world.cache.family("s").pods == ()

    def test_a_sweep_wakes_when_the_search_of_its_base_changes_or_goes(self, world):
        waiting = {**document("w", 1), "spec": {"base": {"searchName": "s"}}}

        async def scenario() -> None:
            observation = world.observation()
            observation.take_event(SWEEPS, event("ADDED", waiting))
            observation.take_event(SEARCHES, event("ADDED", document("s", 2)))
            observation.take_event(SEARCHES, event("ADDED", document("other", 3)))
            observation.take_event(SEARCHES, event("DELETED", document("s", 4)))

        virtual_time.run(scenario())
        assert world.woken == ["w", "s", "w", "other", "s", "w"]

    def test_the_last_events_time_is_shown(self, world):
        async def scenario() -> None:
            world.observation().take_event(SEARCHES, event("ADDED", document("s", 1)))

        virtual_time.run(scenario())
        value = world.metrics.registry.get_sample_value(
            "nascale_watch_last_event_timestamp_seconds", {"resource": "architecturesearches"}
        )
        assert value is not None
        assert value > 1e9


class TestComparison:
    def test_what_was_deleted_unseen_goes_and_wakes(self, world):
        world.cache.observe(SEARCHES, document("s", 1))
        world.cache.observe(TRIALS, document("t", 2, "s"))
        world.listings.stored = {"architecturesearches": [document("s", 1)]}

        async def scenario() -> None:
            await world.observation().compare()

        virtual_time.run(scenario())
        assert world.woken == ["s"]
        assert world.cache.family("s").trials == ()
        assert {metadata_only for _, metadata_only in world.listings.requests} == {True}

    def test_changes_that_no_watch_has_shown_are_read(self, world):
        world.cache.observe(TRIALS, document("t", 2, "s"))
        world.listings.stored = {"trials": [document("t", 7, "s"), document("new", 8, "s")]}

        async def scenario() -> None:
            await world.observation().compare()

        virtual_time.run(scenario())
        assert [trial["metadata"]["resourceVersion"] for trial in world.cache.family("s").trials] == [
            "8",
            "7",
        ]
        assert ("trials", False) in world.listings.requests

    def test_a_listing_that_is_only_a_moment_ahead_costs_nothing_more(self, world):
        world.listings.stored = {"trials": [document("t", 7, "s")]}

        async def scenario() -> None:
            observation = world.observation()
            comparing = asyncio.create_task(observation.compare())
            await asyncio.sleep(0.5)
            observation.take_event(TRIALS, event("ADDED", document("t", 7, "s")))
            await comparing

        virtual_time.run(scenario())
        assert ("trials", False) not in world.listings.requests

    def test_it_happens_soon_after_a_watch_began_anew_and_regularly(self, world):
        async def scenario() -> tuple[int, int, int]:
            observation = world.observation()
            keeping = asyncio.create_task(observation.keep_in_line())
            await asyncio.sleep(10.0)
            first = len(world.listings.requests)
            observation.take_event(SEARCHES, event(None, document("s", 1)))
            await asyncio.sleep(10.0)
            second = len(world.listings.requests)
            await asyncio.sleep(REGULARLY_SECONDS)
            third = len(world.listings.requests)
            keeping.cancel()
            return first, second, third

        assert virtual_time.run(scenario()) == (6, 12, 18)

    def test_an_outage_is_survived(self, world):
        world.listings.failing = True

        async def scenario() -> None:
            keeping = asyncio.create_task(world.observation().keep_in_line())
            await asyncio.sleep(2 * REGULARLY_SECONDS)
            assert not keeping.done()
            keeping.cancel()

        virtual_time.run(scenario())
        assert len(world.listings.requests) >= 2
