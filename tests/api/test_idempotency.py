"""Idempotency-Key: carried out once, answered the same, safe with secrets and with two at a time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections

from cloudops.accounts.models import ApiToken, Project
from cloudops.core import idempotency
from cloudops.core.models import IdempotencyKey
from consoles.models import ConsoleSession
from tests.api.conftest import World

TOKENS = "/api/v1/tokens/"
WANTED = {"label": "ci", "scopes": ["console"], "days": 3}


def _post(world: World, person: str, path: str, body: Any, key: str) -> Any:
    return world.client(person).post(path, body, format="json", headers={"Idempotency-Key": key})


def test_the_same_request_is_carried_out_once_and_answered_the_same(world: World) -> None:
    path = world.path("/vms/{web}/console-sessions/")
    before = ConsoleSession.objects.count()
    first = _post(world, "tenant", path, {"view_only": True}, "k-1")
    again = _post(world, "tenant", path, {"view_only": True}, "k-1")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again["Location"] == first["Location"]
    assert again["Idempotency-Replayed"] == "true"
    assert not first.has_header("Idempotency-Replayed")
    assert ConsoleSession.objects.count() == before + 1


def test_another_body_or_address_under_the_same_key_is_refused(world: World) -> None:
    _post(world, "tenant", TOKENS, WANTED, "k-2")
    for path, body in ((TOKENS, {**WANTED, "days": 4}), (world.path("/vms/{web}/console-sessions/"), WANTED)):
        refused = _post(world, "tenant", path, body, "k-2")
        assert refused.status_code == 422
        assert refused.json()["code"] == "idempotency-key-reused"
    assert ApiToken.objects.filter(label="ci").count() == 1


def test_keys_belong_to_whoever_sent_them(world: World) -> None:
    mine = _post(world, "tenant", TOKENS, WANTED, "k-3")
    theirs = _post(world, "stranger", TOKENS, WANTED, "k-3")
    assert theirs.status_code == 201
    assert theirs.json()["secret"] != mine.json()["secret"]


def test_while_the_first_is_at_work_the_second_is_told_to_wait(world: World) -> None:
    _post(world, "tenant", TOKENS, WANTED, "k-4")
    IdempotencyKey.objects.update(status=0, body_encrypted=b"")
    busy = _post(world, "tenant", TOKENS, WANTED, "k-4")
    assert busy.status_code == 409
    assert busy.json()["code"] == "idempotency-key-busy"
    assert int(busy["Retry-After"]) >= 1
    assert ApiToken.objects.filter(label="ci").count() == 1


def test_a_claim_whose_request_never_ended_is_given_up(world: World) -> None:
    _post(world, "tenant", TOKENS, WANTED, "k-5")
    old = world.now - timedelta(seconds=idempotency.ABANDONED_SECONDS + 1)
    IdempotencyKey.objects.update(status=0, body_encrypted=b"", created_at=old)
    assert _post(world, "tenant", TOKENS, WANTED, "k-5").status_code == 201
    assert ApiToken.objects.filter(label="ci").count() == 2


def test_a_refusal_is_not_kept_so_that_the_same_key_may_try_again(world: World) -> None:
    assert _post(world, "admin", "/api/v1/projects/", {"name": "apollo"}, "k-6").status_code == 400
    Project.objects.filter(name="apollo").update(name="apollo-old")
    assert _post(world, "admin", "/api/v1/projects/", {"name": "apollo"}, "k-6").status_code == 201


def test_a_defect_gives_the_key_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr("cloudops.accounts.people.create_project", broken)
        with pytest.raises(RuntimeError, match="broken"):
            _post(world, "admin", "/api/v1/projects/", {"name": "new"}, "k-7")
    assert _post(world, "admin", "/api/v1/projects/", {"name": "new"}, "k-7").status_code == 201


def test_answers_are_encrypted_and_end_after_a_day(world: World) -> None:
    secret = _post(world, "tenant", TOKENS, WANTED, "k-8").json()["secret"]
    row = IdempotencyKey.objects.get()
    assert secret.encode() not in bytes(row.body_encrypted)
    late = world.now + timedelta(seconds=idempotency.KEPT_SECONDS + 60)
    assert idempotency.purge(now=late) == 1
    assert not IdempotencyKey.objects.exists()


@pytest.mark.parametrize("key", ["", " ", "with space", "x" * 129, "ümlaut"])
def test_a_key_must_be_plain(world: World, key: str) -> None:
    refused = _post(world, "tenant", TOKENS, WANTED, key)
    assert refused.status_code == 400
    assert "Idempotency-Key" in refused.json()["fields"]


def test_whoever_may_not_do_it_leaves_no_key_behind(world: World) -> None:
    assert _post(world, "tenant", "/api/v1/projects/", {"name": "new"}, "k-9").status_code == 403
    assert not IdempotencyKey.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_six_at_once_are_carried_out_once(transactional_world: World) -> None:
    world = transactional_world
    secret = world.token("tenant", "manage", "console")
    together = threading.Barrier(6)

    def post(_: int) -> int:
        client = world.client("anonymous")
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
        together.wait(10)
        try:
            return client.post(TOKENS, WANTED, format="json", headers={"Idempotency-Key": "race"}).status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as threads:
        statuses = sorted(threads.map(post, range(6)))
    assert ApiToken.objects.filter(label="ci").count() == 1
    assert statuses[0] == 201
    assert set(statuses) <= {201, 409}
