"""An installation whose database, Redis and servers may be killed: nothing here is shared with other tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cloudops.lab.libvirtd import LibvirtHost
from cloudops.lab.process import free_port
from cloudops.lab.services import PrivatePostgres, PrivateRedis
from tests.e2e.api import Api
from tests.e2e.conftest import browser, e2e_database, product
from tests.e2e.product import Product, eventually
from tests.lab.fixtures import lab_of_three, real_host

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
