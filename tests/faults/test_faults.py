"""What breaks in operation: each fault ends with the right reason, the slots right and the other consoles alive."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from cloudops.lab.libvirtd import LibvirtHost
from consoles.reasons import ClosedReason
from tests.e2e.browser import Person, launch_options
from tests.e2e.console_client import ConsoleClient
from tests.e2e.product import eventually
from tests.e2e.test_console import open_console, picture_appears
from tests.faults.conftest import Installation
from tests.vsphere.fake import FakeVcenter, VmPlan

pytestmark = [pytest.mark.fault, pytest.mark.e2e, pytest.mark.timeout(420)]
LEASE_BOUND_SECONDS = 15.0
OPEN = 40


@pytest.fixture(autouse=True)
def _slots_are_right_before_and_after(installation: Installation) -> Iterator[None]:
    installation.all_free()
    yield
    installation.all_free()


def simulated_vm(installation: Installation) -> str:
    return str(next(iter(installation.simulated["vms"].values())))


def still_works(client: ConsoleClient) -> None:
    assert not client.closed.is_set(), client.close_code
    assert client.ask_for_picture() > 1000


def test_a_killed_server_gives_its_slots_back_without_any_reaper(installation: Installation) -> None:
    alpha = installation.real["vms"]["alpha"]
    doomed = ConsoleClient(installation.api("alice"), alpha)
    with ConsoleClient(installation.api("bob", server="second"), alpha, port=installation.second_port) as other:
        assert installation.in_use(server="second") == 2
        installation.product.kill("web")
        killed = time.monotonic()
        try:
            doomed.wait_closed(within_seconds=5)
            eventually(
                lambda: installation.in_use(server="second") == 1,
                within_seconds=LEASE_BOUND_SECONDS,
                what="the dead server's slot is free",
            )
            assert time.monotonic() - killed <= LEASE_BOUND_SECONDS
            still_works(other)
        finally:
            installation.product.start_web("web", installation.product.port)


def test_a_stopped_server_hands_its_consoles_to_the_page_to_resume(installation: Installation) -> None:
    client = ConsoleClient(installation.api("alice"), installation.real["vms"]["alpha"])
    installation.product.stop("web")
    try:
        assert client.wait_closed(within_seconds=10) == ClosedReason.SERVER_STOPPING.ws_code
        eventually(lambda: installation.in_use(server="second") == 0, within_seconds=5, what="the slot is free")
    finally:
        installation.product.start_web("web", installation.product.port)


def _tree(root: int) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, parent = int(status.parent.name), int(status.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(parent, []).append(pid)
    found, waiting = [], [root]
    while waiting:
        found.append(waiting.pop())
        waiting += parents.get(found[-1], [])
    return found


def _browser_root(profile: Path) -> int:
    """The browser process that uses a profile directory."""
    wanted = f"--user-data-dir={profile}".encode()
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = command.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if wanted in words and not any(word.startswith(b"--type=") for word in words):
            return int(command.parent.name)
    raise AssertionError("the browser's process was not found")


def test_a_frozen_browser_loses_its_slot_and_takes_it_up_again(installation: Installation, tmp_path: Path) -> None:
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile", **launch_options(), viewport={"width": 1280, "height": 800}
        )
        alice = Person.in_context(context, installation.product.url, "alice")
        console = open_console(alice.sign_in(), "alpha")
        picture_appears(console)
        frozen = _tree(_browser_root(tmp_path / "profile"))
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            eventually(lambda: installation.in_use() == 0, within_seconds=31, what="the frozen browser's slot is free")
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        eventually(lambda: installation.in_use() == 1, within_seconds=30, what="the page resumed")
        picture_appears(console)
        context.close()


def test_redis_restarts_under_open_consoles(installation: Installation) -> None:
    vm = installation.real["vms"]["alpha"]
    with ConsoleClient(installation.api("alice"), vm) as client:
        installation.redis.restart(immediate=True)
        still_works(client)
        with ConsoleClient(installation.api("bob"), vm) as another:
            still_works(another)
            assert installation.in_use() == 2
            assert installation.api().delete(f"/console-sessions/{another.id}/").status in {200, 204}
            assert another.wait_closed(within_seconds=6) == ClosedReason.DISCONNECTED.ws_code
        still_works(client)


def test_postgres_restarts_under_open_consoles(installation: Installation, real_host: LibvirtHost) -> None:
    vm = installation.real["vms"]["alpha"]
    with ConsoleClient(installation.api("alice"), vm) as client:
        installation.postgres.restart(immediate=True)
        client.press("echo still-here > /dev/ttyS0\n")
        real_host.wait_serial("alpha", "still-here", timeout_seconds=15)
        eventually(
            lambda: installation.product.answers(installation.product.port), within_seconds=20, what="ready again"
        )
        assert installation.in_use() == 1
        with ConsoleClient(installation.api("bob"), vm) as another:
            still_works(another)
        still_works(client)


def test_a_frozen_host_neither_ends_consoles_nor_delays_other_hosts(
    installation: Installation, real_host: LibvirtHost
) -> None:
    alpha = installation.real["vms"]["alpha"]
    with ConsoleClient(installation.api("alice"), alpha) as client:
        real_host.freeze()
        try:
            still_works(client)
            started = time.monotonic()
            with ConsoleClient(installation.api("alice"), simulated_vm(installation)) as other:
                still_works(other)
            assert time.monotonic() - started < 5
            eventually(
                lambda: (
                    installation.api().get(f"/hosts/{installation.real['host']}/").body["connection"] == "unreachable"
                ),
                within_seconds=60,
                what="the host is shown as unreachable",
            )
            still_works(client)
        finally:
            real_host.thaw()
        eventually(
            lambda: installation.api().get(f"/hosts/{installation.real['host']}/").body["connection"] == "up",
            within_seconds=60,
            what="the host is up again",
        )


def test_a_guest_that_dies_under_its_console(installation: Installation, real_host: LibvirtHost) -> None:
    beta = installation.real["vms"]["beta"]
    with ConsoleClient(installation.api("bob"), installation.real["vms"]["alpha"]) as other:
        client = ConsoleClient(installation.api("alice"), beta)
        assert installation.in_use() == 2
        real_host.kill_guest("beta")
        assert client.wait_closed(within_seconds=8) == ClosedReason.VM_STOPPED.ws_code
        eventually(lambda: installation.in_use() == 1, within_seconds=2, what="its slot is free")
        assert installation.closed_reason(client.id) == ClosedReason.VM_STOPPED
        still_works(other)
    eventually(
        lambda: installation.api("alice").get(f"/vms/{beta}/").body["power_state"] != "running",
        within_seconds=20,
        what="beta is shown as stopped",
    )
    started = installation.api("alice").post(f"/vms/{beta}/power/", {"action": "start"})
    assert started.status in {200, 201, 202}, started
    eventually(
        lambda: installation.api("alice").get(f"/vms/{beta}/").body["power_state"] == "running",
        within_seconds=30,
        what="beta runs again",
    )


def test_the_fleet_page_goes_on_by_itself_after_redis_was_away(installation: Installation) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**launch_options())
        page = Person(browser, installation.product.url, "ada").sign_in()
        row = page.locator("tr").filter(has_text="of 40").first
        expect(row).to_be_visible()
        installation.redis.restart(immediate=True)
        with ConsoleClient(installation.api("alice"), installation.real["vms"]["alpha"]):
            expect(page.get_by_text("1 of 40").first).to_be_visible(timeout=30_000)
        browser.close()


@pytest.fixture
def vcenter(installation: Installation) -> Iterator[tuple[FakeVcenter, dict[str, Any]]]:
    """A vCenter that is added for one test, with what the seed says of it."""
    with FakeVcenter(hosts=1, vms=[VmPlan("erp", max_connections=OPEN)]) as made:
        access = {
            "username": made.username,
            "secret": made.password,
            "certificate_sha256": made.fingerprint_sha256,
        }
        seeded = installation.product.run("seed", uri=made.uri, kind="vsphere", console_limit=100, access=access)
        try:
            yield made, seeded
        finally:
            installation.api().delete(f"/hosts/{seeded['host']}/?force=true&whole_endpoint=true")


def _open_many(installation: Installation, vm: str) -> list[ConsoleClient]:
    """As many as the platform lets there be, on the first server, by two people."""
    return [ConsoleClient(installation.api(("alice", "bob")[number % 2]), vm) for number in range(OPEN)]


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_server_that_dies_with_forty_open_leaves_nothing_on_the_platform(
    installation: Installation, vcenter: tuple[FakeVcenter, dict[str, Any]], how: str
) -> None:
    """Killed, its sockets close with it. Frozen, as when its machine is lost, the platform's connections stay until
    somebody drops them: the reaper does, when the lease has lapsed."""
    platform, seeded = vcenter
    vm, host = seeded["vms"]["erp"], seeded["host"]
    doomed = _open_many(installation, vm)
    assert platform.connections("erp") == OPEN
    assert installation.api("bob", server="second").post(f"/vms/{vm}/console-sessions/", {}).status == 409
    web = installation.product.children["web"]
    began = time.monotonic()
    if how == "killed":
        installation.product.kill("web")
    else:
        os.kill(web.pid, signal.SIGSTOP)
    try:
        eventually(
            lambda: installation.in_use(server="second", host=host) == 0,
            within_seconds=LEASE_BOUND_SECONDS,
            what="its slots are free",
        )
        assert time.monotonic() - began <= LEASE_BOUND_SECONDS
        eventually(lambda: platform.connections("erp") == 0, within_seconds=15, what="the platform has none of them")
        with ConsoleClient(installation.api("bob", server="second"), vm, port=installation.second_port) as another:
            still_works(another)
            assert platform.connections("erp") == 1
    finally:
        if how == "frozen":
            installation.product.kill("web")
        for client in doomed:
            client.close()
        installation.product.start_web("web", installation.product.port)
    eventually(lambda: platform.connections("erp") == 0, within_seconds=10, what="nothing is left")
