"""Clusters: made, changed, and deleted only when nobody uses them."""

from __future__ import annotations

import pytest

from cloudops.core.errors import Invalid
from cloudops.core.models import Event
from cloudops.inventory import clusters
from cloudops.inventory.models import Cluster, Host
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
