"""Event series cost few requests; readings are taken once; a Job without a pod is asked about seldom."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.operator import virtual_time

from nascale.cluster.cache import Family
from nascale.cluster.client import Listing
from nascale.cluster.errors import ForbiddenError, NotFoundError
from nascale.cluster.events import WINDOW_SECONDS, EventRecorder
from nascale.handlers.job_problems import LONGEST_INTERVAL_SECONDS, JobProblems
from nascale.handlers.readings import ReadingDesk
from nascale.reconcile.actions import Event, EventType, Reading, ReadingProblem, ReadMetrics

START = datetime(2026, 1, 1, tzinfo=UTC)
ABOUT = {
    "apiVersion": "nascale.io/v1alpha1",
    "kind": "ArchitectureSearch",
    "metadata": {"name": "s", "namespace": "n", "uid": "u", "resourceVersion": "3"},
}


def event(message: str, reason: str = "TrialSucceeded") -> Event:
    return Event(EventType.NORMAL, reason, message)


@dataclass
class EventsApi:
    """Keeps events as the API server would."""

    stored: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)
    failing: bool = False

    async def create(self, _resource, manifest):
        self.requests.append("create")
        if self.failing:
            raise ForbiddenError("no")
        self.stored[manifest["metadata"]["name"]] = dict(manifest)
        return manifest

    async def patch_event(self, _namespace, name, _resource, body):
        self.requests.append("patch")
        if name not in self.stored:
            raise NotFoundError("expired")
        self.stored[name] |= body

    async def list_objects(self, _resource, _namespace, *, fields=""):
        self.requests.append(f"list {fields}")
        if self.failing:
            raise ForbiddenError("no")
        return Listing(tuple(self.listed), 1)


class TestEventSeries:
    def test_the_first_is_sent_at_once_and_repeats_as_one_update(self):
        api = EventsApi()

        async def scenario() -> None:
            recorder = EventRecorder(api, now=lambda: START)
            recorder.record(ABOUT, event("trial 0"))
            await asyncio.sleep(0.01)
            assert api.requests == ["create"]
            for number in range(1, 50):
                recorder.record(ABOUT, event(f"trial {number}"))
            await asyncio.sleep(WINDOW_SECONDS + 1)

        virtual_time.run(scenario())
        assert api.requests == ["create", "patch"]
        (stored,) = api.stored.values()
        assert (stored["count"], stored["message"]) == (50, "trial 49")
        assert stored["involvedObject"]["uid"] == "u"

    def test_other_reasons_are_series_of_their_own(self):
        api = EventsApi()

        async def scenario() -> None:
            recorder = EventRecorder(api, now=lambda: START)
            recorder.record(ABOUT, event("a"))
            recorder.record(ABOUT, event("b", reason="TrialFailed"))
            await asyncio.sleep(1)

        virtual_time.run(scenario())
        assert sorted(found["reason"] for found in api.stored.values()) == ["TrialFailed", "TrialSucceeded"]

    def test_an_expired_event_begins_anew_with_its_count(self):
        api = EventsApi()

        async def scenario() -> None:
            recorder = EventRecorder(api, now=lambda: START)
            recorder.record(ABOUT, event("a"))
            await asyncio.sleep(1)
            api.stored.clear()
            recorder.record(ABOUT, event("b"))
            await recorder.flush()

        virtual_time.run(scenario())
        assert api.requests == ["create", "patch", "create"]
        (stored,) = api.stored.values()
        assert stored["count"] == 2

    def test_what_can_not_be_recorded_disturbs_nobody_and_is_tried_with_the_next(self):
        api = EventsApi(failing=True)

        async def scenario() -> None:
            recorder = EventRecorder(api, now=lambda: START)
            recorder.record(ABOUT, event("a"))
            await asyncio.sleep(1)
            api.failing = False
            recorder.record(ABOUT, event("b"))
            await recorder.flush()

        virtual_time.run(scenario())
        (stored,) = api.stored.values()
        assert (stored["count"], stored["message"]) == (2, "b")


@dataclass
class SlowPrometheus:
    """Gives readings after a second."""

    asked: list[str] = field(default_factory=list)
    failing: bool = False

    async def read(self, request: ReadMetrics, _patience: float, _namespace: str) -> dict[str, Reading]:
        self.asked.append(request.trial)
        await asyncio.sleep(1.0)
        if self.failing:
            raise RuntimeError("a bug")
        return dict.fromkeys(request.queries, Reading(value=1.0))


def request_for(trial: str) -> ReadMetrics:
    return ReadMetrics(trial, "p", {"latency": "q"}, 0.0, 1.0)


class TestReadings:
    def test_a_trial_is_read_once_however_often_plans_ask_and_wakes_its_owner(self):
        prometheus = SlowPrometheus()
        woken: list[str] = []

        async def scenario() -> None:
            desk = ReadingDesk(prometheus, woken.append)
            for _ in range(3):
                desk.request("u", "n", request_for("t"), 30.0)
            assert desk.of("u") == {}
            await asyncio.sleep(2.0)
            desk.request("u", "n", request_for("t"), 30.0)
            assert desk.of("u") == {"t": {"latency": Reading(value=1.0)}}

        virtual_time.run(scenario())
        assert prometheus.asked == ["t"]
        assert woken == ["u"]

    def test_several_trials_are_read_at_the_same_time(self):
        async def scenario() -> int:
            desk = ReadingDesk(SlowPrometheus(), lambda _uid: None)
            for number in range(20):
                desk.request("u", "n", request_for(f"t{number}"), 30.0)
            await asyncio.sleep(1.5)
            return len(desk.of("u"))

        assert virtual_time.run(scenario()) == 20

    def test_recorded_trials_and_gone_owners_are_forgotten(self):
        woken: list[str] = []

        async def scenario() -> None:
            desk = ReadingDesk(SlowPrometheus(), woken.append)
            desk.request("u", "n", request_for("recorded"), 30.0)
            desk.request("u", "n", request_for("open"), 30.0)
            desk.request("gone", "n", request_for("t"), 30.0)
            desk.forget("gone")
            await asyncio.sleep(2.0)
            desk.keep_only("u", {"open"})
            assert set(desk.of("u")) == {"open"}
            assert desk.of("gone") == {}

        virtual_time.run(scenario())
        assert woken == ["u", "u"]

    def test_a_bug_ends_as_a_problem_and_not_as_a_hang(self):
        async def scenario() -> Reading:
            desk = ReadingDesk(SlowPrometheus(failing=True), lambda _uid: None)
            desk.request("u", "n", request_for("t"), 30.0)
            await asyncio.sleep(2.0)
            return desk.of("u")["t"]["latency"]

        assert virtual_time.run(scenario()).problem is ReadingProblem.UNREACHABLE

    def test_without_prometheus_every_reading_is_a_problem(self):
        async def scenario() -> Reading:
            desk = ReadingDesk(None, lambda _uid: None)
            desk.request("u", "n", request_for("t"), 30.0)
            await asyncio.sleep(0.1)
            return desk.of("u")["t"]["latency"]

        assert virtual_time.run(scenario()).problem is ReadingProblem.UNREACHABLE


def job(name: str, **more: Any) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": "n",
        "uid": f"uid-{name}",
        "creationTimestamp": START.isoformat(),
    }
    return {"metadata": metadata, "spec": {"suspend": more.pop("suspend", False)}, "status": more}


def pod_of(name: str) -> dict[str, Any]:
    reference = {"kind": "Job", "name": name, "uid": f"uid-{name}", "controller": True}
    return {"metadata": {"name": f"{name}-x", "namespace": "n", "ownerReferences": [reference]}}


QUOTA = {
    "metadata": {},
    "lastTimestamp": "2026-01-01T00:00:04Z",
    "message": 'pods "x" is forbidden: exceeded quota',
}
OLDER = {"metadata": {}, "lastTimestamp": "2026-01-01T00:00:02Z", "message": "older"}


class TestJobsWithoutPods:
    def look(self, api: EventsApi, family: Family, *seconds: float) -> list[tuple[Any, float | None]]:
        async def scenario() -> list[tuple[Any, float | None]]:
            problems = JobProblems(api)
            return [await problems.look(family, START + timedelta(seconds=moment)) for moment in seconds]

        return virtual_time.run(scenario())

    def test_a_young_job_is_given_time_and_asked_about_then(self):
        api = EventsApi(listed=[OLDER, QUOTA])
        (young, old) = self.look(api, Family((), (job("j"),), ()), 1.0, 6.0)
        assert young == ({}, 4.0)
        assert old[0] == {"j": QUOTA["message"]}
        assert api.requests == ["list involvedObject.uid=uid-j,type=Warning"]

    def test_it_is_asked_about_seldom(self):
        api = EventsApi(listed=[QUOTA])
        looks = self.look(api, Family((), (job("j"),), ()), *(float(moment) for moment in range(6, 606)))
        assert all(problems == {"j": QUOTA["message"]} for problems, _ in looks)
        assert len(api.requests) <= 600 / LONGEST_INTERVAL_SECONDS + 4

    def test_nobody_asks_about_jobs_that_need_no_pod(self):
        api = EventsApi()
        family = Family(
            (),
            (
                job("served"),
                job("suspended", suspend=True),
                job("active", active=1),
                job("complete", conditions=[{"type": "Complete", "status": "True"}]),
            ),
            (pod_of("served"),),
        )
        assert self.look(api, family, 100.0) == [({}, None)]
        assert api.requests == []

    def test_a_resumed_job_is_given_time_again(self):
        api = EventsApi()
        resumed = job("j", startTime=(START + timedelta(seconds=100)).isoformat())
        assert self.look(api, Family((), (resumed,), ()), 101.0) == [({}, 4.0)]
        assert api.requests == []

    def test_unreadable_events_do_not_stop_the_search(self):
        api = EventsApi(failing=True)
        ((problems, again),) = self.look(api, Family((), (job("j"),), ()), 6.0)
        assert problems == {}
        assert again is not None
