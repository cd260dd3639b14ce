"""Carrying out a plan: side by side where actions are independent, in order where they are not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from nascale.api import names
from nascale.cluster.cache import ObjectCache
from nascale.cluster.errors import ConflictError, ForbiddenError, NotFoundError
from nascale.cluster.resources import JOBS, SEARCHES, SWEEPS, TRIALS
from nascale.handlers.execution import ActionExecutor, independent_chains
from nascale.reconcile.actions import (
    CreateJob,
    CreateTrial,
    DeleteJob,
    DeleteOwner,
    PatchTrialStatus,
    SuspendJob,
)

OWNER = {"metadata": {"name": "s", "namespace": "n", "uid": "owner", "resourceVersion": "1"}, "spec": {}}


def manifest(name: str, *carried: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "n",
        "ownerReferences": [{"uid": "owner", "controller": True}],
    }
    if carried:
        metadata["annotations"] = {names.ANNOTATION_TRIALS: ",".join(carried)}
    return {"metadata": metadata}


@dataclass
class FakeCluster:
    """Notes when each request begins and ends; answers as the API server would, or fails as told."""

    failing: dict[str, Exception] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    patches: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[tuple[str, str]] = field(default_factory=list)
    version: int = 100

    async def _work(self, what: str) -> None:
        self.log.append(f"begin {what}")
        await asyncio.sleep(0.001)
        self.log.append(f"end {what}")
        if what in self.failing:
            raise self.failing[what]

    def _stored(self, name: str, **more: Any) -> dict[str, Any]:
        self.version += 1
        base = manifest(name)["metadata"]
        return {"metadata": {**base, "uid": f"uid-{name}", "resourceVersion": str(self.version)}, **more}

    async def create_owned(self, _resource, document):
        name = document["metadata"]["name"]
        await self._work(f"create {name}")
        return self._stored(name)

    async def get(self, _resource, _namespace, name):
        await self._work(f"get {name}")
        return self._stored(name, status={"outcome": "Succeeded"})

    async def patch_status(self, _resource, _namespace, name, uid, status, *, resource_version=""):
        await self._work(f"patch {name}")
        self.patches.append({"name": name, "uid": uid, "status": status, "version": resource_version})
        return self._stored(name, status=status)

    async def patch(self, _resource, _namespace, name, _uid, body):
        await self._work(f"suspend {name}")
        return self._stored(name, **body)

    async def delete(self, resource, _namespace, name, _uid):
        await self._work(f"delete {name}")
        self.deleted.append((resource.plural, name))


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def cache() -> ObjectCache:
    cache = ObjectCache()
    cache.observe(SEARCHES, OWNER)
    return cache


@pytest.fixture
def executor(cluster, cache) -> ActionExecutor:
    return ActionExecutor(cluster, cache)


class TestOrder:
    def test_a_trial_stands_before_its_job_and_other_trials_are_another_chain(self):
        actions = [
            CreateTrial(manifest("t0")),
            CreateJob(manifest("j0", "t0")),
            CreateTrial(manifest("t1")),
            CreateJob(manifest("j1", "t1")),
            PatchTrialStatus("old", "u", {}),
        ]
        chains = independent_chains(actions)
        assert sorted(map(len, chains)) == [1, 2, 2]
        assert [actions[0], actions[1]] in chains
        assert [actions[2], actions[3]] in chains

    def test_all_trials_of_a_shared_pod_stand_before_their_job(self):
        actions = [
            CreateTrial(manifest("t0")),
            CreateTrial(manifest("t1")),
            PatchTrialStatus("t1", "", {}),
            CreateJob(manifest("j0", "t0", "t1")),
            SuspendJob("j0", "u", suspend=True),
        ]
        assert independent_chains(actions) == [actions]

    async def test_a_job_is_sent_after_its_trial_was_created(self, executor, cluster):
        pairs = [(CreateTrial(manifest(f"t{i}")), CreateJob(manifest(f"j{i}", f"t{i}"))) for i in range(3)]
        await executor.execute(OWNER, [action for pair in pairs for action in pair])
        for i in range(3):
            assert cluster.log.index(f"end create t{i}") < cluster.log.index(f"begin create j{i}")

    async def test_different_trials_are_created_at_the_same_time(self, executor, cluster):
        await executor.execute(OWNER, [CreateTrial(manifest(f"t{i}")) for i in range(3)])
        assert [entry.split()[0] for entry in cluster.log] == ["begin"] * 3 + ["end"] * 3

    async def test_the_owner_is_deleted_last(self, executor, cluster, cache):
        await executor.execute(OWNER, [DeleteOwner("owner"), DeleteJob("j", "uid-j")])
        assert cluster.log == ["begin delete j", "end delete j", "begin delete s", "end delete s"]
        assert cache.get(SEARCHES, "owner") is None

    async def test_a_sweep_is_deleted_as_one(self, executor, cluster, cache):
        sweep = {
            "metadata": {"name": "w", "namespace": "n", "uid": "sweep", "resourceVersion": "1"},
            "spec": {},
        }
        cache.observe(SWEEPS, sweep)
        await executor.execute(sweep, [DeleteOwner("sweep")])
        assert cluster.deleted == [("scalingsweeps", "w")]
        assert cache.get(SWEEPS, "sweep") is None

    async def test_an_owner_that_is_gone_already_is_not_deleted_again(self, executor, cluster):
        await executor.execute(OWNER, [DeleteOwner("another-uid")])
        assert cluster.log == []


class TestCache:
    async def test_what_was_created_is_known_at_once(self, executor, cache):
        await executor.execute(OWNER, [CreateTrial(manifest("t")), CreateJob(manifest("j", "t"))])
        family = cache.family("owner")
        assert [trial["metadata"]["name"] for trial in family.trials] == ["t"]
        assert [job["metadata"]["name"] for job in family.jobs] == ["j"]

    async def test_a_suspended_job_is_known_as_such(self, executor, cache):
        await executor.execute(OWNER, [SuspendJob("j", "uid-j", suspend=True)])
        assert cache.get(JOBS, "uid-j")["spec"] == {"suspend": True}

    async def test_a_trial_that_the_same_plan_created_can_be_patched(self, executor, cluster):
        await executor.execute(
            OWNER, [CreateTrial(manifest("t")), PatchTrialStatus("t", "", {"outcome": "Failed"})]
        )
        assert cluster.patches == [
            {"name": "t", "uid": "uid-t", "status": {"outcome": "Failed"}, "version": ""}
        ]

    async def test_a_status_that_says_nothing_new_is_not_written(self, executor, cluster, cache):
        known = manifest("t")
        known["metadata"] |= {"uid": "uid-t", "resourceVersion": "5"}
        cache.observe(TRIALS, {**known, "status": {"attempt": 1, "jobName": "j"}})
        await executor.execute(OWNER, [PatchTrialStatus("t", "uid-t", {"attempt": 1})])
        assert cluster.log == []


class TestFailures:
    async def test_one_failure_stops_its_own_chain_only(self, executor, cluster):
        cluster.failing = {"create t0": ForbiddenError("no")}
        with pytest.raises(ForbiddenError):
            await executor.execute(
                OWNER,
                [
                    CreateTrial(manifest("t0")),
                    CreateJob(manifest("j0", "t0")),
                    CreateTrial(manifest("t1")),
                    CreateJob(manifest("j1", "t1")),
                ],
            )
        assert "begin create j0" not in cluster.log
        assert "end create j1" in cluster.log

    async def test_a_bug_is_not_hidden_behind_an_outage(self, executor, cluster):
        cluster.failing = {"create t0": ForbiddenError("no"), "create t1": ValueError("a bug")}
        with pytest.raises(ValueError, match="a bug"):
            await executor.execute(OWNER, [CreateTrial(manifest("t0")), CreateTrial(manifest("t1"))])

    async def test_the_owner_stays_when_something_before_failed(self, executor, cluster, cache):
        cluster.failing = {"delete j": ForbiddenError("no")}
        with pytest.raises(ForbiddenError):
            await executor.execute(OWNER, [DeleteJob("j", "uid-j"), DeleteOwner("owner")])
        assert cache.get(SEARCHES, "owner") is not None

    async def test_a_trial_that_is_gone_is_forgotten(self, executor, cluster, cache):
        known = manifest("t")
        known["metadata"] |= {"uid": "uid-t", "resourceVersion": "5"}
        cache.observe(TRIALS, known)
        cluster.failing = {"patch t": NotFoundError("gone")}
        await executor.execute(OWNER, [PatchTrialStatus("t", "uid-t", {"attempt": 1})])
        assert cache.get(TRIALS, "uid-t") is None

    async def test_after_a_conflict_the_present_version_is_known_at_once(self, executor, cluster, cache):
        known = manifest("t")
        known["metadata"] |= {"uid": "uid-t", "resourceVersion": "5"}
        cache.observe(TRIALS, known)
        cluster.failing = {"patch t": ConflictError("another version")}
        with pytest.raises(ConflictError):
            await executor.execute(OWNER, [PatchTrialStatus("t", "uid-t", {"attempt": 1}, "5")])
        assert cache.get(TRIALS, "uid-t")["status"] == {"outcome": "Succeeded"}
