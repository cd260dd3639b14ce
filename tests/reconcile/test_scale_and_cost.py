"""What a search costs the API server, and how a plan's work grows with the number of trials."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import pytest
from tests.reconcile.searches import search
from tests.reconcile.simulation import Fate, SimulatedCluster, SimulatedOperator

from nascale.reconcile import snapshot, validation
from nascale.reconcile.architecture_search import plan
from nascale.search import engine, spaces


def run(trials, **options):
    budget = {"maxTrials": trials, "parallelTrials": options.pop("parallel", 1)}
    space = {"parameters": [{"name": "width", "integer": {"min": 1, "max": 5000}}]}
    cluster = SimulatedCluster(search(space=space, budget=budget), **options)
    SimulatedOperator(cluster).run(ticks=40 * trials)
    return cluster


@pytest.mark.parametrize(("seconds", "each"), [(0, 4), (20, 6)])
@pytest.mark.parametrize("trials", [5, 30])
def test_writes_per_trial_do_not_grow_with_their_number(trials, seconds, each):
    """Trial, Job, its end, the search's status; a trial that runs for long is also shown as running."""
    cluster = run(trials, fate=lambda _job, _ordinal: Fate(seconds=seconds))
    counts = Counter(cluster.writes)
    assert counts["CreateTrial"] == counts["CreateJob"] == trials
    assert len(cluster.writes) == each * trials + 1, "one more for the first status"


def test_no_event_for_a_trial_that_succeeds():
    cluster = run(12, parallel=4)
    assert [reason for reason, _ in cluster.events] == [
        "SearchStarted",
        "BaseNetworkChosen",
        "SearchSucceeded",
    ]


def test_ended_trials_are_read_once(monkeypatch):
    """With 5,000 ended trials a look reads, decodes and summarises only what is new."""
    cluster = run(12, parallel=4)
    template = next(iter(cluster.trials.values()))
    owner = cluster.owner
    for index in range(12, 5000):
        name = template["metadata"]["name"].rpartition("-")[0] + f"-{index}"
        parameters = [{"name": "width", "value": str(1 + index % 5000)}]
        cluster.trials[name] = {
            **template,
            "metadata": {**template["metadata"], "name": name, "uid": f"many-{index}"},
            "spec": {
                **template["spec"],
                "index": index,
                "candidate": index,
                "lead": index,
                "parameters": parameters,
            },
        }
    owner["spec"]["budget"] = {"maxTrials": 6000, "parallelTrials": 10}
    for key in ("completionTime", "baseNetwork"):
        del owner["status"][key]
    cluster.edit(lambda _spec: None)
    operator = SimulatedOperator(cluster)
    operator.settle()
    assert cluster.owner["status"]["finished"] == 5000
    assert cluster.owner["status"]["trials"]["pending"] == 10

    counts = Counter()

    def counting(name, function):
        def counted(*arguments, **keywords):
            counts[name] += 1
            return function(*arguments, **keywords)

        return counted

    monkeypatch.setattr(snapshot, "_parsed_trial", counting("parsed", snapshot._parsed_trial))
    monkeypatch.setattr(spaces, "decode", counting("decoded", spaces.decode))
    monkeypatch.setattr(engine, "summarise", counting("summarised", engine.summarise))
    monkeypatch.setattr(validation, "_faults", counting("validated", validation._faults))
    observed = cluster.observe()
    plan(observed)
    assert counts["parsed"] == counts["summarised"] == counts["validated"] == 0
    assert counts["decoded"] <= 20, "the ten that run"


def test_the_clock_alone_changes_nothing():
    cluster = SimulatedCluster(search(), fate=lambda _job, _ordinal: Fate(seconds=10**6))
    cluster.owner["spec"]["budget"]["trialDeadlineSeconds"] = 10**6
    operator = SimulatedOperator(cluster)
    for _ in range(6):
        operator.settle()
        cluster.tick()
    operator.settle()
    before = len(cluster.writes)
    for hours in range(1, 6):
        cluster.tick(3600 * hours)
        operator.settle()
    assert len(cluster.writes) == before
    assert isinstance(cluster.now, datetime)
