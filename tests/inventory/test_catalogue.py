"""Clusters and offerings: made, changed, and deleted only when nobody uses them."""

from __future__ import annotations

import pytest

from cloudops.core.errors import Invalid
from cloudops.core.models import Event
from cloudops.inventory import clusters, offerings, tags
from cloudops.inventory.models import Cluster, Host, Offering, Vm
from tests.inventory.fake import ADMIN, NOW, make_endpoint

pytestmark = pytest.mark.django_db


def test_clusters_keep_their_order() -> None:
    for name in ("b", "a"):
        clusters.create(name=name, by=ADMIN, now=NOW)
    assert [cluster.name for cluster in Cluster.objects.all()] == ["b", "a"]
    clusters.change(Cluster.objects.get(name="a"), by=ADMIN, now=NOW, position=0, description="first")
    assert [cluster.name for cluster in Cluster.objects.all()] == ["a", "b"]
    assert Event.objects.get(kind="cluster.changed").data["changed"]["position"] == [1, 0]


def test_a_cluster_with_hosts_stays() -> None:
    make_endpoint("qemu+tcp://kvm1/system", hosts=2)
    cluster = Cluster.objects.get()
    with pytest.raises(clusters.ClusterInUse) as refusal:
        clusters.delete(cluster, by=ADMIN, now=NOW)
    assert refusal.value.numbers == {"hosts": 2}
    Host.objects.all().delete()
    clusters.delete(cluster, by=ADMIN, now=NOW)
    assert not Cluster.objects.exists()


def test_names_are_unique_and_not_empty() -> None:
    clusters.create(name="a", by=ADMIN, now=NOW)
    for name in ("a", "  "):
        with pytest.raises(Invalid) as refusal:
            clusters.create(name=name, by=ADMIN, now=NOW)
        assert "name" in str(refusal.value.numbers)


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
