"""Offerings on the pages: every kind is made and changed, versions are told in words, and who has an older one."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from cloudops.inventory.models import Offering, Vm
from tests.pages.installation import Installation
from tests.pages.reading import has_error

pytestmark = pytest.mark.django_db
FIXED: dict[str, Any] = {"name": "xl", "kind": "fixed", "vcpus": 8, "memory_mib": 16_384, "enabled": "on"}
CUSTOM: dict[str, Any] = {
    "name": "elastic", "kind": "custom", "vcpus": 1, "max_vcpus": 2, "memory_mib": 256, "max_memory_mib": 512,
    "cpu_mhz": 500, "cpu_cap": "on", "dynamic_scaling": "on", "enabled": "on",
}  # fmt: skip


def test_one_is_made_changed_and_deleted(admin: Client, installation: Installation) -> None:
    form = FIXED | {"host_tags": "ssd gpu"}
    assert admin.post("/offerings/add/", form).status_code == 302
    made = Offering.objects.get(name="xl")
    assert sorted(tag.name for tag in made.host_tags.all()) == ["gpu", "ssd"]
    html = admin.post("/offerings/add/", form | {"memory_mib": 1, "description": "kept"}).content.decode()
    assert has_error(html, "memory_mib")
    assert "kept" in html
    admin.post(f"/offerings/{made.pk}/edit/", form | {"vcpus": 9, "host_tags": "", "enabled": ""})
    made.refresh_from_db()
    assert (made.vcpus, made.enabled, made.host_tags.count(), made.version) == (9, False, 0, 2)
    assert admin.post(f"/offerings/{installation.offering.pk}/delete/").status_code == 409
    assert admin.post(f"/offerings/{made.pk}/delete/").status_code == 302


def test_each_kind_is_shown_in_words(admin: Client) -> None:
    assert admin.post("/offerings/add/", CUSTOM).status_code == 302
    free = {"name": "free", "kind": "unconstrained", "vcpus": 2, "memory_mib": 2_048, "enabled": "on"}
    assert admin.post("/offerings/add/", free).status_code == 302
    page = admin.get("/offerings/").content.decode()
    for words in ("1–2 vCPUs", "256–512 MiB", "500 MHz (hard limit)", "any vCPUs", "Custom within bounds", "1 GiB"):
        assert words in page, words
    only = admin.get("/offerings/?kind=unconstrained").content.decode()
    assert "any memory" in only
    assert "256–512 MiB" not in only
    csv = admin.get("/offerings/?format=csv").content.decode()
    assert "elastic,custom,1,2,256,512,500,True,True" in csv


@pytest.mark.parametrize(
    ("wrong", "field", "remedy"),
    [
        ({"max_vcpus": ""}, "max_vcpus", "give at least 1"),
        ({"max_memory_mib": 128}, "max_memory_mib", "give at least 256"),
        ({"cpu_mhz": ""}, "cpu_mhz", "or take the limit away"),
        ({"max_vcpus": 5_000}, "max_vcpus", "1024"),
        ({"kind": "elastic"}, "kind", "not one of the available choices"),
    ],
)
def test_what_does_not_fit_is_said_beside_its_field(
    admin: Client, wrong: dict[str, Any], field: str, remedy: str
) -> None:
    html = admin.post("/offerings/add/", CUSTOM | wrong | {"description": "kept words"}).content.decode()
    assert has_error(html, field)
    assert remedy in html
    assert "kept words" in html
    assert not Offering.objects.filter(name="elastic").exists()


def test_bounds_typed_for_another_kind_do_not_count(admin: Client) -> None:
    """Their fields are out of sight then, so that no error could be seen."""
    assert admin.post("/offerings/add/", CUSTOM | {"kind": "fixed", "max_vcpus": "x"}).status_code == 302
    made = Offering.objects.get(name="elastic")
    assert (made.kind, made.vcpus, made.max_vcpus, made.max_memory_mib) == ("fixed", 1, None, None)


def test_its_versions_are_told_and_who_has_an_older_one(admin: Client, installation: Installation) -> None:
    admin.post("/offerings/add/", CUSTOM)
    offering = Offering.objects.get(name="elastic")
    old, other = installation.vms[0], installation.vms[1]
    admin.post(f"/vms/{old.pk}/offering/", {"offering": str(offering.pk)})
    assert Vm.objects.get(pk=old.pk).offering_version == 1
    grown = {"max_vcpus": 3, "memory_mib": 512, "max_memory_mib": 1_024, "cpu_mhz": 1_000, "cpu_cap": ""}
    saved = admin.post(f"/offerings/{offering.pk}/edit/", CUSTOM | grown, follow=True).content.decode()
    assert "is saved as version 2" in saved
    assert "1–3 vCPUs instead of 1–2 vCPUs" in saved
    assert "512–1024 MiB instead of 256–512 MiB" in saved
    assert "CPU speed 1000 MHz instead of 500 MHz (hard limit)" in saved
    assert Vm.objects.get(pk=old.pk).offering_version == 1
    admin.post(f"/vms/{other.pk}/offering/", {"offering": str(offering.pk)})
    page = admin.get(f"/offerings/{offering.pk}/").content.decode()
    assert f'id="uses-{other.pk}"' in page
    assert "1 of 2" in page
    assert f"/vms/{old.pk}/scale/" in page
    older = admin.get(f"/offerings/{offering.pk}/?older=1").content.decode()
    assert f'id="uses-{old.pk}"' in older
    assert f'id="uses-{other.pk}"' not in older
    assert "1 on an older version" in admin.get("/offerings/").content.decode()


def test_words_alone_make_no_version(admin: Client) -> None:
    admin.post("/offerings/add/", CUSTOM)
    offering = Offering.objects.get(name="elastic")
    saved = admin.post(f"/offerings/{offering.pk}/edit/", CUSTOM | {"description": "Better words"}, follow=True)
    assert "is saved as version" not in saved.content.decode()
    offering.refresh_from_db()
    assert (offering.version, offering.description) == (1, "Better words")
