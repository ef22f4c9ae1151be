"""A console on ESXi as a person has it: noVNC through CloudOps and a webmks ticket to the (fake) ESXi host, with a real
guest's screen and keyboard behind it, and the same tab wherever vMotion takes the VM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from cloudops.lab.libvirtd import LibvirtHost
from tests.e2e.api import Api
from tests.e2e.browser import Person
from tests.e2e.product import Product, eventually
from tests.e2e.test_console import open_console, picture_appears, type_into
from tests.vsphere import client
from tests.vsphere.fake import FakeVcenter, HostPlan, VmPlan

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

HERE, THERE = "esxi-01", "esxi-02"
GUEST = "alpha"
"""The real guest behind it."""


@pytest.fixture(scope="module")
def vcenter(real_host: LibvirtHost) -> Iterator[FakeVcenter]:
    """Two ESXi hosts; the VM "erp" shows the guest that libvirt runs."""
    address, _, display = real_host.virsh("vncdisplay", GUEST).strip().rpartition(":")
    vms = [VmPlan("erp", HERE, cpus=1, memory_mib=512, vnc=f"{address}:{5900 + int(display)}"), VmPlan("files", THERE)]
    with FakeVcenter([HostPlan(HERE), HostPlan(THERE)], vms) as running:
        yield running


@pytest.fixture(scope="module")
def installed(product: Product, vcenter: FakeVcenter) -> dict[str, Any]:
    access = {
        "username": vcenter.username,
        "secret": vcenter.password,
        "certificate_sha256": vcenter.fingerprint_sha256,
    }
    answer: dict[str, Any] = product.run("seed", uri=vcenter.uri, kind="vsphere", access=access)
    return answer


def vmotion(vcenter: FakeVcenter, vm: str, host: str) -> None:
    """As somebody does it in the vSphere Client: CloudOps is not asked."""
    with client.logged_in(vcenter) as instance:
        there = client.find_host(instance, host)
        client.done(client.find_vm(instance, vcenter, vm).MigrateVM_Task(host=there, priority="defaultPriority"))


def works(tab: Page, guest: LibvirtHost, word: str) -> None:
    """Keys pressed in this tab arrive in the guest, and it is still the tab that it was."""
    type_into(tab, f"echo {word}-$((40+2)) > /dev/ttyS0")
    guest.wait_serial(GUEST, f"{word}-42", timeout_seconds=20)
    assert tab.evaluate("window.sameTab") is True


def is_on(vcenter: FakeVcenter, host: str) -> bool:
    """The one display is connected with the help of a ticket of this host."""
    return vcenter.vm("erp").host.name == host and vcenter.connections("erp") == 1


def test_keys_arrive_and_the_tab_goes_on_through_vmotion(
    person: Callable[..., Person],
    product: Product,
    installed: dict[str, Any],
    vcenter: FakeVcenter,
    real_host: LibvirtHost,
) -> None:
    alice, admin = person("alice"), Api(product.url, installed["tokens"]["ada"])
    tab = open_console(alice.sign_in(), "erp")
    picture_appears(tab)
    tab.evaluate("window.sameTab = true")
    works(tab, real_host, "first")
    assert is_on(vcenter, HERE)
    assert vcenter.calls("AcquireTicket") == 1

    vmotion(vcenter, "erp", THERE)
    eventually(lambda: is_on(vcenter, THERE), within_seconds=20, what="a display at the new host")
    works(tab, real_host, "second")
    assert vcenter.calls("AcquireTicket") == 2

    vm = f"/vms/{installed['vms']['erp']}/"
    hosts = {host["name"]: host["id"] for host in admin.get("/hosts/").body["results"]}
    eventually(
        lambda: admin.get(vm).body["host"]["name"] == THERE, within_seconds=20, what="CloudOps knows where it is"
    )
    asked = admin.post(f"{vm}migrations/", {"host": hosts[HERE]})
    assert asked.status == 202, asked
    eventually(lambda: is_on(vcenter, HERE), within_seconds=40, what="a display where CloudOps moved it")
    works(tab, real_host, "third")

    expect(tab.get_by_text("Disconnected")).to_have_count(0)
    tab.close()
    eventually(lambda: vcenter.connections() == 0, within_seconds=10, what="no display is left")
    assert alice.complaints == []
