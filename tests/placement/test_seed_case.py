"""What CloudStack got wrong, named: only the first cluster was tried, affinity and further clusters were ignored."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from cloudops.core import runtime
from cloudops.inventory.models import Host, Vm
from placement import decisions, requests
from placement.errors import NoHostFits
from placement.models import AffinityGroup, Claim, Decision
from placement.spec import Purpose
from tests.placement.world import BY, NOW, add_cluster, add_host, add_offering, add_template, add_vm, operation_on

pytestmark = pytest.mark.django_db


@dataclass
class Seed:
    vm: Vm
    windows: list[Host]
    linux: list[Host]


@pytest.fixture
def seed() -> Seed:
    """Cluster W (generic, windows) comes before cluster L (generic, linux) in capacity order; the VM asks for both."""
    first, second = add_cluster("W", 0), add_cluster("L", 1)
    windows = [add_host(f"w{n}", first, tags=["generic", "windows"], memory_mib=65_536) for n in range(2)]
    linux = [add_host(f"l{n}", second, tags=["generic", "linux"]) for n in range(2)]
    offering, template = add_offering("generic", tags=["generic"]), add_template("debian", ["linux"])
    vm = add_vm("seed", windows[0], offering=offering, template=template)
    return Seed(vm, windows, linux)


def place(seed: Seed) -> decisions.Placed:
    spec = requests.spec_for(seed.vm, purpose=Purpose.MIGRATE, allocator="first-fit")
    return decisions.place(seed.vm, spec=spec, operation=operation_on(seed.vm), by=BY, now=NOW)


def test_cloudstack_10598_every_cluster_is_tried(seed: Seed) -> None:
    placed = place(seed)
    assert placed.decision.host_id == seed.linux[0].pk
    assert placed.claim.host_id == seed.linux[0].pk
    explained = decisions.explain(placed.decision)
    assert explained.exact
    assert [cluster.name for cluster in explained.clusters] == ["W", "L"]
    others = {host.name: host.reasons for host in explained.clusters[0].hosts}
    assert others["w1"] == ("missing tag linux (asked by template debian)",)
    assert "missing tag linux (asked by template debian)" in others["w0"]
    assert placed.decision.summary["lost"] == {"excluded-hosts": 1, "tags": 1}


def test_without_across_clusters_it_is_refused_with_that_reason_and_that_remedy(seed: Seed) -> None:
    runtime.change(by=BY, now=NOW, placement_across_clusters=False)
    with pytest.raises(NoHostFits) as refused:
        place(seed)
    assert "2 are in other clusters" in refused.value.detail
    assert "in cluster L; the VM may not leave W" in refused.value.detail
    assert "turn on “migrate VMs across clusters”" in refused.value.remedy_text
    assert refused.value.numbers["lost"] == {"excluded-hosts": 1, "cluster-scope": 2, "tags": 1}
    assert not Claim.objects.exists()


def test_a_refused_decision_is_kept_although_its_transaction_is_undone(seed: Seed) -> None:
    runtime.change(by=BY, now=NOW, placement_across_clusters=False)
    with pytest.raises(NoHostFits) as refused, decisions.recording():
        place(seed)
    kept = Decision.objects.get(pk=str(refused.value.numbers["decision"]))
    assert kept.outcome == "refused"
    explained = decisions.explain(kept)
    assert explained.exact
    assert {host.name: host.reasons for host in explained.hosts()}["w1"] == (
        "missing tag linux (asked by template debian)",
    )


def test_cloudstack_12473_a_group_that_keeps_apart_is_kept(seed: Seed) -> None:
    mate = add_vm("mate", seed.linux[0])
    group = AffinityGroup.objects.create(name="db", kind="apart", created_at=NOW)
    group.vms.set([mate, seed.vm])
    placed = place(seed)
    assert placed.decision.host_id == seed.linux[1].pk
    told = {host.name: host.reasons for host in decisions.explain(placed.decision).hosts()}
    assert told["l0"] == ("has another VM of db",)


def test_cloudstack_8629_affinity_holds_with_a_second_cluster(seed: Seed) -> None:
    """A VM that belongs with another goes to that one's cluster, however full the first cluster is or is not."""
    vm = add_vm("other", seed.windows[0])
    mate = add_vm("mate", seed.linux[1])
    group = AffinityGroup.objects.create(name="web", kind="together", created_at=NOW)
    group.vms.set([mate, vm])
    spec = requests.spec_for(vm, purpose=Purpose.DRAIN, allocator="first-fit")
    placed = decisions.place(vm, spec=spec, operation=operation_on(vm), by=BY, now=NOW)
    assert placed.decision.host_id == seed.linux[1].pk
