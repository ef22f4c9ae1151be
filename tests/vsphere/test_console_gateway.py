"""Consoles on a fake vCenter through the real gateway: limits, names, ghosts, moves and what is told of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.utils import timezone

from cloudops.core.models import Event
from cloudops.inventory.models import Vm
from consoles import displays, foreign, reconcile, tasks, turns
from consoles.errors import ConnectionUnnamed, ConsoleLimit
from consoles.models import ConnectTurn, ConsoleSession, ForeignConnection, OwnConnection, Status
from consoles.reasons import ClosedReason
from consoles.relay import console as relayed
from consoles.relay import open_upstream
from tests.consoles.gate import Gate, Page, reason_of
from tests.consoles.world import World, actor, fresh
from tests.vsphere.consoling import build_on, enter_many, forget, labels_of, open_sessions, real_gate
from tests.vsphere.fake import FakeVcenter, VmPlan

pytestmark = pytest.mark.django_db(transaction=True)
LIMIT = 40
FEW = 3


@pytest.fixture
def vcenter() -> Iterator[FakeVcenter]:
    plans = [VmPlan("vm-0001", max_connections=FEW), VmPlan("vm-0002", "esx-02.lab.example.org", max_connections=LIMIT)]
    with FakeVcenter(hosts=2, vms=plans) as made:
        yield made


@pytest.fixture
def world(transactional_db: None, vcenter: FakeVcenter) -> Iterator[World]:
    made = build_on(vcenter, timezone.now())
    yield made
    forget(made)


def swap_vms(world: World) -> None:
    """The VM with the usual limit first."""
    world.vm, world.other_vm = world.other_vm, world.vm
    world.host = world.vm.host


async def vsphere_client(vcenter: FakeVcenter, world: World, vm: Vm) -> object:
    """Somebody who opens a display past CloudOps."""
    from cloudops.inventory import endpoints

    found = await endpoints.acall(world.host.endpoint, "console", lambda driver: driver.console(vm.ref))
    line = await open_upstream(found)
    newest = vcenter.service.consoles.of(
        next(one for one in vcenter.world.vms.values() if one.instance_uuid == vm.ref)
    )[-1]
    newest.user = "LAB\\carla"
    return line


async def die(g: Gate, vm: Vm) -> None:
    """The server is dead without a word: its lease has lapsed, its lines to the platform are still there."""

    def lapse() -> None:
        dead = g.world.add_process(timezone.now() - timedelta(minutes=1))
        ConsoleSession.objects.filter(vm=vm).update(process=dead)

    await g.db(lapse)
    g.lease.sockets.clear()  # this process plays the dead one: it does not close what it has


async def test_forty_are_open_the_next_is_told_why_and_gets_in_when_one_closes(
    world: World, vcenter: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(swap_vms, world)
    async with real_gate(world, monkeypatch) as g:
        pages = await enter_many(g, LIMIT)
        assert vcenter.connections("vm-0002") == LIMIT
        names = {one.label for one in vcenter.service.consoles.of(vcenter.vm("vm-0002"))}
        await g.eventually(lambda: labels_of(world.vm) == names, within_seconds=10)
        assert await g.db(ConnectTurn.objects.count) == 0
        with pytest.raises(ConsoleLimit) as refused:
            await g.open()
        numbers = refused.value.numbers
        assert (numbers["scope"], numbers["limit"], numbers["in_use"], numbers["by_platform"]) == ("vm", 40, 40, True)
        assert len(numbers["holders"]) == LIMIT  # type: ignore[arg-type]
        assert numbers["holders"][0]["user"] == "tessa"  # type: ignore[index]
        assert "40 of 40" in refused.value.detail
        pages.pop().close(1000)
        await g.eventually(lambda: open_sessions(world.vm) == LIMIT - 1, within_seconds=2)
        page, _ = await g.enter(await g.open())
        for one in (*pages, page):
            one.close(1000)
        await g.eventually(lambda: vcenter.connections() == 0, within_seconds=5)
        await g.eventually(lambda: g.world.in_use(timezone.now()) == 0)


async def test_reservations_count_before_a_ticket_is_taken(
    world: World, vcenter: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with real_gate(world, monkeypatch) as g:
        for _ in range(FEW):
            await g.open()
        with pytest.raises(ConsoleLimit):
            await g.open()
        assert vcenter.calls("AcquireTicket") == 0, "a ticket is taken when the browser is there, not earlier"


async def test_the_platforms_refusal_names_limit_count_and_holders(
    world: World, vcenter: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with real_gate(world, monkeypatch) as g:
        page, _ = await g.enter(await g.open())
        strangers = [await vsphere_client(vcenter, world, world.vm) for _ in range(2)]
        opened = await g.open(user=world.admin)  # nobody told us of them yet
        refused = await g.knock(f"cloudops.secret.{opened.secret}")
        code, words = await refused.closed(20)
        assert code == ClosedReason.PLATFORM_LIMIT.ws_code
        assert words == "3 of 3 console slots of VM alpha are taken, 2 of them by connections from outside CloudOps."
        await g.eventually(lambda: reason_of(opened) == ClosedReason.PLATFORM_LIMIT)
        event = await g.db(Event.objects.get, kind="console.platform_limit")
        assert (event.data["limit"], event.data["in_use"], event.data["foreign"]) == (3, 3, 2)
        assert [one["kind"] for one in event.data["holders"]] == ["console", "foreign", "foreign"]
        assert event.data["holders"][1]["user"] == "LAB\\carla"
        with pytest.raises(ConsoleLimit) as again:  # now it is known, and the next one is told at once
            await g.open()
        assert again.value.numbers["foreign"] == 2
        assert {one.get("client") for one in again.value.numbers["holders"]} == {None}  # type: ignore[attr-defined]
        # An administrator's click ends one, and the next console has its slot.
        row = await g.db(lambda: ForeignConnection.objects.select_related("vm", "host__endpoint").earliest("id"))
        await g.db(foreign.drop, connection=row, by=actor(world.admin), now=timezone.now())
        await g.eventually(lambda: vcenter.connections("vm-0001") == 2)
        await g.enter(await g.open())
        assert {bool(one.lost) for one in strangers} == {True, False}  # type: ignore[attr-defined]
        page.close(1000)
        for one in strangers:
            one.close()  # type: ignore[attr-defined]


async def test_ghosts_make_room_for_the_next(
    world: World, vcenter: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server died without a word and its lines are still there: the platform is full, our slots are not."""
    async with real_gate(world, monkeypatch) as g:
        pages = await enter_many(g, FEW)
        await g.eventually(lambda: len(labels_of(world.vm)) == FEW, within_seconds=10)

        await die(g, world.vm)
        assert await g.in_use() == 0
        assert vcenter.connections("vm-0001") == FEW
        page, _ = await g.enter(await g.open())
        assert vcenter.connections("vm-0001") == 1
        event = await g.db(Event.objects.get, kind="console.ghosts_dropped")
        assert len(event.data["connections"]) == FEW
        for one in (*pages, page):
            one.cut()


async def test_known_ghosts_do_not_wait_for_the_cleanup_interval(
    world: World, vcenter: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(tasks.reconcile_vms, "apply_async", lambda args, **options: asked.append(args[0]))
    async with real_gate(world, monkeypatch) as g:
        page, _ = await g.enter(await g.open())
        await g.eventually(lambda: len(labels_of(world.vm)) == 1)
        assert await g.db(reconcile.vms_with_ghosts, now=timezone.now()) == []
        lapsed = timezone.now() + timedelta(seconds=13)
        assert await g.db(reconcile.vms_with_ghosts, now=lapsed) == [world.vm.pk]
        await g.db(ConsoleSession.objects.update, attachment=7)  # it came back through another server
        await g.db(tasks.reap)
        assert asked == [[str(world.vm.pk)]]
        await g.db(tasks.reconcile_vms, asked[0])
        await g.eventually(lambda: vcenter.connections() == 0)
        assert await g.db(OwnConnection.objects.count) == 0
        page.cut()


async def test_a_name_is_forgotten_when_its_connection_is_gone(
    world: World, vcenter: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with real_gate(world, monkeypatch) as g:
        page, _ = await g.enter(await g.open())
        await g.eventually(lambda: len(labels_of(world.vm)) == 1)
        stranger = await vsphere_client(vcenter, world, world.vm)
        endpoint = world.host.endpoint
        found = await g.db(reconcile.reconcile_vms, endpoint=endpoint, vms=[world.vm], now=timezone.now())
        assert (found.foreign, found.ghosts_dropped) == (1, 0)
        assert await g.in_use() == 2
        page.close(1000)
        await g.eventually(lambda: vcenter.connections() == 1)
        await g.eventually(lambda: open_sessions(world.vm) == 0)
        found = await g.db(reconcile.reconcile_vms, endpoint=endpoint, vms=[world.vm], now=timezone.now())
        assert (found.foreign, found.ghosts_dropped) == (1, 0), "the stranger's stays as it is"
        assert await g.db(OwnConnection.objects.count) == 0
        assert not stranger.lost  # type: ignore[attr-defined]
        stranger.close()  # type: ignore[attr-defined]


async def test_after_vmotion_the_same_tab_goes_on_by_a_new_ticket(
    world: World, vcenter: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with real_gate(world, monkeypatch) as g:
        opened = await g.open()
        page, hello = await g.enter(opened)
        fake_vm, target = vcenter.vm("vm-0001"), vcenter.host("esx-02.lab.example.org")
        await asyncio.to_thread(vcenter.world.place, fake_vm, target)
        vcenter.service.consoles.drop_all(fake_vm, 1001, "moved")
        assert (await page.closed(10))[0] == ClosedReason.VM_MOVED.ws_code
        tickets = vcenter.calls("AcquireTicket")
        again = await g.knock(f"cloudops.resume.{hello['resume']}")
        await again.hello()
        assert vcenter.calls("AcquireTicket") == tickets + 1
        assert vcenter.connections("vm-0001") == 1
        assert (await g.db(fresh, opened.session)).status == Status.ACTIVE
        again.close(1000)
        await g.eventually(lambda: vcenter.connections() == 0)


async def told(g: Gate, vcenter: FakeVcenter) -> tuple[int, str]:
    """How a new console of the first VM ends, with nothing left behind by it."""
    before, taken = vcenter.connections(), await g.in_use()
    opened = await g.open()
    page = await g.knock(f"cloudops.secret.{opened.secret}")
    end = await page.closed(20)
    await g.eventually(lambda: fresh(opened.session).status == Status.CLOSED)
    assert vcenter.connections() == before
    assert await g.in_use() == taken
    return end


async def test_what_fails_on_the_way_is_told_in_its_own_words(
    world: World, vcenter: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(displays, "UPSTREAM_SECONDS", 0.7)
    fake_vm = vcenter.vm("vm-0001")
    esxi = fake_vm.host.name
    async with real_gate(world, monkeypatch) as g:
        other, _ = await g.enter(await g.open(vm=world.other_vm))
        # one ESXi host does not answer
        vcenter.faults.freeze(esxi)
        assert (await told(g, vcenter))[0] == ClosedReason.GUEST_UNREACHABLE.ws_code
        vcenter.faults.thaw(esxi)
        # it shows a certificate that vCenter does not know yet
        with monkeypatch.context() as patch:
            patch.setattr(vcenter.service, "thumbprint", lambda host, algorithm: "AB:" * 31 + "AB")
            code, words = await told(g, vcenter)
        assert (code, words) == (ClosedReason.GUEST_CERTIFICATE.ws_code, ClosedReason.GUEST_CERTIFICATE.text)
        event = await g.db(Event.objects.filter(kind="console.display_failed").latest, "id")
        assert event.reason == "console-certificate"
        assert "ab" * 32 in event.data["detail"]
        assert event.data["remedy"]
        page = await other.data(12)
        assert page, "the other console is unharmed"


async def test_missing_privileges_and_hosts_that_are_gone(
    world: World, vcenter: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_vm = vcenter.vm("vm-0001")
    async with real_gate(world, monkeypatch) as g:
        vcenter.faults.deny("VirtualMachine.Interact.ConsoleInteract")
        assert (await told(g, vcenter))[0] == ClosedReason.MANAGEMENT_REFUSED.ws_code
        event = await g.db(Event.objects.filter(kind="console.display_failed").latest, "id")
        assert "VirtualMachine.Interact.ConsoleInteract" in event.data["detail"]
        vcenter.faults.clear()
        with vcenter.world.lock:
            fake_vm.host.connection = "notResponding"
            vcenter.world.changed(fake_vm.host)
        assert (await told(g, vcenter))[0] == ClosedReason.HOST_LOST.ws_code
        vcenter.faults.down("vcenter")
        try:
            assert (await told(g, vcenter))[0] == ClosedReason.HOST_LOST.ws_code
        finally:
            vcenter.faults.up("vcenter")


async def test_forty_at_once_are_not_too_many_for_a_vcenter(
    world: World, vcenter: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls are bounded for many hosts, and who does not get its turn in time connects without a name."""
    monkeypatch.setattr(turns, "WAIT_SECONDS", 0.3)
    await asyncio.to_thread(swap_vms, world)
    async with real_gate(world, monkeypatch) as g:
        pages = await enter_many(g, LIMIT, at_once=LIMIT)
        assert vcenter.connections("vm-0002") == LIMIT
        endpoint = world.host.endpoint
        await g.eventually(lambda: ConnectTurn.objects.count() == 0, within_seconds=10)
        assert len(await g.db(labels_of, world.vm)) <= LIMIT  # on a slow machine nobody's is told apart
        found = await g.db(reconcile.reconcile_vms, endpoint=endpoint, vms=[world.vm], now=timezone.now())
        assert (found.foreign, found.ghosts_dropped) == (0, 0), "ours without a name are ours all the same"
        await die(g, world.vm)
        found = await g.db(reconcile.reconcile_vms, endpoint=endpoint, vms=[world.vm], now=timezone.now())
        assert (found.foreign, found.ghosts_dropped) == (0, LIMIT), "and so they are when they are left over"
        assert vcenter.connections() == 0
        for page in pages:
            page.cut()


async def test_a_browser_that_falls_silent_leaves_nothing_on_the_platform(
    world: World, vcenter: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relayed, "PING_SECONDS", 0.5)
    monkeypatch.setattr(relayed, "SILENT_SECONDS", 2.0)
    async with real_gate(world, monkeypatch) as g:
        opened = await g.open()
        silent, _ = await g.enter(opened)
        silent.answer_pings = False
        other, _ = await g.enter(await g.open(vm=world.other_vm))
        answering = asyncio.create_task(keep_answering(other))
        await g.eventually(lambda: reason_of(opened) == ClosedReason.BROWSER_SILENT, within_seconds=10)
        await g.eventually(lambda: vcenter.connections("vm-0001") == 0)
        assert vcenter.connections("vm-0002") == 1
        answering.cancel()


async def keep_answering(page: Page) -> None:
    """Reads, and so answers pings."""
    while await page.next(30) is not None:
        pass


async def test_a_ticket_that_came_too_late_is_replaced_once(
    world: World, vcenter: FakeVcenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    vcenter.service.consoles.ticket_seconds = -1.0  # every ticket is too old when it arrives
    async with real_gate(world, monkeypatch) as g:
        code, words = await told(g, vcenter)
        assert (code, words) == (ClosedReason.TICKET_REFUSED.ws_code, ClosedReason.TICKET_REFUSED.text)
        assert vcenter.calls("AcquireTicket") == 2
        real = vcenter.service.consoles.issue

        def second_is_good(*args: object) -> object:
            issued = real(*args)  # type: ignore[arg-type]
            vcenter.service.consoles.ticket_seconds = 30.0
            return issued

        monkeypatch.setattr(vcenter.service.consoles, "issue", second_is_good)
        page, _ = await g.enter(await g.open())
        assert vcenter.calls("AcquireTicket") == 4
        page.close(1000)
        await g.eventually(lambda: vcenter.connections() == 0)


async def test_before_7_0_1_foreign_ones_are_counted_without_names(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeVcenter(hosts=1, vms=[VmPlan("vm-0001", max_connections=FEW)], api_version="7.0.0.0") as vcenter:
        world = await asyncio.to_thread(build_on, vcenter, timezone.now())
        try:
            async with real_gate(world, monkeypatch) as g:
                page, _ = await g.enter(await g.open())
                strangers = [await vsphere_client(vcenter, world, world.vm) for _ in range(2)]
                opened = await g.open()
                refused = await g.knock(f"cloudops.secret.{opened.secret}")
                code, words = await refused.closed(20)
                assert code == ClosedReason.PLATFORM_LIMIT.ws_code
                assert words.startswith("3 of 3 console slots of VM alpha are taken, 2 of them")
                row = await g.db(
                    lambda: ForeignConnection.objects.select_related("vm", "host__endpoint").earliest("id")
                )
                assert not row.is_named
                with pytest.raises(ConnectionUnnamed):
                    await g.db(foreign.drop, connection=row, by=actor(world.admin), now=timezone.now())
                for one in strangers:
                    one.close()  # type: ignore[attr-defined]
                await g.eventually(lambda: vcenter.connections() == 1)
                endpoint = world.host.endpoint
                await g.db(reconcile.reconcile_endpoint, endpoint=endpoint, now=timezone.now())
                assert await g.db(ForeignConnection.objects.count) == 0
                page.close(1000)
        finally:
            await asyncio.to_thread(forget, world)
