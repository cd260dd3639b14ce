"""Two teams share a cluster through the real Kueue: quota, borrowing, preemption, and no failures."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.operator.searches import Namespace, shell_search, volume_of, wait_until
from tests.operator.trainings import scripted_training, stage, status_of, steps, wait_for
from tests.queues.conftest import CPU_PER_TEAM
from tests.queues.kueue import cluster_queue

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

Teams = tuple[Namespace, Namespace]
ONE_CPU = {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}
LONG_SECONDS = 240.0


def queued(document: dict[str, Any]) -> dict[str, Any]:
    """Send an object's Jobs to the team's queue."""
    document["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team"}
    return document


def search(name: str, *, trials: int, parallel: int, sleep: str) -> dict[str, Any]:
    """Return a search whose trials want a CPU each."""
    document = queued(shell_search(name, trials=trials, parallel=parallel, sleep=sleep))
    document["spec"]["trialTemplate"]["resources"] = ONE_CPU
    return document


def running(*namespaces: Namespace) -> int:
    """Count Jobs that a queue has admitted and that have not ended."""
    return sum(
        not job["spec"].get("suspend") and not _ended(job)
        for namespace in namespaces
        for job in namespace.items("jobs")
    )


def _ended(job: dict[str, Any]) -> bool:
    conditions = job.get("status", {}).get("conditions", [])
    return any(own["type"] in {"Complete", "Failed"} and own["status"] == "True" for own in conditions)


@contextmanager
def most_at_once(*namespaces: Namespace) -> Iterator[Counter[str]]:
    """Look again and again, while the block runs, how many Jobs the teams run at once."""
    most: Counter[str] = Counter()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            each = {namespace.name: running(namespace) for namespace in namespaces}
            for name, count in each.items():
                most[name] = max(most[name], count)
            most["all"] = max(most["all"], sum(each.values()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def outcomes(namespace: Namespace) -> Counter[str]:
    """Count trials by their outcome."""
    return Counter(trial["status"]["outcome"] for trial in namespace.trials())


class TestSearches:
    def test_one_team_borrows_and_gives_back_without_a_failed_trial(self, teams: Teams):
        vision, speech = teams
        with most_at_once(vision, speech) as most:
            speech.apply(search("s", trials=8, parallel=4, sleep="5"))
            wait_until(lambda: running(speech) == 2 * CPU_PER_TEAM, what="a team that borrows")
            vision.apply(search("s", trials=4, parallel=2, sleep="2"))
            wait_until(lambda: running(vision) == CPU_PER_TEAM, what="its quota for the other team")
            vision.wait_for("s", "Succeeded", seconds=LONG_SECONDS)
            speech.wait_for("s", "Succeeded", seconds=LONG_SECONDS)
        assert speech.events("Preempted")
        assert most["all"] == 2 * CPU_PER_TEAM
        assert outcomes(vision) == {"Succeeded": 4}
        assert outcomes(speech) == {"Succeeded": 8}
        assert speech.search("s")["status"]["trials"].get("failed", 0) == 0

    def test_what_waits_for_its_queue_is_shown_as_queued(self, teams: Teams):
        vision, _ = teams
        vision.apply(cluster_queue(vision.name, 0))
        others = cluster_queue(teams[1].name, 0)
        vision.apply(others)
        vision.apply(search("s", trials=2, parallel=2, sleep="0"))
        found = wait_until(
            lambda: (own := vision.condition("s", "Progressing")).get("reason") == "Queued" and own,
            what="the search is shown as queued",
        )
        assert "its queue has not admitted it" in found["message"]
        assert running(vision) == 0
        vision.apply(cluster_queue(vision.name, CPU_PER_TEAM))
        vision.wait_for("s", "Succeeded", seconds=LONG_SECONDS)
        assert outcomes(vision) == {"Succeeded": 2}

    def test_what_nobody_owns_is_shared_fairly(self, teams: Teams):
        vision, speech = teams
        pool = cluster_queue(f"pool-of-{vision.name}", 2 * CPU_PER_TEAM)
        vision.apply(pool)
        for team in teams:
            team.apply(cluster_queue(team.name, 0))
        try:
            speech.apply(search("s", trials=10, parallel=4, sleep="5"))
            wait_until(lambda: running(speech) == 2 * CPU_PER_TEAM, what="a team that has all")
            vision.apply(search("s", trials=6, parallel=4, sleep="5"))
            wait_until(
                lambda: running(vision) == running(speech) == CPU_PER_TEAM, what="half of it for each team"
            )
            assert speech.condition("s", "Succeeded").get("status") != "True"
            for team in teams:
                team.wait_for("s", "Succeeded", seconds=LONG_SECONDS)
        finally:
            vision.kubectl("delete", "clusterqueue", pool["metadata"]["name"], "--wait=false")
        assert outcomes(vision) == {"Succeeded": 6}
        assert outcomes(speech) == {"Succeeded": 10}


class TestTrainings:
    def test_a_preempted_training_goes_on_at_its_step(self, teams: Teams):
        vision, speech = teams
        training = queued(scripted_training("t", stage("a", 600), stage("b", 600, workers=2)))
        training["spec"]["podTemplate"]["resources"] = ONE_CPU
        training["spec"]["defaults"]["hardware"] = {"workers": 3}
        training["spec"]["defaults"]["model"]["globalBatch"] = 12
        speech.apply(training)
        volume = volume_of(speech)
        wait_until(
            lambda: list(volume.rglob("steps.txt")) and steps(volume)[-1][1] >= 100, what="its first steps"
        )
        vision.apply(search("s", trials=2, parallel=2, sleep="3"))
        vision.wait_for("s", "Succeeded", seconds=LONG_SECONDS)
        wait_for(speech, "t", "Succeeded", seconds=LONG_SECONDS)
        assert speech.events("Preempted")
        assert [samples for _, samples in steps(volume)] == list(range(10, 1210, 10))
        status = status_of(speech, "t")
        assert status.get("lostSteps", 0) == 0
        assert [own["name"] for own in status["stages"]] == ["a", "b"]
        failed = [job for job in speech.items("jobs") if job.get("status", {}).get("failed")]
        assert failed == [], json.dumps(failed)
