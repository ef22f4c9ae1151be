"""Offerings and quotas over the API: bounds, versions, who has an older one, and what projects may have."""

from __future__ import annotations

from typing import Any

import pytest

from cloudops.accounts.models import Project
from cloudops.inventory.models import Offering
from consoles.models import ConsoleSession
from scaling import quotas
from tests.api.conftest import World

pytestmark = pytest.mark.django_db
CUSTOM: dict[str, Any] = {
    "name": "elastic", "kind": "custom", "vcpus": 1, "max_vcpus": 2, "memory_mib": 256, "max_memory_mib": 512,
    "cpu_mhz": 500, "dynamic_scaling": True, "host_tags": ["ssd"],
}  # fmt: skip
URL = "/api/v1/offerings/"


def test_one_goes_through_its_versions(world: World) -> None:
    client = world.client("admin")
    made = client.post(URL, CUSTOM, format="json")
    assert made.status_code == 201, made.content
    offering = made.json()
    assert {name: offering[name] for name in CUSTOM} == CUSTOM
    assert (offering["version"], offering["cpu_cap"]) == (1, False)
    one = f"{URL}{offering['id']}/"
    vm = client.patch(world.path("/vms/{web}/"), {"offering": offering["id"]}, format="json").json()
    assert (vm["offering"]["name"], vm["offering_version"]) == ("elastic", 1)
    changed = client.patch(one, {"max_vcpus": 3, "cpu_cap": True}, format="json").json()
    assert (changed["version"], changed["max_vcpus"], changed["cpu_cap"]) == (2, 3, True)
    assert client.patch(one, {"description": "words"}, format="json").json()["version"] == 2
    kept = client.get(f"{one}versions/").json()["results"]
    assert [(row["version"], row["values"]["max_vcpus"], row["by_name"]) for row in kept] == [
        (2, 3, "admin"),
        (1, 2, "admin"),
    ]
    older = f"/api/v1/vms/?offering={offering['id']}&outdated="
    assert [row["id"] for row in client.get(older + "true").json()["results"]] == [vm["id"]]
    assert client.get(older + "false").json()["results"] == []
    fixed = client.patch(one, {"kind": "fixed"}, format="json").json()
    assert (fixed["version"], fixed["max_vcpus"], fixed["max_memory_mib"]) == (3, None, None)
    assert "elastic" in [row["name"] for row in client.get(f"{URL}?kind=fixed").json()["results"]]
    assert "elastic" not in [row["name"] for row in client.get(f"{URL}?kind=custom").json()["results"]]
    assert client.get(f"{one}versions/?page_size=1").json()["next"]
    assert client.get(f"{one}versions/?nonsense=1").status_code == 400


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"max_vcpus": None}, "max_vcpus"),
        ({"max_memory_mib": 100}, "max_memory_mib"),
        ({"kind": "fixed"}, "max_vcpus"),
        ({"cpu_mhz": None, "cpu_cap": True}, "cpu_mhz"),
        ({"kind": "rubber"}, "kind"),
        ({"version": 7}, "version"),
    ],
)
def test_what_does_not_fit_is_a_problem_with_its_field(world: World, wrong: dict[str, Any], field: str) -> None:
    answer = world.client("admin").post(URL, CUSTOM | wrong, format="json")
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert field in problem["fields"]
    assert problem["remedy"]
    assert not Offering.objects.filter(name="elastic").exists()


def test_a_repeated_request_makes_one_offering(world: World) -> None:
    client = world.client("admin")
    answers = [client.post(URL, CUSTOM, format="json", headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert Offering.objects.filter(name="elastic").count() == 1


class TestQuotas:
    def test_they_are_set_and_shown_with_what_is_in_use(self, world: World) -> None:
        client, one = world.client("admin"), world.path("/projects/{apollo}/")
        wanted = {"quota_vcpus": 8, "quota_memory_mib": 4_096, "quota_consoles": 0}
        answer = client.patch(one, wanted, format="json")
        assert answer.status_code == 200, answer.content
        together = quotas.usage(world.apollo)
        consoles = ConsoleSession.objects.holding_slots(world.now).filter(vm__project=world.apollo).count()
        use = {"vcpus": together.vcpus, "memory_mib": together.memory_mib, "consoles": consoles}
        assert all(use.values())
        shown = world.client("tenant").get(one).json()
        assert {name: shown[name] for name in wanted} == wanted
        assert shown["use"] == use
        assert client.patch(one, {"quota_vcpus": None}, format="json").json()["quota_vcpus"] is None
        for wrong in ({"quota_vcpus": -1}, {"quota_memory_mib": 10**10}, {"quota_consoles": "2"}):
            assert client.patch(one, wrong, format="json").status_code == 400
        assert world.client("tenant").patch(one, {"quota_consoles": 9}, format="json").status_code == 403
        assert Project.objects.get(pk=world.apollo.pk).quota_consoles == 0

    def test_a_console_beyond_the_quota_is_refused_with_the_numbers(self, world: World) -> None:
        Project.objects.filter(pk=world.apollo.pk).update(quota_consoles=0)
        answer = world.client("tenant").post(world.path("/vms/{web}/console-sessions/"), {}, format="json")
        assert answer.status_code == 409
        problem = answer.json()
        assert (problem["code"], problem["scope"], problem["scope_name"]) == ("console-limit", "project", "apollo")
        assert problem["limit"] == 0
        assert problem["detail"] == "No consoles are allowed to project apollo."
        assert "larger console quota" in problem["remedy"]

    def test_a_page_of_projects_is_counted_together(self, world: World, django_assert_max_num_queries: Any) -> None:
        client = world.client("admin")
        client.get("/api/v1/projects/")
        Project.objects.bulk_create([Project(name=f"more-{number}") for number in range(30)])
        with django_assert_max_num_queries(10):
            assert len(client.get("/api/v1/projects/").json()["results"]) >= 30
