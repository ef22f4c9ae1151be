"""The project switcher in a browser: by keyboard, in every window, without scripts, and in what it looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.api import Api
from tests.e2e.browser import Person
from tests.e2e.product import Product
from tests.e2e.test_screens import SIZES, look

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]
LONG = "a project with quite a long name, for the sake of it"


@pytest.fixture(scope="module")
def seeded(product: Product) -> dict[str, Any]:
    """Without a real hypervisor: nothing here opens a console."""
    answer: dict[str, Any] = product.run("seed", uri="simulated://switch?hosts=1&vms=4&seed=1", kind="simulated")
    return answer


@pytest.fixture(autouse=True, scope="module")
def _two_projects(product: Product, seeded: dict[str, Any]) -> None:
    """Alice is in two projects; apollo has the VMs but one."""
    admin = Api(product.url, seeded["tokens"]["ada"])
    [alice] = admin.get("/users/?search=alice").body["results"]
    made = admin.post("/projects/", {"name": LONG}).body
    assert admin.post("/memberships/", {"project": made["id"], "user": alice["id"]}).status == 201
    first = sorted(seeded["vms"].items())[0][1]
    assert admin.post("/vms/assign/", {"vms": [first], "project": made["id"]}).status == 200


@pytest.fixture(autouse=True)
def _all_projects(product: Product, seeded: dict[str, Any]) -> None:
    """Every test begins with the choice of all."""
    assert Api(product.url, seeded["tokens"]["alice"]).patch("/me/", {"current_project": None}).status == 200


def switcher(page: Page) -> Any:
    return page.get_by_role("button", name="Choose another")


def vms(page: Page) -> Any:
    return page.locator("#my-vms-table tbody tr")


@pytest.mark.parametrize("size", SIZES)
def test_it_is_used_by_keyboard_and_looks_right(person: Callable[..., Person], size: str) -> None:
    alice = person("alice", viewport=SIZES[size])
    page = alice.sign_in()
    expect(vms(page)).to_have_count(4)
    switcher(page).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="All projects", pressed=True)).to_be_focused()
    assert look(page, "switcher-open", size) == []
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(switcher(page)).to_have_attribute("aria-label", f"Project: {LONG}. Choose another")
    expect(vms(page)).to_have_count(1)
    assert look(page, "switcher", size) == []
    assert alice.complaints == []


def test_the_choice_holds_in_every_window(person: Callable[..., Person], product: Product) -> None:
    alice = person("alice")
    page = alice.sign_in()
    other = alice.context.new_page()
    other.goto(f"{product.url}/my/vms/")
    expect(other.get_by_text("live", exact=True)).to_be_visible()
    switcher(page).click()
    page.get_by_role("button", name="apollo").click()
    expect(vms(page)).to_have_count(3)
    expect(vms(other)).to_have_count(3, timeout=5_000)
    expect(switcher(other)).to_have_attribute("aria-label", "Project: apollo. Choose another")


def test_it_works_without_scripts(person: Callable[..., Person]) -> None:
    page = person("alice", java_script_enabled=False).sign_in()
    switcher(page).click()
    button, menu = switcher(page).bounding_box(), page.locator("#switcher-menu").bounding_box()
    assert button is not None
    assert menu is not None
    assert abs(menu["y"] - button["y"] - button["height"]) < 8
    page.get_by_role("button", name="apollo").click()
    expect(vms(page)).to_have_count(3)
