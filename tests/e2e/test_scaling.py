"""Live scaling as people do it: a tenant resizes a real guest while its console is open, and the guest agrees.

The sizes are the ones with which other products fail: 256 MiB, then 512, then 1025 MiB and three vCPUs, live to the
end; and the same for a guest whose ceiling is 512 MiB, where the last step is refused before libvirt is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Page, WebSocket, expect

from cloudops.lab import serial_line
from cloudops.lab.domain import GuestSpec
from cloudops.lab.libvirtd import LibvirtHost
from tests.e2e.api import Api
from tests.e2e.browser import Person
from tests.e2e.product import Product, eventually
from tests.e2e.test_console import open_console, picture_appears
from tests.lab.fixtures import BOOT_SECONDS, guest_image, start_host

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def _custom(name: str, cpu_mhz: int, vcpus: tuple[int, int], memory_mib: tuple[int, int]) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "custom",
        "dynamic_scaling": True,
        "cpu_mhz": cpu_mhz,
        "vcpus": vcpus[0],
        "max_vcpus": vcpus[1],
        "memory_mib": memory_mib[0],
        "max_memory_mib": memory_mib[1],
    }


OFFERINGS = (
    _custom("first", 500, (1, 2), (256, 512)),
    _custom("second", 1000, (2, 3), (512, 1024)),
    _custom("third", 1500, (1, 3), (1025, 1500)),
    {"name": "static", "vcpus": 2, "memory_mib": 768, "dynamic_scaling": False},
)
RESIZE_MS = 60_000
FOLLOW_SECONDS = 30


class Told(NamedTuple):
    """What a guest says of itself over its serial line."""

    memory_kib: int
    cpus: int


def ask(host: LibvirtHost, name: str) -> Told:
    """From its own /proc/meminfo and /proc/cpuinfo."""
    terminal, log = Path(host.virsh("ttyconsole", name)), host.serial_log(name)
    memory = serial_line.ask(terminal, log, "grep MemTotal /proc/meminfo")
    return Told(int(memory.split()[1]), int(serial_line.ask(terminal, log, "grep -c ^processor /proc/cpuinfo")))


@pytest.fixture(scope="module")
def real_host() -> Iterator[LibvirtHost]:
    """A host with two guests of 256 MiB: "roomy" can grow, and "tight" was started with room for 512 MiB."""
    image = guest_image()
    host = start_host("scaling1")
    try:
        host.ensure_guest(GuestSpec("roomy", image, memory_mib=256))
        tight = GuestSpec("tight", image, memory_mib=256, virtio_mem_mib=256, max_memory_mib=512, max_vcpus=3)
        host.ensure_guest(tight)
        for name in ("roomy", "tight"):
            host.wait_booted(name, timeout_seconds=BOOT_SECONDS)
        yield host
    finally:
        host.stop()


@pytest.fixture(scope="module")
def offerings(product: Product, seeded: dict[str, Any]) -> dict[str, str]:
    """The three sizes and one that VMs are not resized to while they run; both VMs have the first. The host is said to
    have eight CPUs: machines that run tests may have two, and then no VM gets three."""
    ada = Api(product.url, seeded["tokens"]["ada"])
    assert ada.patch(f"/hosts/{seeded['host']}/", {"cpu_threads_override": 8}).status == 200
    made = {str(one["name"]): ada.post("/offerings/", one).body["id"] for one in OFFERINGS}
    for vm in seeded["vms"].values():
        assert ada.patch(f"/vms/{vm}/", {"offering": made["first"]}).status == 200
    return made


def choose(page: Page, offering: str, **size: int) -> None:
    """In the matrix, and in the fields where it leaves a choice."""
    page.get_by_role("link", name=f"Choose {offering}", exact=True).click()
    expect(page.locator("#plan-table")).to_be_visible()
    for label, value in size.items():
        field = page.get_by_role("spinbutton", name=label)
        if field.input_value() != str(value):
            with page.expect_response(lambda answer: "/scale/" in answer.url and "offering=" in answer.url):
                field.fill(str(value))
                field.press("Tab")
    for label, value in size.items():
        cell = page.locator(f"#plan-{label.lower()} td").nth(2)
        expect(cell).to_have_text(re.compile(rf"^{value:,}\b|^{value // 1024} GiB"))


def watch(socket: WebSocket, lost: list[str]) -> None:
    """Notes when the line of a console closes."""
    if "/ws/console/" in socket.url:
        socket.on("close", lambda closed: lost.append(closed.url))


def goes_well(page: Page, *words: str) -> None:
    """The page says how far it is, then that it is applied and what the guest has of it. (Without an agent in the guest
    nobody but the guest knows about its vCPUs, and the page says so.)"""
    progress = page.locator("#scale-progress")
    expect(progress).to_contain_text("Resize", timeout=10_000)
    for one in words:
        expect(progress).to_contain_text(one, timeout=RESIZE_MS)
    expect(progress.get_by_text(re.compile("^applied"))).to_be_visible()


def test_a_running_vm_grows_through_all_sizes_while_its_console_stays_open(
    person: Callable[..., Person],
    api: Callable[[str], Api],
    seeded: dict[str, Any],
    offerings: dict[str, str],
    real_host: LibvirtHost,
) -> None:
    alice = person("alice")
    mine = alice.sign_in()
    start = ask(real_host, "roomy")
    assert start.cpus == 1
    lost: list[str] = []
    mine.context.on("page", lambda opened: opened.on("websocket", lambda socket: watch(socket, lost)))
    console = open_console(mine, "roomy")
    picture_appears(console)

    mine.get_by_role("link", name="Resize roomy").click()
    row = mine.locator("#offerings tr", has=mine.get_by_role("link", name="static", exact=True))
    expect(row).to_contain_text("with a restart")
    expect(row).to_contain_text("VMs are not resized to static while they run.")
    expect(mine.locator("#offerings tr", has_text="second")).to_contain_text("live")

    choose(mine, "second", vCPUs=2, Memory=512)
    mine.get_by_role("button", name="Resize now (live)").click()
    goes_well(mine, "Applied in guest: 512 of 512 MiB.")
    second = ask(real_host, "roomy")
    assert second == Told(start.memory_kib + 256 * 1024, 2)

    choose(mine, "third", vCPUs=3, Memory=1025)
    expect(mine.locator("#plan-reasons")).to_contain_text("in steps of 2 MiB, so it gets 1,026 MiB")
    mine.get_by_role("button", name="Resize now (live)").click()
    goes_well(mine, "Applied in guest: 1,026 of 1,026 MiB.")
    third = ask(real_host, "roomy")
    assert third == Told(start.memory_kib + 770 * 1024, 3)

    vm = seeded["vms"]["roomy"]
    size = api("alice").get(f"/vms/{vm}/size/").body
    assert (size["size"]["vcpus"], size["size"]["memory_mib"], size["size"]["cpu_mhz"]) == (3, 1026, 1500)
    assert size["guest_memory_mib"] == 1026
    samples = api("alice").get(f"/vms/{vm}/size-history/").body["samples"]
    assert [one["memory_mib"] for one in samples if one["guest_memory_mib"]][-1] == 1026
    mine.goto(f"{alice.url}/vms/{vm}/")
    expect(mine.locator("#vm-size")).to_contain_text("has 1,026 MiB of memory")
    expect(mine.locator("#vm-resizes")).to_contain_text("Applied in guest: 1,026 of 1,026 MiB.")

    assert lost == []
    sessions = api("ada").get(f"/console-sessions/?vm={vm}&current=true").body["results"]
    assert [(one["user"]["username"], one["status"]) for one in sessions] == [("alice", "active")]
    picture_appears(console)
    console.close()
    assert alice.complaints == []


def test_beyond_the_ceiling_nothing_is_touched_and_a_restart_is_the_way(
    person: Callable[..., Person],
    api: Callable[[str], Api],
    seeded: dict[str, Any],
    offerings: dict[str, str],
    real_host: LibvirtHost,
) -> None:
    alice, vm = api("alice"), seeded["vms"]["tight"]
    page = person("alice").sign_in()
    start = ask(real_host, "tight")
    page.goto(f"{alice.url}/vms/{vm}/scale/")
    choose(page, "second", vCPUs=2, Memory=512)
    page.get_by_role("button", name="Resize now (live)").click()
    goes_well(page, "Applied in guest: 512 of 512 MiB.")
    assert ask(real_host, "tight") == Told(start.memory_kib + 256 * 1024, 2)

    before = real_host.virsh("dumpxml", "tight")
    wanted = {"offering": offerings["third"], "vcpus": 3, "memory_mib": 1025}
    refused = alice.post(f"/vms/{vm}/resize/", {**wanted, "how": "live"})
    assert (refused.status, refused.body["code"]) == (409, "size-not-reachable-so")
    reason = next(one for one in refused.body["reasons"] if one["code"] == "memory-ceiling")
    assert "It can grow to 512 MiB while it runs; 1,025 MiB are wanted." in reason["words"]
    assert len(reason["remedies"]) == 3, "a smaller size, a restart, or the next start"
    assert real_host.virsh("dumpxml", "tight") == before

    choose(page, "third", vCPUs=3, Memory=1025)
    expect(page.locator("#plan")).to_contain_text("It can grow to 512 MiB while it runs; 1,025 MiB are wanted.")
    expect(page.locator("#plan-reasons .remedies li")).to_have_count(3)
    expect(page.get_by_role("button", name="Resize now (live)")).to_have_count(0)
    page.get_by_role("button", name="Restart with the new size").click()
    expect(page.get_by_text("Confirm that it may be shut down").first).to_be_visible()
    page.get_by_role("checkbox", name="tight may be shut down for this now").check()
    page.get_by_role("button", name="Restart with the new size").click()
    goes_well(page, "Applied in guest: 1,025 of 1,025 MiB.")
    real_host.wait_booted("tight", timeout_seconds=BOOT_SECONDS)
    grown = eventually(lambda: ask(real_host, "tight"), within_seconds=FOLLOW_SECONDS, what="the guest's word")
    assert grown.cpus == 3
    assert abs(grown.memory_kib - start.memory_kib - 769 * 1024) < 32 * 1024, "its kernel keeps some"
    ceiling = alice.get(f"/vms/{vm}/size/").body["ceiling"]
    assert ceiling["max_memory_mib"] > 1500, "and from now on it can grow"


def test_quotas_and_rights_are_kept_on_the_page_too(
    person: Callable[..., Person], api: Callable[[str], Api], seeded: dict[str, Any], offerings: dict[str, str]
) -> None:
    ada, vm = api("ada"), seeded["vms"]["roomy"]
    project = next(one for one in ada.get("/projects/").body["results"] if one["name"] == "apollo")
    path = f"/projects/{project['id']}/"
    use = ada.get(path).body["use"]
    stranger = person("mallory")
    assert stranger.sign_in().goto(f"{ada.url}/vms/{vm}/scale/").status == 404  # type: ignore[union-attr]
    assert api("mallory").get(f"/vms/{vm}/offerings/").status == 404
    membership = next(
        one
        for one in ada.get("/memberships/").body["results"]
        if one["user"]["username"] == "bob" and one["project"]["id"] == project["id"]
    )
    assert ada.patch(f"/memberships/{membership['id']}/", {"can_scale": False}).status == 200
    page = person("bob").sign_in()
    assert page.get_by_role("link", name="Resize roomy").count() == 0
    assert page.goto(f"{ada.url}/vms/{vm}/scale/").status == 403  # type: ignore[union-attr]
    assert ada.patch(path, {"quota_memory_mib": use["memory_mib"] + 10}).status == 200
    try:
        page = person("alice").sign_in()
        page.goto(f"{ada.url}/vms/{vm}/scale/?offering={offerings['third']}&vcpus=3&memory_mib=1500")
        expect(page.locator("#plan")).to_contain_text("The project's quota leaves it")
        expect(page.locator("#plan")).to_contain_text("not possible")
        expect(page.get_by_role("button", name="Resize now (live)")).to_have_count(0)
        wanted = {"offering": offerings["third"], "vcpus": 3, "memory_mib": 1500, "how": "live"}
        refused = api("alice").post(f"/vms/{vm}/resize/", wanted)
        assert refused.status == 409
        assert "quota-memory" in {one["code"] for one in refused.body["reasons"]}
    finally:
        assert ada.patch(path, {"quota_memory_mib": None}).status == 200
