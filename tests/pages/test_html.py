"""What every rendered page must keep to: no inline script or style, a policy that forbids them, no dead links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from django.test import Client
from django.urls import Resolver404, resolve, reverse

from tests.pages.conftest import As
from tests.pages.installation import Installation

pytestmark = pytest.mark.django_db


class _Page(HTMLParser):
    """Collects what the rules are about."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.offences: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self._script: dict[str, str | None] | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        for name, value in attrs:
            if name == "style" or (name.startswith("on") and name.isalpha()) or name.startswith("hx-on"):
                self.offences.append(f"<{tag} {name}={value!r}>")
            if value and value.strip().lower().startswith("javascript:"):
                self.offences.append(f"<{tag} {name}={value!r}>")
        if tag == "style":
            self.offences.append("<style>")
        if tag == "script":
            self._script = given
        if "id" in given:
            self.ids.append(given["id"] or "")
        for name in ("href", "action", "hx-get", "hx-post", "data-live-url", "data-chart"):
            if value := given.get(name):
                self.links.append(value)

    def handle_data(self, data: str) -> None:
        if self._script is not None and data.strip() and self._script.get("type") != "application/json":
            self.offences.append(f"<script>{data[:40]}")

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None


def _addresses(installation: Installation) -> Iterator[str]:
    vm = next(vm for vm in installation.vms if vm.project_id and vm.is_running)
    ids: dict[str, Any] = {
        "host": installation.hosts[0].pk,
        "host-edit": installation.hosts[2].pk,
        "vm": vm.pk,
        "vm-console": vm.pk,
        "offering": installation.offering.pk,
        "offering-edit": installation.offering.pk,
        "cluster-edit": installation.clusters[0].pk,
        "operation": installation.operation.pk,
        "project": installation.project.pk,
        "user": installation.tenant.pk,
    }
    for name, key in ids.items():
        yield reverse(name, args=[key])
    yield reverse("host", args=[installation.hosts[2].pk])
    plain = (
        "fleet vms consoles console-history my-vms my-consoles my-activity host-add clusters cluster-add offerings"
        " offering-add servers settings audit operations operations-tray users user-add projects project-add account"
        " mfa_index account_change_password account_logout"
    )
    yield from (reverse(name) for name in plain.split())
    yield from (
        "/fleet/?q=nothing-like-it",
        "/vms/?q=nothing-like-it",
        "/consoles/?q=nothing",
        "/audit/?q=nothing",
        "/nope/",
    )


def test_no_page_has_inline_script_or_style(installation: Installation, as_user: As) -> None:
    for user in (installation.admin, installation.tenant):
        client = as_user(user)
        for address in _addresses(installation):
            response = client.get(address)
            page = _Page(response.content.decode())
            assert not page.offences, address
            policy = response["Content-Security-Policy"]
            assert "script-src 'self'" in policy, address
            assert "unsafe" not in policy, address


def test_pages_before_signing_in_keep_to_it_too(db: None) -> None:
    for address in ("/account/login/", "/account/logout/", "/account/inactive/", "/account/signup/", "/nope/"):
        response = Client().get(address, follow=True)
        assert not _Page(response.content.decode()).offences, address
        assert "unsafe" not in response["Content-Security-Policy"], address


def test_no_link_is_dead_and_no_id_twice(installation: Installation, admin: Client, as_user: As) -> None:
    dead, twice = set(), set()
    for client in (admin, as_user(installation.tenant)):
        for address in _addresses(installation):
            page, _ = _scan_any(client, address)
            for link in page.links:
                path = re.split(r"[?#]", link)[0]
                if path.startswith("/") and not path.startswith(("/static/", "/ws/")) and not _resolves(path):
                    dead.add((address, link))
            twice |= {(address, name) for name in page.ids if page.ids.count(name) > 1}
    assert not dead
    assert not twice


def _scan_any(client: Client, address: str) -> tuple[_Page, Any]:
    response = client.get(address)
    return _Page(response.content.decode()), response


def _resolves(path: str) -> bool:
    try:
        resolve(path)
    except Resolver404:
        return False
    return True


def test_every_live_fragment_comes_alone_and_with_the_same_ids(installation: Installation, admin: Client) -> None:
    """What the page fetches again must hold each element that it replaces, without the frame around it."""
    for address in _addresses(installation):
        html = admin.get(address).content.decode()
        live = re.findall(r'<[^>]*\bid="([^"]+)"[^>]*\bdata-live="[^"]*"', html)
        live = [name for name in live if name != "tray"]
        if not live:
            continue
        again = admin.get(address, headers={"X-Live": " ".join(live)}).content.decode()
        for name in live:
            assert f'id="{name}"' in again, (address, name)
