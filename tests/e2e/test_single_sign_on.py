"""Single sign-on in a browser: the content security policy lets it through, and signing out ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.browser import Person
from tests.e2e.product import Product
from tests.sso.provider import CLIENT_ID, CLIENT_SECRET, Provider, running_provider

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    with running_provider(tmp_path_factory.mktemp("oidc")) as running:
        yield running


@pytest.fixture(scope="module")
def product(
    tmp_path_factory: pytest.TempPathFactory,
    product_env: Callable[..., dict[str, str]],
    e2e_database: str,
    redis_url: str,
    provider: Provider,
) -> Iterator[Product]:
    """The product with exactly the variables that docs/security.md names."""
    folder = tmp_path_factory.mktemp("product")
    secret = folder / "client-secret"
    secret.write_text(CLIENT_SECRET + "\n")
    make_env = partial(
        product_env,
        CLOUDOPS_OIDC_SERVER_URL=provider.url,
        CLOUDOPS_OIDC_CLIENT_ID=CLIENT_ID,
        CLOUDOPS_OIDC_CLIENT_SECRET_FILE=str(secret),
        CLOUDOPS_OIDC_NAME="Example ID",
    )
    with Product(folder, make_env=make_env, database_url=e2e_database, redis_url=redis_url) as running:
        running.run("seed", uri="simulated://sso?hosts=1&vms=2&seed=1", kind="simulated")
        yield running


def leave_for_the_provider(page: Page, product: Product, provider: Provider) -> None:
    page.goto(f"{product.url}/my/vms/")
    page.get_by_role("button", name="Sign in with Example ID").click()
    page.wait_for_url(f"{provider.url}/oauth2/authorize**")


def agree(page: Page, product: Product, sub: str) -> None:
    page.get_by_placeholder("sub").fill(sub)
    page.get_by_role("button", name="Authorize").click()
    page.wait_for_url(f"{product.url}/**")


def test_somebody_new_signs_in_and_out(person: Callable[..., Person], product: Product, provider: Provider) -> None:
    provider.knows("b-1", email="nina@example.org", email_verified=True, preferred_username="nina")
    visitor = person("nina")
    page = visitor.context.new_page()
    leave_for_the_provider(page, product, provider)
    agree(page, product, "b-1")
    visitor.complaints.clear()  # the provider's page asks for a style sheet from elsewhere
    assert page.url == f"{product.url}/my/vms/"
    expect(page.get_by_text("You are in no project yet")).to_be_visible()
    page.get_by_role("button", name="nina").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/account/login/**")
    page.goto(f"{product.url}/my/vms/")
    assert "/account/login/" in page.url
    assert visitor.complaints == []


def test_a_refusal_is_a_page_with_the_way_out(
    person: Callable[..., Person], product: Product, provider: Provider
) -> None:
    provider.knows("b-2", email="eve@example.org", email_verified=False)
    page = person("eve").context.new_page()
    leave_for_the_provider(page, product, provider)
    agree(page, product, "b-2")
    expect(page.get_by_text("has not verified your e-mail address").first).to_be_visible()
    expect(page.get_by_text("Confirm the address there").first).to_be_visible()
    page.get_by_role("link", name="Go to the start").click()
    page.wait_for_url("**/account/login/**")


def test_the_product_keeps_quiet(product: Product) -> None:
    assert "Traceback" not in product.logs("web"), product.logs("web")[-4000:]
