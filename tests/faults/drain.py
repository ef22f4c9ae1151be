"""A drain of three real hosts in the middle of which something breaks, and what must hold afterwards: no guest is lost,
doubled or rebooted, the claims add up, and the host is emptied in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Page, expect

from cloudops.lab.lab import Lab
from cloudops.lab.serial_line import Life
from tests.e2e.drains import GUEST_MIB, Fleet
from tests.e2e.product import eventually

HOME = "kvm-01"
GUESTS = ("web-1", "web-2", "web-3")
ROOM = 5 * GUEST_MIB
ROOMS = {"kvm-01": ("north", ROOM), "kvm-02": ("north", ROOM), "kvm-03": ("south", ROOM)}
SLOW_MIB_PER_SECOND = 4
"""A guest has some 80 MiB to send: 20 s in which something can break."""
DRAIN_SECONDS = 150.0
BRIEF_SECONDS = 4.0
"""A silence that hosts get over: shorter than anybody's patience."""
TIMEOUT_SECONDS = 5
"""After which CloudOps takes a silent host for unreachable: sooner than the hosts give each other up."""


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
