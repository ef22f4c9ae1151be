"""Workers are killed (SIGKILL) in every phase of resizes of a real guest: whoever comes next ends them truthfully, the
claims add up, and nobody else gets at the VM meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from cloudops.lab.domain import GuestSpec
from cloudops.lab.lab import Lab
from tests.e2e.inside import Inside
from tests.e2e.product import Product
from tests.lab.fixtures import guest_image, lab_of_two

__all__ = ["lab_of_two"]
pytestmark = [pytest.mark.fault, pytest.mark.real, pytest.mark.timeout(480)]
GUEST_MIB = 256
ROOMS_MIB = [1_024, 4_096]
THREADS = 8
PHASES = ["preparing", "moving", "stopping", "defining", "starting", "changing", "confirming", "ended"]
ENDS_SECONDS = 120.0


@dataclass
class Bench:
    """A guest on a real host, and two workers of which the one at work is killed."""

    product: Product
    lab: Lab
    inside: Inside
    database: str
    vm: str = ""

    def resize(self, vcpus: int, memory_mib: int, how: str) -> str:
        answer: dict[str, str] = self.inside.resize(vm=self.vm, vcpus=vcpus, memory_mib=memory_mib, how=how)
        assert "operation" in answer, answer
        return answer["operation"]

    def kill_in(self, operation: str, phase: str) -> str:
        """Kills whoever works on it once it has come to this phase; the phase that it was in by then. Somebody else is
        told that it is being resized, and a new worker begins."""
        with psycopg.connect(self.database, autocommit=True, connect_timeout=10) as database:
            end = time.monotonic() + ENDS_SECONDS
            while True:
                query = "SELECT phase, runner FROM scaling_resize WHERE operation_id = %s"
                now, runner = database.execute(query, (operation,)).fetchone() or ("", "")
                if PHASES.index(now) >= PHASES.index(phase) and (runner or now in {"moving", "ended"}):
                    break
                assert time.monotonic() < end, f"{operation} stays {now}"
                time.sleep(0.005)
        self.product.kill("migrations")
        if now != "ended":
            answer = self.inside.resize(vm=self.vm, vcpus=1, memory_mib=320, how="live")
            assert answer.get("refused") == "operation-running", answer
        self.product.start_migrations()
        return str(now)

    def ended(self, operation: str) -> dict[str, Any]:
        end = time.monotonic() + ENDS_SECONDS
        while (found := self.inside.ended(operation=operation)) is None:
            assert time.monotonic() < end, self.inside.state(operation=operation)
            time.sleep(0.5)
        return dict(found)

    def books_agree(self, host: str, size: list[int], power: str = "running") -> dict[str, Any]:
        """Hypervisor, inventory and claims tell the same."""
        truth: dict[str, Any] = self.inside.truth(vm=self.vm)
        assert (truth["power"], truth["size"]) == (power, size), truth
        assert truth["known"] == size, truth
        assert truth["claims"] == [[host, "vm", *size]], truth
        assert truth["drift"] == [], truth
        return truth


@pytest.fixture(scope="module")
def bench(lab_of_two: Lab, product: Product, e2e_database: str) -> Iterator[Bench]:
    """One guest that can grow, on the smaller of two hosts."""
    lab_of_two.reset()
    guest = GuestSpec("web", guest_image(), memory_mib=GUEST_MIB, vnc_listen=None)
    lab_of_two.boot(guest, on="kvm-01", wait=True)
    with Inside(product.env, "tests.scaling.resizer") as inside:
        inside.seed(uris=[lab_of_two.uri(name) for name in lab_of_two.names], rooms_mib=ROOMS_MIB)
        yield Bench(product, lab_of_two, inside, e2e_database, vm=inside.sync()["web"])
    lab_of_two.reset()


def test_killed_in_every_phase(bench: Bench) -> None:
    """Live, then after a move, then with a restart: the same guest all along."""
    life = bench.lab.life("web")
    live = bench.resize(2, 512, "live")
    assert bench.kill_in(live, "changing") == "changing"
    bench.kill_in(live, "confirming")
    ended = bench.ended(live)
    assert (ended["status"], ended["host"]) == ("succeeded", "kvm-01"), ended
    assert "512 of 512 MiB" in ended["words"], ended
    bench.books_agree("kvm-01", [2, 512])

    moved = bench.resize(2, 1_200, "move")
    assert bench.kill_in(moved, "moving") == "moving"
    ended = bench.ended(moved)
    assert (ended["status"], ended["host"]) == ("succeeded", "kvm-02"), ended
    bench.books_agree("kvm-02", [2, 1_200])
    assert bench.lab.life("web").boot_id == life.boot_id, "the guest never noticed"

    restarted = bench.resize(1, 300, "restart")
    killed = {bench.kill_in(restarted, phase) for phase in ("stopping", "defining", "starting")}
    assert "stopping" in killed
    ended = bench.ended(restarted)
    assert (ended["status"], ended["outcome"]) == ("succeeded", "applied"), ended
    truth = bench.books_agree("kvm-02", [1, 300])
    assert truth["ceiling"][0] == THREADS, "it got its headroom with the start: as much as its host has"
