"""Consoles by ticket: from AcquireTicket to the display on the ESXi host, and every way it can go wrong."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from pyVmomi import vim

from cloudops.hypervisors.port import ConsoleEndpoint, ConsoleLimitReached, HostNotConnected, Unreachable, VmNotRunning
from cloudops.hypervisors.vsphere import console
from cloudops.hypervisors.vsphere.driver import VsphereHypervisor
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.lookup import find_vm
from consoles.reasons import ClosedReason
from consoles.relay import (
    Upstream,
    UpstreamCertificateChanged,
    UpstreamError,
    UpstreamTicketRefused,
    UpstreamTimedOut,
    open_upstream,
)
from tests.relay.lab import until
from tests.vsphere.fake import FakeVcenter

LIMIT = 40
LOOPS = 500
LOOPS_AT_ONCE = 4


def ref_of(vcenter: FakeVcenter, name: str = "vm-0001") -> str:
    return vcenter.vm(name).instance_uuid


async def connect(driver: VsphereHypervisor, ref: str) -> Upstream:
    return await open_upstream(await asyncio.to_thread(driver.console, ref), 10)


async def failure(endpoint: ConsoleEndpoint, seconds: float = 10) -> UpstreamError:
    with pytest.raises(UpstreamError) as raised:
        await open_upstream(endpoint, seconds)
    return raised.value


async def nothing_left(vcenter: FakeVcenter, vm: str = "") -> None:
    await until(lambda: vcenter.connections(vm) == 0)


# The address and its pins


def test_a_ticket_leads_to_the_vms_host(vcenter: FakeVcenter, driver: VsphereHypervisor) -> None:
    host = vcenter.vm("vm-0002").host
    endpoint = driver.console(ref_of(vcenter, "vm-0002"))
    assert endpoint.url.startswith(f"wss://{host.address}:{host.port}/ticket/")
    assert endpoint.certificate_sha256 != vcenter.fingerprint_sha256.replace(":", "").lower(), (
        "the host's, not vCenter's"
    )
    assert (len(endpoint.certificate_sha256), len(endpoint.certificate_sha1)) == (64, 40)


def ticket(**values: Any) -> Any:
    return vim.VirtualMachine.Ticket(ticket="t", cfgFile="", **values)


def test_the_best_pin_that_the_platform_tells_is_used(vcenter: FakeVcenter) -> None:
    sha1, sha256 = "AB:" * 19 + "AB", "CD:" * 31 + "CD"
    prints = [vim.vm.CertThumbprint(thumbprint=one) for one in (sha1, sha256)]
    pem = vcenter.vm("vm-0001").host.certificate_pem
    own = vcenter.service.thumbprint(vcenter.vm("vm-0001").host, "sha256").replace(":", "").lower()
    assert console._pins(ticket(sslThumbprint=sha1)) == ("", "ab" * 20)
    assert console._pins(ticket(sslThumbprint=sha1, certThumbprintList=prints)) == ("cd" * 32, "ab" * 20)
    assert console._pins(ticket(certThumbprintList=prints[:1])) == ("", "ab" * 20)
    assert console._pins(ticket(sslThumbprint=sha1, sslCertificate=pem)) == (own, "ab" * 20)
    assert console._pins(ticket(sslCertificate="no certificate")) == ("", "")


@pytest.mark.parametrize("named", [None, "esx-unknown.invalid"])
def test_a_host_without_a_name_that_leads_anywhere(
    vcenter: FakeVcenter, driver: VsphereHypervisor, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its management address is taken."""

    def nowhere(name: str, port: int, deadline: float) -> list[Any]:
        raise Unreachable(f"{name}: Name or service not known.")

    monkeypatch.setattr(console, "resolve", nowhere)
    vcenter.faults.ticket_names(named)
    host = vcenter.vm("vm-0001").host
    assert driver.console(ref_of(vcenter)).url.startswith(f"wss://{host.address}:{host.port}/ticket/")
    host.address = ""
    vcenter.world.changed(host)
    with pytest.raises(Unreachable, match=r"leads to an address from here: .*esx-01\.lab\.example\.org") as raised:
        driver.console(ref_of(vcenter))
    assert "DNS" in raised.value.remedy


async def test_a_name_that_is_known_is_kept(
    vcenter: FakeVcenter, driver: VsphereHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "resolve", lambda name, port, deadline: [(2, ("192.0.2.1", port))])
    vcenter.faults.ticket_names("esx-01.example.org")
    endpoint = await asyncio.to_thread(driver.console, ref_of(vcenter))
    assert endpoint.url.startswith("wss://esx-01.example.org:")


async def test_a_host_by_itself_is_where_we_are_connected() -> None:
    with FakeVcenter(hosts=1, vms=1, standalone=True) as host:
        host.faults.ticket_names(None)
        driver = VsphereHypervisor(host.spec())
        try:
            upstream = await connect(driver, ref_of(host))
            assert host.connections() == 1
            upstream.close()
            await nothing_left(host)
        finally:
            driver.close()


def test_a_vm_that_is_off_and_a_host_that_is_gone_have_no_display(
    vcenter: FakeVcenter, driver: VsphereHypervisor
) -> None:
    off, lost = vcenter.vm("vm-0001"), vcenter.vm("vm-0002")
    with vcenter.world.lock:
        off.power = "poweredOff"
        lost.host.connection = "notResponding"
        vcenter.world.changed(off, lost.host)
    with pytest.raises(VmNotRunning):
        driver.console(off.instance_uuid)
    with pytest.raises(HostNotConnected):
        driver.console(lost.instance_uuid)


# The limit


async def test_forty_are_open_and_closing_one_lets_the_next_in(vcenter: FakeVcenter, driver: VsphereHypervisor) -> None:
    ref = ref_of(vcenter)
    opened = [await connect(driver, ref) for _ in range(LIMIT)]
    facts = await asyncio.to_thread(driver.vm, ref)
    assert (facts.max_consoles, facts.console_connections) == (LIMIT, LIMIT)
    with pytest.raises(ConsoleLimitReached) as raised:
        await asyncio.to_thread(driver.console, ref)
    assert raised.value.numbers["limit"] == LIMIT
    (await connect(driver, ref_of(vcenter, "vm-0002"))).close()  # another VM is none the worse
    opened.pop().close()
    await until(lambda: vcenter.connections("vm-0001") == LIMIT - 1)
    opened.append(await connect(driver, ref))
    for one in opened:
        one.close()
    await nothing_left(vcenter)


async def test_five_hundred_come_and_go_and_none_stays(vcenter: FakeVcenter, driver: VsphereHypervisor) -> None:
    """Elsewhere such loops fill the VM's 40 connections for good."""
    ref = ref_of(vcenter)

    def ticket_once(link: Link) -> ConsoleEndpoint:
        vm = vim.VirtualMachine(found.vm._moId, link.stub)
        return console.endpoint(link, replace(found, vm=vm))

    found = await asyncio.to_thread(driver._session.call, lambda link: find_vm(link, ref))

    async def loops() -> None:
        for number in range(LOOPS // LOOPS_AT_ONCE):
            upstream = await open_upstream(await asyncio.to_thread(driver._session.call, ticket_once), 10)
            if number % 2:
                upstream.attach().close()  # in good order, as the relay does
            else:
                upstream.close()

    await asyncio.gather(*(loops() for _ in range(LOOPS_AT_ONCE)))
    assert vcenter.service.consoles.opened == LOOPS
    await nothing_left(vcenter)
    (await connect(driver, ref)).close()


# Tickets


async def test_a_used_and_an_expired_ticket_are_refused_as_such(
    vcenter: FakeVcenter, driver: VsphereHypervisor
) -> None:
    used = await asyncio.to_thread(driver.console, ref_of(vcenter))
    first = await open_upstream(used)
    expired = await asyncio.to_thread(driver.console, ref_of(vcenter))
    vcenter.service.consoles.expire_tickets()
    for endpoint in (used, expired):
        error = await failure(endpoint)
        assert isinstance(error, UpstreamTicketRefused), error
        assert error.closed_reason is ClosedReason.TICKET_REFUSED
        assert "/ticket/" not in str(error), "a ticket is a secret"
    assert not first.lost, "the one that is open is unharmed"
    assert vcenter.connections() == 1
    first.close()
    await nothing_left(vcenter)


# Certificates


@pytest.mark.parametrize("pin", ["sha256", "sha1"])
async def test_a_wrong_certificate_gets_no_ticket(vcenter: FakeVcenter, driver: VsphereHypervisor, pin: str) -> None:
    good = await asyncio.to_thread(driver.console, ref_of(vcenter))
    if pin == "sha256":
        bad = replace(good, certificate_sha256="0" * 64)
    else:
        bad = replace(good, certificate_sha256="", certificate_sha1="0" * 40)
    error = await failure(bad)
    assert isinstance(error, UpstreamCertificateChanged)
    assert error.closed_reason is ClosedReason.GUEST_CERTIFICATE
    assert {f"found_{pin}", f"pinned_{pin}"} == set(error.numbers)
    upstream = await open_upstream(replace(good, certificate_sha256="") if pin == "sha1" else good)
    upstream.close()  # the ticket was not sent, so that it was still good
    await nothing_left(vcenter)


async def test_a_certificate_that_changes_after_the_ticket_is_refused_and_the_next_one_taken(
    vcenter: FakeVcenter, driver: VsphereHypervisor
) -> None:
    host = vcenter.vm("vm-0001").host.name
    old = await asyncio.to_thread(driver.console, ref_of(vcenter))
    before = await connect(driver, ref_of(vcenter))
    vcenter.faults.swap_certificate(host)
    assert isinstance(await failure(old), UpstreamCertificateChanged)
    assert not before.lost
    after = await connect(driver, ref_of(vcenter))  # vCenter knows the new one by now
    assert vcenter.connections() == 2
    before.close()
    after.close()
    await nothing_left(vcenter)


# Hosts that fail


async def test_a_half_open_host_costs_only_its_own_consoles(vcenter: FakeVcenter, driver: VsphereHypervisor) -> None:
    dead, alive = vcenter.vm("vm-0001"), vcenter.vm("vm-0002")
    endpoint = await asyncio.to_thread(driver.console, dead.instance_uuid)
    vcenter.faults.freeze(dead.host.name)
    began = time.monotonic()
    stuck = asyncio.create_task(failure(endpoint, 1.0))
    other = await connect(driver, alive.instance_uuid)
    error = await stuck
    assert isinstance(error, UpstreamTimedOut)
    assert error.closed_reason is ClosedReason.GUEST_UNREACHABLE
    assert time.monotonic() - began < 8
    assert not other.lost
    vcenter.faults.thaw(dead.host.name)
    other.close()
    await nothing_left(vcenter)
