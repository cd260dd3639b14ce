"""Workers: what a failure leads to, by its kind; and what health says of it all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.operator import virtual_time

from nascale.cluster.cache import ObjectCache
from nascale.cluster.errors import ClusterError, ConflictError, ForbiddenError, UnavailableError
from nascale.cluster.resources import TRIALS
from nascale.handlers.dispatch import MOST_CONFLICTS, REASON_FAILED, Dispatcher
from nascale.handlers.health import Health, HealthLimits
from nascale.handlers.queue import WorkQueue
from nascale.prometheus.exporter import OperatorMetrics
from nascale.reconcile.actions import Event, EventType


@dataclass
class ScriptedReconciler:
    """Does what the script says, one entry per call; the last one repeats."""

    script: list[Exception | float | None]
    calls: list[tuple[float, str]] = field(default_factory=list)
    events: list[tuple[str, Event]] = field(default_factory=list)
    lasts: float = 0.0

    def kind_of(self, _uid: str) -> str:
        return "ArchitectureSearch"

    async def reconcile(self, uid: str) -> float | None:
        self.calls.append((asyncio.get_running_loop().time(), uid))
        await asyncio.sleep(self.lasts)
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        return step

    def report(self, uid: str, event: Event) -> None:
        self.events.append((uid, event))

    @property
    def moments(self) -> list[float]:
        return [moment for moment, _ in self.calls]


def dispatch(
    reconciler: ScriptedReconciler,
    seconds: float,
    *,
    keys: tuple[str, ...] = ("a",),
    workers: int = 2,
    look: Callable[[Dispatcher, WorkQueue[str]], None] = lambda _dispatcher, _queue: None,
) -> OperatorMetrics:
    """Run workers for some virtual seconds."""
    metrics = OperatorMetrics()

    async def scenario() -> None:
        queue: WorkQueue[str] = WorkQueue()
        dispatcher = Dispatcher(queue, reconciler, metrics, workers)
        dispatcher.start()
        for key in keys:
            queue.add(key)
        await asyncio.sleep(seconds)
        look(dispatcher, queue)
        await dispatcher.stop(grace_seconds=60.0)

    virtual_time.run(scenario())
    return metrics


def errors(metrics: OperatorMetrics, reason: str) -> float:
    labels = {"kind": "ArchitectureSearch", "reason": reason}
    return metrics.registry.get_sample_value("nascale_reconcile_errors_total", labels) or 0.0


def test_every_failure_there_can_be_is_shown_as_zero_before_the_first():
    found = {
        (sample.labels["kind"], sample.labels["reason"]): sample.value
        for family in dispatch(ScriptedReconciler([None]), 1.0).registry.collect()
        for sample in family.samples
        if sample.name == "nascale_reconcile_errors_total"
    }
    reasons = {
        error.reason for error in ClusterError.__subclasses__() if error.__module__ == ClusterError.__module__
    }
    kinds = {"ArchitectureSearch", "ScalingSweep", "ProgressiveTraining"}
    assert found == {(kind, reason): 0.0 for kind in kinds for reason in {*reasons, "Bug"}}


class TestOutcomes:
    def test_success_looks_again_when_the_plan_says_so(self):
        reconciler = ScriptedReconciler([30.0, None])
        metrics = dispatch(reconciler, 1000.0)
        assert reconciler.moments == [0.0, 30.0]
        labels = {"kind": "ArchitectureSearch", "result": "success"}
        name = "nascale_reconcile_duration_seconds_count"
        assert metrics.registry.get_sample_value(name, labels) == 2.0

    def test_an_outage_is_retried_with_growing_pauses_until_it_ends(self):
        outage = UnavailableError("API server away")
        reconciler = ScriptedReconciler([outage] * 5 + [None])
        metrics = dispatch(reconciler, 1000.0)
        gaps = [
            later - earlier
            for earlier, later in zip(reconciler.moments, reconciler.moments[1:], strict=False)
        ]
        assert len(gaps) == 5
        assert all(2.0**i / 2 <= gap <= 2.0**i for i, gap in enumerate(gaps))
        assert errors(metrics, "Unavailable") == 5
        assert reconciler.events == []

    def test_a_conflict_is_retried_at_once(self):
        reconciler = ScriptedReconciler([ConflictError("stale"), ConflictError("stale"), None])
        metrics = dispatch(reconciler, 10.0)
        assert reconciler.moments == [0.0, 0.0, 0.0]
        assert errors(metrics, "Conflict") == 2

    def test_conflicts_that_do_not_end_slow_down(self):
        reconciler = ScriptedReconciler([ConflictError("stale")])
        dispatch(reconciler, 3600.0)
        assert reconciler.moments.count(0.0) == MOST_CONFLICTS + 1
        assert len(reconciler.moments) < 40

    def test_what_a_person_must_mend_shows_as_an_event(self):
        reconciler = ScriptedReconciler([ForbiddenError("jobs is forbidden"), None])
        metrics = dispatch(reconciler, 10.0)
        assert reconciler.events == [("a", Event(EventType.WARNING, REASON_FAILED, "jobs is forbidden"))]
        assert errors(metrics, "Forbidden") == 1
        assert len(reconciler.calls) == 2

    def test_a_bug_is_counted_shown_and_retried_and_stops_nobody_else(self):
        reconciler = ScriptedReconciler([KeyError("spec"), None])
        metrics = dispatch(reconciler, 10.0, keys=("broken", "fine"), workers=1)
        assert [uid for _, uid in reconciler.calls] == ["broken", "fine", "broken"]
        assert errors(metrics, "Bug") == 1
        ((uid, event),) = reconciler.events
        assert uid == "broken"
        assert "KeyError" in event.message


class TestHealth:
    limits = HealthLimits(reconcile_seconds=60.0, wait_seconds=60.0, silence_seconds=60.0)

    def problems(self, reconciler: ScriptedReconciler, seconds: float, **more) -> list[str]:
        found: list[str] = []

        def look(dispatcher: Dispatcher, queue: WorkQueue[str]) -> None:
            found.extend(Health(queue, ObjectCache(), dispatcher, self.limits).health())

        dispatch(reconciler, seconds, look=look, **more)
        return found

    def test_an_idle_operator_is_healthy(self):
        assert self.problems(ScriptedReconciler([None]), 100_000.0) == []

    def test_one_that_fails_again_and_again_but_tries_is_healthy(self):
        assert self.problems(ScriptedReconciler([UnavailableError("away")]), 5_000.0) == []

    def test_a_reconcile_that_does_not_end_is_not(self):
        (problem,) = self.problems(ScriptedReconciler([None], lasts=110.0), 100.0)
        assert "one reconcile has lasted for 100 s" in problem

    def test_an_object_that_no_worker_takes_is_not(self):
        stuck = ScriptedReconciler([None], lasts=110.0)
        problems = self.problems(stuck, 100.0, keys=("a", "b"), workers=1)
        assert any("has been due for 100 s" in problem for problem in problems)

    def test_a_write_of_our_own_that_no_watch_shows_means_a_dead_watch(self):
        moment = [0.0]
        cache = ObjectCache(clock=lambda: moment[0])
        document = {"metadata": {"name": "t", "namespace": "n", "uid": "u", "resourceVersion": "7"}}

        async def scenario() -> list[list[str]]:
            queue: WorkQueue[str] = WorkQueue()
            dispatcher = Dispatcher(queue, ScriptedReconciler([None]), OperatorMetrics(), 1)
            health = Health(queue, cache, dispatcher, self.limits)
            cache.wrote(TRIALS, document)
            seen = [health.health()]
            moment[0] = 61.0
            seen.append(health.health())
            cache.observe(TRIALS, document)
            seen.append(health.health())
            return seen

        before, silent, after = virtual_time.run(scenario())
        assert before == after == []
        assert "the watches have not shown our own write of 61 s ago" in silent[0]

    def test_readiness_says_what_is_waited_for(self):
        async def scenario() -> tuple[list[str], list[str]]:
            queue: WorkQueue[str] = WorkQueue()
            dispatcher = Dispatcher(queue, ScriptedReconciler([None]), OperatorMetrics(), 1)
            health = Health(queue, ObjectCache(), dispatcher)
            before = health.readiness()
            health.not_ready_because = None
            return before, health.readiness()

        before, after = virtual_time.run(scenario())
        assert before == ["the operator has not started yet"]
        assert after == []
