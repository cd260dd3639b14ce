"""One reconcile of one search or sweep: look, plan, act, record. What decides is in ``reconcile``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from nascale.api.budget import MetricsCollection
from nascale.cluster.cache import Family, ObjectCache, looked_at
from nascale.cluster.client import ClusterClient
from nascale.cluster.errors import NotFoundError
from nascale.cluster.events import EventRecorder
from nascale.cluster.merge_patch import merge_patch
from nascale.cluster.resources import SEARCHES, SWEEPS, TRAININGS, Resource
from nascale.handlers.execution import ActionExecutor
from nascale.handlers.job_problems import JobProblems
from nascale.handlers.node_shares import NodeShares
from nascale.handlers.readings import ReadingDesk
from nascale.handlers.series import SeriesDesk
from nascale.prometheus.exporter import OperatorMetrics
from nascale.reconcile import architecture_search, progressive_training, scaling_sweep
from nascale.reconcile.actions import Action, Counted, Event, FollowSeries, Manifest, Plan, ReadMetrics
from nascale.reconcile.observed import Observed, OperatorSettings, Related

Planner: TypeAlias = Callable[[Observed], Plan]
PLANNERS: Final[Mapping[str, Planner]] = {
    SEARCHES.kind: architecture_search.plan,
    SWEEPS.kind: scaling_sweep.plan,
    TRAININGS.kind: progressive_training.plan,
}
"""The pure decision of each kind."""

MOST_PASSES: Final = 4
"""Plans in one reconcile; one that asks for more comes back through the queue."""
STATUS_INTERVAL_SECONDS: Final = 1.0
"""Longest time that a busy owner's status stays behind."""
DEFAULT_PATIENCE_SECONDS: Final = MetricsCollection().timeout_seconds


@dataclass(frozen=True)
class Edges:
    """What a reconcile reads from and writes to."""

    cache: ObjectCache
    client: ClusterClient
    events: EventRecorder
    metrics: OperatorMetrics
    readings: ReadingDesk
    series: SeriesDesk


class _News:
    """What plans say about writes that have been made, in order, each event once.

    Every pass sees the same old status, and says again what follows from it.
    """

    def __init__(self) -> None:
        self.events: dict[Event, None] = {}
        self.counted: list[Counted] = []

    def take(self, plan: Plan) -> None:
        """Add what a plan says."""
        self.events.update(dict.fromkeys(plan.events))
        self.counted += plan.counted


class OwnerReconciler:
    """Brings the cluster in line with a search or sweep, as often as it is asked to.

    Args:
        edges: The cluster, Prometheus and our own metrics.
        settings: What the installation decides.
        threads: Where plans are made: a sampler may think for a while, and must not hold up the event loop.
        wake: Called with the uid of each sweep that looks at an owner whose status was written: the watch
            shows our own writes as no news.
        is_wanted: Says whether something has happened to an owner since its reconcile began.
        planners: The pure decision, by kind.
        now: The clock, timezone-aware.
    """

    def __init__(
        self,
        edges: Edges,
        settings: OperatorSettings,
        threads: ThreadPoolExecutor,
        *,
        wake: Callable[[str], None] = lambda _uid: None,
        is_wanted: Callable[[str], bool] = lambda _uid: False,
        planners: Mapping[str, Planner] = PLANNERS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._edges = edges
        self._settings = settings
        self._threads = threads
        self._wake = wake
        self._is_wanted = is_wanted
        self._planners = planners
        self._now = now
        self._executor = ActionExecutor(edges.client, edges.cache)
        self._problems = JobProblems(edges.client)
        self._shares = NodeShares(edges.client, allowed=settings.reads_nodes)
        self._shown: dict[tuple[str, str, str], str] = {}
        self._kinds: dict[str, str] = {}
        self._untold: dict[str, _News] = {}
        self._written: dict[str, float] = {}

    async def reconcile(self, uid: str) -> float | None:
        """Reconcile the search or sweep with this uid.

        Returns:
            In how many seconds to look again without any event; ``None``: at the next resync.

        Raises:
            ClusterError: something could not be read or written; the same again is right later.
        """
        owner = self._owner(uid)
        if owner is None:
            self._forget(uid)
            return None
        if owner["metadata"].get("deletionTimestamp"):
            # Its children go with it; making more of them would only give the garbage collector work.
            return None
        news = self._untold.pop(uid, _News())
        try:
            plan, look_again = await self._pass_through(uid, news)
            present = self._edges.cache.owner(uid)
            if present is not None and plan is not None and plan.status is not None:
                if self._may_wait(uid, plan.status):
                    self._untold[uid] = news
                    return 0.0
                await self._write_status(*present, plan.status)
        except BaseException:
            # Part of it has been written. It is told after the next success, and nothing twice.
            self._untold[uid] = news
            raise
        self._announce(owner, news, {} if plan is None else plan.gauges)
        if plan is None or self._owner(uid) is None:
            self._forget(uid)
            return None
        return _earliest(plan.requeue_after_seconds, look_again, self._resync_seconds(uid))

    def kind_of(self, uid: str) -> str:
        """Return the kind of an owner, also of one that has just gone; empty where it never was known."""
        found = self._edges.cache.owner(uid)
        if found is None:
            return self._kinds.get(uid, "")
        return self._kinds.setdefault(uid, found[0].kind)

    def _owner(self, uid: str) -> Manifest | None:
        found = self._edges.cache.owner(uid)
        return None if found is None else found[1]

    def _may_wait(self, uid: str, status: Mapping[str, Any]) -> bool:
        """Say whether a status is out of date already, and what happened meanwhile is more urgent.

        While trials end faster than a status can be written, it is written once a second.
        """
        written = self._written.get(uid)
        ended = status.get("completionTime") is not None
        if written is None or ended or not self._is_wanted(uid):
            return False
        return asyncio.get_running_loop().time() - written < STATUS_INTERVAL_SECONDS

    async def _pass_through(self, uid: str, news: _News) -> tuple[Plan | None, float | None]:
        """Plan and act, again while a plan asks for another look at once.

        A Trial and its Job take two plans, as the second one looks at the Trial as it was created. The
        status is left for the end: it is written once, and no Job waits for it.

        Returns:
            The last plan (``None``: the owner is gone), and when to look at Jobs without pods again.
        """
        plan: Plan | None = None
        look_again: float | None = None
        for _ in range(MOST_PASSES):
            owner = self._owner(uid)
            if owner is None:
                return None, None
            observed, look_again = await self._observe(uid, owner)
            planner = self._planners[self.kind_of(uid)]
            plan = await asyncio.get_running_loop().run_in_executor(self._threads, planner, observed)
            await self._act(owner, plan)
            news.take(plan)
            if plan.requeue_after_seconds is None or plan.requeue_after_seconds > 0:
                break
        return plan, look_again

    async def _observe(self, uid: str, owner: Manifest) -> tuple[Observed, float | None]:
        """Return the snapshot, and when Jobs without pods are to be looked at again."""
        family = self._edges.cache.family(uid)
        now = self._now()
        problems, look_again = await self._problems.look(family, now)
        observed = Observed(
            owner=owner,
            trials=family.trials,
            jobs=family.jobs,
            pods=family.pods,
            now=now,
            readings=self._edges.readings.of(uid),
            job_problems=problems,
            series=self._edges.series.of(uid),
            settings=self._settings,
            related=self._related(owner),
            sharing_nodes=await self._shares.look(owner, now),
        )
        return observed, look_again

    def _related(self, owner: Manifest) -> Related:
        """Find what an owner's spec names: where its base or model comes from, the sweep that it reuses."""
        cache, spec = self._edges.cache, owner.get("spec") or {}
        namespace = owner["metadata"]["namespace"]
        kind = TRAININGS if owner.get("kind") == TRAININGS.kind else SWEEPS
        search = looked_at(kind, owner, SEARCHES)
        if kind is TRAININGS:
            sweep = looked_at(kind, owner, SWEEPS)
            profiled = looked_at(kind, owner, TRAININGS)
            training = None if profiled is None else cache.named(TRAININGS, namespace, profiled)
            return Related(
                search=None if search is None else cache.named(SEARCHES, namespace, search),
                sweep=None if sweep is None else cache.named(SWEEPS, namespace, sweep),
                training=training,
                trials=() if training is None else cache.family(training["metadata"]["uid"]).trials,
            )
        reused = self._reused(namespace, spec)
        return Related(
            search=None if search is None else cache.named(SEARCHES, namespace, search),
            sweep=next(iter(reused), None),
            trials=tuple(
                trial for found in reused for trial in cache.family(found["metadata"]["uid"]).trials
            ),
        )

    def _reused(self, namespace: str, spec: Mapping[str, Any]) -> list[Manifest]:
        """Return the sweep that a spec reuses, the one that this one reuses, and so on."""
        found: dict[str, Manifest] = {}
        name = spec.get("reuseTrialsFrom")
        while name is not None and name not in found:
            sweep = self._edges.cache.named(SWEEPS, namespace, name)
            if sweep is None:
                break
            found[name] = sweep
            name = (sweep.get("spec") or {}).get("reuseTrialsFrom")
        return list(found.values())

    def _resync_seconds(self, uid: str) -> float | None:
        """When to look again in any case: an owner that has ended only waits for its TTL."""
        owner = self._owner(uid)
        ended = owner is None or (owner.get("status") or {}).get("completionTime") is not None
        return None if ended else self._settings.resync_seconds

    def report(self, uid: str, event: Event) -> None:
        """Record an event about an owner, where it is still known."""
        owner = self._owner(uid)
        if owner is not None:
            self._edges.events.record(owner, event)

    async def _act(self, owner: Manifest, plan: Plan) -> None:
        uid = str(owner["metadata"]["uid"])
        writes: list[Action] = []
        followed: list[FollowSeries] = []
        for action in plan.actions:
            if isinstance(action, ReadMetrics):
                asked = action.patience_seconds
                patience = _patience_seconds(owner) if asked is None else asked
                self._edges.readings.request(uid, owner["metadata"]["namespace"], action, patience)
            elif isinstance(action, FollowSeries):
                followed.append(action)
            else:
                writes.append(action)
        self._edges.series.follow(uid, owner["metadata"]["namespace"], followed)
        await self._executor.execute(owner, writes)
        self._drop_recorded_readings(uid)

    async def _write_status(self, resource: Resource, owner: Manifest, status: Mapping[str, Any]) -> None:
        metadata = owner["metadata"]
        self._written[metadata["uid"]] = asyncio.get_running_loop().time()
        patch = merge_patch(owner.get("status") or {}, status)
        if not patch:
            return
        try:
            written = await self._edges.client.patch_status(
                resource, metadata["namespace"], metadata["name"], metadata["uid"], patch
            )
        except NotFoundError:
            self._edges.cache.remove(resource, metadata["uid"])
            self._forget(metadata["uid"])
            return
        self._edges.cache.wrote(resource, written)
        for uid in self._edges.cache.dependents(resource, written):
            self._wake(uid)

    def _announce(self, owner: Manifest, news: _News, gauges: Mapping[str, float]) -> None:
        """Send events and count, now that the writes are done."""
        metadata = owner["metadata"]
        trials: Mapping[str, Manifest] = {}
        if any(event.trial is not None for event in news.events):
            trials = _by_name(self._edges.cache.family(metadata["uid"]))
        for event in news.events:
            self._edges.events.record(trials.get(event.trial or "", owner), event)
        for counted in news.counted:
            self._edges.metrics.count(counted)
        if gauges:
            key = (self.kind_of(metadata["uid"]), metadata["namespace"], metadata["name"])
            self._shown[key] = metadata["uid"]
            self._edges.metrics.show(*key, gauges)

    def _drop_recorded_readings(self, uid: str) -> None:
        trials = self._edges.cache.family(uid).trials if self._edges.readings.of(uid) else ()
        unrecorded = {
            str(trial["metadata"]["name"])
            for trial in trials
            if not (trial.get("status") or {}).get("outcome")
        }
        self._edges.readings.keep_only(uid, unrecorded)

    def _forget(self, uid: str) -> None:
        self._untold.pop(uid, None)
        self._written.pop(uid, None)
        self._kinds.pop(uid, None)
        self._edges.readings.forget(uid)
        self._edges.series.forget(uid)
        self._problems.forget(self._edges.cache.family(uid))
        for key in [key for key, shown in self._shown.items() if shown == uid]:
            del self._shown[key]
            self._edges.metrics.forget(*key)


def _patience_seconds(owner: Manifest) -> float:
    collection = (owner["spec"].get("metricsCollection") or {}).get("timeoutSeconds")
    return float(DEFAULT_PATIENCE_SECONDS if collection is None else collection)


def _by_name(family: Family) -> Mapping[str, Manifest]:
    return {str(trial["metadata"]["name"]): trial for trial in family.trials}


def _earliest(*delays: float | None) -> float | None:
    return min((delay for delay in delays if delay is not None), default=None)
