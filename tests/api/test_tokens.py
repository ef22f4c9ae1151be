"""API tokens at the API: shown once, scoped, no way to more than one has, over at once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from cloudops.accounts.models import ApiToken
from cloudops.core import crypto
from tests.api.conftest import World


def test_a_token_is_shown_once_and_works(world: World) -> None:
    client = world.client("tenant")
    made = client.post("/api/v1/tokens/", {"label": "ci", "scopes": ["console"], "days": 7}, format="json").json()
    row = ApiToken.objects.get(pk=made["id"])
    assert row.secret_sha256 == crypto.digest(made["secret"])
    assert made["secret"].startswith(made["prefix"])
    assert made["scopes"] == ["console", "read"]
    assert "secret" not in client.get(f"/api/v1/tokens/{made['id']}/").json()
    assert made["secret"] not in client.get("/api/v1/tokens/").content.decode()
    script = world.client("anonymous")
    script.credentials(HTTP_AUTHORIZATION=f"Bearer {made['secret']}")
    me = script.get("/api/v1/me/").json()
    assert (me["username"], me["token"]["label"]) == ("tenant", "ci")
    assert client.delete(f"/api/v1/tokens/{made['id']}/").status_code == 204
    assert script.get("/api/v1/me/").status_code == 401


def test_expired_tokens_and_those_of_deactivated_people_are_refused(world: World) -> None:
    script = world.token_client("tenant")
    assert script.get("/api/v1/me/").status_code == 200
    world.client("admin").post(world.path("/users/{tenant}/deactivate/"))
    assert script.get("/api/v1/me/").status_code == 401
    other = world.token_client("operator")
    ApiToken.objects.filter(user=world.operator).update(expires_at=world.now - timedelta(seconds=1))
    assert other.get("/api/v1/me/").status_code == 401


@pytest.mark.parametrize(
    ("scope", "method", "path", "body", "status"),
    [
        ("console", "post", "/vms/{web}/console-sessions/", {}, 201),
        ("console", "get", "/vms/{simulated}/screenshot/", None, 200),
        ("console", "delete", "/console-sessions/{session}/", None, 204),
        ("console", "post", "/console-sessions/disconnect/", {"idle_seconds_over": 60}, 200),
        ("console", "post", "/console-sessions/{session}/release-request/", {}, 409),
        ("console", "post", "/release-requests/{request}/answer/", {"release": False}, 200),
        ("power", "post", "/vms/{simulated}/power/", {"action": "shutdown"}, 202),
        ("manage", "post", "/tokens/", {"label": "x"}, 201),
        ("manage", "post", "/operations/{operation}/read/", None, 200),
        ("manage", "post", "/vms/{simulated}/refresh/", None, 200),
    ],
)
def test_each_act_needs_its_scope(world: World, scope: str, method: str, path: str, body: object, status: int) -> None:
    others = {"console", "power", "manage"} - {scope}
    lacking = getattr(world.token_client("tenant", *others), method)(world.path(path), body, format="json")
    assert lacking.status_code == 403
    assert lacking.json()["scope"] == scope
    enough = getattr(world.token_client("tenant", scope), method)(world.path(path), body, format="json")
    assert enough.status_code == status, enough.content


def test_reading_needs_no_scope_but_rights_stay_the_owners(world: World) -> None:
    script = world.token_client("tenant")
    assert script.get("/api/v1/vms/").status_code == 200
    assert script.get(world.path("/vms/{other}/")).status_code == 404
    assert world.token_client("tenant", "manage").post("/api/v1/projects/", {"name": "x"}).status_code == 403


def test_a_token_cannot_make_a_mightier_one(world: World) -> None:
    script = world.token_client("tenant", "manage")
    refused = script.post("/api/v1/tokens/", {"label": "x", "scopes": ["console"]}, format="json")
    assert refused.status_code == 403
    assert refused.json()["scope"] == "console"
    made = script.post("/api/v1/tokens/", {"label": "x", "scopes": ["manage"]}, format="json")
    assert made.json()["scopes"] == ["manage", "read"]
