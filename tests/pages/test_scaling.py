"""Pages of sizes: the card, the matrix, plans and what is done with them, and which of many VMs could grow.

The world is the API tests' one: its VM ``simulated`` is on a simulated hypervisor that really answers.
"""

from __future__ import annotations

import csv
import io
import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from cloudops.accounts.models import Membership, Project
from cloudops.inventory.models import Offering, Vm
from scaling.models import ClusterHeadroom, Resize, SizeSample, VmHeadroom, VmSize
from tests.api.conftest import World, build

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(db: None) -> World:
    return build()


def _client(world: World, person: str = "tenant") -> Client:
    client = Client()
    client.force_login(world.rows[person], backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


def _text(response: Any) -> str:
    """What a page says, without its markup."""
    body = re.sub(r"(?s)<(script|svg).*?</\1>", " ", response.content.decode())
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


def _scale(world: World) -> str:
    return f"/vms/{world.simulated.pk}/scale/"


def _asked(world: World, **more: Any) -> dict[str, Any]:
    vm = world.simulated
    return {"offering": world.growing_offering.pk, "vcpus": vm.vcpus, "memory_mib": 2 * vm.memory_mib, **more}


def _token(page: Any) -> str:
    found = re.search(r'name="plan" value="([^"]+)"', page.content.decode())
    assert found
    return found[1]


def test_the_vm_page_leads_to_the_card_and_the_card_to_the_resize_page(world: World) -> None:
    vm, client = world.simulated, _client(world)
    assert f'data-live-url="/vms/{vm.pk}/size/"' in client.get(f"/vms/{vm.pk}/").content.decode()
    card = client.get(f"/vms/{vm.pk}/size/")
    assert _scale(world) in card.content.decode()
    assert "Grows live to" in _text(card)
    assert "partly applied" in _text(card)
    assert f"/resizes/{world.resize.pk}/continue/" in card.content.decode()
    assert f"/resizes/{world.resize.pk}/roll-back/" in card.content.decode()
    assert _scale(world) in client.get("/my/vms/").content.decode()


def test_nobody_is_told_of_more_vcpus_than_the_host_has_threads(world: World) -> None:
    vm, client = world.simulated, _client(world)
    threads = vm.host.total_cpu_threads
    assert vm.vcpus < threads < 768
    Vm.objects.filter(pk=vm.pk).update(max_vcpus=768, scaling={**(vm.scaling or {}), "max_vcpus": 768})
    assert f"Grows live to {threads} vCPUs" in _text(client.get(f"/vms/{vm.pk}/size/"))
    assert f"ceiling {threads} " in _text(client.get(f"/vms/{vm.pk}/"))


def test_who_may_only_look_is_offered_nothing_to_do(world: World) -> None:
    Membership.objects.filter(pk=world.member_membership.pk).update(can_scale=False)
    client, vm = _client(world, "member"), world.simulated
    card = client.get(f"/vms/{vm.pk}/size/").content.decode()
    assert "/scale/" not in card
    assert "/resizes/" not in card
    assert _scale(world) not in client.get("/my/vms/").content.decode()
    assert client.get(_scale(world)).status_code == 403
    assert client.post(_scale(world), _asked(world, how="live")).status_code == 403
    assert _client(world, "stranger").get(_scale(world)).status_code == 404


def test_the_card_draws_what_the_vm_had_and_tells_the_same_as_a_table(world: World) -> None:
    for minutes, given, has in ((60, 512, 512), (30, 1024, 768)):
        SizeSample.objects.create(
            vm=world.web, at=world.now - timedelta(minutes=minutes), wanted_vcpus=2, wanted_memory_mib=given,
            vcpus=2, memory_mib=has, guest_memory_mib=has,
        )  # fmt: skip
    page = _client(world).get(f"/vms/{world.web.pk}/size/")
    assert page.content.decode().count('class="size-real"') == 2
    assert 'aria-label="Memory since' in page.content.decode()
    text = _text(page)
    assert "has 768 MiB" in text
    assert "wanted 1 GiB" in text
    assert text.index("768 MiB 1024 MiB 768 MiB") < text.index("512 MiB 512 MiB 512 MiB"), "the latest first"


def test_the_matrix_says_of_every_offering_how_and_why(world: World) -> None:
    Offering.objects.create(name="static", vcpus=4, memory_mib=2_048, dynamic_scaling=False)
    Offering.objects.create(name="enormous", vcpus=512, memory_mib=2_048, dynamic_scaling=True)
    text = _text(_client(world).get(_scale(world)))
    assert "VMs are not resized to static while they run." in text
    assert "old" not in re.findall(r"Choose (\w+)", text), "a disabled offering is not offered"
    only = _text(_client(world).get(f"{_scale(world)}?reach=impossible"))
    assert "enormous" in only
    assert "VMs are not resized to static" not in only
    assert world.host.name not in text + only
    assert world.host.name in _text(_client(world, "admin").get(f"{_scale(world)}?reach=impossible"))


@pytest.mark.usefixtures("steady_mirror")
def test_the_matrix_takes_the_same_queries_for_any_number_of_offerings(world: World) -> None:
    client = _client(world, "admin")
    client.get(_scale(world))
    with CaptureQueriesContext(connection) as few:
        client.get(_scale(world))
    Offering.objects.bulk_create(
        Offering(name=f"o-{number}", vcpus=1, memory_mib=256 + number, dynamic_scaling=True) for number in range(30)
    )
    with CaptureQueriesContext(connection) as many:
        assert "o-29" in client.get(_scale(world)).content.decode()
    assert len(many) == len(few)


def test_a_plan_is_carried_out_as_it_was_shown(world: World) -> None:
    client = _client(world)
    page = client.get(_scale(world), _asked(world))
    assert "Resize now (live)" in _text(page)
    assert 'type="number"' in page.content.decode(), "plain number fields do without a script"
    done = client.post(_scale(world), _asked(world, how="live", plan=_token(page)))
    assert (done.status_code, done["Location"]) == (302, _scale(world))
    row = Resize.objects.get(vm=world.simulated, ended_at=None)
    assert row.to_size["memory_mib"] == 2 * world.simulated.memory_mib
    following = client.get(_scale(world), _asked(world))
    assert "It is being resized already." in following.content.decode()
    assert all(step["name"] in _text(following) for step in row.operation.steps)


def test_a_stale_plan_shows_what_changed_and_loses_nothing(world: World) -> None:
    client = _client(world)
    token = _token(client.get(_scale(world), _asked(world)))
    Vm.objects.filter(pk=world.simulated.pk).update(dynamic_scaling=False)
    again = client.post(_scale(world), _asked(world, how="live", plan=token))
    assert again.status_code == 409
    text = _text(again)
    assert "Live scaling of the VM: yes, now no." in text
    assert "with a restart" in text
    assert f'value="{2 * world.simulated.memory_mib}"' in again.content.decode()
    assert _token(again) != token
    assert not Resize.objects.filter(vm=world.simulated, ended_at=None).exists()


def test_a_restart_has_to_be_confirmed(world: World) -> None:
    Vm.objects.filter(pk=world.simulated.pk).update(dynamic_scaling=False)
    client = _client(world)
    page = client.get(_scale(world), _asked(world))
    assert "it is never powered off instead" in _text(page)
    refused = client.post(_scale(world), _asked(world, how="restart", plan=_token(page)))
    assert refused.status_code == 400
    assert "Nothing was done." in _text(refused)
    assert not Resize.objects.filter(vm=world.simulated, ended_at=None).exists()
    done = client.post(_scale(world), _asked(world, how="restart", plan=_token(page), confirmed="yes"))
    assert done.status_code == 302
    assert Resize.objects.get(vm=world.simulated, ended_at=None).mode == "restart"


def test_a_size_for_the_next_start_is_shown_until_it_is_forgotten(world: World) -> None:
    client, vm = _client(world), world.simulated
    token = _token(client.get(_scale(world), _asked(world)))
    done = client.post(_scale(world), _asked(world, how="next-start", plan=token))
    assert done["Location"] == f"/vms/{vm.pk}/"
    card = _text(client.get(f"/vms/{vm.pk}/size/"))
    assert "At its next start" in card
    assert "asked for by tenant" in card
    assert "a restart from inside the guest is not enough" in card
    assert client.post(f"/vms/{vm.pk}/size/forget/").status_code == 302
    assert VmSize.objects.get(vm=vm).next_size is None


def test_what_cannot_be_is_said_beside_the_field_or_above_the_plan(world: World) -> None:
    client = _client(world)
    beyond = client.get(_scale(world), _asked(world, vcpus=9))
    assert "growing allows 1 to 8 vCPUs." in _text(beyond)
    assert client.get(_scale(world), {"offering": "no-such"}).status_code == 200
    nonsense = client.post(_scale(world), _asked(world, how="sideways"))
    assert nonsense.status_code == 400
    Project.objects.filter(pk=world.apollo.pk).update(quota_memory_mib=world.simulated.memory_mib)
    text = _text(client.get(_scale(world), _asked(world)))
    assert "The project's quota leaves it" in text
    assert "Resize now (live)" not in text
    refused = client.post(_scale(world), _asked(world, how="live"))
    assert refused.status_code == 409
    assert "The project's quota leaves it" in _text(refused)


def test_the_same_size_with_another_offering_can_be_taken(world: World) -> None:
    client, vm = _client(world), world.simulated
    page = client.get(_scale(world), _asked(world, memory_mib=vm.memory_mib))
    assert "Take this offering" in _text(page)
    done = client.post(_scale(world), _asked(world, memory_mib=vm.memory_mib, how="live", plan=_token(page)))
    assert done.status_code == 302


def test_preparing_is_one_click_and_says_what_it_changes(world: World) -> None:
    Vm.objects.filter(pk=world.simulated.pk).update(offering=world.growing_offering, offering_version=1)
    Offering.objects.filter(pk=world.growing_offering.pk).update(max_vcpus=8, max_memory_mib=16_384)
    client, vm = _client(world), world.simulated
    card = _text(client.get(f"/vms/{vm.pk}/size/"))
    assert "Prepare for live scaling at next restart" in card
    assert "instead of" in card
    assert client.post(f"/vms/{vm.pk}/size/prepare/").status_code == 302
    card = _text(client.get(f"/vms/{vm.pk}/size/"))
    assert "Prepare for live scaling" not in card
    assert "room to grow live" in card


def test_many_vms_are_judged_on_one_page_and_in_a_file(world: World) -> None:
    client = _client(world, "operator")
    asked = {"offering": world.growing_offering.pk, "vcpus": 1, "memory_mib": 512}
    page = client.get("/scaling/", asked)
    text = _text(page)
    assert f"{Vm.objects.count()} VMs" in text
    assert all(vm.name in text for vm in Vm.objects.all())
    rows = list(csv.DictReader(io.StringIO(client.get("/scaling/", {**asked, "format": "csv"}).content.decode())))
    assert {row["VM"] for row in rows} == {vm.name for vm in Vm.objects.all()}
    assert all(row["reached"] for row in rows)
    narrowed = _text(client.get("/scaling/", {**asked, "project": str(world.apollo.pk), "q": "we"}))
    assert "1 VM " in narrowed
    assert "No VM matches" in _text(client.get("/scaling/", {**asked, "cluster": "nonsense"}))
    assert "growing allows 1 to 8 vCPUs." in _text(client.get("/scaling/", {**asked, "vcpus": 99}))


def test_headroom_of_clusters_and_vms_is_set_in_forms(world: World) -> None:
    client, vm = _client(world, "operator"), world.simulated
    saved = client.post(f"/scaling/clusters/{world.cluster.pk}/", {"memory_factor": "2"})
    assert saved["Location"] == "/scaling/"
    assert ClusterHeadroom.objects.get().memory_factor == 2
    assert "2 times the memory" in _text(client.get("/scaling/"))
    assert client.post(f"/scaling/clusters/{world.cluster.pk}/", {"memory_factor": "99"}).status_code == 200
    page = _text(client.get(f"/vms/{vm.pk}/headroom/"))
    assert "from its cluster's headroom" in page
    saved = client.post(f"/vms/{vm.pk}/headroom/", {"max_vcpus": "6"})
    assert saved["Location"] == f"/vms/{vm.pk}/"
    assert VmHeadroom.objects.get(vm=vm).max_vcpus == 6
    vm.refresh_from_db()
    assert not vm.dynamic_scaling, "an empty box switches live scaling off"
    assert "for this VM; its size changes with a restart only" in _text(client.get(f"/vms/{vm.pk}/size/"))


def test_a_resize_is_continued_cancelled_and_not_rolled_back_twice(world: World) -> None:
    client = _client(world)
    assert client.post(f"/resizes/{world.resize.pk}/continue/").status_code == 302
    row = Resize.objects.get(vm=world.simulated, ended_at=None)
    assert client.post(f"/resizes/{world.resize.pk}/roll-back/").status_code == 409
    assert client.post(f"/resizes/{row.pk}/cancel/").status_code == 302
    row.refresh_from_db()
    assert row.cancel_requested_by == "tenant"
    assert "tenant has asked for that already." in client.get(_scale(world)).content.decode()
    assert _client(world, "stranger").post(f"/resizes/{row.pk}/cancel/").status_code == 404
