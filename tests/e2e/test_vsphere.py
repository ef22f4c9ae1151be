"""A console on ESXi as a person has it: noVNC through CloudOps and a webmks ticket to the (fake) ESXi host, with a real
guest's screen and keyboard behind it, and the same tab wherever vMotion takes the VM."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from websockets.sync.client import connect
from websockets.typing import Subprotocol

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
    vms.append(VmPlan("payroll", THERE, max_connections=2))
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
    tickets = vcenter.calls("AcquireTicket")
    tab = open_console(alice.sign_in(), "erp")
    picture_appears(tab)
    tab.evaluate("window.sameTab = true")
    works(tab, real_host, "first")
    assert is_on(vcenter, HERE)
    assert vcenter.calls("AcquireTicket") == tickets + 1

    vmotion(vcenter, "erp", THERE)
    eventually(lambda: is_on(vcenter, THERE), within_seconds=20, what="a display at the new host")
    works(tab, real_host, "second")
    assert vcenter.calls("AcquireTicket") == tickets + 2

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
    eventually(lambda: vcenter.connections("erp") == 0, within_seconds=10, what="no display is left")
    assert alice.complaints == []


@contextmanager
def vsphere_client(vcenter: FakeVcenter, vm: str) -> Iterator[None]:
    """Somebody has the VM's display open past CloudOps."""
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
    with client.logged_in(vcenter) as instance:
        ticket = client.find_vm(instance, vcenter, vm).AcquireTicket("webmks")
    with connect(ticket.url, subprotocols=[Subprotocol("binary")], ssl=anything, compression=None):
        newest = vcenter.service.consoles.of(vcenter.vm(vm))[-1]
        newest.user = "LAB\\carla"
        yield


def test_at_the_platforms_limit_who_holds_it_is_named_and_a_click_makes_room(
    person: Callable[..., Person], product: Product, installed: dict[str, Any], vcenter: FakeVcenter
) -> None:
    alice, ada = person("alice"), person("ada")
    admin, vm = Api(product.url, installed["tokens"]["ada"]), f"/vms/{installed['vms']['payroll']}/"
    with vsphere_client(vcenter, "payroll"), vsphere_client(vcenter, "payroll"):
        eventually(
            lambda: admin.get(f"{vm}console-usage/").body["foreign"] == 2,
            within_seconds=30,
            what="CloudOps hears of both",
        )
        tab = open_console(alice.sign_in(), "payroll")
        limit = tab.get_by_label("Limit reached")
        expect(limit).to_contain_text(
            "payroll has 2 of 2 consoles open. The platform allows it no more.", timeout=20_000
        )
        expect(limit.get_by_text("from outside CloudOps")).to_have_count(2)
        expect(limit).not_to_contain_text("carla")
        limit.get_by_role("button", name="Tell me when one is free").click()

        page = ada.sign_in()
        page.goto(f"{product.url}{vm}")
        foreign = page.locator("#vm-consoles .card-foot").filter(has_text="LAB\\carla at 127.0.0.1").first
        foreign.get_by_role("button", name="End").click()
        page.get_by_role("button", name="End it").click()
        expect(page.get_by_text("is ended.").first).to_be_visible()
        picture_appears(tab)
        eventually(lambda: vcenter.connections("payroll") == 2, within_seconds=10, what="alice's and one of carla's")
        tab.close()
        eventually(lambda: vcenter.connections("payroll") == 1, within_seconds=10, what="alice's is gone")
    assert alice.complaints == [message for message in alice.complaints if "409" in message], "but for the refusals"
    assert ada.complaints == []
