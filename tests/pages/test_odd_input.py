"""What nobody would type, in every field of the pages of placement, maintenance and sizes: a page that says what is
wrong, and never one that has failed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from django import forms
from django.http import QueryDict
from django.test import Client

from placement import forms as placement_forms
from placement import forms_maintenance, forms_migrations
from placement import urls as placement_urls
from scaling import forms as scaling_forms
from scaling import urls as scaling_urls
from tests.pages.installation import Installation
from tests.pages.test_access import ACTIONS, _address, _objects, _quick_hypervisors

__all__ = ["_quick_hypervisors"]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("_quick_hypervisors")]

ODD = (
    "",
    "x" * 20_000,
    "𝕳ost\u202e\ufeff",
    "\x00",
    "a\nb\r\tc",
    "-1",
    "0",
    "NaN",
    "inf",
    "1e999",
    "9" * 40,
    "٣",
    "0.5",
    "null",
    "not-a-uuid",
    "~~~~",
    "'; --",
    "<script>",
    "[1]",
    str(uuid4()),
)
OF_PAGES = frozenset(
    [
        "host",
        "vm",
        "whole",
        "cursor",
        "cluster",
        "q",
        "page",
        "choice",
        "sort",
        "back",
        "next",
        "offering",
        "plan",
        "how",
        "vcpus",
        "memory_mib",
    ]
)
OF_HEADERS: tuple[dict[str, str], ...] = ({}, {"HX-Request": "true"})
FORM = "application/x-www-form-urlencoded"
ROUNDS = 4


def _names() -> list[str]:
    """Every field of every form, and what the pages read from their address."""
    found = set(OF_PAGES)
    for module in (placement_forms, forms_maintenance, forms_migrations, scaling_forms):
        for item in vars(module).values():
            if isinstance(item, type) and issubclass(item, forms.Form):
                found.update(item.base_fields)
    return sorted(found)


def _requests(names: list[str], rng: random.Random, real: list[str]) -> Iterator[str]:
    """All fields odd, then some odd beside real ids: as an address or a form's body."""
    values = [*ODD, *real]
    for _ in range(ROUNDS):
        yield _query({name: [rng.choice(ODD)] for name in names})
        yield _query({name: rng.choices(values, k=2) for name in rng.sample(names, len(names) // 2)})


def _query(fields: dict[str, list[str]]) -> str:
    query = QueryDict(mutable=True)
    for name, values in fields.items():
        query.setlist(name, values)
    return query.urlencode()


def _real(installation: Installation) -> list[str]:
    host, vm = installation.vms[0].host_id, installation.vms[0].pk
    return [str(host), str(vm), f"{vm}~stop~~", f"{vm}~host~{host}~", "maintenance", "on"]


ROUTES = sorted(str(one.name) for one in (*placement_urls.urlpatterns, *scaling_urls.urlpatterns))


@pytest.mark.timeout(240)
def test_no_page_fails_on_an_odd_address(installation: Installation, admin: Client) -> None:
    ids: dict[str, Any] = _objects(installation)
    names, real = _names(), _real(installation)
    wrong = []
    for name in (one for one in ROUTES if one not in ACTIONS):
        rng = random.Random(name)
        for query in _requests(names, rng, real):
            answer = admin.get(f"{_address(name, ids)}?{query}", headers=rng.choice(OF_HEADERS))
            if answer.status_code >= 500:
                wrong.append((name, answer.status_code, query[:200]))
    assert not wrong


@pytest.mark.timeout(240)
def test_no_form_fails_on_odd_fields(installation: Installation, admin: Client) -> None:
    ids: dict[str, Any] = _objects(installation)
    names, real = _names(), _real(installation)
    wrong = []
    for name in ROUTES:
        rng = random.Random(name)
        for body in _requests(names, rng, real):
            answer = admin.post(_address(name, ids), body, FORM, headers=rng.choice(OF_HEADERS))
            if answer.status_code >= 500:
                wrong.append((name, answer.status_code, body[:200]))
    assert not wrong


@pytest.mark.parametrize("query", ["q=a%00b", "cursor=%00"])
def test_an_address_with_a_nul_is_refused_in_words(admin: Client, query: str) -> None:
    refused = admin.get(f"/vms/?{query}")
    assert refused.status_code == 400
    assert "a character that cannot be used (NUL)" in refused.content.decode()
