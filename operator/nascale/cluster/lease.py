"""A Lease: of several replicas that ask for it, at most one believes that it holds it.

The rules are those of Kubernetes' own controllers. The holder renews a record; who waits takes it over when
the record has not changed for the lease's duration, by the waiter's own clock, so clocks need not agree. The
holder counts its validity from the moment *before* its last successful renewal was sent, and gives up after
two thirds of the duration: it stops believing before anybody else may begin to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from nascale.cluster.client import ClusterClient
from nascale.cluster.errors import AlreadyExistsError, ClusterError, ConflictError, NotFoundError
from nascale.cluster.resources import LEASES

RENEWAL_SHARE: Final = 2 / 3
"""Part of the duration for which a renewal counts with the holder itself."""
ATTEMPTS_PER_DURATION: Final = 6
"""Renewals, and looks of those who wait, within one duration."""
RELEASE_ATTEMPTS: Final = 3


class Lease:
    """One replica's view of the Lease.

    Args:
        client: With a time-out well below the duration, and no retries of its own.
        namespace: Of the Lease.
        name: Its name.
        identity: Of this replica, different from all others and from its own former lives.
        duration_seconds: How long a record that nobody renews keeps others waiting, at least 3.
        clock: Seconds, never backwards.
    """

    def __init__(
        self,
        client: ClusterClient,
        namespace: str,
        name: str,
        *,
        identity: str,
        duration_seconds: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._duration = duration_seconds
        self._clock = clock
        self._mine: dict[str, Any] | None = None
        self._valid_until = float("-inf")
        self._seen_version = ""
        self._seen_at = 0.0
        self.identity = identity
        self.holder = ""
        """Who held it at the last look; empty: nobody."""

    @property
    def pause_seconds(self) -> float:
        """Time between two renewals, or two looks."""
        return self._duration / ATTEMPTS_PER_DURATION

    def held(self) -> bool:
        """Whether nobody else can hold it at this moment. Safe to call from any thread."""
        return self._clock() < self._valid_until

    async def try_to_take(self) -> bool:
        """Take the lease where it is free, new or given up.

        Raises:
            ClusterError: the API server does not answer, or this replica has no right to the Lease.
        """
        started = self._clock()
        try:
            found = await self._client.get(LEASES, self._namespace, self._name)
        except NotFoundError:
            return await self._make(started)
        spec = found.get("spec") or {}
        self.holder = str(spec.get("holderIdentity") or "")
        version = str(found["metadata"]["resourceVersion"])
        if version != self._seen_version:
            self._seen_version, self._seen_at = version, self._clock()
        patience = float(spec.get("leaseDurationSeconds") or self._duration)
        if self.holder and self._clock() - self._seen_at < patience:
            return False
        return await self._take_over(found, started)

    async def renew(self) -> None:
        """Renew the lease; where it has gone to somebody else, ``held`` says so at once.

        Raises:
            ClusterError: the API server has not renewed it; ``held`` goes on until its time is over.
        """
        if self._mine is None:
            return
        started = self._clock()
        try:
            self._mine = await self._write(self._mine, {"renewTime": _now()})
        except (ConflictError, NotFoundError):
            # An answer that got lost, or somebody who wrote a label: then it is still ours.
            if await self._still_mine():
                return
            self._give_up()
        else:
            self._valid_until = started + self._duration * RENEWAL_SHARE

    async def release(self) -> None:
        """Give the lease back, so that the next replica need not wait.

        A renewal that was broken off may have been carried out, or be carried out yet: then what we know is
        out of date, and the lease still ours to give back.

        Raises:
            ClusterError: it could not be given back; then it runs out.
        """
        mine = self._mine
        self._give_up()
        for attempt in range(1, RELEASE_ATTEMPTS + 1):
            try:
                if attempt > 1:
                    mine = await self._found_mine()
                if mine is not None:
                    await self._write(mine, {"holderIdentity": ""})
            except NotFoundError:
                return
            except ClusterError:
                if attempt == RELEASE_ATTEMPTS:
                    raise
            else:
                return

    async def _make(self, started: float) -> bool:
        manifest = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": self._claim(transitions=0),
        }
        try:
            made = await self._client.create(LEASES, manifest)
        except AlreadyExistsError:
            return False
        self._hold(made, started)
        return True

    async def _take_over(self, found: dict[str, Any], started: float) -> bool:
        transitions = int((found.get("spec") or {}).get("leaseTransitions") or 0) + 1
        try:
            taken = await self._write(found, self._claim(transitions))
        except (ConflictError, NotFoundError):
            return False  # another one was faster
        self._hold(taken, started)
        return True

    def _claim(self, transitions: int) -> dict[str, Any]:
        now = _now()
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self._duration,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": transitions,
        }

    async def _still_mine(self) -> bool:
        """Look who holds it; where we do, the next renewal builds on what is there now."""
        found = await self._found_mine()
        if found is None:
            return False
        self._mine = found
        return True

    async def _found_mine(self) -> dict[str, Any] | None:
        """Return the lease as it is now, or ``None`` where it is not ours."""
        try:
            found = await self._client.get(LEASES, self._namespace, self._name)
        except NotFoundError:
            return None
        self.holder = str((found.get("spec") or {}).get("holderIdentity") or "")
        return found if self.holder == self.identity else None

    async def _write(self, basis: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
        """Change exactly the version that was read."""
        metadata = basis["metadata"]
        body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "spec": spec}
        return await self._client.patch(LEASES, self._namespace, self._name, metadata["uid"], body)

    def _hold(self, mine: dict[str, Any], started: float) -> None:
        self._mine = mine
        self.holder = self.identity
        self._valid_until = started + self._duration * RENEWAL_SHARE

    def _give_up(self) -> None:
        self._mine = None
        self._valid_until = float("-inf")


def _now() -> str:
    """Kubernetes' MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
