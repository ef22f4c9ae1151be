"""Consoles through the API: open, be refused with the numbers, disconnect one and many, ask for a slot."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from django.utils.dateparse import parse_datetime

from cloudops.core import crypto
from cloudops.core.models import Event, RuntimeSettings
from cloudops.hypervisors.port import PowerState
from cloudops.inventory.models import Vm
from consoles.models import ConsoleSession, Status
from tests.api.conftest import World, make_session

BULK = "/api/v1/console-sessions/disconnect/"


def test_opening_answers_with_everything_a_script_needs(world: World) -> None:
    response = world.client("tenant").post(world.path("/vms/{web}/console-sessions/"), {}, format="json")
    opened = response.json()
    session = ConsoleSession.objects.get(pk=opened["id"])
    assert session.secret_sha256 == crypto.digest(opened["secret"])
    assert (session.user, session.vm, session.status) == (world.tenant, world.web, Status.PENDING)
    url = urlsplit(opened["url"])
    assert (url.path, url.query, url.fragment) == (f"/console/{session.pk}/", "", f"s={opened['secret']}")
    assert opened["websocket_url"] == "ws://testserver/ws/console/"
    assert opened["vm"] == {"id": str(world.web.pk), "name": "web"}
    assert opened["host"] == {"id": None, "name": "kvm-01"}
    assert opened["slot"]["limit"] == 40
    assert opened["view_only"] is False
    expires_at = parse_datetime(opened["expires_at"])
    assert expires_at == session.redeem_by
    assert response["Location"] == f"/api/v1/console-sessions/{session.pk}/"
    assert response["Cache-Control"] == "no-store"
    assert world.client("tenant").get(response["Location"]).json()["status"] == "pending"


def test_at_the_limit_the_refusal_has_the_numbers_and_the_way_out(world: World) -> None:
    world.host.console_limit_override = 2
    world.host.save()
    refused = world.client("tenant").post(world.path("/vms/{web}/console-sessions/"), {}, format="json")
    problem = refused.json()
    assert refused.status_code == 409
    assert (problem["code"], problem["scope"], problem["limit"]) == ("console-limit", "host", 2)
    assert problem["in_use"] >= 2
    assert {item["id"] for item in problem["idle_candidates"]} == {str(world.session.pk), str(world.member_session.pk)}
    assert int(refused["Retry-After"]) > 0
    assert ConsoleSession.objects.count() == 2


def test_a_vm_that_is_off_is_refused_in_words(world: World) -> None:
    Vm.objects.filter(pk=world.web.pk).update(power_state=PowerState.OFF)
    refused = world.client("tenant").post(world.path("/vms/{web}/console-sessions/"), {}, format="json")
    assert (refused.status_code, refused.json()["code"]) == (409, "vm-not-running")


def test_disconnecting_says_who_and_is_harmless_twice(world: World) -> None:
    path = world.path("/console-sessions/{session}/")
    client = world.client("operator")
    assert client.delete(path).status_code == 204
    assert client.delete(path).status_code == 204
    closed = client.get(path).json()
    assert (closed["status"], closed["closed_reason"], closed["closed_by"]) == ("closed", "disconnected", "operator")
    assert closed["closed_text"]
    assert Event.objects.filter(kind__startswith="console.", actor_name="operator").count() == 1


@pytest.mark.parametrize(
    ("person", "body", "left"),
    [
        ("admin", {"idle_seconds_over": 300}, {"busy"}),
        ("admin", {"idle_seconds_over": 300, "mine": True}, {"busy", "session", "member_session", "far"}),
        ("admin", {"idle_seconds_over": 300, "host": "far_host"}, {"busy", "session", "member_session"}),
        ("admin", {"idle_seconds_over": 300, "vm": "web"}, {"busy", "far"}),
        ("admin", {"idle_seconds_over": 0}, set()),
        ("operator", {"ids": ["busy", "far"]}, {"session", "member_session"}),
        ("tenant", {"idle_seconds_over": 300}, {"busy", "member_session", "far"}),
        ("tenant", {"ids": ["session", "member_session", "far"]}, {"busy", "member_session", "far"}),
        ("stranger", {"ids": ["session"]}, {"busy", "session", "member_session", "far"}),
    ],
)
def test_many_at_once(world: World, person: str, body: dict[str, object], left: set[str]) -> None:
    world.rows["busy"] = make_session(world, user=world.member, vm=world.loose, last_input_at=world.now)
    world.rows["far"] = make_session(world, user=world.member, vm=world.other)
    names = {str(world.rows[name].pk): name for name in ("busy", "far", "session", "member_session")}
    filled = {
        key: [str(world.rows[name].pk) for name in value]
        if isinstance(value, list)
        else str(world.rows[value].pk)
        if isinstance(value, str)
        else value
        for key, value in body.items()
    }
    answer = world.client(person).post(BULK, filled, format="json").json()
    live = {names[str(pk)] for pk in ConsoleSession.objects.live().values_list("pk", flat=True)}
    assert live == left
    assert answer == {"disconnected": 4 - len(left)}


def test_usage_tells_hosts_apart(world: World) -> None:
    usage = world.client("admin").get("/api/v1/console-usage/").json()
    hosts = {row["host"]["name"]: row["usage"] for row in usage["hosts"]}
    assert (hosts["kvm-01"]["active"], hosts["kvm-01"]["foreign"], hosts["kvm-01"]["in_use"]) == (2, 1, 3)
    assert hosts["kvm-02"]["in_use"] == 0
    assert usage["mine"]["in_use"] == 0
    tenant = world.client("tenant").get("/api/v1/console-usage/").json()
    assert tenant["hosts"] == []
    assert tenant["mine"]["active"] == 1
    host = world.client("admin").get(world.path("/hosts/{host}/")).json()
    assert host["consoles"] == hosts["kvm-01"]
    vm = world.client("tenant").get(world.path("/vms/{web}/")).json()
    assert (vm["consoles"]["scope"], vm["consoles"]["active"]) == ("vm", 2)
    listed = {row["name"]: row for row in world.client("tenant").get("/api/v1/vms/").json()["results"]}
    assert listed["web"]["consoles"] == vm["consoles"]


def test_asking_for_a_slot_and_the_answer(world: World) -> None:
    asked = world.client("member").post(
        world.path("/console-sessions/{session}/release-request/"), {"message": "Please"}, format="json"
    )
    assert (asked.status_code, asked.json()["code"]) == (409, "release-already-asked")
    (request,) = world.client("tenant").get("/api/v1/release-requests/?asked_of_me=true&open=true").json()["results"]
    assert (request["asked_by"], request["message"], request["vm"]["name"]) == ("member", "Please", "web")
    answered = world.client("tenant").post(
        f"/api/v1/release-requests/{request['id']}/answer/", {"release": True}, format="json"
    )
    assert answered.json()["answer"] == "released"
    assert not ConsoleSession.objects.live().filter(pk=world.session.pk).exists()
    (seen,) = world.client("member").get("/api/v1/release-requests/?asked_of_me=false").json()["results"]
    assert (seen["answer"], seen["vm"], seen["asked_by"]) == ("released", None, "member")
    again = world.client("tenant").post(
        f"/api/v1/release-requests/{request['id']}/answer/", {"release": False}, format="json"
    )
    assert again.status_code == 409


def test_cleaning_up_ends_what_lapsed(world: World) -> None:
    make_session(world, user=world.tenant, vm=world.web, status=Status.PENDING, process=None, connected_at=None)
    answer = world.client("admin").post("/api/v1/console-sessions/clean-up/").json()
    assert answer["expired"] == 1


def test_settings_act_at_once_and_name_their_bounds(world: World) -> None:
    client = world.client("admin")
    changed = client.patch("/api/v1/settings/", {"console_cleanup_interval_seconds": 360}, format="json")
    assert changed.json()["console_cleanup_interval_seconds"] == 360
    assert RuntimeSettings.objects.get().console_cleanup_interval_seconds == 360
    for body in (
        {"console_idle_warning_seconds": 900},
        {"console_host_limit": 0},
        {"console_host_limit": 10**30},
        {"nonsense": 1},
    ):
        refused = client.patch("/api/v1/settings/", body, format="json")
        assert refused.status_code == 400, body
        assert refused.json()["fields"]
    assert world.client("operator").get("/api/v1/settings/").json()["console_host_limit"] == 40
    assert changed.json()["updated_at"] >= (world.now - timedelta(seconds=1)).isoformat()
