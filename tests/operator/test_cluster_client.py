"""Requests to the API server: safe to repeat, bridged over short outages, counted."""

from __future__ import annotations

import pytest

from nascale.cluster.client import MERGE_PATCH, ClusterClient
from nascale.cluster.connection import Connection, ConnectionSettingsError
from nascale.cluster.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    ForeignObjectError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    error_class,
)
from nascale.cluster.merge_patch import merge_patch, narrow
from nascale.cluster.resources import JOBS, PODS, SEARCHES, TRIALS


def job(owner_uid: str) -> dict:
    owner = {
        "apiVersion": "x",
        "kind": "ArchitectureSearch",
        "name": "s",
        "uid": owner_uid,
        "controller": True,
    }
    return {"metadata": {"name": "j", "namespace": "n", "ownerReferences": [owner]}}


ALREADY_EXISTS = {"kind": "Status", "reason": "AlreadyExists", "message": "jobs.batch j already exists"}


class TestCreation:
    async def test_it_posts_the_manifest_as_our_user_and_agent(self, api_client, scripted_server, counts):
        scripted_server.answer(201, {"metadata": {"uid": "u"}})
        assert await api_client.create_owned(JOBS, job("s")) == {"metadata": {"uid": "u"}}
        (seen,) = scripted_server.seen
        assert (seen.method, seen.path) == ("POST", "/apis/batch/v1/namespaces/n/jobs")
        assert seen.body == job("s")
        assert seen.headers["User-Agent"].startswith("nascale-operator/")
        assert seen.headers["Authorization"] == "Bearer a-token"
        assert counts.requests == [("create", "jobs", "201")]

    async def test_an_object_of_the_same_controller_counts_as_created(self, api_client, scripted_server):
        scripted_server.answer(409, ALREADY_EXISTS)
        scripted_server.answer(200, job("s"))
        assert await api_client.create_owned(JOBS, job("s")) == job("s")
        assert [seen.method for seen in scripted_server.seen] == ["POST", "GET"]

    async def test_an_object_of_another_controller_is_an_error_that_names_it(
        self, api_client, scripted_server
    ):
        scripted_server.answer(409, ALREADY_EXISTS)
        scripted_server.answer(200, job("another"))
        with pytest.raises(ForeignObjectError, match=r"Job n/j: the name is taken .*ArchitectureSearch s"):
            await api_client.create_owned(JOBS, job("s"))


class TestOutages:
    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    async def test_an_overloaded_or_restarting_server_is_asked_again(
        self, api_client, scripted_server, counts, status
    ):
        scripted_server.answer(status, {"message": "busy"}, Retry_After="0")
        scripted_server.answer(status, "no JSON at all")
        scripted_server.answer(200, {"metadata": {"name": "t"}})
        assert await api_client.get(TRIALS, "n", "t") == {"metadata": {"name": "t"}}
        assert counts.requests == [
            ("get", "trials", str(status)),
            ("get", "trials", str(status)),
            ("get", "trials", "200"),
        ]

    async def test_after_the_last_attempt_the_outage_is_reported(self, api_client, scripted_server):
        scripted_server.answer(503, {"message": "starting"})
        with pytest.raises(UnavailableError, match=r"503 .*starting"):
            await api_client.get(TRIALS, "n", "t")
        assert len(scripted_server.seen) == 3

    async def test_a_server_that_is_away_is_an_outage(self, kubeconfig, counts):
        client = ClusterClient(Connection(kubeconfig("http://127.0.0.1:1")), counts)
        with pytest.raises(UnavailableError):
            await client.get(TRIALS, "n", "t")
        await client.close()
        assert counts.requests == [("get", "trials", "error")] * 4

    async def test_refused_credentials_are_read_anew(self, scripted_server, kubeconfig, counts):
        connection = Connection(kubeconfig(scripted_server.url, "old"))
        client = ClusterClient(connection, counts)
        scripted_server.answer(200, {})
        await client.get(TRIALS, "n", "t")
        kubeconfig(scripted_server.url, "new")
        scripted_server.script = [(401, {"message": "expired"}, {}), (200, {"metadata": {}}, {})]
        await client.get(TRIALS, "n", "t")
        await client.close()
        tokens = [seen.headers["Authorization"] for seen in scripted_server.seen]
        assert tokens == ["Bearer old", "Bearer old", "Bearer new"]

    @pytest.mark.parametrize(
        ("status", "reason", "kind"),
        [
            (400, "BadRequest", InvalidError),
            (403, "Forbidden", ForbiddenError),
            (404, "NotFound", NotFoundError),
            (409, "AlreadyExists", AlreadyExistsError),
            (409, "Conflict", ConflictError),
            (410, "Expired", ConflictError),
            (422, "Invalid", InvalidError),
            (500, "InternalError", UnavailableError),
        ],
    )
    def test_every_status_has_its_class(self, status, reason, kind):
        assert error_class(status, reason) is kind

    async def test_what_repeating_does_not_mend_is_not_repeated(self, api_client, scripted_server):
        scripted_server.answer(422, {"reason": "Invalid", "message": "spec.rung: must be at most 5"})
        with pytest.raises(InvalidError, match=r"spec\.rung: must be at most 5"):
            await api_client.create_owned(JOBS, job("s"))
        assert len(scripted_server.seen) == 1


class TestChanges:
    async def test_a_status_patch_carries_uid_and_version_as_preconditions(self, api_client, scripted_server):
        scripted_server.answer(200, {})
        await api_client.patch_status(TRIALS, "n", "t", "uid-1", {"outcome": "Failed"}, resource_version="7")
        (seen,) = scripted_server.seen
        assert (seen.method, seen.path) == ("PATCH", "/apis/nascale.io/v1alpha1/namespaces/n/trials/t/status")
        assert seen.headers["Content-Type"] == MERGE_PATCH
        assert seen.body == {
            "metadata": {"uid": "uid-1", "resourceVersion": "7"},
            "status": {"outcome": "Failed"},
        }

    async def test_a_status_patch_without_version_leaves_it_out(self, api_client, scripted_server, counts):
        scripted_server.answer(200, {})
        await api_client.patch_status(SEARCHES, "n", "s", "uid-1", {"finished": 1})
        assert scripted_server.seen[0].body["metadata"] == {"uid": "uid-1"}
        assert counts.requests == [("patch", "architecturesearches/status", "200")]

    async def test_a_deletion_names_the_uid_and_takes_dependents_in_the_background(
        self, api_client, scripted_server
    ):
        going = {"kind": "Job", "metadata": {"deletionTimestamp": "now"}}
        scripted_server.answer(200, going)
        assert await api_client.delete(JOBS, "n", "j", "uid-1") == going
        (seen,) = scripted_server.seen
        assert seen.method == "DELETE"
        assert seen.body["preconditions"] == {"uid": "uid-1"}
        assert seen.body["propagationPolicy"] == "Background"

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (200, {"kind": "Status", "status": "Success"}),
            (404, {"kind": "Status", "reason": "NotFound"}),
            (409, {"kind": "Status", "reason": "Conflict", "message": "the UID in the precondition differs"}),
        ],
    )
    async def test_a_deleted_object_is_gone_also_when_another_has_its_name(
        self, api_client, scripted_server, status, body
    ):
        scripted_server.answer(status, body)
        assert await api_client.delete(JOBS, "n", "j", "uid-1") is None


class TestReading:
    async def test_only_our_own_children_are_listed(self, api_client, scripted_server):
        scripted_server.answer(200, {"metadata": {"resourceVersion": "42"}, "items": [{"metadata": {}}]})
        listing = await api_client.list_objects(PODS, None)
        assert listing.version == 42
        assert listing.items[0]["kind"] == "Pod"
        (seen,) = scripted_server.seen
        assert seen.path == "/api/v1/pods"
        assert seen.query == {"labelSelector": "nascale.io/owner-uid", "limit": "500"}

    async def test_a_long_list_is_read_page_by_page_as_one_view(self, api_client, scripted_server):
        first = {
            "metadata": {"resourceVersion": "42", "continue": "next"},
            "items": [{"metadata": {"uid": "a"}}],
        }
        last = {"metadata": {"resourceVersion": "42"}, "items": [{"metadata": {"uid": "b"}}]}
        scripted_server.answer(200, first)
        scripted_server.answer(200, last)
        listing = await api_client.list_objects(TRIALS, "n")
        assert [item["metadata"]["uid"] for item in listing.items] == ["a", "b"]
        assert [seen.query.get("continue") for seen in scripted_server.seen] == [None, "next"]

    async def test_a_view_that_expires_between_pages_is_a_conflict(self, api_client, scripted_server):
        first = {"metadata": {"resourceVersion": "42", "continue": "next"}, "items": []}
        scripted_server.answer(200, first)
        scripted_server.answer(410, {"reason": "Expired"})
        with pytest.raises(ConflictError):
            await api_client.list_objects(TRIALS, "n")

    async def test_a_kind_that_is_not_installed_is_not_served(self, api_client, scripted_server):
        scripted_server.answer(404, {"reason": "NotFound"})
        assert not await api_client.is_served(TRIALS)

    async def test_a_kind_is_served_when_discovery_names_it(self, api_client, scripted_server):
        scripted_server.answer(200, {"resources": [{"name": "trials"}, {"name": "trials/status"}]})
        assert await api_client.is_served(TRIALS)
        assert not await api_client.is_served(SEARCHES)


class TestConnection:
    async def test_without_any_credentials_the_message_says_what_was_looked_for(self, tmp_path):
        connection = Connection(str(tmp_path / "missing"), tmp_path, {})
        with pytest.raises(ConnectionSettingsError, match=r"KUBECONFIG: must be a readable kubeconfig"):
            await connection.reload()

    async def test_a_service_account_is_read_from_the_folder_that_is_named(self, tmp_path):
        (tmp_path / "token").write_text("pod-token")
        (tmp_path / "ca.crt").write_text("a certificate")
        environment = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
        connection = Connection("", tmp_path, environment)
        await connection.reload()
        credentials = await connection.credentials()
        assert credentials.server == "https://127.0.0.1:6443"
        assert (credentials.scheme, credentials.token) == ("Bearer", "pod-token")
        assert credentials.ca_path == str(tmp_path / "ca.crt")


class TestMergePatch:
    def test_only_changes_are_written_and_absent_keys_removed(self):
        old = {"a": 1, "b": {"x": 1, "y": 2}, "c": [1, 2], "gone": "value"}
        new = {"a": 1, "b": {"x": 1, "y": 3}, "c": [1], "new": "value"}
        assert merge_patch(old, new) == {"b": {"y": 3}, "c": [1], "new": "value", "gone": None}

    def test_equal_documents_need_no_patch(self):
        assert merge_patch({"a": {"b": [1]}}, {"a": {"b": [1]}}) == {}

    def test_a_patch_that_changes_nothing_narrows_to_nothing(self):
        old = {"a": 1, "b": {"x": 1}}
        assert narrow(old, {"a": 1, "b": {"x": 1}, "absent": None}) == {}
        assert narrow(old, {"a": 2, "b": {"x": 1, "y": 1}, "absent": None}) == {"a": 2, "b": {"y": 1}}
        assert narrow(old, {"b": None}) == {"b": None}
