"""The main job, as people do it: sign in, open a real guest's console, type, close; an administrator watches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from cloudops.lab.libvirtd import LibvirtHost
from tests.e2e.api import Api
from tests.e2e.browser import Person
from tests.e2e.product import Product, eventually

SCREEN = "canvas:not([data-part=frozen])"
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]


def open_console(page: Page, vm: str) -> Page:
    """My VMs → Console; the console opens in a tab of its own."""
    row = page.locator("tr, article, li").filter(has_text=vm).last
    with page.context.expect_page() as opened:
        row.get_by_role("link", name="Console").click()
    return opened.value


def picture_appears(console: Page) -> None:
    """The canvas shows more than one colour: a guest's screen, not an empty rectangle."""
    canvas = console.locator(SCREEN)
    expect(canvas).to_be_visible(timeout=20_000)
    colours = """canvas => {
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const seen = new Set();
        for (let i = 0; i < pixels.length; i += 4) seen.add((pixels[i] << 16) | (pixels[i+1] << 8) | pixels[i+2]);
        return seen.size;
    }"""
    eventually(lambda: canvas.evaluate(colours) > 1, within_seconds=20, what="the guest's picture")


def type_into(console: Page, text: str) -> None:
    """As a keyboard does: Shift goes down for what needs it. Playwright alone names the character, not the Shift, and a
    console passes keys on, not characters."""
    console.locator(SCREEN).click()
    for character in text:
        needs_shift = character.isupper() or character in '~!@#$%^&*()_+{}|:"<>?'
        if needs_shift:
            console.keyboard.down("Shift")
        console.keyboard.type(character, delay=25)
        if needs_shift:
            console.keyboard.up("Shift")
    console.keyboard.press("Enter")


def in_use(api: Api, host: str) -> int:
    body = api.get(f"/hosts/{host}/").body
    return int(body["consoles"]["in_use"])


def test_a_tenant_works_in_a_real_guest_and_gives_the_slot_back(
    person: Callable[..., Person],
    api: Callable[[str], Api],
    seeded: dict[str, Any],
    real_host: LibvirtHost,
) -> None:
    alice = person("alice")
    page = alice.sign_in()
    assert "/my/vms/" in page.url
    console = open_console(page, "alpha")
    picture_appears(console)
    assert in_use(api("ada"), seeded["host"]) == 1

    type_into(console, "echo typed-$((40+2)) > /dev/ttyS0")
    real_host.wait_serial("alpha", "typed-42", timeout_seconds=15)

    console.close()
    closed = time.monotonic()
    eventually(lambda: in_use(api("ada"), seeded["host"]) == 0, within_seconds=3, what="the slot is free")
    assert time.monotonic() - closed <= 1.5
    assert alice.complaints == []


def test_two_people_work_and_a_third_sees_the_counts_live(
    person: Callable[..., Person], seeded: dict[str, Any], real_host: LibvirtHost
) -> None:
    fleet = person("ada").sign_in()
    assert "/fleet/" in fleet.url
    row = fleet.locator("tr").filter(has_text=real_host.name)
    expect(row).to_contain_text("0 of 40")

    alice, bob = person("alice"), person("bob")
    first = open_console(alice.sign_in(), "alpha")
    picture_appears(first)
    expect(row).to_contain_text("1 of 40", timeout=15_000)
    second = open_console(bob.sign_in(), "beta")
    picture_appears(second)
    expect(row).to_contain_text("2 of 40", timeout=15_000)

    board = fleet.context.new_page()
    board.goto(f"{alice.url}/consoles/")
    expect(board.get_by_role("row").filter(has_text="alice")).to_contain_text("alpha")
    expect(board.get_by_role("row").filter(has_text="bob")).to_contain_text("beta")

    first.close()
    expect(row).to_contain_text("1 of 40", timeout=15_000)
    second.get_by_role("button", name="Disconnect").first.click()
    expect(second.get_by_text("You closed this console.").first).to_be_visible()
    expect(row).to_contain_text("0 of 40", timeout=15_000)
    expect(board.get_by_role("row").filter(has_text="alice")).to_have_count(0, timeout=15_000)


def test_at_the_limit_the_page_names_it_and_offers_the_way_out(
    person: Callable[..., Person], api: Callable[[str], Api], seeded: dict[str, Any]
) -> None:
    admin = api("ada")
    assert admin.patch(f"/hosts/{seeded['host']}/", {"console_limit_override": 1}).status == 200
    try:
        bob = person("bob")
        held = open_console(bob.sign_in(), "beta")
        picture_appears(held)

        refused = open_console(person("alice").sign_in(), "alpha")
        expect(refused.get_by_text("1 of 1").first).to_be_visible()
        refused.get_by_role("button", name="Ask for a slot").first.click()
        expect(held.get_by_text("alice").first).to_be_visible()
        held.get_by_role("button", name="Release").first.click()
        expect(held.get_by_role("button", name="Open again")).to_be_visible()
        eventually(lambda: in_use(admin, seeded["host"]) == 0, within_seconds=5, what="the slot is free")
    finally:
        admin.patch(f"/hosts/{seeded['host']}/", {"console_limit_override": None})


def test_idle_warning_stay_connected_and_disconnect(
    person: Callable[..., Person], api: Callable[[str], Api], seeded: dict[str, Any]
) -> None:
    admin = api("ada")
    short = {"console_idle_warning_seconds": 10, "console_idle_disconnect_seconds": 20}
    assert admin.patch("/settings/", short).status == 200
    try:
        console = open_console(person("alice").sign_in(), "alpha")
        picture_appears(console)
        stay = console.get_by_role("button", name="Stay connected")
        expect(stay).to_be_visible(timeout=15_000)
        stay.click()
        expect(stay).to_be_hidden()
        expect(stay).to_be_visible(timeout=15_000)
        expect(console.get_by_text("Disconnected because there was no input.").first).to_be_visible(timeout=15_000)
        eventually(lambda: in_use(admin, seeded["host"]) == 0, within_seconds=3, what="the slot is free")
    finally:
        admin.patch("/settings/", {"console_idle_warning_seconds": 600, "console_idle_disconnect_seconds": 900})


def test_an_administrator_disconnects_a_console_and_the_page_says_so(
    person: Callable[..., Person], api: Callable[[str], Api], seeded: dict[str, Any]
) -> None:
    console = open_console(person("alice").sign_in(), "alpha")
    picture_appears(console)
    admin = api("ada")
    (session,) = admin.get("/console-sessions/?status=active").body["results"]
    assert admin.delete(f"/console-sessions/{session['id']}/").status in {200, 204}
    expect(console.get_by_text("Disconnected by an administrator").first).to_be_visible(timeout=3_000)


def test_a_stranger_sees_nothing_of_the_vm(
    person: Callable[..., Person], api: Callable[[str], Api], seeded: dict[str, Any], product: Product
) -> None:
    page = person("mallory").sign_in()
    vm = seeded["vms"]["alpha"]
    for path in (f"/vms/{vm}/", f"/vms/{vm}/console/"):
        answer = page.goto(f"{product.url}{path}")
        assert answer is not None
        assert answer.status == 404
    assert api("mallory").post(f"/vms/{vm}/console-sessions/").status == 404


def test_the_product_keeps_quiet(product: Product) -> None:
    """No traceback in any log after all of the above."""
    for name in product.children:
        assert "Traceback" not in product.logs(name), product.logs(name)[-4000:]
