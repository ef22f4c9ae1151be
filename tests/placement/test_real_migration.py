"""Real guests between two real libvirt hosts, through the whole product: database, queue, worker, watcher.

Each fault is put in the middle of a migration: the guest goes on, exactly once, and every row tells the truth.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from cloudops.lab.domain import GuestSpec
from cloudops.lab.lab import Lab
from cloudops.lab.process import ServiceError
from tests.e2e.conftest import e2e_database, product
from tests.e2e.inside import Inside
from tests.e2e.product import Product, eventually
from tests.lab.fixtures import guest_image, lab_of_two, two_hosts

__all__ = ["e2e_database", "lab_of_two", "product", "two_hosts"]
pytestmark = [pytest.mark.real, pytest.mark.fault, pytest.mark.timeout(420)]
ENDED = """
SELECT o.status, o.error_code, o.error_detail, o.steps, o.result, m.phase, m.progress, m.runner, m.ended_at,
       h.name AS host, v.power_state
FROM core_operation o JOIN placement_vmmigration m ON m.operation_id = o.id
JOIN inventory_vm v ON v.id = m.vm_id JOIN inventory_host h ON h.id = v.host_id WHERE o.id = %s
"""
CLAIMS = """
SELECT h.name, c.kind FROM placement_claim c JOIN inventory_host h ON h.id = c.host_id
JOIN inventory_vm v ON v.id = c.vm_id WHERE v.name = %s
"""
SUMS = """
SELECT h.name FROM placement_hostcapacity k JOIN inventory_host h ON h.id = k.host_id
WHERE memory_claimed_mib <> (SELECT COALESCE(SUM(memory_mib), 0) FROM placement_claim c WHERE c.host_id = k.host_id)
"""


@dataclass
class Installation:
    product: Product
    database: str
    lab: Lab
    inside: Inside
    hosts: dict[str, str]

    def ask(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.database, autocommit=True, row_factory=dict_row, connect_timeout=10) as database:
            return database.execute(query.encode(), values).fetchall()

    def boot(self, name: str, *, linux: bool = False) -> str:
        """A guest on kvm-01 that the inventory knows; its id."""
        guest = GuestSpec(name, guest_image()) if linux else GuestSpec(name, memory_mib=64)
        self.lab.boot(guest, on="kvm-01", wait=linux)
        return str(self.inside.sync()[name])

    def migrate(self, vm: str, to: str = "kvm-02", **options: Any) -> str:
        return str(self.inside.migrate(vm=vm, to=self.hosts[to], **options))

    def state(self, operation: str) -> dict[str, Any]:
        (row,) = self.ask(ENDED, operation)
        return row

    def moving(self, operation: str, *, past_percent: int = 0) -> dict[str, Any]:
        """Waits until memory is being copied."""

        def look() -> dict[str, Any] | None:
            row = self.state(operation)
            assert row["ended_at"] is None, row
            return row if row["progress"].get("percent", -1) > past_percent else None

        return eventually(look, within_seconds=40, what="memory is being copied") or {}

    def taken_up(self, operation: str, *, after: str = "") -> None:
        """Waits until another worker than ``after`` has it in hand."""
        eventually(
            lambda: self.state(operation)["runner"] not in {"", after}, within_seconds=60, what="a worker takes it up"
        )

    def ended(self, operation: str, *, within_seconds: float = 90) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            row = self.state(operation)
            return row if row["ended_at"] is not None else None

        return eventually(look, within_seconds=within_seconds, what=f"{operation} ends") or {}

    def runs_on(self, name: str, host: str) -> bool:
        """False too while a host that was hurt is not back yet."""
        try:
            return self.lab.where(name) == host
        except ServiceError:
            return False

    def truth(self, name: str, host: str) -> None:
        """Hypervisors, inventory and claims agree, and the guest runs exactly once."""
        assert self.lab.where(name) == host
        (row,) = self.ask(
            "SELECT h.name AS host, v.power_state FROM inventory_vm v JOIN inventory_host h ON h.id = v.host_id"
            " WHERE v.name = %s",
            name,
        )
        assert row == {"host": host, "power_state": "running"}
        assert self.ask(CLAIMS, name) == [{"name": host, "kind": "vm"}]
        assert self.ask(SUMS) == []
        other = next(one for one in self.lab.names if one != host)
        assert name not in self.lab.host(other).virsh("list", "--all", "--name").split()


@pytest.fixture(scope="module")
def hosts_added(product: Product, e2e_database: str, lab_of_two: Lab) -> Iterator[Installation]:
    with Inside(product.env, "tests.placement.mover") as inside:
        by_uri = inside.seed(uris=[lab_of_two.uri(name) for name in lab_of_two.names])
        hosts = {name: by_uri[lab_of_two.uri(name)] for name in lab_of_two.names}
        yield Installation(product, e2e_database, lab_of_two, inside, hosts)


@pytest.fixture
def installation(hosts_added: Installation, two_hosts: Lab) -> Iterator[Installation]:
    yield hosts_added
    if "migrations" not in hosts_added.product.children:
        hosts_added.product.start_migrations()


def test_a_linux_guest_moves_and_never_notices(installation: Installation) -> None:
    vm = installation.boot("linux-1", linux=True)
    before = installation.lab.life("linux-1")
    operation = installation.migrate(vm)
    row = installation.ended(operation)
    assert row["status"] == "succeeded", row
    assert [step["status"] for step in row["steps"]] == ["done"] * 5
    assert row["progress"]["memory_total_mib"] > 100
    assert 0 < row["progress"]["downtime_milliseconds"] < 5_000
    installation.truth("linux-1", "kvm-02")
    after = installation.lab.life("linux-1")
    assert after.boot_id == before.boot_id
    assert after.uptime_seconds > before.uptime_seconds

    home = installation.ended(installation.migrate(vm, to="kvm-01"))
    assert home["status"] == "succeeded", home
    installation.truth("linux-1", "kvm-01")
    assert installation.lab.life("linux-1").boot_id == before.boot_id


def test_abort_at_one_mib_per_second(installation: Installation) -> None:
    vm = installation.boot("slow-1", linux=True)
    operation = installation.migrate(vm, bandwidth_mib_per_second=1)
    row = installation.moving(operation)
    assert "MiB left" in row["steps"][2]["detail"]
    installation.inside.abort(operation=operation)
    asked = time.monotonic()
    row = installation.ended(operation, within_seconds=20)
    assert (row["status"], row["error_code"]) == ("cancelled", "migration-cancelled"), row
    assert time.monotonic() - asked < 15
    installation.truth("slow-1", "kvm-01")


def test_a_worker_killed_in_the_middle_is_followed_by_another(installation: Installation) -> None:
    vm = installation.boot("orphan-1", linux=True)
    before = installation.lab.life("orphan-1")
    operation = installation.migrate(vm, bandwidth_mib_per_second=4)
    installation.moving(operation, past_percent=5)
    installation.product.kill("migrations")
    killed_runner = installation.state(operation)["runner"]
    installation.product.start_migrations()
    installation.taken_up(operation, after=killed_runner)
    installation.lab.hurry("orphan-1", on="kvm-01")
    row = installation.ended(operation)
    assert row["status"] == "succeeded", row
    assert killed_runner
    assert row["progress"]["begun"] == 1
    installation.truth("orphan-1", "kvm-02")
    assert installation.lab.life("orphan-1").boot_id == before.boot_id


def test_a_worker_stopped_in_the_middle_hands_it_on(installation: Installation) -> None:
    vm = installation.boot("handed-1", linux=True)
    operation = installation.migrate(vm, bandwidth_mib_per_second=4)
    installation.moving(operation)
    began = time.monotonic()
    installation.product.stop("migrations")
    assert time.monotonic() - began < 15
    assert installation.state(operation)["runner"] == ""
    installation.product.start_migrations()
    installation.taken_up(operation)
    installation.lab.hurry("handed-1", on="kvm-01")
    row = installation.ended(operation)
    assert (row["status"], row["progress"]["begun"]) == ("succeeded", 1), row
    installation.truth("handed-1", "kvm-02")


@pytest.mark.parametrize("victim", ["kvm-02", "kvm-01"])
def test_a_libvirtd_killed_in_the_middle(installation: Installation, victim: str) -> None:
    """The guest goes on; the operation ends in words, or well, where the migration was begun once more."""
    name = f"hurt-{victim}"
    vm = installation.boot(name, linux=True)
    before = installation.lab.life(name)
    operation = installation.migrate(vm, bandwidth_mib_per_second=4, timeout_seconds=90)
    installation.moving(operation)
    installation.lab.kill_libvirtd(victim)
    row = installation.ended(operation, within_seconds=150)
    assert row["status"] in {"failed", "succeeded"}
    if row["status"] == "failed":
        assert row["error_code"].startswith(("migration-", "destination-", "hypervisor-")), row
        assert row["error_detail"]
    place = "kvm-02" if row["status"] == "succeeded" else "kvm-01"
    eventually(lambda: installation.runs_on(name, place), within_seconds=30, what="it runs in one place")
    installation.inside.sync()
    installation.truth(name, place)
    assert installation.lab.life(name).boot_id == before.boot_id


def test_a_guest_that_is_off_moves_too(installation: Installation) -> None:
    vm = installation.boot("off-1")
    installation.lab.host("kvm-01").virsh("destroy", "off-1")
    installation.inside.sync()
    row = installation.ended(installation.migrate(vm))
    assert row["status"] == "succeeded", row
    assert (row["host"], row["power_state"]) == ("kvm-02", "off")
    assert "off-1" in installation.lab.host("kvm-02").virsh("list", "--all", "--name").split()
    assert "off-1" not in installation.lab.host("kvm-01").virsh("list", "--all", "--name").split()
    assert installation.ask(CLAIMS, "off-1") == []


def test_a_frozen_destination_ends_it_and_the_guest_goes_on(installation: Installation) -> None:
    vm = installation.boot("cold-1", linux=True)
    before = installation.lab.life("cold-1")
    operation = installation.migrate(vm, bandwidth_mib_per_second=4)
    installation.moving(operation)
    installation.lab.freeze("kvm-02")
    row = installation.ended(operation, within_seconds=120)
    assert row["status"] == "failed", row
    assert row["error_detail"]
    installation.lab.thaw("kvm-02")
    installation.inside.sync()
    eventually(lambda: installation.runs_on("cold-1", "kvm-01"), within_seconds=30, what="it runs at its source")
    installation.inside.sync()
    installation.truth("cold-1", "kvm-01")
    assert installation.lab.life("cold-1").boot_id == before.boot_id


def test_cloudops_cut_off_from_both_hosts_waits_until_it_knows(installation: Installation) -> None:
    """The hosts go on among themselves; meanwhile nothing is guessed and room is kept on both."""
    vm = installation.boot("alone-1", linux=True)
    before = installation.lab.life("alone-1")
    operation = installation.migrate(vm, bandwidth_mib_per_second=8)
    installation.moving(operation)
    installation.lab.unplug("uplink")
    eventually(
        lambda: "Neither host answers" in installation.state(operation)["steps"][2]["detail"],
        within_seconds=60,
        what="it says that it does not know",
    )
    kept = {(row["name"], row["kind"]) for row in installation.ask(CLAIMS, "alone-1")}
    assert kept == {("kvm-01", "vm"), ("kvm-02", "incoming")}
    installation.lab.plug("uplink")
    installation.lab.hurry("alone-1", on="kvm-01")
    row = installation.ended(operation)
    assert row["status"] == "succeeded", row
    installation.truth("alone-1", "kvm-02")
    assert installation.lab.life("alone-1").boot_id == before.boot_id


def test_a_destination_that_loses_power_ends_it_and_the_guest_goes_on(installation: Installation) -> None:
    vm = installation.boot("lucky-1", linux=True)
    before = installation.lab.life("lucky-1")
    operation = installation.migrate(vm, bandwidth_mib_per_second=4)
    installation.moving(operation)
    installation.lab.crash("kvm-02")
    row = installation.ended(operation)
    assert row["status"] == "failed", row
    assert row["error_detail"]
    installation.lab.start_host("kvm-02")
    installation.inside.sync()
    installation.truth("lucky-1", "kvm-01")
    assert installation.lab.life("lucky-1").boot_id == before.boot_id
