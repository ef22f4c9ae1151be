"""An installation whose database, Redis and servers may be killed: nothing here is shared with other tests; and drains
of real hosts in which something breaks."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from cloudops.lab.domain import GuestSpec
from cloudops.lab.lab import Lab
from cloudops.lab.libvirtd import LibvirtHost
from cloudops.lab.process import free_port
from cloudops.lab.services import PrivatePostgres, PrivateRedis
from tests.e2e.api import Api
from tests.e2e.browser import Person
from tests.e2e.conftest import browser, e2e_database, product
from tests.e2e.drains import GUEST_MIB, Fleet, register, told
from tests.e2e.inside import Inside
from tests.e2e.product import Product, eventually
from tests.faults.drain import (
    GUESTS,
    HOME,
    ROOMS,
    SLOW_MIB_PER_SECOND,
    TIMEOUT_SECONDS,
    Drain,
    first_target,
    tells_the_truth,
)
from tests.lab.fixtures import BOOT_SECONDS, guest_image, lab_of_three, real_host

__all__ = ["browser", "e2e_database", "lab_of_three", "product", "real_host"]
FLEET_URI = "simulated://others?hosts=1&vms=2&seed=7"


@dataclass
class Installation:
    """Two management servers ("web" and "second"), a real host and a simulated one."""

    product: Product
    postgres: PrivatePostgres
    redis: PrivateRedis
    real: dict[str, Any]
    simulated: dict[str, Any]
    second_port: int
    clients: list[Any] = field(default_factory=list)

    def api(self, username: str = "ada", *, server: str = "web") -> Api:
        port = self.product.port if server == "web" else self.second_port
        return Api(f"http://127.0.0.1:{port}", self.real["tokens"][username])

    def in_use(self, *, server: str = "web", host: str = "") -> int:
        answer = self.api(server=server).get(f"/hosts/{host or self.real['host']}/")
        assert answer.status == 200, answer
        return int(answer.body["consoles"]["in_use"])

    def closed_reason(self, session_id: str, *, server: str = "web") -> str:
        return str(self.api(server=server).get(f"/console-sessions/{session_id}/").body["closed_reason"])

    def all_free(self) -> None:
        """Every slot is given back."""
        for host in (self.real["host"], self.simulated["host"]):
            eventually(partial(self._is_free, host), within_seconds=20, what=f"all slots of {host} are free")

    def _is_free(self, host: str) -> bool:
        return self.in_use(host=host) == 0


@pytest.fixture(scope="module")
def installation(
    tmp_path_factory: pytest.TempPathFactory, product_env: Callable[..., dict[str, str]], real_host: LibvirtHost
) -> Iterator[Installation]:
    services = Path(tempfile.mkdtemp(prefix="cloudops-faults-"))
    services.chmod(0o711)
    try:
        with PrivatePostgres(services / "pg") as postgres, PrivateRedis(services / "redis") as redis:
            folder = tmp_path_factory.mktemp("faults")
            with Product(folder, make_env=product_env, database_url=postgres.url(), redis_url=redis.url()) as product:
                real = product.run("seed", uri=real_host.uri, kind="libvirt")
                simulated = product.run("seed", uri=FLEET_URI, kind="simulated")
                second = free_port()
                product.start_web("second", second)
                yield Installation(product, postgres, redis, real, simulated, second)
    finally:
        shutil.rmtree(services, ignore_errors=True)


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
