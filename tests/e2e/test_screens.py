"""Every page as people see it: light and dark, wide and narrow, without accessibility faults or browser errors.

With CLOUDOPS_TEST_SCREENSHOTS=1 pictures of them go to docs/screenshots.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.api import Api
from tests.e2e.browser import Person
from tests.e2e.console_client import ConsoleClient
from tests.e2e.product import ROOT, Product
from tests.e2e.test_console import picture_appears

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

AXE = ROOT / "frontend" / "node_modules" / "axe-core" / "axe.min.js"
SIZES = {"1440": {"width": 1440, "height": 900}, "390": {"width": 390, "height": 844}}
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
FLEET_URI = "simulated://fleet?hosts=6&vms=8&seed=3"
# Fonts are there, what the page asks for after it was loaded has come, and nothing moves any more that will ever rest.
# A page of something that is under way may never be so calm: it is taken as it is after a while.
SETTLED = """async () => {
    await document.fonts.ready;
    const until = performance.now() + 3000;
    for (let calm = 0; calm < 3 && performance.now() < until; calm++) {
        await new Promise(requestAnimationFrame);
        const moving = document.getAnimations().filter(one => one.effect.getComputedTiming().endTime !== Infinity);
        const late = new Promise(done => setTimeout(done, until - performance.now()));
        await Promise.race([late, Promise.allSettled(moving.map(one => one.finished))]);
        if (document.querySelector(".htmx-request")) calm = -1;
    }
}"""
COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules of axe-core whose findings depend on the theme."""

ADMIN_PAGES = {
    "fleet": "/fleet/",
    "host": "/hosts/{host}/",
    "host-add": "/hosts/add/",
    "clusters": "/clusters/",
    "vms": "/vms/",
    "vm": "/vms/{vm}/",
    "vm-moving": "/vms/{moving}/",
    "vm-placement": "/vms/{asking}/placement/",
    "migrate": "/vms/{still}/migrate/",
    "migrate-several": "/migrations/several/?{several}",
    "migrations": "/migrations/",
    "host-draining": "/hosts/{emptied}/",
    "host-placement": "/hosts/{spare}/placement/",
    "fence": "/hosts/{spare}/fence/",
    "placement": "/placement/",
    "placement-try": "/placement/try/?vm={asking}",
    "decisions": "/placement/decisions/",
    "decision": "/placement/decisions/{decision}/",
    "policy": "/placement/policies/{cluster}/",
    "groups": "/placement/groups/",
    "group": "/placement/groups/{group}/edit/",
    "templates": "/templates/",
    "drift": "/placement/drift/",
    "maintenance": "/maintenance/",
    "maintenance-choose": "/maintenance/new/",
    "maintenance-preview": "/maintenance/new/?host={spare}",
    "maintenance-job": "/maintenance/{job}/",
    "vm-scale": "/vms/{sized}/scale/?offering={growing}",
    "vm-size": "/vms/{sized}/size/",
    "vm-headroom": "/vms/{sized}/headroom/",
    "scaling": "/scaling/?offering={growing}&vcpus=2&memory_mib=4096",
    "cluster-headroom": "/scaling/clusters/{cluster}/",
    "consoles": "/consoles/",
    "console-history": "/consoles/history/",
    "offerings": "/offerings/",
    "settings": "/settings/",
    "audit": "/audit/",
    "servers": "/servers/",
    "projects": "/projects/",
    "people": "/users/",
    "operations": "/operations/",
    "account": "/account/",
    "api-docs": "/api/docs/",
}
TENANT_PAGES = {
    "my-vms": "/my/vms/",
    "my-consoles": "/my/consoles/",
    "my-activity": "/my/activity/",
    "my-vm": "/vms/{vm}/",
    "my-moving-vm": "/vms/{moving}/",
    "my-vm-scale": "/vms/{sized}/scale/?offering={growing}",
}
ANONYMOUS_PAGES = {"login": "/account/login/"}


@pytest.fixture(scope="module")
def scene(product: Product, seeded: dict[str, Any]) -> Iterator[dict[str, str]]:
    """A fleet worth looking at: a real host, simulated ones, and open consoles on them."""
    simulated = product.run("seed", uri=FLEET_URI, kind="simulated", cluster="simulated")
    placed = product.run("seed_placement", state=str(product.folder / "simulated.sqlite"))
    sized = product.run("seed_scaling", vm=placed["asking"])
    with ExitStack() as consoles:
        for username, vm in zip(
            ("alice", "bob", "alice", "oskar"),
            [*seeded["vms"].values(), *list(simulated["vms"].values())[:2]],
            strict=True,
        ):
            consoles.enter_context(ConsoleClient(Api(product.url, seeded["tokens"][username]), vm))
        yield {"host": seeded["host"], "vm": seeded["vms"]["alpha"], **placed, **sized}


def faults(page: Page, *, rules: Sequence[str] = ()) -> list[str]:
    """Serious and critical findings of axe-core, by element; of all its rules, or of these."""
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    options = {"resultTypes": ["violations"], **({"runOnly": rules} if rules else {})}
    found = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in {"serious", "critical"}
        for node in violation["nodes"]
    ]


def look(page: Page, name: str, size: str, *, strict: bool = True) -> list[str]:
    """What is wrong with an open page, in one theme and then in the other."""
    wrong: list[str] = []
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        page.evaluate(SETTLED)
        if os.environ.get("CLOUDOPS_TEST_SCREENSHOTS") == "1":
            page.screenshot(path=ROOT / "docs" / "screenshots" / f"{name}-{theme}-{size}.png")
        if strict:
            found = faults(page, rules=() if theme == THEMES[0] else COLOURS)
            overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            if overflow > 0:
                found.append(f"the page is {overflow} px wider than the window")
            wrong += [f"{name}-{theme}-{size}: {fault}" for fault in found]
    return wrong


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("username", "pages"),
    [("ada", ADMIN_PAGES), ("alice", TENANT_PAGES), ("", ANONYMOUS_PAGES)],
    ids=["admin", "tenant", "anonymous"],
)
def test_every_page_looks_right(
    username: str,
    pages: dict[str, str],
    size: str,
    person: Callable[..., Person],
    product: Product,
    scene: dict[str, str],
) -> None:
    viewer = person(username, viewport=SIZES[size])
    page = viewer.sign_in() if username else viewer.context.new_page()
    wrong: list[str] = []
    for name, path in pages.items():
        answer = page.goto(product.url + path.format(**scene))
        assert answer is not None
        assert answer.status == 200, f"{path} answered {answer.status}"
        wrong += look(page, name, size, strict=name != "api-docs")
    assert wrong == []
    assert viewer.complaints == []


@pytest.mark.parametrize("size", SIZES)
def test_the_console_page_looks_right(
    size: str, person: Callable[..., Person], product: Product, scene: dict[str, str]
) -> None:
    viewer = person("alice", viewport=SIZES[size])
    viewer.sign_in().close()
    console = viewer.context.new_page()
    console.goto(f"{product.url}/vms/{scene['vm']}/console/")
    picture_appears(console)
    assert look(console, "console", size) == []
    assert viewer.complaints == []


def test_a_migration_is_seen_to_go_on(person: Callable[..., Person], product: Product, scene: dict[str, str]) -> None:
    """Its numbers change by themselves, on the VM's page and in the list, for who may see them; and it is aborted."""
    page = person("ada").sign_in()
    page.goto(f"{product.url}/migrations/")
    row = page.locator("#moving-table tr", has=page.locator(f'a[href="/vms/{scene["moving"]}/"]'))
    left = row.get_by_text("MiB left")
    before = left.inner_text()
    expect(left).not_to_have_text(before)
    page.goto(f"{product.url}/vms/{scene['moving']}/")
    card = page.locator("#vm-placement")
    words = card.get_by_text("MiB left")
    before = words.inner_text()
    expect(words).not_to_have_text(before)
    tenant = person("alice").sign_in()
    tenant.goto(f"{product.url}/vms/{scene['moving']}/")
    expect(tenant.locator("#vm-placement")).to_contain_text("It is moving to another host")
    card.get_by_role("button", name="Abort").click()
    page.get_by_role("button", name="Abort the migration").click()
    expect(card.get_by_text("aborted", exact=True)).to_be_visible(timeout=20_000)
    expect(tenant.locator("#vm-placement")).to_contain_text("It is not moving", timeout=20_000)


def test_a_decision_is_told_as_it_was_made(
    person: Callable[..., Person], product: Product, scene: dict[str, str]
) -> None:
    page = person("ada").sign_in()
    page.goto(f"{product.url}/placement/decisions/{scene['decision']}/")
    expect(page.get_by_text("missing tag linux", exact=False).first).to_be_visible()
    expect(page.get_by_text("The rules have changed since")).to_have_count(0)


def test_numbers_that_change_do_not_move_the_page(
    person: Callable[..., Person], product: Product, scene: dict[str, str], api: Callable[[str], Api]
) -> None:
    page = person("ada").sign_in()
    page.evaluate(
        """() => {
            window.shifts = 0;
            new PerformanceObserver(list => {
                for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
            }).observe({type: "layout-shift", buffered: false});
        }"""
    )
    with ConsoleClient(api("bob"), scene["vm"]):
        page.get_by_text("2 of 40").or_(page.get_by_text("3 of 40")).first.wait_for()
        page.wait_for_timeout(1500)
    page.wait_for_timeout(1500)
    assert page.evaluate("window.shifts") < 0.02
