"""Between two vCenters CloudOps moves nothing, and says so before it is tried."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cloudops.core import runtime
from cloudops.inventory import endpoints
from cloudops.inventory.models import Cluster, Endpoint, Host, Vm
from placement import capacity, foresight, maintenance, mirror, power_claims, vm_migrations
from placement.errors import NoHostFits
from tests.placement.moving import BY

NOW = datetime(2030, 1, 15, 12, 0, tzinfo=UTC)
SIZE = {"cpu_threads": 32, "memory_mib": 65_536, "connection": "up"}


@pytest.fixture
def vm(db: None) -> Vm:
    """On one of two hosts behind the first vCenter; a third host is behind the second."""
    cluster = Cluster.objects.create(name="Rack 1")
    mirror.forget()
    for number, names in ((1, ("esx-1", "esx-2")), (2, ("esx-3",))):
        endpoint = Endpoint.objects.create(kind="vsphere", uri=f"https://vc-{number}.example.org")
        for name in names:
            Host.objects.create(endpoint=endpoint, cluster=cluster, ref=name, name=name, **SIZE)
    here = Host.objects.get(name="esx-1")
    found = Vm.objects.create(ref="a", name="web", host=here, power_state="running", vcpus=1, memory_mib=512)
    capacity.refresh(now=NOW)
    power_claims.follow_all(now=NOW)
    return found


def test_a_host_behind_another_vcenter_is_no_destination(vm: Vm) -> None:
    there = Host.objects.select_related("endpoint").get(name="esx-3")
    with pytest.raises(NoHostFits):
        vm_migrations.migrate(vm, to=there, by=BY, now=NOW)
    options = vm_migrations.Options.of(runtime.current())
    found = foresight.destinations(vm, options=options, now=NOW)
    assert [one.candidate.host.name for one in found.fits] == ["esx-2"]
    reasons = {one.candidate.host.name: one.candidate.reasons for one in found.others}
    assert "It is behind another vCenter." in " ".join(reasons["esx-3"])
    assert endpoints.migration_uri(there) == ""


def test_a_drain_plans_within_the_vcenter(vm: Vm) -> None:
    seen = maintenance.preview(host_ids=[vm.host_id], now=NOW)
    assert [move.to_host_name for move in seen.moves] == ["esx-2"]
    Host.objects.filter(name="esx-2").update(connection="unreachable")
    capacity.refresh(now=NOW)
    mirror.forget()
    (blocker,) = maintenance.preview(host_ids=[vm.host_id], now=NOW).blockers
    assert "behind another vCenter" in blocker.words
