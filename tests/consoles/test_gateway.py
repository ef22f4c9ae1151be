"""The console socket, end to end in one process: who gets in, and who does not."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from django.db.utils import OperationalError
from django.utils import timezone

from cloudops.accounts import tokens
from cloudops.accounts.models import Membership
from cloudops.accounts.rights import Scope
from cloudops.core.models import Event
from consoles import admission
from consoles.models import Status
from consoles.reasons import ClosedReason, Refused
from tests.consoles.gate import Gate, gate, reason_of
from tests.consoles.world import World, actor, build, fresh
from tests.relay.browser import KEY_A

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(transactional_db: None) -> World:
    return build(timezone.now())


def refusals() -> list[tuple[str, str, str]]:
    """(why, which session, from where) of every socket that was turned away."""
    rows = Event.objects.filter(kind="console.refused").order_by("id")
    return list(rows.values_list("reason", "subject_id", "address"))


@pytest.mark.parametrize("fast", [True, False], ids=["relay", "plain-asgi"])
async def test_a_console_from_link_to_end(world: World, monkeypatch: pytest.MonkeyPatch, fast: bool) -> None:
    async with gate(world, monkeypatch, fast=fast) as g:
        opened = await g.open()
        page, hello = await g.enter(opened)
        assert hello["session"] == str(opened.session.pk)
        assert (hello["vm"], hello["host"], hello["slot"]) == ("alpha", "alpha-host", {"in_use": 1, "limit": 40})
        assert (hello["idle_warning_seconds"], hello["idle_disconnect_seconds"], hello["max_seconds"]) == (
            600,
            900,
            None,
        )
        row = await g.db(fresh, opened.session)
        assert row.status == Status.ACTIVE
        assert (row.relay_host, row.relay_port) == g.vnc.peers[0]
        page.close(1000)
        await g.eventually(lambda: g.world.in_use(timezone.now()) == 0, within_seconds=1)
        assert await g.db(reason_of, opened) == ClosedReason.USER_CLOSED
        await asyncio.wait_for(g.vnc.closed.wait(), 2)


async def test_a_dropped_line_is_resumed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        page, hello = await g.enter(opened)
        page.cut()
        await g.eventually(lambda: fresh(opened.session).status == Status.DETACHED)
        assert await g.in_use() == 0
        again = await g.knock(f"cloudops.resume.{hello['resume']}")
        assert (await again.hello())["resume"] == hello["resume"]
        assert await g.in_use() == 1
        assert (await g.db(fresh, opened.session)).attachment == 2


async def test_a_second_window_takes_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        page, hello = await g.enter(opened)
        again = await g.knock(f"cloudops.resume.{hello['resume']}")
        await again.hello()
        assert (await page.closed())[0] == ClosedReason.TAKEN_OVER.ws_code
        await asyncio.sleep(0.3)
        assert await g.in_use() == 1
        assert (await g.db(fresh, opened.session)).status == Status.ACTIVE


async def test_input_is_written_down_with_the_next_renewal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        page, _ = await g.enter(opened)
        before = (await g.db(fresh, opened.session)).last_input_at
        assert before is not None
        await page.data(12)
        page.send(b"RFB 003.008\n")
        await page.data(2)
        page.send(b"\1")
        await page.data(4)
        page.send(b"\1")
        await page.data(24 + 4)
        await asyncio.sleep(0.2)
        page.send(KEY_A)
        await asyncio.sleep(0.1)
        await g.lease.beat()
        row = await g.db(fresh, opened.session)
        assert row.last_input_at is not None
        assert row.last_input_at > before + timedelta(seconds=0.1)
        assert row.bytes_from_browser > 0


async def turned_away(g: Gate, *secrets: str, **headers: str) -> int:
    page = await g.knock(*secrets, **headers)
    return (await page.closed())[0]


class TestTurnedAway:
    """Refused, in the audit trail, and no slot lost."""

    async def test_a_replayed_secret(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async with gate(world, monkeypatch) as g:
            opened = await g.open()
            await g.enter(opened)
            assert await turned_away(g, f"cloudops.secret.{opened.secret}") == Refused.SECRET.ws_code
            await g.eventually(refusals)
            assert await g.db(refusals) == [("console-secret", str(opened.session.pk), "127.0.0.1")]
            assert await g.in_use() == 1

    async def test_an_expired_secret(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async with gate(world, monkeypatch) as g:
            opened = await g.db(world.open, timezone.now() - timedelta(seconds=61))
            assert await turned_away(g, f"cloudops.secret.{opened.secret}") == Refused.SECRET.ws_code
            await g.eventually(refusals)
            assert await g.in_use() == 0

    async def test_an_unknown_secret_a_forged_session_id_and_none(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with gate(world, monkeypatch) as g:
            opened = await g.open()
            for forged in (f"cloudops.secret.{'x' * 43}", f"cloudops.secret.{opened.session.pk}", "cloudops.resume.x"):
                assert await turned_away(g, forged) == Refused.SECRET.ws_code
            assert await turned_away(g) == Refused.SECRET.ws_code
            assert await turned_away(g, "cloudops.secret." + "x" * 4000) == Refused.SECRET.ws_code
            await g.eventually(lambda: len(refusals()) == 5)
            assert not any("x" * 43 in str(row) for row in await g.db(lambda: list(Event.objects.values_list("data"))))
            assert await g.in_use() == 1

    async def test_a_stranger_who_is_signed_in(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async with gate(world, monkeypatch) as g:
            opened = await g.open()
            secret = f"cloudops.secret.{opened.secret}"
            cookie = await g.cookie(world.stranger)
            origin = f"http://127.0.0.1:{g.port}"
            assert await turned_away(g, secret, Cookie=cookie, Origin=origin) == Refused.RIGHT.ws_code
            assert await turned_away(g, secret, Origin=origin) == Refused.RIGHT.ws_code
            assert await g.in_use() == 1
            cookie = await g.cookie(world.tenant)
            _, hello = await g.enter(opened, Cookie=cookie, Origin=origin)
            assert hello["session"] == str(opened.session.pk)

    async def test_a_page_from_elsewhere(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async with gate(world, monkeypatch) as g:
            opened = await g.open()
            secret = f"cloudops.secret.{opened.secret}"
            cookie = await g.cookie(world.tenant)
            for origin in ("https://evil.example", "null", f"http://127.0.0.1:{g.port + 1}"):
                assert await turned_away(g, secret, Cookie=cookie, Origin=origin) == Refused.ORIGIN.ws_code
            await g.eventually(lambda: len(refusals()) == 3)
            assert {row[0] for row in await g.db(refusals)} == {"console-origin"}
            await g.enter(opened, Cookie=cookie, Origin="http://testserver")

    async def test_a_revoked_right(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async with gate(world, monkeypatch) as g:
            opened = await g.open()
            await g.db(lambda: Membership.objects.filter(user=world.tenant).delete())
            assert await turned_away(g, f"cloudops.secret.{opened.secret}") == Refused.RIGHT.ws_code
            await g.eventually(refusals)
            assert await g.in_use() == 0
            assert await g.db(reason_of, opened) == ClosedReason.RIGHT_REVOKED

    async def test_tokens_need_the_scope_and_the_right_owner(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def token(user: Any, *scopes: str) -> str:
            _, secret = tokens.create(user=user, label="t", scopes=scopes, days=1, by=actor(user), now=timezone.now())
            return f"Bearer {secret}"

        async with gate(world, monkeypatch) as g:
            opened = await g.open()
            secret = f"cloudops.secret.{opened.secret}"
            for bad in (
                await g.db(token, world.tenant, Scope.READ),
                await g.db(token, world.second, Scope.CONSOLE),
                "Bearer cops_nothing",
            ):
                assert await turned_away(g, secret, Authorization=bad) == Refused.RIGHT.ws_code
            await g.enter(opened, Authorization=await g.db(token, world.tenant, Scope.CONSOLE))

    async def test_a_flood_of_wrong_secrets(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(admission, "WRONG_PER_WINDOW", 3)
        async with gate(world, monkeypatch) as g:
            for _ in range(4):
                await turned_away(g, "cloudops.secret.wrong")
            await g.eventually(lambda: admission.wrong_secrets("127.0.0.1") >= 3)
            assert await turned_away(g, "cloudops.secret.wrong") == Refused.UNAVAILABLE.ws_code
            assert len(await g.db(refusals)) == 3

    async def test_at_the_limit_when_resuming(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async with gate(world, monkeypatch) as g:
            await g.db(world.settings, console_host_limit=1)
            opened = await g.open()
            page, hello = await g.enter(opened)
            page.cut()
            await g.eventually(lambda: fresh(opened.session).status == Status.DETACHED)
            await g.open(user=world.second)
            again = await g.knock(f"cloudops.resume.{hello['resume']}")
            assert await again.closed() == (Refused.LIMIT.ws_code, "1 of 1 console slots of host alpha-host are taken.")

    async def test_without_a_database(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def down(*_: Any, **__: Any) -> None:
            raise OperationalError("the database is away")

        async with gate(world, monkeypatch) as g:
            opened = await g.open()
            with monkeypatch.context() as broken:
                broken.setattr(admission, "admit", down)
                assert await turned_away(g, f"cloudops.secret.{opened.secret}") == Refused.UNAVAILABLE.ws_code
            await g.enter(opened)


async def test_slots_of_others_are_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        page, hello = await g.enter(await g.open())
        assert hello["slot"]["in_use"] == 1
        await g.open(user=world.second)
        await g.lease.beat()
        assert await page.message() == {"type": "slots", "in_use": 2, "limit": 40}


async def test_a_session_without_a_socket_is_given_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        process_id = g.lease.taking()
        attached = await g.db(world.redeem, opened, timezone.now(), process_id=process_id)
        assert await g.in_use() == 1
        await g.lease.beat()
        await g.lease.beat()
        await g.eventually(lambda: fresh(attached.session).status == Status.DETACHED)
        assert await g.in_use() == 0


async def test_connecting_takes_few_statements(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: list[str] = []

    def counted(execute: Any, sql: str, *rest: Any) -> Any:
        statements.append(sql)
        return execute(sql, *rest)

    from django.db import connection

    from consoles.dbthreads import DbThreads

    plain = DbThreads._call

    def watched(self: DbThreads, function: Any) -> Any:
        def inside() -> Any:
            with connection.execute_wrapper(counted):
                return function()

        return plain(self, inside)

    async with gate(world, monkeypatch) as g:
        opened = await g.open()
        cookie = await g.cookie(world.tenant)
        monkeypatch.setattr(DbThreads, "_call", watched)
        monkeypatch.setattr(g.lease, "beat", asyncio.sleep)
        await g.enter(opened, Cookie=cookie, Origin="http://testserver")
        assert len(statements) <= 15, "\n".join(statements)
