"""Sizes over the API: what a VM could become, plans that are still true, resizes only once, headroom, many VMs."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudops.accounts.models import Project
from cloudops.core import crypto
from cloudops.core.models import Operation
from cloudops.inventory.models import Host, Offering, Vm
from scaling.models import Resize, VmHeadroom, VmSize
from tests.api.conftest import World

pytestmark = pytest.mark.django_db


def _size(world: World, **more: Any) -> dict[str, Any]:
    """Twice its memory, which the simulated hypervisor can give it while it runs."""
    vm = world.simulated
    wanted = {"offering": str(world.growing_offering.pk), "vcpus": vm.vcpus, "memory_mib": 2 * vm.memory_mib}
    return {**wanted, **more}


def _plan(world: World, person: str = "tenant", **more: Any) -> dict[str, Any]:
    answer = world.client(person).post(
        world.path("/vms/{simulated}/resize/preflight/"), _size(world, **more), format="json"
    )
    assert answer.status_code == 200, answer.content
    plan: dict[str, Any] = answer.json()
    return plan


@pytest.fixture
def _grows(world: World) -> None:
    """It has no resize of before, and room to grow."""
    facts = world.simulated.scaling
    assert facts["max_memory_mib"] >= 2 * world.simulated.memory_mib


def test_a_plan_tells_each_resource_in_numbers_and_how_it_can_be_carried_out(world: World, _grows: None) -> None:
    plan = _plan(world, "admin")
    vm = world.simulated
    assert plan["reach"] == "live"
    assert plan["ways"] == ["live", "restart", "next-start"]
    memory = next(one for one in plan["resources"] if one["resource"] == "memory")
    assert (memory["current"], memory["wanted"]) == (vm.memory_mib, 2 * vm.memory_mib)
    assert memory["given"] >= memory["wanted"]
    assert memory["ceiling"] >= memory["given"]
    assert memory["step"]
    assert plan["given"]["memory_mib"] == memory["given"]


def test_a_tenants_plan_names_no_host_and_no_room_on_it(world: World, _grows: None) -> None:
    plan = _plan(world)
    assert all(one["free_here"] is None for one in plan["resources"])
    assert world.host.name not in str({**plan, "plan": ""})
    sealed = plan["plan"]
    assert world.host.name in crypto.decrypt(sealed), "the plan rests on its host, and only CloudOps can read that"
    impossible = _plan(world, vcpus=8, memory_mib=65_536)
    assert impossible["reach"] == "impossible"
    assert impossible["reasons"]
    assert world.host.name not in str({**impossible, "plan": ""})
    assert world.host.name in str({**_plan(world, "admin", vcpus=8, memory_mib=65_536), "plan": ""})


def test_a_resize_is_started_once_and_followed_where_the_answer_says(world: World, _grows: None) -> None:
    client, path = world.client("tenant"), world.path("/vms/{simulated}/resize/")
    body, key = _size(world, how="live", plan=_plan(world)["plan"]), {"Idempotency-Key": str(uuid4())}
    first = client.post(path, body, format="json", headers=key)
    assert first.status_code == 202, first.content
    again = client.post(path, body, format="json", headers=key)
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    assert Resize.objects.filter(vm=world.simulated, ended_at=None).count() == 1
    seen = client.get(first.headers["Location"]).json()
    assert seen["how"] == "live"
    assert seen["status"] in {"pending", "running"}
    assert seen["wanted"]["memory_mib"] == body["memory_mib"]
    assert [one["name"] for one in seen["steps"]]
    listed = client.get(world.path("/vms/{simulated}/resizes/?status=pending")).json()["results"]
    assert [one["id"] for one in listed] == [seen["id"]]
    other = client.post(path, body, format="json", headers={"Idempotency-Key": str(uuid4())})
    assert other.status_code == 409
    assert other.json()["code"] == "operation-running"


def test_a_plan_that_is_not_true_any_more_is_refused_with_what_changed(world: World, _grows: None) -> None:
    plan = _plan(world)["plan"]
    Vm.objects.filter(pk=world.simulated.pk).update(dynamic_scaling=False)
    Host.objects.filter(pk=world.host.pk).update(name="kvm-99")
    path, body = world.path("/vms/{simulated}/resize/"), _size(world, how="live", plan=plan)
    before = Operation.objects.count()
    for person, sees in (("tenant", False), ("admin", True)):
        refused = world.client(person).post(path, body, format="json")
        assert refused.status_code == 409
        problem = refused.json()
        assert problem["code"] == "plan-outdated"
        changes = {one["name"]: (one["was"], one["now"]) for one in problem["changes"]}
        assert changes["Live scaling of the VM"] == ("yes", "no")
        assert any(name.startswith("Host") for name in changes) is sees
        assert ("kvm-99" in refused.content.decode()) is sees
    assert Operation.objects.count() == before
    foreign = world.client("tenant").post(path, {**body, "plan": "not a plan"}, format="json")
    assert foreign.status_code == 400
    assert foreign.json()["code"] == "plan-unreadable"


def test_what_is_not_reached_in_this_way_says_which_ways_there_are(world: World, _grows: None) -> None:
    Offering.objects.filter(pk=world.growing_offering.pk).update(dynamic_scaling=False)
    refused = world.client("tenant").post(
        world.path("/vms/{simulated}/resize/"), _size(world, how="live"), format="json"
    )
    assert refused.status_code == 409
    problem = refused.json()
    assert problem["code"] == "size-not-reachable-so"
    assert problem["ways"] == ["restart"]
    assert "offering-not-dynamic" in {one["code"] for one in problem["reasons"]}


def test_beyond_the_quota_nothing_is_begun(world: World, _grows: None) -> None:
    Project.objects.filter(pk=world.apollo.pk).update(quota_memory_mib=world.simulated.memory_mib)
    assert _plan(world)["reach"] == "impossible"
    refused = world.client("tenant").post(
        world.path("/vms/{simulated}/resize/"), _size(world, how="live"), format="json"
    )
    assert refused.status_code == 409
    assert "quota-memory" in {one["code"] for one in refused.json()["reasons"]}
    assert not Resize.objects.filter(vm=world.simulated, ended_at=None).exists()


def test_the_offerings_bounds_are_told_by_field(world: World) -> None:
    answer = world.client("tenant").post(
        world.path("/vms/{simulated}/resize/preflight/"), _size(world, vcpus=9), format="json"
    )
    assert answer.status_code == 400
    assert answer.json()["fields"] == {"vcpus": ["growing allows 1 to 8 vCPUs."]}
    unknown = world.client("tenant").post(
        world.path("/vms/{simulated}/resize/preflight/"),
        {"offering": str(world.hidden_offering.pk)},
        format="json",
    )
    assert unknown.status_code == 400
    assert list(unknown.json()["fields"]) == ["offering"]


def test_a_token_needs_the_scope_and_a_member_the_right(world: World, _grows: None) -> None:
    path, body = world.path("/vms/{simulated}/resize/"), _size(world, how="live")
    refused = world.token_client("tenant", "console", "manage").post(path, body, format="json")
    assert refused.status_code == 403
    assert "scale" in refused.json()["detail"]
    preflight = world.path("/vms/{simulated}/resize/preflight/")
    assert world.token_client("tenant").post(preflight, _size(world), format="json").status_code == 200
    world.member_membership.can_scale = False
    world.member_membership.save()
    assert world.client("member").get(world.path("/vms/{simulated}/offerings/")).status_code == 200
    assert world.client("member").post(path, body, format="json").json()["code"] == "vm-right-missing"
    assert world.token_client("tenant", "scale").post(path, body, format="json").status_code == 202


def test_a_size_waits_for_the_next_start_until_it_is_forgotten(world: World, _grows: None) -> None:
    client, path = world.client("tenant"), world.path("/vms/{simulated}/resize/next-start/")
    waiting = client.post(path, _size(world), format="json")
    assert waiting.status_code == 200, waiting.content
    next_start = waiting.json()["next_start"]
    assert next_start["size"]["memory_mib"] == 2 * world.simulated.memory_mib
    assert next_start["offering"]["name"] == "growing"
    assert next_start["requested_by_name"] == "tenant"
    assert waiting.json()["size"]["memory_mib"] == world.simulated.memory_mib, "it goes on as it is"
    assert client.delete(path).status_code == 204
    forgotten = client.get(world.path("/vms/{simulated}/size/")).json()["next_start"]
    assert forgotten is None or forgotten["size"] is None
    assert client.delete(path).json()["code"] == "no-size-waits"


def test_preparing_answers_with_what_waits(world: World) -> None:
    Vm.objects.filter(pk=world.simulated.pk).update(offering=None)
    answer = world.client("tenant").post(world.path("/vms/{simulated}/prepare-scaling/"))
    assert answer.status_code == 200, answer.content
    assert answer.json()["next_start"]["headroom"] is True
    assert VmSize.objects.get(vm=world.simulated).next_headroom


@pytest.mark.usefixtures("steady_mirror")
def test_the_matrix_judges_every_offering_in_the_same_number_of_queries(world: World) -> None:
    path = world.path("/vms/{simulated}/offerings/")
    client = world.client("tenant")
    client.get(path)
    with CaptureQueriesContext(connection) as few:
        body = client.get(path).json()
    reaches = {one["offering"]["name"]: one["reach"] for one in body["offerings"]}
    assert reaches["growing"] in {"same", "live"}
    assert "old" not in reaches, "it is disabled"
    assert sum(body["counts"].values()) == len(body["offerings"])
    Offering.objects.bulk_create(
        Offering(name=f"o-{number}", vcpus=1 + number % 4, memory_mib=256 * (1 + number), dynamic_scaling=True)
        for number in range(40)
    )
    with CaptureQueriesContext(connection) as many:
        assert len(client.get(path).json()["offerings"]) == len(body["offerings"]) + 40
    assert len(many) == len(few)


@pytest.mark.usefixtures("steady_mirror")
def test_many_vms_are_judged_at_once_and_counted(world: World) -> None:
    client, path = world.client("operator"), "/api/v1/scaling/preflight/"
    body = {"offering": str(world.growing_offering.pk), "vcpus": 1, "memory_mib": 512}
    client.post(path, body, format="json")
    with CaptureQueriesContext(connection) as few:
        answer = client.post(path, body, format="json").json()
    assert sum(answer["counts"].values()) == len(answer["vms"]) == Vm.objects.count()
    assert answer["size"]["memory_mib"] == 512
    assert answer["truncated"] is False
    Vm.objects.bulk_create(
        Vm(ref=f"n-{number}", name=f"n-{number}", host=world.host, power_state="running", vcpus=1, memory_mib=256)
        for number in range(30)
    )
    with CaptureQueriesContext(connection) as many:
        more = client.post(path, body, format="json").json()
    assert len(more["vms"]) == len(answer["vms"]) + 30
    assert len(many) == len(few)
    narrowed = client.post(path, {**body, "search": "n-1", "project": str(world.apollo.pk)}, format="json").json()
    assert narrowed["vms"] == []
    only = client.post(path, {**body, "host": str(world.host.pk), "reach": "impossible"}, format="json").json()
    assert {one["reach"] for one in only["vms"]} <= {"impossible"}


def test_the_history_tells_what_a_vm_had(world: World) -> None:
    client, path = world.client("tenant"), world.path("/vms/{web}/size-history/")
    samples = client.get(path).json()["samples"]
    assert [(one["vcpus"], one["memory_mib"], one["guest_memory_mib"]) for one in samples] == [(1, 256, None)]
    wrong = client.get(path, {"since": "2030-01-02T00:00:00Z", "until": "2030-01-01T00:00:00Z"})
    assert wrong.status_code == 400
    assert client.get(path, {"sicne": "2030-01-02T00:00:00Z"}).status_code == 400


def test_headroom_is_changed_and_told_with_the_ceiling_that_comes_of_it(world: World) -> None:
    client, path = world.client("operator"), world.path("/vms/{simulated}/headroom/")
    before = client.get(path).json()
    assert before["next_ceiling"]["source"] == "installation"
    after = client.patch(path, {"max_memory_mib": 4096, "dynamic_scaling": False}, format="json").json()
    assert after["next_ceiling"]["source"] == "vm"
    assert after["next_ceiling"]["max_memory_mib"] == max(4096, world.simulated.memory_mib)
    assert after["dynamic_scaling"] is False
    assert VmHeadroom.objects.get(vm=world.simulated).max_memory_mib == 4096
    cluster = world.path("/clusters/{cluster}/headroom/")
    assert client.patch(cluster, {"vcpu_factor": 2}, format="json").json()["vcpu_factor"] == 2
    assert client.patch(cluster, {"vcpu_factor": 0.5}, format="json").status_code == 400


def test_only_a_resize_in_part_can_be_continued(world: World, _grows: None) -> None:
    client = world.client("tenant")
    shown = client.get(world.path("/resizes/{resize}/")).json()
    assert shown["outcome"] == "partly"
    assert shown["may_continue"] is True
    assert shown["error"]["code"] == "partly-applied"
    again = client.post(world.path("/resizes/{resize}/continue/"))
    assert again.status_code == 202, again.content
    assert client.get(world.path("/resizes/{resize}/")).json()["may_continue"] is False
    refused = client.post(world.path("/resizes/{resize}/roll-back/"))
    assert refused.status_code == 409
    cancelled = client.post(f"/api/v1/resizes/{again.json()['id']}/cancel/")
    assert cancelled.status_code == 202, cancelled.content
