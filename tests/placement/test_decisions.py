"""Decisions as stored: told again bit for bit, kept when refused, purged in time; the mirror follows every change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from cloudops.accounts.models import Project
from cloudops.core import runtime
from cloudops.core.errors import Invalid
from cloudops.core.models import Event
from cloudops.inventory import hosts as host_verbs
from cloudops.inventory.models import Host, Offering, Template, Vm
from placement import capacity, claims, decisions, groups, mirror, policies, requests
from placement.errors import AlreadyClaimed, CapacityGone, DecisionTooOld, NoHostFits, PolicyInvalid
from placement.models import AffinityGroup, Claim, ClaimKind, ClusterPolicy, Decision, FleetSnapshot, HostCapacity
from placement.spec import Purpose
from tests.placement.world import BY, NOW, add_cluster, add_host, add_offering, add_template, add_vm, operation_on

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("steady_mirror")]


@pytest.fixture
def hosts() -> list[Host]:
    cluster = add_cluster("linux")
    return [add_host(f"kvm-{number}", cluster) for number in range(3)]


def place(vm: Vm, purpose: Purpose = Purpose.DEPLOY, **values: Any) -> decisions.Placed:
    return decisions.place(vm, spec=requests.spec_for(vm, purpose=purpose, **values), kind=ClaimKind.VM, by=BY, now=NOW)


def undone(act: Callable[[], object]) -> None:
    """Does it in a transaction that is rolled back."""
    with transaction.atomic():
        act()
        transaction.set_rollback(True)


def test_a_stored_decision_is_told_again_whatever_happened_since(hosts: list[Host]) -> None:
    placed = [place(add_vm(f"vm-{number}", hosts[0])) for number in range(6)]
    Host.objects.filter(pk=hosts[1].pk).update(name="renamed", schedulable=False)
    capacity.refresh(now=NOW)
    hosts[2].delete()
    for number, one in enumerate(placed):
        decision = Decision.objects.select_related("snapshot").get(pk=one.decision.pk)
        explained = decisions.explain(decision)
        assert explained.exact
        assert explained.result.host == str(one.claim.host_id)
        assert {host.name for host in explained.hosts()} == {"kvm-0", "kvm-1", "kvm-2"}
        assert sum(explained.fleet.memory_claimed_mib) == 2_048 * number
        assert [cluster.fit for cluster in explained.clusters] == [3]


@pytest.mark.django_db(transaction=True)
def test_decisions_share_a_snapshot_once_it_is_committed(hosts: list[Host]) -> None:
    placed = [place(add_vm(f"vm-{number}", hosts[0])).decision for number in range(4)]
    assert FleetSnapshot.objects.count() == 1
    assert all(decisions.explain(Decision.objects.get(pk=one.pk)).exact for one in placed)
    undone(lambda: place(add_vm("undone", hosts[0])))
    after = place(add_vm("after", hosts[0])).decision
    explained = decisions.explain(Decision.objects.get(pk=after.pk))
    assert explained.exact
    assert sum(explained.fleet.memory_claimed_mib) == 4 * 2_048  # what was undone is not seen


@pytest.mark.django_db(transaction=True)
def test_a_new_snapshot_is_only_what_differs_from_a_whole_one_until_that_is_much(
    hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "SNAPSHOT_CHANGES", 0)
    placed: list[Decision] = []
    for most in (3, 3, 3, 3, 0, 3, 3):  # so many of the three hosts may differ
        monkeypatch.setattr(mirror, "BASE_CHANGES", (1, most))
        placed.append(place(add_vm(f"vm-{len(placed)}", hosts[0])).decision)
    used = [FleetSnapshot.objects.get(pk=str(one.snapshot_id)) for one in placed]
    first, second = used[0].pk, used[4].pk
    assert [one.base_id for one in used] == [None, first, first, first, None, second, second]
    for number, one in enumerate(placed):
        explained = decisions.explain(Decision.objects.get(pk=one.pk))
        assert explained.exact
        assert sum(explained.fleet.memory_claimed_mib) == 2_048 * number
    Decision.objects.exclude(pk=placed[2].pk).delete()
    decisions.purge(now=NOW + timedelta(hours=3))
    assert {one.pk for one in FleetSnapshot.objects.all()} == {used[2].pk, used[2].base_id}
    assert decisions.explain(Decision.objects.get(pk=placed[2].pk)).exact


def test_an_undone_snapshot_is_used_by_nobody(hosts: list[Host]) -> None:
    vm = add_vm("vm", hosts[0])
    undone(lambda: place(vm))
    assert not FleetSnapshot.objects.exists()
    assert decisions.explain(place(vm).decision).exact


@pytest.mark.parametrize("fleet_size", [2, 12])
def test_the_number_of_queries_does_not_depend_on_the_fleet(fleet_size: int) -> None:
    cluster = add_cluster("linux")
    many = [add_host(f"kvm-{number}", cluster, tags=["ssd", "linux"]) for number in range(fleet_size)]
    offering, template = add_offering("small", tags=["ssd"]), add_template("debian", ["linux"], ["ssd"])
    vms = [add_vm(f"vm-{number}", many[0], offering=offering, template=template) for number in range(fleet_size)]
    group = groups.create(name="web", kind="apart", vms=vms, by=BY, now=NOW)
    place(add_vm("first", many[0]))
    vm = Vm.objects.select_related("host__endpoint", "offering", "template").get(pk=vms[0].pk)
    with CaptureQueriesContext(
        connection,
    ) as asking:
        spec = requests.spec_for(vm, purpose=Purpose.DRAIN)
    assert len(asking) <= 9
    mirror.current()._load_seconds = 1e9  # no reload is due
    with CaptureQueriesContext(connection) as deciding:
        decisions.dry_run(spec, by=BY, now=NOW)
    assert len(deciding) == 1
    with CaptureQueriesContext(connection) as telling:
        decisions.candidates(vm, spec=spec, now=NOW)
    assert len(telling) == 2
    with CaptureQueriesContext(connection) as looking:
        capacity.overview(now=NOW)
    assert len(looking) == 1
    with CaptureQueriesContext(connection) as checking:
        groups.broken([group])
    assert len(checking) == 1


def test_the_mirror_sees_what_changes(hosts: list[Host]) -> None:
    def seen(host: Host) -> tuple[bool, int, list[str]]:
        with mirror.current().up_to_date(now=NOW) as fleet:
            at = fleet.structure.index[str(host.pk)]
            tags = [name for name, column in fleet.structure.tags.items() if column[at]]
            return bool(fleet.schedulable[at]), int(fleet.memory_claimed_mib[at]), tags

    assert seen(hosts[0]) == (True, 0, [])
    mirror.current()._load_seconds = 1e9  # only differences from now on, unless they tell of more
    claims.adopt(vms=[add_vm("a", hosts[0])], now=NOW)
    assert seen(hosts[0]) == (True, 2_048, [])
    host_verbs.cordon(hosts[0], by=BY, now=NOW)
    capacity.refresh(host_ids=[hosts[0].pk], now=NOW)
    assert seen(hosts[0]) == (False, 2_048, [])
    host_verbs.set_tags(hosts[0], ["ssd"], by=BY, now=NOW)
    capacity.refresh(host_ids=[hosts[0].pk], now=NOW)
    assert seen(hosts[0]) == (False, 2_048, ["ssd"])
    new = add_host("kvm-new", hosts[0].cluster)
    assert seen(new) == (True, 0, [])


def test_what_the_mirror_read_of_an_undone_transaction_is_read_again(hosts: list[Host]) -> None:
    def adopt_and_look() -> None:
        claims.adopt(vms=[add_vm("a", hosts[0])], now=NOW)
        with mirror.current().up_to_date(now=NOW) as fleet:
            assert fleet.memory_claimed_mib.sum() == 2_048

    undone(adopt_and_look)
    with mirror.current().up_to_date(now=NOW) as fleet:
        assert fleet.memory_claimed_mib.sum() == 0


def test_a_full_fleet_refuses_with_the_numbers_and_keeps_why(hosts: list[Host]) -> None:
    for number in range(3):
        place(add_vm(f"vm-{number}", hosts[0], memory_mib=16_000))
    with pytest.raises(NoHostFits) as refused, decisions.recording():
        place(add_vm("more", hosts[0]))
    assert "3 have too little memory free" in refused.value.detail
    assert refused.value.numbers["lost"] == {"memory": 3}
    assert "Free 1,664 MiB on kvm-0" in refused.value.remedy_text
    kept = Decision.objects.get(pk=str(refused.value.numbers["decision"]))
    assert (kept.outcome, kept.host_id) == ("refused", None)
    assert "kvm" not in " ".join(decisions.for_tenant(kept))
    assert "kvm" not in refused.value.tenant_words


def test_a_stale_mirror_never_refuses_and_a_lost_race_is_run_again(
    hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror is frozen while the database changes: the claim finds out, and everything is read anew."""
    with mirror.current().up_to_date(now=NOW):
        pass
    monkeypatch.setattr(mirror.Mirror, "_read_differences", lambda self: True)
    mirror.current()._load_seconds = 1e9
    full = [host.pk for host in hosts[:2]]
    HostCapacity.objects.filter(pk__in=full).update(memory_claimed_mib=16_384)
    assert place(add_vm("a", hosts[0])).claim.host_id == hosts[2].pk
    HostCapacity.objects.update(memory_claimed_mib=0)
    assert place(add_vm("b", hosts[0], memory_mib=16_384)).claim.host_id in {host.pk for host in hosts}


@pytest.mark.django_db(transaction=True)
def test_a_stream_of_placements_counts_its_own_claims_and_reads_when_this_process_changed_something(
    hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "LATELY_SECONDS", 3_600.0)
    place(add_vm("first", hosts[0]))
    mirror.current()._load_seconds = 1e9
    vms = [add_vm(f"vm-{number}", hosts[0]) for number in range(3)]
    specs = [requests.spec_for(vm, purpose=Purpose.DEPLOY) for vm in vms]
    readings = mirror.current()._readings
    second, third = (
        decisions.place(vm, spec=spec, kind=ClaimKind.VM, by=BY, now=NOW)
        for vm, spec in zip(vms[:2], specs, strict=False)
    )
    assert mirror.current()._readings == readings
    for number, one in enumerate((second, third), 1):
        explained = decisions.explain(Decision.objects.get(pk=one.decision.pk))
        assert explained.exact
        assert sum(explained.fleet.memory_claimed_mib) == number * 2_048
    claims.release(vm=vms[0], now=NOW)
    fourth = decisions.place(vms[2], spec=specs[2], kind=ClaimKind.VM, by=BY, now=NOW)
    explained = decisions.explain(Decision.objects.get(pk=fourth.decision.pk))
    assert sum(explained.fleet.memory_claimed_mib) == 2 * 2_048


def test_no_claim_is_taken_on_a_host_that_is_not_what_was_decided_on(
    hosts: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tags and the like changed since the copy was read, and the copy does not know it yet."""
    place(add_vm("first", hosts[0]))
    mirror.current()._load_seconds = 1e9
    monkeypatch.setattr(mirror.Mirror, "_read_differences", lambda self: True)
    HostCapacity.objects.update(structure=F("structure") + 1)
    tried: list[bool] = []
    insert = claims.insert

    def counting(claim: Claim, **values: Any) -> bool:
        tried.append(insert(claim, **values))
        return tried[-1]

    monkeypatch.setattr(claims, "insert", counting)
    place(add_vm("second", hosts[0]))
    assert tried[-1]
    assert set(tried[:-1]) == {False}


def test_losing_every_race_is_said(hosts: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "insert", lambda *_, **__: False)
    with pytest.raises(CapacityGone, match="Others were quicker"):
        place(add_vm("a", hosts[0]))


def test_a_second_claim_is_refused(hosts: list[Host]) -> None:
    vm = add_vm("a", hosts[0])
    place(vm)
    with pytest.raises(AlreadyClaimed):
        place(vm)
    assert Claim.objects.count() == Decision.objects.count() == 1


def test_old_decisions_and_unused_snapshots_go(hosts: list[Host]) -> None:
    old = place(add_vm("a", hosts[0])).decision
    Decision.objects.filter(pk=old.pk).update(at=NOW - timedelta(days=31))
    FleetSnapshot.objects.update(taken_at=NOW - timedelta(days=31))
    young = place(add_vm("b", hosts[0])).decision
    assert decisions.purge(now=NOW) == 1
    assert list(Decision.objects.all()) == [young]
    assert FleetSnapshot.objects.count() == 1
    young.snapshot = None
    with pytest.raises(DecisionTooOld):
        decisions.explain(young)


def test_a_dry_run_takes_nothing_and_may_be_kept(hosts: list[Host]) -> None:
    offering = add_offering("small")
    spec = requests.spec_of_request(offering=offering)
    told = decisions.dry_run(spec, by=BY, now=NOW)
    assert told.result.host is not None
    assert told.decision is None
    kept = decisions.dry_run(spec, by=BY, now=NOW, store=True).decision
    assert kept is not None
    assert decisions.explain(kept).exact
    assert not Claim.objects.exists()


def test_candidates_are_told_with_reasons_and_remedies(hosts: list[Host]) -> None:
    host_verbs.cordon(hosts[1], by=BY, now=NOW)
    capacity.refresh(now=NOW)
    vm = add_vm("a", hosts[0])
    found = decisions.candidates(vm, spec=requests.spec_for(vm, purpose=Purpose.MIGRATE), now=NOW)
    assert [(one.host.name, one.fits, one.reasons) for one in found] == [
        ("kvm-2", True, ()),
        ("kvm-0", False, ("It is there already.",)),
        ("kvm-1", False, ("cordoned",)),
    ]
    assert found[2].remedies == ("Uncordon kvm-1.",)


def test_a_request_says_what_the_rows_say(hosts: list[Host]) -> None:
    offering = add_offering("fast", tags=["ssd", "generic"])
    template = add_template("debian", ["linux", "generic"], ["nvme"])
    disks = [
        {"target": "vda", "kind": "shared", "datastore": "nfs"},
        {"target": "vdb", "kind": "local"},
        {"target": "sda", "kind": "local", "removable": True},
    ]
    project = Project.objects.create(name="blue")
    values: dict[str, Any] = {"offering": offering, "template": template, "project": project}
    vm = add_vm("a", hosts[0], networks=["lan"], disks=disks, **values)
    spec = requests.spec_for(vm, purpose=Purpose.MIGRATE)
    assert spec.tags == {
        "generic": "offering fast and template debian",
        "ssd": "offering fast",
        "linux": "template debian",
    }
    assert spec.soft_tags == {"nvme": "template debian"}
    assert (spec.networks, spec.datastores, spec.local_disks) == (("lan",), ("nfs",), ("vdb",))
    assert spec.exclude_hosts == {str(hosts[0].pk): "It is there already."}
    assert requests.spec_for(vm, purpose=Purpose.MIGRATE, copy_storage=True).local_disks == ()
    assert requests.spec_for(vm, purpose=Purpose.MIGRATE, drop_soft_tags=True).soft_tags == {}
    start = requests.spec_for(vm, purpose=Purpose.START)
    assert (start.only_hosts, start.local_disks) == ((str(hosts[0].pk),), ())
    vm.pinned = True
    assert requests.spec_for(vm, purpose=Purpose.DRAIN).only_reason == "It is pinned to kvm-0."
    forced = requests.spec_for(vm, purpose=Purpose.DRAIN, only_hosts=[hosts[1].pk])
    assert forced.only_hosts == (str(hosts[1].pk),)


def test_groups_follow_vms_that_are_on_their_way(hosts: list[Host]) -> None:
    vm, mate, off = (add_vm(name, hosts[0]) for name in ("a", "mate", "off"))
    Vm.objects.filter(pk=off.pk).update(power_state="off", host=hosts[2])
    groups.create(name="db", kind="apart", vms=[vm, mate, off], by=BY, now=NOW)
    operation = operation_on(mate)
    claims.take(host_id=hosts[1].pk, vm=mate, kind="incoming", vcpus=1, memory_mib=1, operation=operation, now=NOW)
    spec = requests.spec_for(vm, purpose=Purpose.DRAIN)
    assert set(spec.apart_hosts) == {str(hosts[0].pk), str(hosts[1].pk)}
    assert place(vm, Purpose.DRAIN).claim.host_id == hosts[2].pk


def test_groups_are_kept_with_events_and_told_when_broken(hosts: list[Host]) -> None:
    one, two = add_vm("one", hosts[0]), add_vm("two", hosts[0])
    group = groups.create(name="db", kind="apart", vms=[one, two], by=BY, now=NOW)
    assert groups.broken([group]) == {group.pk: "one, two are all on kvm-0."}
    group = groups.change(group, kind="together", by=BY, now=NOW)
    assert groups.broken([group]) == {}
    with pytest.raises(Invalid):
        groups.change(group, kind="sideways", by=BY, now=NOW)
    groups.change(group, vms=[one], by=BY, now=NOW)
    groups.delete(group, by=BY, now=NOW)
    groups.delete(group, by=BY, now=NOW)
    assert not AffinityGroup.objects.exists()
    kinds = Event.objects.filter(kind__startswith="affinitygroup.").order_by("id").values_list("kind", flat=True)
    assert [kind.partition(".")[2] for kind in kinds] == ["created", "changed", "changed", "deleted"]


def test_a_policy_changes_capacity_at_once_and_goes_when_empty(hosts: list[Host]) -> None:
    cluster = hosts[0].cluster
    before = HostCapacity.objects.get(pk=hosts[0].pk)
    policies.set_policy(cluster, by=BY, now=NOW, cpu_ratio=1.5, memory_reserve_mib=0, allocator="pack")
    after = HostCapacity.objects.get(pk=hosts[0].pk)
    assert (before.vcpu_capacity, before.memory_capacity_mib) == (64, 16_384)
    assert (after.vcpu_capacity, after.memory_capacity_mib) == (24, 17_408)
    spec = requests.spec_for(add_vm("a", hosts[0]), purpose=Purpose.DEPLOY)
    assert decisions.dry_run(spec, by=BY, now=NOW).result.allocator == "pack"
    with pytest.raises(PolicyInvalid):
        policies.set_policy(cluster, by=BY, now=NOW, allocator="weights", weights={"luck": 1.0})
    policies.set_policy(cluster, by=BY, now=NOW, cpu_ratio=None, memory_reserve_mib=None, allocator="")
    assert not ClusterPolicy.objects.exists()
    assert HostCapacity.objects.get(pk=hosts[0].pk).vcpu_capacity == 64


def test_settings_change_capacity_at_once(hosts: list[Host]) -> None:
    runtime.change(by=BY, now=NOW, placement_cpu_ratio=2.0, placement_memory_reserve_mib=0)
    row = HostCapacity.objects.get(pk=hosts[0].pk)
    assert (row.vcpu_capacity, row.memory_capacity_mib) == (32, 17_408)


def test_the_overview_adds_up(hosts: list[Host]) -> None:
    claims.adopt(vms=[add_vm("a", hosts[0], vcpus=20), add_vm("b", hosts[1])], now=NOW)
    Host.objects.filter(pk=hosts[2].pk).update(schedulable=False, cpu_percent=50.0)
    linux = capacity.overview(now=NOW)[0]
    assert (linux.room.vcpu_capacity, linux.room.vcpu_claimed, linux.room.vcpu_free) == (192, 22, 170)
    assert (linux.takes_vms, linux.room.used_cpu_percent) == (2, 50.0)
    assert [one.room.overcommitted for one in linux.hosts] == [True, False, False]


def test_tenants_and_templates_are_none_of_a_plain_request() -> None:
    assert Offering.objects.count() == Template.objects.count() == 0
    spec = requests.spec_of_request(offering=add_offering("small"))
    assert (spec.tags, spec.home_cluster, spec.purpose) == ({}, None, Purpose.DRY_RUN)
