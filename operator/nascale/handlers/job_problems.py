"""Why a Job has no pod: quota and admission say so in events about the Job, and nowhere else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from nascale.cluster.cache import Family
from nascale.cluster.client import ClusterClient, controller_uid
from nascale.cluster.errors import ClusterError
from nascale.cluster.resources import EVENTS
from nascale.reconcile.actions import Manifest

logger = logging.getLogger(__name__)

GRACE_SECONDS: Final = 5.0
"""The Job controller makes a pod well within this; before, there is nothing to ask."""
FIRST_INTERVAL_SECONDS: Final = 10.0
LONGEST_INTERVAL_SECONDS: Final = 60.0
MOST_AT_ONCE: Final = 8
"""Jobs asked about in one reconcile: what stops one of a search usually stops them all."""


@dataclass
class _Inquiry:
    message: str | None
    next_look: datetime
    interval_seconds: float


class JobProblems:
    """Asks for events of those Jobs that lack a pod, seldom and few at a time."""

    def __init__(self, client: ClusterClient) -> None:
        self._client = client
        self._inquiries: dict[str, _Inquiry] = {}

    async def look(self, family: Family, now: datetime) -> tuple[Mapping[str, str], float | None]:
        """Return the latest warnings by Job name, and in how many seconds to look again (``None``: never)."""
        waiting = jobs_without_pods(family)
        known = {str(job["metadata"]["uid"]) for job in waiting}
        for job in family.jobs:
            if (uid := str(job["metadata"]["uid"])) not in known:
                self._inquiries.pop(uid, None)
        due = [job for job in waiting if self._seconds_until_look(job, now) <= 0]
        await asyncio.gather(*(self._inquire(job, now) for job in due[:MOST_AT_ONCE]))
        problems = {}
        for job in waiting:
            inquiry = self._inquiries.get(str(job["metadata"]["uid"]))
            if inquiry is not None and inquiry.message is not None:
                problems[str(job["metadata"]["name"])] = inquiry.message
        pauses = [max(0.5, self._seconds_until_look(job, now)) for job in waiting]
        return problems, min(pauses, default=None)

    def forget(self, family: Family) -> None:
        """Drop what is known of Jobs whose owner is gone."""
        for job in family.jobs:
            self._inquiries.pop(str(job["metadata"]["uid"]), None)

    def _seconds_until_look(self, job: Manifest, now: datetime) -> float:
        inquiry = self._inquiries.get(str(job["metadata"]["uid"]))
        if inquiry is not None:
            return (inquiry.next_look - now).total_seconds()
        return GRACE_SECONDS - (now - _begun(job)).total_seconds()

    async def _inquire(self, job: Manifest, now: datetime) -> None:
        metadata = job["metadata"]
        uid = str(metadata["uid"])
        fields = f"involvedObject.uid={uid},type=Warning"
        try:
            found = (await self._client.list_objects(EVENTS, metadata["namespace"], fields=fields)).items
        except ClusterError as error:
            # The search goes on without the reason; it only shows later why its Job waits.
            logger.warning("events of Job %s could not be read: %s", metadata["name"], error)
            found = ()
        before = self._inquiries.get(uid)
        interval = FIRST_INTERVAL_SECONDS if before is None else 2 * before.interval_seconds
        interval = min(interval, LONGEST_INTERVAL_SECONDS)
        newest = max(found, key=_last_seen, default=None)
        self._inquiries[uid] = _Inquiry(
            message=None if newest is None else str(newest.get("message") or newest.get("reason")),
            next_look=now + timedelta(seconds=interval),
            interval_seconds=interval,
        )


def jobs_without_pods(family: Family) -> list[Manifest]:
    """Return the Jobs that should have a pod and have none, by name."""
    served = {controller_uid(pod) for pod in family.pods}
    return [
        job
        for job in family.jobs
        if job["metadata"]["uid"] not in served
        and not job["metadata"].get("deletionTimestamp")
        and not job["spec"].get("suspend")
        and not _ended(job)
        and not (job.get("status") or {}).get("active")
    ]


def _ended(job: Manifest) -> bool:
    ends = ("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget")
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(found["type"] in ends and found["status"] == "True" for found in conditions)


def _begun(job: Manifest) -> datetime:
    """When the Job last began to want a pod: its creation, or its last resumption."""
    started = (job.get("status") or {}).get("startTime")
    return datetime.fromisoformat(started or job["metadata"]["creationTimestamp"])


def _last_seen(event: Mapping[str, Any]) -> str:
    """When an event was last seen, in a form that sorts."""
    series = event.get("series") or {}
    return str(
        series.get("lastObservedTime")
        or event.get("lastTimestamp")
        or event.get("eventTime")
        or event["metadata"].get("creationTimestamp")
    )
