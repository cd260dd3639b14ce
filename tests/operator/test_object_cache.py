"""The object cache: late news never overwrite newer ones, what is gone stays gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nascale.cluster.cache import ObjectCache
from nascale.cluster.resources import JOBS, PODS, SEARCHES, SWEEPS, TRIALS, Resource


def document(uid: str, version: int, *, owner: str | None = None, namespace: str = "default", **more: object):
    metadata: dict[str, object] = {
        "name": f"name-{uid}",
        "namespace": namespace,
        "uid": uid,
        "resourceVersion": str(version),
        "managedFields": [{"manager": "somebody"}],
    }
    if owner is not None:
        metadata["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "Other", "name": "o", "uid": "not-the-controller"},
            {"apiVersion": "x/v1", "kind": "Owner", "name": "o", "uid": owner, "controller": True},
        ]
    return {"metadata": metadata, **more}


def version_of(cache: ObjectCache, resource: Resource, uid: str) -> int | None:
    found = cache.get(resource, uid)
    return None if found is None else int(found["metadata"]["resourceVersion"])


class TestNewness:
    def test_newer_documents_replace_older_ones_and_late_ones_are_ignored(self):
        cache = ObjectCache()
        assert cache.observe(TRIALS, document("a", 5))
        assert not cache.observe(TRIALS, document("a", 4))
        assert not cache.observe(TRIALS, document("a", 5))
        assert version_of(cache, TRIALS, "a") == 5
        assert cache.observe(TRIALS, document("a", 10))
        assert version_of(cache, TRIALS, "a") == 10

    def test_versions_are_compared_as_numbers(self):
        cache = ObjectCache()
        cache.observe(TRIALS, document("a", 9))
        assert cache.observe(TRIALS, document("a", 10))

    def test_our_own_write_is_seen_at_once_and_its_echo_is_no_news(self):
        cache = ObjectCache()
        assert cache.wrote(JOBS, document("j", 7, owner="s"))
        assert [job["metadata"]["uid"] for job in cache.family("s").jobs] == ["j"]
        assert not cache.observe(JOBS, document("j", 7, owner="s"))

    def test_a_late_event_does_not_bring_a_deleted_object_back(self):
        cache = ObjectCache()
        cache.observe(PODS, document("p", 3, owner="j"))
        assert cache.remove(PODS, "p")
        assert not cache.observe(PODS, document("p", 4, owner="j"))
        assert not cache.wrote(PODS, document("p", 5, owner="j"))
        assert cache.get(PODS, "p") is None
        assert not cache.remove(PODS, "p")

    def test_managed_fields_are_not_kept(self):
        cache = ObjectCache()
        cache.observe(TRIALS, document("a", 1))
        assert "managedFields" not in cache.get(TRIALS, "a")["metadata"]


class TestDependents:
    def test_sweeps_look_at_the_search_of_their_base_and_at_the_sweep_that_they_reuse(self):
        cache = ObjectCache()
        cache.observe(SWEEPS, document("a", 1, spec={"base": {"searchName": "name-s"}}))
        cache.observe(SWEEPS, document("b", 1, spec={"base": {}, "reuseTrialsFrom": "name-a"}))
        cache.observe(
            SWEEPS, document("c", 1, namespace="elsewhere", spec={"base": {"searchName": "name-s"}})
        )
        assert cache.dependents(SEARCHES, document("s", 1)) == ["a"]
        assert cache.dependents(SWEEPS, document("a", 1)) == ["b"]
        assert cache.dependents(SWEEPS, document("s", 1)) == []
        assert cache.dependents(TRIALS, document("s", 1)) == []

    def test_objects_are_found_by_their_name_in_their_namespace(self):
        cache = ObjectCache()
        cache.observe(SEARCHES, document("s", 1))
        assert cache.named(SEARCHES, "default", "name-s") == cache.get(SEARCHES, "s")
        assert cache.named(SEARCHES, "elsewhere", "name-s") is None
        assert cache.named(SWEEPS, "default", "name-s") is None


class TestFamilies:
    def test_children_are_found_by_their_controller_and_pods_by_their_jobs(self):
        cache = ObjectCache()
        cache.observe(TRIALS, document("t2", 1, owner="s"))
        cache.observe(TRIALS, document("t1", 1, owner="s"))
        cache.observe(TRIALS, document("foreign", 1, owner="other"))
        cache.observe(JOBS, document("j", 1, owner="s"))
        cache.observe(PODS, document("p", 1, owner="j"))
        cache.observe(PODS, document("q", 1, owner="another-job"))
        family = cache.family("s")
        assert [trial["metadata"]["uid"] for trial in family.trials] == ["t1", "t2"]
        assert [job["metadata"]["uid"] for job in family.jobs] == ["j"]
        assert [pod["metadata"]["uid"] for pod in family.pods] == ["p"]

    def test_a_removed_child_is_no_longer_of_the_family(self):
        cache = ObjectCache()
        cache.observe(TRIALS, document("t", 1, owner="s"))
        cache.remove(TRIALS, "t")
        assert cache.family("s").trials == ()

    def test_the_search_to_wake_is_found_for_every_kind(self):
        cache = ObjectCache()
        cache.observe(JOBS, document("j", 1, owner="s"))
        assert cache.owner_of(SEARCHES, document("s", 1)) == "s"
        assert cache.owner_of(TRIALS, document("t", 1, owner="s")) == "s"
        assert cache.owner_of(JOBS, document("j", 1, owner="s")) == "s"
        assert cache.owner_of(PODS, document("p", 1, owner="j")) == "s"

    def test_a_sweep_is_an_owner_as_a_search_is(self):
        cache = ObjectCache()
        found = document("w", 1)
        cache.observe(SWEEPS, found)
        assert cache.owner_of(SWEEPS, found) == "w"
        assert cache.owner("w") == (SWEEPS, cache.get(SWEEPS, "w"))
        assert cache.owner("unheard-of") is None

    def test_a_pod_that_overtakes_its_job_wakes_by_label_but_is_of_no_family_yet(self):
        cache = ObjectCache()
        pod = document("p", 1, owner="j")
        pod["metadata"]["labels"] = {"nascale.io/owner-uid": "s"}
        cache.observe(PODS, pod)
        assert cache.owner_of(PODS, pod) == "s"
        assert cache.family("s").pods == ()


class TestComparison:
    def test_what_a_listing_no_longer_shows_is_dropped_but_not_what_was_written_after_it(self):
        cache = ObjectCache()
        cache.observe(TRIALS, document("gone", 5, owner="s"))
        cache.observe(TRIALS, document("there", 6, owner="s"))
        cache.wrote(TRIALS, document("new", 12, owner="s"))
        dropped = cache.retain(TRIALS, None, {"there": 6}, list_version=10)
        assert [found["metadata"]["uid"] for found in dropped] == ["gone"]
        assert {trial["metadata"]["uid"] for trial in cache.family("s").trials} == {"there", "new"}

    def test_a_listing_of_one_namespace_says_nothing_about_others(self):
        cache = ObjectCache()
        cache.observe(TRIALS, document("a", 1, namespace="one"))
        cache.observe(TRIALS, document("b", 1, namespace="two"))
        assert [found["metadata"]["uid"] for found in cache.retain(TRIALS, "one", {}, 10)] == ["a"]
        assert version_of(cache, TRIALS, "b") == 1

    def test_unknown_objects_and_newer_versions_are_noticed_but_not_deleted_ones(self):
        cache = ObjectCache()
        cache.observe(TRIALS, document("a", 5))
        cache.observe(TRIALS, document("dead", 5))
        cache.remove(TRIALS, "dead")
        assert not cache.lags(TRIALS, {"a": 5, "dead": 5})
        assert not cache.lags(TRIALS, {"a": 4})
        assert cache.lags(TRIALS, {"a": 6})
        assert cache.lags(TRIALS, {"a": 5, "b": 1})


class TestUnconfirmedWrites:
    def test_a_write_is_unconfirmed_until_the_watch_shows_it_or_something_newer(self):
        moment = [100.0]
        cache = ObjectCache(clock=lambda: moment[0])
        assert cache.oldest_unconfirmed_write() is None
        cache.wrote(TRIALS, document("a", 5))
        cache.wrote(JOBS, document("j", 6))
        moment[0] = 130.0
        assert cache.oldest_unconfirmed_write() == 30.0
        cache.observe(TRIALS, document("a", 5))
        cache.observe(JOBS, document("j", 9))
        assert cache.oldest_unconfirmed_write() is None

    def test_a_write_that_changed_nothing_waits_for_no_event(self):
        cache = ObjectCache()
        cache.observe(TRIALS, document("a", 5))
        cache.wrote(TRIALS, document("a", 5))
        assert cache.oldest_unconfirmed_write() is None

    def test_a_deletion_confirms_as_well(self):
        cache = ObjectCache()
        cache.wrote(TRIALS, document("a", 5))
        cache.remove(TRIALS, "a")
        assert cache.oldest_unconfirmed_write() is None


news = st.one_of(
    st.tuples(st.just("observe"), st.sampled_from("abc"), st.integers(1, 20)),
    st.tuples(st.just("wrote"), st.sampled_from("abc"), st.integers(1, 20)),
    st.tuples(st.just("remove"), st.sampled_from("abc"), st.just(0)),
)


@given(st.lists(news, max_size=30))
def test_in_any_order_the_newest_version_stays_and_deletion_wins(history):
    cache = ObjectCache()
    expected: dict[str, int] = {}
    removed: set[str] = set()
    for what, uid, version in history:
        if what == "remove":
            cache.remove(TRIALS, uid)
            removed.add(uid)
            expected.pop(uid, None)
        else:
            store = cache.observe if what == "observe" else cache.wrote
            is_news = store(TRIALS, document(uid, version, owner="s"))
            assert is_news == (uid not in removed and version > expected.get(uid, 0))
            if is_news:
                expected[uid] = version
    found = {
        trial["metadata"]["uid"]: int(trial["metadata"]["resourceVersion"])
        for trial in cache.family("s").trials
    }
    assert found == expected
