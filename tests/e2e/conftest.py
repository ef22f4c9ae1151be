"""An installation for each module of tests: PostgreSQL, Redis, a real libvirt host with two guests, and a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from cloudops.lab.libvirtd import LibvirtHost
from tests import databases
from tests.conftest import WORKER
from tests.e2e.api import Api
from tests.e2e.browser import Person, launch_options
from tests.e2e.product import Product
from tests.lab.fixtures import lab_of_three, real_host, three_hosts

__all__ = ["lab_of_three", "real_host", "three_hosts"]


@pytest.fixture(scope="module")
def e2e_database(
    postgres_url: str, product_env: Callable[..., dict[str, str]], request: pytest.FixtureRequest
) -> Iterator[str]:
    """URL of a fresh PostgreSQL database with all tables."""
    name = f"e2e_{request.module.__name__.rpartition('.')[2]}_{WORKER or 'alone'}"
    yield databases.in_postgres(postgres_url, name, make_env=product_env)
    databases.drop_postgres(postgres_url, name)


@pytest.fixture(scope="module")
def product(
    tmp_path_factory: pytest.TempPathFactory,
    product_env: Callable[..., dict[str, str]],
    e2e_database: str,
    redis_url: str,
) -> Iterator[Product]:
    folder = tmp_path_factory.mktemp("product")
    with Product(
        folder, make_env=product_env, database_url=e2e_database, redis_url=redis_url, migrated=True
    ) as running:
        yield running


@pytest.fixture(scope="module")
def seeded(product: Product, real_host: LibvirtHost) -> dict[str, Any]:
    """The cast and the real host in CloudOps: see ``tests.e2e.seed``."""
    answer: dict[str, Any] = product.run("seed", uri=real_host.uri, kind="libvirt")
    return answer


@pytest.fixture
def api(product: Product, seeded: dict[str, Any]) -> Callable[[str], Api]:
    """``api("alice")``: an API client with that person's token."""
    return lambda username: Api(product.url, seeded["tokens"][username])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(**launch_options())
        yield chromium
        chromium.close()


@pytest.fixture
def person(browser: Browser, product: Product) -> Iterator[Callable[..., Person]]:
    """``person("alice")`` with a browser of her own, closed at the end."""
    people: list[Person] = []

    def make(username: str, **options: Any) -> Person:
        people.append(Person(browser, product.url, username, **options))
        return people[-1]

    yield make
    for one in people:
        one.close()
