"""An installation on a fake vCenter, its gateway on a real web server, and people who open consoles."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from django.utils import timezone

from cloudops.core import runtime
from cloudops.core.actors import system
from cloudops.hypervisors import registry
from cloudops.inventory import endpoints
from cloudops.inventory.models import Cluster, Connection, Host, Vm
from consoles.models import ConsoleSession, OwnConnection
from tests.consoles.gate import Gate, Page, gate
from tests.consoles.world import World, build
from tests.vsphere.fake import FakeVcenter
from tests.vsphere.rows import endpoint_on

ROOMY = 500


def build_on(vcenter: FakeVcenter, now: datetime) -> World:
    """The console tests' world with ``alpha`` and ``beta`` as the fake's first two VMs. Hosts and people have room for
    more consoles than a VM's platform allows."""
    world = build(now)
    runtime.change(
        by=system("test"), now=now, console_host_limit=ROOMY, console_user_limit=ROOMY, console_vm_limit=ROOMY
    )
    endpoint = endpoint_on(vcenter, timeout_seconds=10)
    cluster, _ = Cluster.objects.get_or_create(name="vsphere")
    hosts = {
        one.ref: Host.objects.create(
            endpoint=endpoint, cluster=cluster, ref=one.ref, name=one.name, connection=Connection.UP
        )
        for one in endpoints.call(endpoint, "hosts", lambda driver: driver.hosts())
    }
    facts = sorted(endpoints.call(endpoint, "vms", lambda driver: driver.vms()), key=lambda one: one.name)
    for row, fact in zip((world.vm, world.other_vm), facts, strict=False):
        row.ref, row.host, row.max_consoles = fact.ref, hosts[fact.host_ref], fact.max_consoles
        row.save()
    world.host = world.vm.host
    return world


def forget(world: World) -> None:
    """Closes the driver."""
    registry.forget(str(world.vm.host.endpoint_id))


@contextlib.asynccontextmanager
async def real_gate(world: World, monkeypatch: Any) -> AsyncIterator[Gate]:
    """:func:`tests.consoles.gate.gate`, with the real driver behind it."""
    real = endpoints.acall
    async with gate(world, monkeypatch) as made:
        monkeypatch.setattr(endpoints, "acall", real)
        yield made


async def enter_many(g: Gate, count: int, *, at_once: int = 8) -> list[Page]:
    """That many consoles of the first VM, open."""
    lane = asyncio.Semaphore(at_once)

    async def one() -> Page:
        async with lane:
            page, _ = await g.enter(await g.open())
            return page

    return list(await asyncio.gather(*(one() for _ in range(count))))


def labels_of(vm: Vm) -> set[str]:
    """The names that were learned for the VM's open consoles."""
    now = timezone.now()
    rows = OwnConnection.objects.filter(vm=vm).select_related("session__process")
    return {row.label for row in rows if row.is_live(now)}


def open_sessions(vm: Vm) -> int:
    return ConsoleSession.objects.attached(timezone.now()).filter(vm=vm).count()
