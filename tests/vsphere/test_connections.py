"""QueryConnections and DropConnections through the driver."""

from __future__ import annotations

import asyncio

import pytest

from cloudops.hypervisors.port import NoPermission, NotSupported
from cloudops.hypervisors.vsphere.connections import _connection
from cloudops.hypervisors.vsphere.driver import VsphereHypervisor
from tests.relay.lab import until
from tests.vsphere.fake import FakeVcenter
from tests.vsphere.test_console import connect, nothing_left, ref_of


@pytest.mark.parametrize(
    ("client", "host", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 0),
        ("192.0.2.1:50412", "192.0.2.1", 50412),
        ("desk.example.org", "desk.example.org", 0),
        ("2001:db8::1", "2001:db8::1", 0),
        ("[2001:db8::1]:50412", "2001:db8::1", 50412),
        ("desk:first", "desk", 0),
        ("", "", 0),
    ],
)
def test_a_client_is_a_name_or_an_address(client: str, host: str, port: int) -> None:
    read = _connection("mks-1", client, "ada")
    assert (read.client_host, read.client_port, read.label, read.user_name) == (host, port, "mks-1", "ada")


async def test_those_that_are_named_end_and_the_others_stay(vcenter: FakeVcenter, driver: VsphereHypervisor) -> None:
    ref, other = ref_of(vcenter), ref_of(vcenter, "vm-0002")
    lines = [await connect(driver, ref) for _ in range(3)]
    elsewhere = await connect(driver, other)
    found = await asyncio.to_thread(driver.connections, ref)
    assert [(one.client_host, one.user_name) for one in found] == [("127.0.0.1", vcenter.username)] * 3
    first = found[0].label
    assert await asyncio.to_thread(driver.drop_connections, ref, [first, "long-gone"]) == [first, "long-gone"]
    await until(lambda: lines[0].lost)
    assert [line.lost for line in (*lines[1:], elsewhere)] == [False, False, False]
    assert first not in {one.label for one in await asyncio.to_thread(driver.connections, ref)}
    assert await asyncio.to_thread(driver.drop_connections, ref, []) == []
    assert vcenter.connections() == 3, "an empty list means none, not all"
    for line in (*lines, elsewhere):
        line.close()
    await nothing_left(vcenter)


def test_a_vm_that_is_off_has_none(vcenter: FakeVcenter, driver: VsphereHypervisor) -> None:
    vm = vcenter.vm("vm-0001")
    with vcenter.world.lock:
        vm.power = "poweredOff"
        vcenter.world.changed(vm)
    assert list(driver.connections(vm.instance_uuid)) == []


def test_a_missing_privilege_is_named(vcenter: FakeVcenter, driver: VsphereHypervisor) -> None:
    vcenter.faults.deny("VirtualMachine.Interact.ConsoleInteract")
    for ask in (driver.connections, driver.console):
        with pytest.raises(NoPermission, match=r"ConsoleInteract"):
            ask(ref_of(vcenter))


async def test_before_7_0_1_they_are_only_counted() -> None:
    with FakeVcenter(hosts=1, vms=1, api_version="7.0.0.0") as vcenter:
        driver = VsphereHypervisor(vcenter.spec())
        try:
            line = await connect(driver, ref_of(vcenter))
            with pytest.raises(NotSupported):
                await asyncio.to_thread(driver.connections, ref_of(vcenter))
            with pytest.raises(NotSupported):
                await asyncio.to_thread(driver.drop_connections, ref_of(vcenter), ["mks-1"])
            assert (await asyncio.to_thread(driver.vm, ref_of(vcenter))).console_connections == 1
            line.close()
            await nothing_left(vcenter)
        finally:
            driver.close()
