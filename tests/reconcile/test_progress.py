"""How far an attempt has come: the less common ways of Jobs and pods."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta

import pytest

from nascale.reconcile.snapshot import read_children
from nascale.reconcile.trial_progress import Stage, follow

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def stamp(seconds_ago):
    return (NOW - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def job(*conditions, suspend=False, **metadata):
    return {
        "metadata": {
            "name": "t-0-a0",
            "uid": "job",
            "creationTimestamp": stamp(100),
            "labels": {"nascale.io/attempt": "0"},
            "annotations": {"nascale.io/trials": "t-0"},
            **metadata,
        },
        "spec": {"suspend": suspend},
        "status": {
            "startTime": stamp(100),
            "conditions": [
                {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": stamp(ago)}
                for kind, reason, ago in conditions
            ],
        },
    }


def pod(name="p", *, age=90, phase="Running", state=None, conditions=(), reason=None, deleted=False):
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": stamp(age),
            "ownerReferences": [{"uid": "job", "controller": True}],
            **({"deletionTimestamp": stamp(5)} if deleted else {}),
        },
        "spec": {"nodeName": "n1"},
        "status": {
            "phase": phase,
            **({"reason": reason} if reason else {}),
            "conditions": list(conditions),
            **({"containerStatuses": [{"name": "trial", "state": state}]} if state else {}),
        },
    }


RUNNING = {"running": {"startedAt": stamp(80)}}
NODE_LOST = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}


def ended(code, message="", reason="Completed"):
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": stamp(80),
            "finishedAt": stamp(3),
        }
    }


def progress(job_document, *pods, problem=None, was_running=False):
    children = read_children((), (job_document,), pods)
    (view,) = children.jobs.values()
    return follow(view, children.pods.get(view.name, ()), problem=problem, was_running=was_running, now=NOW)


FAILED = ("Failed", "BackoffLimitExceeded", 30)
DEADLINE = ("FailureTarget", "DeadlineExceeded", 70)


@pytest.mark.parametrize(
    ("seen", "stage", "reason"),
    [
        ((job(),), Stage.PENDING, "AwaitingPod"),
        ((job(), pod(state=RUNNING)), Stage.RUNNING, "PodRunning"),
        ((job(), pod(phase="Failed", state=ended(1))), Stage.ENDED, "PodEnded"),
        # A container that ended by itself counts although its Job was suspended or has failed since.
        ((job(suspend=True), pod(phase="Failed", state=ended(1))), Stage.ENDED, "PodEnded"),
        ((job(FAILED), pod(phase="Failed", state=ended(1))), Stage.ENDED, "PodEnded"),
        # A pod that was told to stop had finished its work.
        ((job(), pod(phase="Succeeded", state=ended(0, "{}"), deleted=True)), Stage.ENDED, "PodEnded"),
        ((job(), pod(phase="Failed", state=ended(143), deleted=True)), Stage.PENDING, "PodDeleted"),
        ((job(FAILED), pod(phase="Failed", state=ended(143), deleted=True)), Stage.INTERRUPTED, "PodDeleted"),
        ((job(suspend=True), pod(state=RUNNING)), Stage.QUEUED, "JobSuspended"),
        (
            (job(suspend=True), pod(phase="Failed", state=ended(143), deleted=True)),
            Stage.QUEUED,
            "JobSuspended",
        ),
        ((job(deletionTimestamp=stamp(1)),), Stage.SETTLING, "JobIsBeingDeleted"),
        # The kubelet's own refusals: never admitted, evicted before the start.
        ((job(FAILED), pod(phase="Failed", reason="OutOfcpu")), Stage.INTERRUPTED, "OutOfcpu"),
        ((job(), pod(phase="Failed", reason="Evicted"), pod("q", age=5)), Stage.PENDING, "ContainerCreating"),
        (
            (job(FAILED), pod(phase="Failed", state=ended(137, reason="ContainerStatusUnknown"))),
            Stage.INTERRUPTED,
            "ContainerStatusUnknown",
        ),
        # A node is gone, its pod can't end: the deadline passes, and still it is no failure of the trial.
        (
            (job(DEADLINE), pod(state=RUNNING, conditions=[NODE_LOST], deleted=True)),
            Stage.INTERRUPTED,
            "DeletionByTaintManager",
        ),
        (
            (job(DEADLINE), pod(phase="Failed", state=ended(143), deleted=True)),
            Stage.OUT_OF_TIME,
            "DeadlineExceeded",
        ),
        ((job(DEADLINE), pod(state=RUNNING, deleted=True)), Stage.OUT_OF_TIME, "DeadlineExceeded"),
        ((job(DEADLINE),), Stage.INTERRUPTED, "NeverStarted"),
    ],
)
def test_stage(seen, stage, reason):
    found = progress(*seen)
    assert (found.stage, found.reason) == (stage, reason)


def test_a_deadline_counts_where_the_trial_was_seen_running():
    assert progress(job(DEADLINE), was_running=True).stage is Stage.OUT_OF_TIME


@pytest.mark.parametrize("kind", ["Failed", "Complete"])
def test_a_finished_job_waits_for_its_pods_own_news(kind):
    fresh = (kind, "Whatever", 2)
    for pods in ((), (pod(state=RUNNING),)):
        found = progress(job(fresh), *pods)
        assert found.stage is Stage.SETTLING
        assert 0 < found.look_again_seconds <= 60
    gone = progress(job((kind, "Whatever", 11)))
    assert (gone.stage, gone.reason) == (Stage.INTERRUPTED, "PodLost")


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ("ImagePullBackOff", "ImagePullFailed"),
        ("ErrImagePull", "ImagePullFailed"),
        ("InvalidImageName", "ImagePullFailed"),
        ("CreateContainerConfigError", "CreateContainerConfigError"),
    ],
)
def test_what_blocks_a_container_is_named(waiting, reason):
    state = {"waiting": {"reason": waiting, "message": "why"}}
    found = progress(job(), pod(phase="Pending", state=state))
    assert (found.stage, found.reason) == (Stage.BLOCKED, reason)
    assert found.message == f"pod p: {waiting}: why"
    assert (NOW - found.since).total_seconds() == 90


def test_a_pod_that_is_being_made_is_not_blocked():
    state = {"waiting": {"reason": "ContainerCreating"}}
    assert progress(job(), pod(phase="Pending", state=state)).stage is Stage.PENDING


def test_a_pod_without_a_node_is_blocked():
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available",
    }
    found = progress(job(), pod(phase="Pending", conditions=[unschedulable]))
    assert (found.stage, found.reason) == (Stage.BLOCKED, "Unschedulable")
    assert "0/1 nodes" in found.message


def test_quota_shows_only_while_there_is_no_pod():
    found = progress(job(), problem="exceeded quota")
    assert (found.stage, found.reason, found.message) == (Stage.BLOCKED, "PodsNotCreated", "exceeded quota")
    assert progress(job(), pod(state=RUNNING), problem="exceeded quota").stage is Stage.RUNNING


def test_pods_and_jobs_of_others_are_not_taken_for_ours():
    stranger = pod(state=RUNNING)
    stranger["metadata"]["ownerReferences"] = [{"uid": "other", "controller": True}]
    assert progress(job(), stranger).reason == "AwaitingPod"
    loose = pod(state=RUNNING)
    loose["metadata"]["ownerReferences"] = [{"uid": "job"}]
    assert progress(job(), loose).reason == "AwaitingPod"


def together(count, *pods, problem=None):
    """Look at pods of an Indexed Job, by index."""
    document = job()
    document["spec"]["completions"] = count
    for index, one in pods:
        one["metadata"]["name"] = f"p{index}"
        one["metadata"]["annotations"] = {"batch.kubernetes.io/job-completion-index": str(index)}
    found = read_children((), (document,), [one for _, one in pods])
    (only,) = found.jobs.values()
    return follow(only, found.pods.get(only.name, ()), problem=problem, was_running=False, now=NOW)


ZERO, LOST, ASKED, KILLED, WRONG = (
    pod(phase="Succeeded", state=ended(0, "{}")),
    pod(phase="Failed", state=ended(86)),
    pod(phase="Failed", state=ended(143)),
    pod(phase="Failed", state=ended(137, reason="OOMKilled")),
    pod(phase="Failed", state=ended(1)),
)


@pytest.mark.parametrize(
    ("pods", "stage", "told_by"),
    [
        (((0, pod(state=RUNNING)), (1, pod(state=RUNNING))), Stage.RUNNING, "p0"),
        (((1, pod(state=RUNNING)),), Stage.PENDING, "p1"),
        (((0, pod(state=RUNNING)), (1, pod(phase="Pending"))), Stage.PENDING, "p1"),
        (((0, pod(state=RUNNING)), (1, ZERO)), Stage.RUNNING, "p0"),
        (((0, ZERO), (1, pod(state=RUNNING))), Stage.ENDED, "p0"),
        (((0, LOST), (1, KILLED)), Stage.ENDED, "p1"),
        (((0, ASKED), (1, WRONG)), Stage.ENDED, "p1"),
        (((0, LOST), (1, ASKED)), Stage.ENDED, "p0"),
        (((0, pod(state=RUNNING)), (1, WRONG)), Stage.ENDED, "p1"),
    ],
)
def test_of_pods_that_work_together_the_most_telling_one_counts(pods, stage, told_by):
    progress = together(2, *((index, copy.deepcopy(one)) for index, one in pods))
    assert progress.stage is stage, progress
    assert progress.pod is not None
    assert progress.pod.name == told_by


def test_a_quota_that_leaves_room_for_some_of_the_pods_blocks_all():
    progress = together(2, (0, pod(state=RUNNING)), problem="exceeded quota: 1 pod")
    assert (progress.stage, progress.message) == (Stage.BLOCKED, "exceeded quota: 1 pod")
