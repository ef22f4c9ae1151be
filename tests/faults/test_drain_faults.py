"""What breaks in the middle of a drain, on three real hosts: whatever it is, no guest is lost, doubled or rebooted, the
claims add up, and the host is emptied in the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from cloudops.lab.domain import GuestSpec
from cloudops.lab.lab import Lab, wait_moved
from cloudops.lab.serial_line import Life
from tests.e2e.browser import Person
from tests.e2e.drains import GUEST_MIB, Fleet, register, told
from tests.e2e.inside import Inside
from tests.e2e.product import Product, eventually
from tests.lab.fixtures import BOOT_SECONDS, guest_image

pytestmark = [pytest.mark.fault, pytest.mark.e2e, pytest.mark.moves, pytest.mark.timeout(300)]

HOME = "kvm-01"
GUESTS = ("web-1", "web-2", "web-3")
ROOM = 5 * GUEST_MIB
ROOMS = {"kvm-01": ("north", ROOM), "kvm-02": ("north", ROOM), "kvm-03": ("south", ROOM)}
SLOW_MIB_PER_SECOND = 4
"""A guest has some 80 MiB to send: 20 s in which something can break."""
DRAIN_SECONDS = 150.0
TIMEOUT_SECONDS = 5
"""After which CloudOps takes a silent host for unreachable: sooner than the hosts give each other up."""


@pytest.fixture(scope="module")
def fleet(lab_of_three: Lab, product: Product) -> Iterator[Fleet]:
    """Three guests at home on kvm-01."""
    lab_of_three.reset()
    image = guest_image()
    for name in GUESTS:
        lab_of_three.boot(GuestSpec(name, image, memory_mib=GUEST_MIB), on=HOME)
    for name in GUESTS:
        lab_of_three.host(HOME).wait_booted(name, timeout_seconds=BOOT_SECONDS)
    with Inside(product.env) as inside:
        yield register(lab_of_three, product, inside, ROOMS, timeout_seconds=TIMEOUT_SECONDS)
    lab_of_three.reset()


@pytest.fixture(scope="module")
def page(browser: Browser, product: Product, fleet: Fleet) -> Iterator[Page]:
    """An operator's browser; it stays open whatever happens to the server."""
    ada = Person(browser, product.url, "ada")
    yield ada.sign_in()
    ada.close()


@dataclass
class Drain:
    """A drain that was under way when its test began: ``target`` is where the first guest was going."""

    fleet: Fleet
    job: str
    target: str
    lives: dict[str, Life]

    @property
    def lab(self) -> Lab:
        return self.fleet.lab

    def hurry(self) -> None:
        """What moves, and will move, goes as fast as it can from now on."""
        self.fleet.inside.settings(migration_bandwidth_mib_per_second=0)
        for name in GUESTS:
            self.lab.hurry(name, on=HOME)

    def wait_emptied(self) -> None:
        self.fleet.wait_job(self.job, "holding", seconds=DRAIN_SECONDS)

    def wait_silent(self, *hosts: str) -> None:
        """CloudOps has noticed that these hosts do not answer."""
        inside = self.fleet.inside

        def noticed() -> bool:
            connections = inside.books()["connections"]
            return all(connections[name] != "up" for name in hosts)

        eventually(noticed, within_seconds=60, what=f"{hosts} are seen to be silent")

    def wait_all_up(self) -> None:
        """CloudOps reaches every host."""
        inside = self.fleet.inside
        eventually(
            lambda: set(inside.books()["connections"].values()) == {"up"}, within_seconds=60, what="every host is up"
        )

    def heal(self) -> None:
        """Whatever was broken works again; after a test that failed, too."""
        for line, state in self.lab.states().items():
            if state != "up":
                {"off": self.lab.start_host, "frozen": self.lab.thaw, "unplugged": self.lab.plug}[state](line)
        self.wait_all_up()

    def bring_home(self) -> None:
        """Ends the job, and everybody is where they were."""
        inside = self.fleet.inside
        if inside.job(job=self.job)["status"] == "holding":
            inside.complete(job=self.job)
        else:
            inside.cancel(job=self.job)
        self.hurry()
        if set(self.fleet.wait_books().values()) != {HOME}:
            self.fleet.wait_job(inside.bring_home(job=self.job), "completed", seconds=DRAIN_SECONDS)
        assert self.fleet.wait_books() == dict.fromkeys(GUESTS, HOME)


@pytest.fixture
def drain(fleet: Fleet, page: Page, capsys: pytest.CaptureFixture[str]) -> Iterator[Drain]:
    """Begins one, and afterwards holds it to its promises and brings everybody home."""
    assert fleet.wait_books() == dict.fromkeys(GUESTS, HOME)
    lives = {name: fleet.lab.life(name) for name in GUESTS}
    fleet.inside.settings(migration_bandwidth_mib_per_second=SLOW_MIB_PER_SECOND)
    began = time.monotonic()
    job = fleet.inside.start(hosts=[HOME])
    page.goto(f"{fleet.product.url}/maintenance/{job}/")
    drain = Drain(fleet, job, eventually(partial(first_target, fleet), within_seconds=30, what="it copies"), lives)
    try:
        yield drain
        drain.wait_all_up()
        drain.wait_emptied()
        hosts = fleet.wait_books()
        assert HOME not in hosts.values()
        for name in GUESTS:
            life = fleet.lab.life(name)
            assert life.boot_id == lives[name].boot_id, f"{name} was rebooted"
        tells_the_truth(page, hosts)
        took = time.monotonic() - began
    finally:
        drain.heal()
        drain.bring_home()
    with capsys.disabled():
        sys.stdout.write(f"\nemptied and all in order after {took:.1f} s\n{told(fleet.inside.history(job=job))}\n")


def tells_the_truth(page: Page, hosts: dict[str, str]) -> None:
    """The job's page, open since it began and never loaded again."""
    expect(page.get_by_text("in maintenance").first).to_be_visible(timeout=30_000)
    for name, host in hosts.items():
        row = page.locator("tr").filter(has=page.get_by_role("link", name=name, exact=True))
        expect(row).to_contain_text(host, timeout=30_000)
        expect(row).to_contain_text("moved")


def under_way(fleet: Fleet) -> dict[str, str]:
    """Guests of which a part is at their destination already, and where that is."""
    found = {}
    for name, migration in fleet.inside.migrations().items():
        progress: dict[str, Any] = migration["progress"]
        if migration["phase"] == "copying" and progress.get("memory_sent_mib", 0) >= SLOW_MIB_PER_SECOND:
            found[name] = str(migration["target"])
    return found


def first_target(fleet: Fleet) -> str:
    """Where the first of them goes; empty as long as there is none."""
    return next(iter(under_way(fleet).values()), "")


def test_the_destination_freezes(drain: Drain) -> None:
    drain.lab.freeze(drain.target)
    drain.hurry()
    drain.wait_silent(drain.target)
    assert drain.lab.hosts[0].running(), "nobody can have arrived on a frozen host"
    drain.lab.thaw(drain.target)


def test_the_destination_stays_frozen_until_its_guests_are_elsewhere(drain: Drain) -> None:
    drain.lab.freeze(drain.target)
    drain.hurry()
    try:
        drain.wait_emptied()
    finally:
        drain.lab.thaw(drain.target)


def test_the_destination_loses_power(drain: Drain) -> None:
    drain.lab.crash(drain.target)
    drain.hurry()
    drain.wait_emptied()
    assert set(drain.lab.running()[drain.target]) == set()
    drain.lab.start_host(drain.target)


def test_the_destination_is_unplugged(drain: Drain) -> None:
    drain.lab.unplug(drain.target)
    drain.hurry()
    drain.wait_silent(drain.target)
    drain.lab.plug(drain.target)


def test_the_source_is_unplugged(drain: Drain) -> None:
    drain.lab.unplug(HOME)
    drain.hurry()
    drain.wait_silent(HOME)
    assert set(drain.lab.running()[HOME]) == set(GUESTS)
    drain.lab.plug(HOME)


def test_libvirtd_is_killed_at_the_source(drain: Drain) -> None:
    drain.lab.kill_libvirtd(HOME)
    drain.hurry()


def test_libvirtd_is_killed_at_the_destination(drain: Drain) -> None:
    drain.lab.kill_libvirtd(drain.target)
    drain.hurry()


def test_the_workers_are_killed(drain: Drain) -> None:
    """The hosts go on by themselves meanwhile; who comes next looks where everybody is."""
    for name in ("migrations", "worker"):
        drain.fleet.product.kill(name)
    drain.hurry()
    time.sleep(3)
    drain.fleet.product.start_worker()
    drain.fleet.product.start_migrations()


def test_the_web_server_is_killed(drain: Drain) -> None:
    product = drain.fleet.product
    product.kill("web")
    drain.hurry()
    try:
        drain.wait_emptied()
    finally:
        product.start_web("web", product.port)


def test_cloudops_is_cut_off_from_all_hosts(drain: Drain) -> None:
    """What moves arrives without us; afterwards CloudOps sees where everybody is, and goes on."""
    moving = under_way(drain.fleet)
    drain.lab.unplug("uplink")
    drain.wait_silent(*drain.fleet.hosts)
    drain.hurry()
    assert moving
    for name, target in moving.items():
        wait_moved(drain.lab, name, to=target, timeout_seconds=60)
    drain.lab.plug("uplink")
