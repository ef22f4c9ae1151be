"""Placement, migrations and maintenance through the API: what is told to whom, once, page by page."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloudops.core.models import Operation
from cloudops.inventory.models import Vm
from placement.models import Claim, Decision, FleetSnapshot, Maintenance, MaintenanceMove, VmMigration
from tests.api.conftest import World


def _post(world: World, person: str, path: str, body: Any, key: str = "") -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return world.client(person).post(world.path(path), body, format="json", headers=headers)


def _get(world: World, person: str, path: str) -> Any:
    response = world.client(person).get(world.path(path))
    assert response.status_code == 200, response.content
    return response.json()


def _judged(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {host["name"]: host for cluster in told["clusters"] for host in cluster["hosts"]}


def test_a_decision_tells_every_hosts_verdicts(world: World) -> None:
    told = _get(world, "operator", "/decisions/{decision}/")
    assert (told["exact"], told["outcome"], told["vm"]["name"]) == (True, "refused", "web")
    hosts = _judged(told)
    assert set(hosts) == {"kvm-01", "kvm-02", "kvm-11", "kvm-12", "kvm-13", "kvm-14"}
    assert hosts["kvm-02"]["reasons"] == ["has another VM of pair"]
    assert {one["filter"] for one in hosts["kvm-14"]["verdicts"] if not one["passed"]} >= {"schedulable", "hold"}
    memory = next(one for one in hosts["kvm-02"]["verdicts"] if one["filter"] == "memory")
    assert (memory["passed"], memory["needed"]) == (True, 256)
    nearest = hosts[told["nearest"]["host_name"]]
    assert (told["nearest"]["reasons"], told["nearest"]["remedies"]) == (nearest["reasons"], nearest["remedies"])


def test_the_hosts_of_a_decision_come_in_portions(world: World) -> None:
    whole = list(_judged(_get(world, "operator", "/decisions/{decision}/")))
    first = list(_judged(_get(world, "operator", "/decisions/{decision}/?hosts=2")))
    rest = list(_judged(_get(world, "operator", "/decisions/{decision}/?hosts=9&skip=2&cluster={cluster}")))
    assert (first, rest) == (whole[:2], whole[2:])
    assert _get(world, "operator", "/decisions/{decision}/?cluster={unused_cluster}")["clusters"] == []
    refused = world.client("operator").get(world.path("/decisions/{decision}/?host=x"))
    assert (refused.status_code, list(refused.json()["fields"])) == (400, ["host"])


def test_a_decision_whose_fleet_is_not_kept_still_tells_its_gist(world: World) -> None:
    Decision.objects.update(snapshot=None)
    FleetSnapshot.objects.all().delete()
    told = _get(world, "operator", "/decisions/{decision}/")
    assert told["exact"] is None
    assert (told["hosts_considered"], told["clusters"]) == (6, [])
    assert told["lost"]["schedulable"] == 4


def test_tenants_learn_nothing_of_hosts_and_of_other_tenants(world: World) -> None:
    names = [name for name in world.rows if name.endswith("host")]
    secrets = {world.rows[name].name for name in names} | {str(world.rows[name].pk) for name in names}
    secrets |= {"pair", "other", "kvm-", "schedulable"}
    answers = [
        _get(world, "tenant", "/decisions/"),
        _get(world, "tenant", "/decisions/{decision}/"),
        _post(world, "tenant", "/placements/", {"vm": str(world.web.pk)}).json(),
    ]
    assert [len(answers[0]["results"]), answers[1]["clusters"], answers[2]["fits"]] == [1, None, False]
    assert answers[1]["words"][0] == "There is no place for this VM now."
    for answer in answers:
        told = json.dumps(answer)
        assert not [secret for secret in secrets if secret in told], told


def test_a_vm_that_was_given_away_takes_no_decisions_along(world: World) -> None:
    Vm.objects.filter(pk=world.web.pk).update(project=world.zephyr)
    assert _get(world, "stranger", "/decisions/")["results"] == []
    assert _get(world, "tenant", "/decisions/")["results"] == []


def test_tenants_may_not_look_for_hosts_by_filter(world: World) -> None:
    Decision.objects.update(host=world.host, host_name="kvm-01")
    assert _get(world, "tenant", "/decisions/?host={host}")["results"] == []
    assert len(_get(world, "operator", "/decisions/?host={host}")["results"]) == 1


def test_a_dry_run_takes_and_stores_nothing(world: World) -> None:
    before = Decision.objects.count(), Claim.objects.count()
    told = _post(world, "operator", "/placements/", {"offering": str(world.offering.pk), "allocator": "first-fit"})
    assert told.status_code == 200
    answer = told.json()
    assert (answer["fits"], answer["host"]["name"], answer["allocator"]) == (True, "kvm-01", "first-fit")
    assert (answer["hosts_considered"], answer["hosts_fit"]) == (6, 2)
    assert (Decision.objects.count(), Claim.objects.count()) == before


def test_a_templates_tags_count_in_a_dry_run(world: World) -> None:
    body = {"offering": str(world.offering.pk), "template": str(world.template.pk)}
    answer = _post(world, "operator", "/placements/", body).json()
    assert (answer["host"]["name"], answer["hosts_fit"]) == ("kvm-01", 1)
    assert _judged(answer)["kvm-02"]["reasons"] == ["missing tag ssd (asked by template debian)"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "vm"),
        ({"vm": "{web}", "offering": "{offering}"}, "vm"),
        ({"vm": "{web}", "cluster": "{cluster}"}, "cluster"),
        ({"offering": "{offering}", "copy_storage": True}, "copy_storage"),
        ({"vm": "{web}", "weights": {"luck": 1}}, "weights"),
        ({"vm": "{web}", "weights": {"free-cpu": 101}}, "weights"),
        ({"vm": "{web}", "weights": {"free-cpu": "1"}}, "weights"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(world: World, body: dict[str, Any], field: str) -> None:
    filled = {key: str(world.rows[value[1:-1]].pk) if isinstance(value, str) else value for key, value in body.items()}
    refused = _post(world, "admin", "/placements/", filled)
    assert refused.status_code == 400
    assert field in refused.json()["fields"]


def test_a_policy_shows_its_own_values_and_what_holds(world: World) -> None:
    path = world.path("/cluster-policies/{cluster}/")
    before = _get(world, "operator", "/cluster-policies/{cluster}/")
    assert {name: value for name, value in before["own"].items() if value not in (None, {})} == {}
    changed = world.client("operator").patch(path, {"cpu_ratio": 2.5, "allocator": "pack"}, format="json").json()
    assert (changed["own"]["cpu_ratio"], changed["own"]["memory_ratio"]) == (2.5, None)
    assert (changed["effective"]["cpu_ratio"], changed["effective"]["allocator"]) == (2.5, "pack")
    assert changed["effective"]["memory_ratio"] == before["effective"]["memory_ratio"]
    assert world.client("operator").delete(path).status_code == 204
    assert _get(world, "operator", "/cluster-policies/{cluster}/") == before


def test_room_follows_claims(world: World) -> None:
    cluster = _get(world, "operator", "/capacity/")["clusters"][0]
    hosts = _get(world, "operator", "/capacity/hosts/")["results"]
    assert cluster["hosts"] == len(hosts) == 6
    assert cluster["takes_vms"] == 2
    assert cluster["room"]["memory_capacity_mib"] == sum(one["room"]["memory_capacity_mib"] for one in hosts)
    holds = {one["host"]["name"]: one["hold"] for one in hosts}
    assert holds == {
        "kvm-01": None,
        "kvm-02": None,
        "kvm-11": "maintenance",
        "kvm-12": "draining",
        "kvm-13": None,
        "kvm-14": "fenced",
    }
    assert {one["host"]["name"] for one in _get(world, "operator", "/capacity/hosts/?open=true")["results"]} == {
        "kvm-01",
        "kvm-02",
    }
    assert len(_get(world, "operator", "/capacity/hosts/?hold=fenced")["results"]) == 1


def test_drift_is_counted_and_mended(world: World) -> None:
    drift = _get(world, "operator", "/capacity/drift/")
    assert drift["counts"] == {"unclaimed": drift["count"]}
    assert {one["vm_name"] for one in drift["differences"]} >= {"web", "other", "stuck"}
    assert _get(world, "operator", "/capacity/drift/?kind=stale")["count"] == 0
    mended = _post(world, "operator", "/capacity/drift/mend/", None).json()
    assert mended == {"mended": drift["count"], "left": 0}
    assert _get(world, "operator", "/capacity/drift/")["count"] == 0


def test_groups_say_when_their_rule_does_not_hold(world: World) -> None:
    path = "/affinity-groups/{group}/"
    assert _get(world, "operator", path)["broken"] is None
    Vm.objects.filter(pk=world.other.pk).update(host=world.host)
    words = "other, web are all on kvm-01."
    assert _get(world, "operator", path)["broken"] == words
    assert [one["broken"] for one in _get(world, "operator", "/affinity-groups/?vm={web}")["results"]] == [words]
    unknown = {"vms": ["00000000-0000-4000-8000-000000000000"]}
    refused = world.client("operator").patch(world.path(path), unknown, format="json")
    assert (refused.status_code, refused.json()["vms"]) == (404, unknown["vms"])


def test_a_migration_is_started_once_and_told(world: World) -> None:
    path, body = "/vms/{simulated}/migrations/", {"host": str(world.far_host.pk), "timeout_seconds": 60}
    first, again = (_post(world, "operator", path, body, "move-1") for _ in range(2))
    assert (first.status_code, again.status_code, again["Idempotency-Replayed"]) == (202, 202, "true")
    told = first.json()
    assert again.json() == told
    assert first["Location"] == f"/api/v1/migrations/{told['id']}/"
    assert (told["vm"]["name"], told["target"]["name"]) == (world.simulated.name, "kvm-02")
    assert (told["status"], told["phase"], told["progress"]) == ("pending", "preparing", None)
    assert VmMigration.objects.filter(vm=world.simulated).count() == 1
    busy = _post(world, "operator", path, body)
    assert (busy.status_code, busy.json()["code"]) == (409, "operation-running")


def test_when_no_host_fits_the_refusal_names_its_decision(world: World) -> None:
    refused = _post(world, "operator", "/vms/{web}/migrations/", {})
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (409, "no-host-fits")
    assert problem["lost"]["apart"] == 1
    decision = world.client("operator").get(f"/api/v1/decisions/{problem['decision']}/").json()
    assert (decision["outcome"], decision["vm"]["name"]) == ("refused", "web")
    assert not Operation.objects.filter(kind="vm.migrate", subject_id=str(world.web.pk)).exists()


def test_targets_say_why_and_what_would_help(world: World) -> None:
    told = _get(world, "operator", "/vms/{web}/migration-targets/")
    assert (told["live"], told["obstacle"], told["fits"]) == (True, None, 0)
    nearest = told["targets"][0]
    assert (nearest["host"]["name"], nearest["reasons"]) == ("kvm-02", ["has another VM of pair"])
    Vm.objects.filter(pk=world.web.pk).update(pinned=True)
    assert _get(world, "operator", "/vms/{web}/migration-targets/")["obstacle"]["code"] == "vm-pinned"
    assert _get(world, "operator", "/vms/{web}/migration-targets/?force_pinned=true")["obstacle"] is None


def test_in_bulk_one_refusal_hinders_no_other(world: World) -> None:
    vms = [str(world.web.pk), str(world.simulated.pk)]
    told = _post(world, "operator", "/migrations/bulk/", {"vms": vms}).json()
    assert (told["started"], told["refused"]) == (1, 1)
    assert [one["vm"]["name"] for one in told["outcomes"]] == ["web", world.simulated.name]
    assert told["outcomes"][0]["error"]["code"] == "no-host-fits"
    assert _get(world, "operator", f"/migrations/{told['outcomes'][1]['migration']}/")["status"] == "pending"


def test_migrations_progress_and_abort(world: World) -> None:
    VmMigration.objects.update(progress={"memory_total_mib": 256, "memory_remaining_mib": 64, "percent": 75})
    told = _get(world, "operator", "/migrations/{migration}/")
    assert (told["progress"]["percent"], told["progress"]["memory_remaining_mib"]) == (75, 64)
    assert told["id"] == str(world.migration.operation_id)
    aborted = _post(world, "operator", "/migrations/{migration}/abort/", None).json()
    assert aborted["abort_requested_by"] == "operator"
    found = _get(world, "operator", "/migrations/?current=true&host={held_host}&search=roam")["results"]
    assert [one["id"] for one in found] == [told["id"]]
    assert _get(world, "operator", "/migrations/?status=failed")["results"] == []


def test_a_preview_changes_nothing_and_names_every_vm(world: World) -> None:
    told = _post(world, "operator", "/maintenances/preview/", {"hosts": [str(world.host.pk)]}).json()
    assert not told["can_empty"]
    assert [one["vm_name"] for one in told["blockers"]] == ["web"]
    assert told["blockers"][0]["remedies"]
    moved = {one["vm_name"] for one in told["moves"]}
    assert moved | {one["vm_name"] for one in (*told["blockers"], *told["stays"])} == set(
        world.host.vms.values_list("name", flat=True)
    )
    chosen = {"vm": str(world.web.pk), "choice": "skip"}
    body = {"hosts": [str(world.host.pk)], "choices": [chosen]}
    assert _post(world, "operator", "/maintenances/preview/", body).json()["can_empty"]
    assert not MaintenanceMove.objects.filter(vm=world.web).exists()


def test_asked_twice_it_is_one_job(world: World) -> None:
    body = {"hosts": [str(world.host.pk)], "reason": "new memory"}
    first, again = (_post(world, "operator", "/maintenances/", body) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert first["Location"] == f"/api/v1/maintenances/{first.json()['id']}/"
    assert [one["host"]["name"] for one in first.json()["hosts"]] == ["kvm-01"]
    both = _post(world, "operator", "/maintenances/", {"hosts": [str(world.host.pk), str(world.far_host.pk)]})
    assert (both.status_code, both.json()["code"]) == (409, "already-in-maintenance")
    assert both.json()["maintenance"] == first.json()["id"]


def test_a_chosen_host_must_exist(world: World) -> None:
    nobody = "00000000-0000-4000-8000-000000000000"
    chosen = {"vm": str(world.web.pk), "choice": "host", "host": nobody}
    body = {"hosts": [str(world.host.pk)], "choices": [chosen]}
    refused = _post(world, "operator", "/maintenances/", body)
    assert (refused.status_code, refused.json()["hosts"]) == (404, [nobody])
    body = {"hosts": [str(world.host.pk)], "choices": [{**chosen, "host": None}]}
    assert _post(world, "operator", "/maintenances/", body).json()["code"] == "host-needed"
    assert not Maintenance.objects.filter(hosts__host=world.host).exists()


def test_a_job_tells_what_blocks_it_and_what_helps(world: World) -> None:
    told = _get(world, "operator", "/maintenances/{job}/")
    assert (told["status"], told["moves"]["blocked"], told["to_do"], told["percent"]) == ("blocked", 1, 1, 0)
    assert told["blocked"][0]["reason"] == "No host has room for it."
    assert told["blocked"][0]["remedies"][0] == {
        "choice": "skip",
        "label": "Leave it there",
        "host_id": None,
        "host_name": "",
        "admin_only": False,
    }
    assert _post(world, "operator", "/maintenances/{job}/moves/{move}/choose/", {"choice": "skip"}).status_code == 200
    (move,) = _get(world, "operator", "/maintenances/{job}/moves/?vm={stuck}")["results"]
    assert (move["choice"], move["status"]) == ("skip", "waiting")
    again = _post(world, "operator", "/maintenances/{job}/moves/{move}/choose/", {"choice": "as-planned"}).json()
    assert again["choice"] == "as-planned"
    other = world.client("operator").post(
        world.path("/maintenances/{held_job}/moves/{move}/choose/"), {"choice": "skip"}, format="json"
    )
    assert other.status_code == 404, "a move is reached through its own job only"


def test_job_filters(world: World) -> None:
    def titles(query: str) -> set[str]:
        return {one["title"] for one in _get(world, "operator", f"/maintenances/?{query}")["results"]}

    assert titles("current=true") == {"Maintenance of kvm-12", "Maintenance of kvm-11"}
    assert titles("status=cancelled") == {"Maintenance of kvm-13"}
    assert titles("host={held_host}") == {"Maintenance of kvm-11"}
    assert titles("search=kvm-02") == {"Maintenance of kvm-02"}
    assert titles("mode=drain") == set()


def test_home_is_told_before_anybody_goes(world: World) -> None:
    told = _get(world, "operator", "/maintenances/{done_job}/homecoming/")
    assert [(one["vm_name"], one["home_name"]) for one in told["goes"]] == [("away", "kvm-02")]
    first, again = (_post(world, "operator", "/maintenances/{done_job}/bring-home/", None) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 200)
    assert (first.json()["mode"], first.json()["origin"]) == ("return", str(world.done_job.pk))


def test_only_the_dead_are_fenced(world: World) -> None:
    refused = _post(world, "admin", "/hosts/{host}/fence/", {"reason": "x"})
    assert (refused.status_code, refused.json()["code"]) == (409, "host-answers")
    done = _post(world, "admin", "/hosts/{dead_host}/fence/", {"reason": "Pulled its plug."}).json()
    assert (done["host"]["name"], done["hold"]) == ("kvm-13", "fenced")
    assert _post(world, "admin", "/hosts/{dead_host}/unfence/", {}).json()["hold"] is None
    assert _post(world, "admin", "/hosts/{dead_host}/unfence/", {}).json()["code"] == "host-not-fenced"


def test_a_token_needs_manage_to_move_vms_and_only_read_to_ask(world: World) -> None:
    reader, manager = world.token_client("operator", "read"), world.token_client("operator", "manage")
    ask, move = world.path("/placements/"), world.path("/vms/{simulated}/migrations/")
    assert reader.post(ask, {"offering": str(world.offering.pk)}, format="json").status_code == 200
    refused = reader.post(move, {}, format="json")
    assert (refused.status_code, refused.json()["scope"]) == (403, "manage")
    assert manager.post(move, {}, format="json").status_code == 202


def test_a_vm_that_did_not_shut_down_is_not_simply_tried_again(world: World) -> None:
    MaintenanceMove.objects.filter(pk=world.rows["move"].pk).update(
        status="blocked", choice="stop", reason_code="stop-failed", reason="It did not shut down in 120 s."
    )
    refused = _post(world, "operator", "/maintenances/{job}/moves/{move}/retry/", {})
    told = refused.json()
    assert (refused.status_code, told["code"]) == (409, "stop-not-repeated")
    assert "It did not shut down in 120 s." in told["detail"]
    assert told["remedy"]
    assert MaintenanceMove.objects.get(pk=world.rows["move"].pk).status == "blocked"
