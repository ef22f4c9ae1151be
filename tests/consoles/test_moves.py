"""A console follows its VM to another host: let go once it is there, with words, and never told that the VM stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from cloudops.hypervisors.port import PowerState, VmFacts, VmNotFound
from cloudops.inventory import signals
from cloudops.inventory.models import Host, Vm
from cloudops.inventory.signals import VmMove
from consoles import changes
from consoles.models import Status
from consoles.reasons import ClosedReason
from tests.consoles.gate import Gate, gate
from tests.consoles.world import World, build, fresh

pytestmark = pytest.mark.django_db(transaction=True)
MOVED = (ClosedReason.VM_MOVED.ws_code, "alpha is moving to kvm-02.")


@pytest.fixture
def world(transactional_db: None) -> World:
    return build(timezone.now())


@contextmanager
def moving(answer: Callable[[], dict[UUID, str]]) -> Iterator[None]:
    """Somebody above moves VMs."""

    def tell(*, vm_ids: list[UUID], **_: Any) -> dict[UUID, str]:
        return {vm_id: host for vm_id, host in answer().items() if vm_id in vm_ids}

    signals.vms_moving.connect(tell)
    try:
        yield
    finally:
        signals.vms_moving.disconnect(tell)


def gone() -> VmFacts:
    raise VmNotFound


def move(world: World, target: Host) -> None:
    Vm.objects.filter(pk=world.vm.pk).update(host=target)


async def move_after(g: Gate, target: Host, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await g.db(move, g.world, target)


async def test_while_cloudops_moves_it_the_console_waits_for_the_inventory(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gate(world, monkeypatch) as g:
        target = await g.db(world.add_host, "kvm-02")
        g.facts = gone
        opened = await g.open()
        page, hello = await g.enter(opened)
        with moving(lambda: {world.vm.pk: "kvm-02"}):
            g.vnc.writer.transport.abort()
            arriving = asyncio.create_task(move_after(g, target, 0.7))
            started = time.monotonic()
            assert await page.closed(5) == MOVED
            assert 0.5 < time.monotonic() - started < 2
            await arriving
        await g.eventually(lambda: fresh(opened.session).status == Status.DETACHED, within_seconds=2)
        again = await g.knock(f"cloudops.resume.{hello['resume']}")
        assert (await again.hello())["host"] == "kvm-02"
        assert (await g.db(fresh, opened.session)).host_id == target.pk


async def test_a_move_that_failed_is_asked_of_the_host(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    still = {world.vm.pk: "kvm-02"}
    async with gate(world, monkeypatch) as g:
        g.facts = lambda: VmFacts("ref-alpha", "alpha", world.host.ref, PowerState.OFF, 1, 64)
        page, _ = await g.enter(await g.open())
        with moving(lambda: dict(still)):
            g.vnc.writer.transport.abort()
            await asyncio.sleep(0.5)
            still.clear()
            assert (await page.closed(5))[0] == ClosedReason.VM_STOPPED.ws_code


async def test_a_vm_that_somebody_else_moved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        target = await g.db(world.add_host, "kvm-02")
        g.facts = gone
        page, _ = await g.enter(await g.open())
        g.vnc.writer.transport.abort()
        arriving = asyncio.create_task(move_after(g, target, 0.8))
        assert await page.closed(5) == MOVED
        await arriving


async def test_a_vm_that_its_host_forgot_has_stopped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        g.facts = gone
        page, _ = await g.enter(await g.open())
        g.vnc.writer.transport.abort()
        assert (await page.closed(5))[0] == ClosedReason.VM_STOPPED.ws_code


async def test_a_display_that_cannot_be_had_yet_is_come_back_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        await g.vnc.stop()
        opened = await g.open()
        with moving(lambda: {world.vm.pk: "kvm-02"}):
            page = await g.knock(f"cloudops.secret.{opened.secret}")
            assert await page.closed() == MOVED
        await g.eventually(lambda: fresh(opened.session).status == Status.DETACHED, within_seconds=2)


async def test_the_page_is_told_where_it_goes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with gate(world, monkeypatch) as g:
        target = await g.db(world.add_host, "kvm-02")
        page, _ = await g.enter(await g.open())
        await g.db(move, world, target)
        moves = [VmMove(world.vm.pk, world.host.pk, target.pk)]
        assert await g.db(changes.note_vms_moved, moves=moves, now=timezone.now()) == 1
        assert await page.closed(2) == MOVED
