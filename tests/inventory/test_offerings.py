"""Offerings: every kind, what cannot be, versions that are kept, and VMs that keep what they were given."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from cloudops.core.errors import Invalid
from cloudops.core.models import Event
from cloudops.inventory import offering_rules, offerings, tags, vms
from cloudops.inventory.models import Offering, OfferingVersion, Vm
from tests.inventory.fake import ADMIN, NOW, make_endpoint

pytestmark = pytest.mark.django_db
CUSTOM: dict[str, Any] = {
    "kind": "custom", "vcpus": 1, "max_vcpus": 2, "memory_mib": 256, "max_memory_mib": 512, "cpu_mhz": 500,
}  # fmt: skip


def make(name: str = "elastic", **values: Any) -> Offering:
    return offerings.create(name=name, **({"vcpus": 2, "memory_mib": 2_048} | values), by=ADMIN, now=NOW)


def test_an_offering_is_made_changed_and_deleted() -> None:
    offering = offerings.create(name="small", vcpus=2, memory_mib=2048, host_tags=["ssd"], by=ADMIN, now=NOW)
    changed = offerings.change(offering, by=ADMIN, now=NOW, memory_mib=4096, host_tags=["gpu"], dynamic_scaling=True)
    assert (changed.memory_mib, changed.dynamic_scaling) == (4096, True)
    assert Event.objects.get(kind="offering.changed").data["changed"] == {
        "memory_mib": [2048, 4096],
        "dynamic_scaling": [False, True],
        "host_tags": [["ssd"], ["gpu"]],
    }
    assert tags.names() == ["gpu", "ssd"]
    offerings.change(changed, by=ADMIN, now=NOW, memory_mib=4096)
    assert Event.objects.filter(kind="offering.changed").count() == 1
    offerings.delete(changed, by=ADMIN, now=NOW)
    assert not Offering.objects.exists()


@pytest.mark.parametrize(
    ("field", "value"), [("vcpus", 0), ("memory_mib", 8), ("cpu_mhz", 1), ("host_tags", ["no good"]), ("id", "1")]
)
def test_wrong_offerings_are_refused_by_field(field: str, value: object) -> None:
    offering = offerings.create(name="small", vcpus=2, memory_mib=2048, by=ADMIN, now=NOW)
    with pytest.raises(Invalid) as refusal:
        offerings.change(offering, by=ADMIN, now=NOW, **{field: value})
    assert field in str(refusal.value.numbers["fields"])


def test_an_offering_that_vms_have_stays_and_says_which() -> None:
    offering = offerings.create(name="small", vcpus=2, memory_mib=2048, by=ADMIN, now=NOW)
    host = make_endpoint("qemu+tcp://kvm1/system").hosts.get()
    for number in range(7):
        Vm.objects.create(ref=f"r{number}", name=f"web{number}", host=host, offering=offering)
    with pytest.raises(offerings.OfferingInUse) as refusal:
        offerings.delete(offering, by=ADMIN, now=NOW)
    assert refusal.value.numbers == {"vms": 7, "names": ["web0", "web1", "web2", "web3", "web4"]}
    assert refusal.value.detail.endswith("web4 and 2 more.")


def test_what_each_kind_allows() -> None:
    assert offerings.bounds(make("fixed")) == (2, 2, 2_048, 2_048)
    assert offerings.bounds(make("custom", **CUSTOM)) == (1, 2, 256, 512)
    free = offerings.bounds(make("free", kind="unconstrained"))
    assert free == (1, 1_024, 16, 16_777_216)
    assert free.hold(1_024, 16)
    assert not free.hold(1_025, 16)
    assert not offerings.bounds(Offering(**CUSTOM)).hold(1, 513)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"max_vcpus": None}, "max_vcpus"),
        ({"max_memory_mib": 255}, "max_memory_mib"),
        ({"max_vcpus": 2_000}, "max_vcpus"),
        ({"kind": "fixed"}, "max_vcpus"),
        ({"kind": "unconstrained", "max_vcpus": None}, "max_memory_mib"),
        ({"cpu_cap": True, "cpu_mhz": None}, "cpu_mhz"),
        ({"kind": "elastic"}, "kind"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        make(**CUSTOM | values)
    assert field in str(refusal.value.numbers["fields"])
    assert not Offering.objects.exists()


@pytest.mark.parametrize("values", [{"max_vcpus": None}, {"max_memory_mib": 1}, {"cpu_cap": True, "cpu_mhz": None}])
def test_the_database_refuses_it_too(values: dict[str, Any]) -> None:
    offering = make(**CUSTOM)
    with pytest.raises(IntegrityError), transaction.atomic():
        Offering.objects.filter(pk=offering.pk).update(**values)


def test_one_that_is_no_longer_custom_loses_its_bounds() -> None:
    offering = make(**CUSTOM)
    changed = offerings.change(offering, kind="fixed", by=ADMIN, now=NOW)
    assert (changed.kind, changed.max_vcpus, changed.max_memory_mib) == ("fixed", None, None)
    with pytest.raises(Invalid) as refusal:
        offerings.change(offering, kind="unconstrained", max_vcpus=4, by=ADMIN, now=NOW)
    assert "max_vcpus" in str(refusal.value.numbers["fields"])


class TestVersions:
    def test_what_vms_get_makes_one_and_words_do_not(self) -> None:
        offering = make(**CUSTOM, host_tags=["ssd"])
        later = NOW + timedelta(hours=1)
        offerings.change(offering, name="renamed", description="x", enabled=False, by=ADMIN, now=later)
        assert [row.version for row in offering.versions.all()] == [1]
        for change in ({"max_vcpus": 3}, {"cpu_cap": True}, {"dynamic_scaling": True}, {"soft_host_tags": ["nvme"]}):
            offerings.change(offering, **change, by=ADMIN, now=later)
        offerings.change(offering, max_vcpus=3, host_tags=["ssd"], by=ADMIN, now=later)
        offering.refresh_from_db()
        assert offering.version == 5
        first, last = offering.versions.last(), offering.versions.first()
        assert first is not None
        assert last is not None
        assert (first.version, first.by_name, first.created_at) == (1, "alice", NOW)
        assert first.values == CUSTOM | {
            "cpu_cap": False, "dynamic_scaling": False, "host_tags": ["ssd"], "soft_host_tags": [],
        }  # fmt: skip
        assert (last.version, last.created_at) == (5, later)
        assert last.values == offering_rules.values(offering)

    def test_a_refused_change_makes_none(self) -> None:
        offering = make(**CUSTOM)
        with pytest.raises(Invalid):
            offerings.change(offering, max_vcpus=3, host_tags=["no good"], by=ADMIN, now=NOW)
        offering.refresh_from_db()
        assert (offering.version, offering.max_vcpus, OfferingVersion.objects.count()) == (1, 2, 1)

    def test_a_vm_keeps_the_version_that_it_was_given(self) -> None:
        offering, host = make(**CUSTOM), make_endpoint("qemu+tcp://kvm1/system").hosts.get()
        vm = Vm.objects.create(ref="r", name="web", host=host, vcpus=1, memory_mib=256)
        vms.set_offering(vm, offering=offering, by=ADMIN, now=NOW)
        offerings.change(offering, vcpus=2, memory_mib=512, by=ADMIN, now=NOW)
        vm.refresh_from_db()
        assert (vm.offering_version, vm.vcpus, vm.memory_mib) == (1, 1, 256)
        vms.set_offering(vm, offering=None, by=ADMIN, now=NOW)
        offering.refresh_from_db()
        vms.set_offering(vm, offering=offering, by=ADMIN, now=NOW)
        vm.refresh_from_db()
        assert vm.offering_version == 2

    def test_the_difference_is_told_in_words(self) -> None:
        before = CUSTOM | {"cpu_cap": True, "dynamic_scaling": False, "host_tags": ["a", "b"], "soft_host_tags": []}
        after = before | {
            "max_vcpus": 1, "memory_mib": 1_024, "max_memory_mib": 2_048, "cpu_cap": False, "dynamic_scaling": True,
            "host_tags": ["b", "c"], "soft_host_tags": ["d"],
        }  # fmt: skip
        assert offering_rules.changes(before, after) == [
            "1 vCPU instead of 1–2 vCPUs",
            "1–2 GiB instead of 256–512 MiB",
            "CPU speed 500 MHz instead of 500 MHz (hard limit)",
            "live scaling allowed",
            "host tag c added",
            "host tag a taken away",
            "preferred host tag d added",
        ]
        free = after | {"kind": "unconstrained", "max_vcpus": None, "max_memory_mib": None, "cpu_mhz": None}
        assert offering_rules.changes(after, free) == [
            "any size instead of any size within bounds",
            "any vCPUs instead of 1 vCPU",
            "any memory instead of 1–2 GiB",
            "CPU speed not set instead of 500 MHz",
        ]
        assert offering_rules.changes(free, free | {"vcpus": 4}) == ["suggested vCPUs 4 instead of 1"]
        assert offering_rules.changes(free, free) == []
