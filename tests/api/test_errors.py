"""Every way to ask wrongly gets problem+json with a code and a remedy, and never a server error."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import InterfaceError, OperationalError
from rest_framework.test import APIClient

from cloudops.hypervisors.port import Unreachable
from tests.api.conftest import World

HUGE = "9" * 30


def _demand_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.content[:300]
    assert response["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["remedy"]
    return problem


@pytest.mark.parametrize("path", ["/api/", "/api/v1/", "/api/v1/nothing/", "/api/v2/vms/", "/api/v1/vms/not-a-uuid/"])
@pytest.mark.parametrize("person", ["anonymous", "admin"])
def test_an_unknown_address_is_a_problem_too(world: World, person: str, path: str) -> None:
    for method in ("get", "post", "put", "options"):
        _demand_problem(getattr(world.client(person), method)(path), 404, "not-found")


def test_a_method_that_is_not_there_is_named(world: World) -> None:
    for method in ("put", "patch", "delete", "options"):
        response = getattr(world.client("tenant"), method)("/api/v1/vms/")
        _demand_problem(response, 405, "method-not-allowed")
        assert "GET" in response["Allow"]


@pytest.mark.parametrize("body", ["{", "[1", "\x00", '{"name": "\\ud800"}x', "nan", "NaN", ""])
def test_malformed_json(world: World, body: str) -> None:
    response = world.client("admin").generic("POST", "/api/v1/projects/", body, content_type="application/json")
    assert response.status_code == 400
    assert response.json()["code"] in {"malformed", "invalid"}


@pytest.mark.parametrize("body", ["[" * 100_000, '{"name": ' * 50_000, '{"name": "\\ud800"}', '{"\\udfff": 1}'])
def test_json_that_would_break_things_further_in(world: World, body: str) -> None:
    response = world.client("admin").generic("POST", "/api/v1/projects/", body, content_type="application/json")
    _demand_problem(response, 400, "malformed")


def test_bodies_are_bounded(world: World) -> None:
    for key in ({}, {"Idempotency-Key": "k"}):
        body = '{"name": "' + "x" * (1 << 20) + '"}'
        response = world.client("admin").generic(
            "POST", "/api/v1/projects/", body, content_type="application/json", headers=key
        )
        _demand_problem(response, 413, "body-too-large")


@pytest.mark.parametrize("body", ["[]", "null", '"x"', "1", "true", "[[]]", "1e400"])
@pytest.mark.parametrize("path", ["/projects/", "/vms/assign/", "/console-sessions/disconnect/", "/tokens/"])
def test_json_that_is_no_object(world: World, path: str, body: str) -> None:
    response = world.client("admin").generic("POST", f"/api/v1{path}", body, content_type="application/json")
    _demand_problem(response, 400, "invalid")


def test_other_media_types_are_refused(world: World) -> None:
    for content_type in ("application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        response = world.client("admin").generic("POST", "/api/v1/projects/", "name=x", content_type=content_type)
        _demand_problem(response, 415, "unsupported-media-type")


def test_other_answers_than_json_are_not_offered(world: World) -> None:
    _demand_problem(world.client("admin").get("/api/v1/vms/", headers={"Accept": "text/html"}), 406, "not-acceptable")


@pytest.mark.parametrize(
    "query",
    [
        "search=%00",
        "name=%00",
        "host=%00",
        "host=1",
        "missing=maybe",
        "power_state=flying",
        "cursor=x",
        "cursor=%00",
        "page_size=0",
        "page_size=501",
        "page_size=-1",
        "page_size=x",
        f"page_size={HUGE}",
        "page_size=²",
        "serach=web",
        "name=a&name=b",
        f"search={'x' * 101}",
    ],
)
def test_silly_queries(world: World, query: str) -> None:
    problem = _demand_problem(world.client("admin").get(f"/api/v1/vms/?{query}"), 400, "invalid")
    assert query.partition("=")[0] in problem["fields"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/events/", f"actor_user_id={HUGE}"),
        ("/events/", "actor_user_id=1.5"),
        ("/events/", "since=yesterday"),
        ("/events/", "since=0001-01-01T00:00:00%2B14:00"),
        ("/events/", "since=9999-12-31T23:59:59-14:00"),
        ("/events/", "until=9999-12-31T23:59:59-14:00"),
        ("/console-sessions/", f"user={HUGE}"),
        ("/console-sessions/", "idle_seconds_over=-1"),
        ("/console-sessions/", f"idle_seconds_over={HUGE}"),
        ("/memberships/", "user=x"),
    ],
)
def test_silly_values_of_filters(world: World, path: str, query: str) -> None:
    _demand_problem(world.client("admin").get(f"/api/v1{path}?{query}"), 400, "invalid")


def test_a_forged_cursor_of_another_list_is_refused(world: World) -> None:
    for cursor in ("eyJiIjpmYWxzZSwidiI6WyI5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTkiXX0", "eyJiIjpmYWxzZSwidiI6WyJ4Il19"):
        _demand_problem(world.client("admin").get(f"/api/v1/events/?cursor={cursor}"), 400, "invalid")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/projects/", {"name": "a\x00b"}),
        ("/projects/", {"name": "x" * 101}),
        ("/projects/", {"name": "ok", "nmae": "misspelt"}),
        ("/projects/", {"name": 5}),
        ("/projects/", {"name": None}),
        ("/users/", {"username": "a b\x00"}),
        ("/users/", {"username": "x", "can_console": "yes"}),
        ("/users/", {"username": "x", "can_console": 1}),
        ("/offerings/", {"name": "o", "vcpus": "1", "memory_mib": 16}),
        ("/offerings/", {"name": "o", "vcpus": True, "memory_mib": 16}),
        ("/offerings/", {"name": "o", "vcpus": 1, "memory_mib": 16, "host_tags": [5]}),
        ("/memberships/", {"project": "x", "user": 1}),
        ("/memberships/", {"project": "00000000-0000-4000-8000-000000000000", "user": int(HUGE)}),
        ("/memberships/", {"project": [], "user": {}}),
        ("/offerings/", {"name": "o", "vcpus": int(HUGE), "memory_mib": 16}),
        ("/clusters/", {"name": "c", "position": 2**31}),
        ("/tokens/", {"label": "t", "days": int(HUGE)}),
        ("/tokens/", {"label": "t", "scopes": ["root"]}),
        ("/console-sessions/disconnect/", {}),
        ("/console-sessions/disconnect/", {"ids": []}),
        ("/console-sessions/disconnect/", {"ids": ["x"]}),
        ("/console-sessions/disconnect/", {"idle_seconds_over": 5, "ids": ["00000000-0000-4000-8000-000000000000"]}),
        ("/vms/assign/", {"vms": ["x"], "project": None}),
        ("/hosts/test-connection/", {"kind": "libvirt", "uri": "not a uri"}),
        ("/hosts/test-connection/", {"kind": "magic", "uri": "simulated://x"}),
    ],
)
def test_silly_bodies(world: World, path: str, body: dict[str, Any]) -> None:
    problem = _demand_problem(world.client("admin").post(f"/api/v1{path}", body, format="json"), 400, "invalid")
    assert problem["fields"]


def test_an_unknown_token_is_told_so(db: None) -> None:
    client = APIClient()
    for header in ("Bearer", "Bearer ", "Bearer cops_nothing", "Bearer \xff\x00", "bearer a b c"):
        response = client.get("/api/v1/vms/", headers={"Authorization": header})
        _demand_problem(response, 401, "authentication-failed")


def test_a_browser_session_must_send_the_csrf_token(world: World) -> None:
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(world.admin)
    _demand_problem(client.post("/api/v1/projects/", {"name": "x"}, format="json"), 403, "forbidden")


@pytest.mark.parametrize("error", [OperationalError("gone"), InterfaceError("connection already closed")])
def test_a_database_that_does_not_answer_is_503(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("cloudops.inventory.access.visible_vms", gone)
    response = world.client("admin").get("/api/v1/vms/")
    _demand_problem(response, 503, "unavailable")
    assert int(response["Retry-After"]) > 0


def test_a_hypervisors_trouble_keeps_its_words(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise Unreachable("TCP connect to 10.0.0.13:16509 timed out")

    monkeypatch.setattr("cloudops.inventory.vms.refresh", unreachable)
    response = world.client("admin").post(world.path("/vms/{web}/refresh/"))
    problem = _demand_problem(response, 503, "hypervisor-unreachable")
    assert "10.0.0.13:16509" in problem["detail"]


def test_a_defect_of_ours_is_a_problem_without_secrets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("cloudops.inventory.access.visible_vms", broken)
    client = world.client("admin")
    client.raise_request_exception = False
    response = client.get("/api/v1/vms/")
    _demand_problem(response, 500, "internal-error")
    assert b"hunter2" not in response.content
