"""Names, decimals, conditions, queries: small functions that many others lean on."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nascale.api.architecture_search import Objective
from nascale.api.resource import DECIMAL_PATTERN
from nascale.reconcile.conditions import assertion, find, updated
from nascale.reconcile.decimals import decimal_text
from nascale.reconcile.naming import (
    backoff_seconds,
    candidate_seed,
    child_prefix,
    index_of,
    job_name,
    trial_name,
)
from nascale.reconcile.prometheus_queries import default_query, filled_in, queries_for
from nascale.reconcile.recent import Recent

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DNS_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
names = st.from_regex(r"\A[a-z0-9]([-a-z0-9.]{0,200}[a-z0-9])?\Z")


@given(name=names, uid=st.uuids(), index=st.integers(0, 999_999), attempt=st.integers(0, 99_999))
def test_names_of_children_are_dns_labels_and_lead_back(name, uid, index, attempt):
    prefix = child_prefix(name, str(uid))
    trial = trial_name(prefix, index)
    assert DNS_LABEL.match(trial)
    assert DNS_LABEL.match(job_name(prefix, index, attempt))
    assert index_of(prefix, trial) == index
    assert index_of(prefix, f"x{trial}") is None


def test_a_new_search_of_the_same_name_has_children_of_other_names():
    assert child_prefix("digits", "uid-1") != child_prefix("digits", "uid-2")


def test_seeds_are_small_and_differ():
    seeds = {candidate_seed(search, candidate) for search in range(10) for candidate in range(100)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)


@given(key=st.text(max_size=20), repetition=st.integers(0, 10_000))
def test_back_off_doubles_up_to_five_minutes(key, repetition):
    full = min(300.0, 10.0 * 2 ** min(repetition, 10))
    assert 0.8 * full <= backoff_seconds(key, repetition) <= full
    assert backoff_seconds(key, repetition) == backoff_seconds(key, repetition)


@given(st.floats(min_value=-1e99, max_value=1e99, allow_nan=False))
def test_decimals_survive_their_way_through_text(value):
    text = decimal_text(value)
    assert re.match(DECIMAL_PATTERN, text)
    assert len(text) <= 42
    assert float(text) == (value if abs(value) >= 1e-98 else pytest.approx(value, abs=1e-98))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e100, -1e300])
def test_numbers_without_a_decimal_are_refused(value):
    with pytest.raises(ValueError, match="must be"):
        decimal_text(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1"), (0.25, "0.25"), (1e-7, "1e-07"), (5e-324, "0"), (1e22, "1e22"), (-3.0, "-3")],
)
def test_decimals_are_short(value, text):
    assert decimal_text(value) == text


def test_a_conditions_time_moves_only_with_its_status():
    first = updated((), [assertion("Ready", False, "Waiting", "a")], generation=1, now=NOW)
    later = NOW + timedelta(minutes=1)
    same = updated(first, [assertion("Ready", False, "StillWaiting", "b")], generation=2, now=later)
    assert find(same, "Ready").last_transition_time == NOW
    assert (find(same, "Ready").reason, find(same, "Ready").observed_generation) == ("StillWaiting", 2)
    moved = updated(same, [assertion("Ready", True, "Done")], generation=2, now=later)
    assert find(moved, "Ready").last_transition_time == later
    assert updated(moved, [assertion("Ready", True, "Done")], generation=2, now=later + timedelta(1)) == moved


def test_conditions_of_others_stay_and_messages_are_bounded():
    other = updated((), [assertion("Theirs", None, "Unknown")], generation=1, now=NOW)
    both = updated(other, [assertion("Ours", True, "Yes", "x" * 5000)], generation=1, now=NOW)
    assert [entry.type for entry in both] == ["Theirs", "Ours"]
    assert len(find(both, "Ours").message) == 1024


VALUES = {"trial": "digits-1", "pod": "digits-1-a0-xyz", "namespace": "lab"}


def test_only_three_names_are_filled_in():
    query = 'a{t="$trial",p="$pod",n="$namespace",r=~"$|x$",o="$other",l="$trials"} + "$trial"'
    expected = 'a{t="digits-1",p="digits-1-a0-xyz",n="lab",r=~"$|x$",o="$other",l="$trials"} + "digits-1"'
    assert filled_in(query, VALUES) == expected


@pytest.mark.parametrize("value", ['x"} or vector(1) #', "", "A", "a\nb", "$pod", "a" * 254])
def test_values_that_could_leave_their_matcher_are_refused(value):
    with pytest.raises(ValueError, match="must be a DNS name"):
        filled_in('x{pod="$pod"}', {**VALUES, "pod": value})


def test_the_default_query_covers_the_pods_life():
    objectives = [
        Objective(metric="accuracy", direction="Maximize"),
        Objective(metric="latency_p50_seconds", direction="Minimize", source="Prometheus"),
        Objective(metric="joules", direction="Minimize", source="Prometheus", query='e{pod="$pod"}'),
    ]
    queries = queries_for(objectives, trial="t-1", pod="t-1-a0-x", namespace="lab", lifetime_seconds=100.2)
    assert queries == {
        "latency_p50_seconds": (
            'last_over_time(nascale_trial_metric{trial="t-1",metric="latency_p50_seconds",'
            'pod="t-1-a0-x",namespace="lab"}[161s])'
        ),
        "joules": 'e{pod="t-1-a0-x"}',
    }
    assert "[60s]" in default_query("accuracy", 60)


def test_the_memory_is_bounded_and_keeps_what_is_used():
    memory = Recent(2)
    computed = []

    def compute(value):
        return lambda: computed.append(value) or value

    for key in ("a", "b", "a", "c", "a", "b"):
        assert memory.get(key, compute(key)) == key
    assert computed == ["a", "b", "c", "b"]
