"""The scheduler: every filter's verdict, every allocator's choice, the nearest miss, and the same answer every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement import words
from placement.filters import BY_NAME, FILTERS
from placement.fleet import Fleet, HostRow
from placement.scheduler import Result, cluster_results, decide, legal, verdicts
from placement.spec import ALLOCATORS, Purpose, Spec
from placement.structure import ClusterRow
from placement.weighers import WEIGHERS, mix, turn
from tests.placement.world import fleet, key, row, spec


def reasons(asked: Spec, hosts: Fleet, name: str) -> list[str]:
    place = hosts.structure.names.index(name)
    found = verdicts(asked, hosts, decide(asked, hosts), place)
    return [words.reason(one, asked) for one in found if not one.passed]


def chosen(asked: Spec, hosts: Fleet) -> str | None:
    result = decide(asked, hosts)
    return None if result.place is None else hosts.structure.names[result.place]


FAILING: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    (
        "only-hosts",
        {},
        {"only_hosts": (key("other"),), "only_reason": "It is pinned to other."},
        "It is pinned to other.",
    ),
    ("excluded-hosts", {}, {"exclude_hosts": {key("kvm"): "It is there already."}}, "It is there already."),
    ("kind", {"kind": "vsphere"}, {}, "is a VMware host; the VM needs KVM"),
    ("schedulable", {"schedulable": False}, {}, "cordoned"),
    ("connection", {"connection": "unreachable"}, {}, "not reachable"),
    ("hold", {"hold": "maintenance"}, {}, "is in maintenance"),
    (
        "cluster-scope",
        {},
        {"home_cluster": key("gpu"), "across_clusters": False},
        "in cluster linux; the VM may not leave",
    ),
    (
        "tags",
        {"tags": ["ssd"]},
        {"tags": {"ssd": "offering a", "gpu": "template b"}},
        "missing tag gpu (asked by template b)",
    ),
    ("networks", {"networks": ["lan"]}, {"networks": ("dmz", "lan")}, "has no network dmz"),
    ("datastores", {"datastores": ["a"]}, {"datastores": ("nfs",)}, "does not reach nfs"),
    ("local-disks", {}, {"local_disks": ("vda",)}, "cannot reach the VM's local disk vda"),
    ("cpu-model", {"cpu_model": "Xeon"}, {"cpu_model": "EPYC"}, "has another CPU (Xeon); the VM was given EPYC"),
    ("together", {}, {"together_hosts": {key("other"): ("web",)}}, "without the VMs of web"),
    ("apart", {}, {"apart_hosts": {key("kvm"): ("db",)}}, "has another VM of db"),
    ("vcpus", {"vcpu_claimed": 15}, {}, "1 of 2 vCPUs free"),
    ("memory", {"memory_claimed_mib": 15_000}, {}, "1,384 MiB of 2,048 MiB free"),
    ("consoles", {"console_limit": 3, "consoles": 2}, {"consoles": 2}, "1 console slot free, 2 needed"),
    (
        "threshold",
        {"memory_claimed_mib": 12_288},
        {"memory_threshold_percent": 85},
        "its cluster is nearly full: memory at",
    ),
]


@pytest.mark.parametrize(("name", "host", "asked", "told"), FAILING, ids=[one[0] for one in FAILING])
def test_each_filter_fails_for_its_own_reason_and_says_it(
    name: str, host: dict[str, Any], asked: dict[str, Any], told: str
) -> None:
    hosts = fleet(row("kvm", **host))
    result = decide(spec(**asked), hosts)
    assert result.host is None
    assert dict(result.lost) == {name: 1}
    found = reasons(spec(**asked), hosts, "kvm")
    assert len(found) == 1
    assert found[0].startswith(told)
    assert decide(spec(), fleet(row("kvm"))).host == key("kvm")


def test_every_filter_is_tried_and_has_words() -> None:
    assert {one[0] for one in FAILING} == set(BY_NAME)
    assert set(words.TITLES) == set(words._LOST) == set(words._REASONS) == set(BY_NAME)


def test_hosts_that_tell_no_networks_storage_or_cpu_are_not_known_to_lack_any() -> None:
    asked = spec(networks=("lan",), datastores=("nfs",), cpu_model="EPYC")
    assert chosen(asked, fleet(row("silent"))) == "silent"
    hosts = fleet(
        row("silent"), row("other", networks=["lan"], datastores=["nfs"], cpu_model="EPYC", schedulable=False)
    )
    assert chosen(asked, hosts) == "silent"


def test_thresholds_hold_for_new_vms_and_never_for_moves() -> None:
    hosts = fleet(row("kvm", memory_claimed_mib=12_288))
    assert chosen(spec(memory_threshold_percent=85), hosts) is None
    assert chosen(spec(memory_threshold_percent=88), hosts) == "kvm"
    assert chosen(spec(purpose=Purpose.DRAIN, memory_threshold_percent=85), hosts) == "kvm"
    own = [ClusterRow(key("linux"), "linux", memory_threshold_percent=85)]
    assert chosen(spec(), fleet(row("kvm", memory_claimed_mib=12_288), clusters=own)) is None


def test_a_cluster_without_room_is_not_the_end() -> None:
    hosts = fleet(row("a", vcpu_claimed=16), row("b", "windows"), row("c", "gpu"))
    assert chosen(spec(allocator="first-fit", cluster_order="position"), hosts) == "b"


@pytest.mark.parametrize(
    ("allocator", "expected"),
    [("first-fit", "b1"), ("spread", "b2"), ("pack", "a1"), ("least-consoles", "a2")],
)
def test_each_allocator_has_its_own_best(allocator: str, expected: str) -> None:
    hosts = fleet(
        row("a1", memory_claimed_mib=14_000, vcpu_claimed=12, console_limit=40),
        row("a2", memory_claimed_mib=9_000, vcpu_claimed=4, console_limit=50),
        row("b1", "windows", memory_claimed_mib=8_000, vcpu_claimed=8),
        row("b2", "windows", memory_claimed_mib=1_000, vcpu_claimed=1),
    )
    assert chosen(spec(allocator=allocator), hosts) == expected


def test_first_fit_looks_at_clusters_in_the_order_asked_for() -> None:
    hosts = fleet(row("a", vcpu_claimed=1, memory_claimed_mib=9_000), row("b", "windows", vcpu_claimed=9))
    assert chosen(spec(allocator="first-fit", cluster_order="position"), hosts) == "a"
    assert chosen(spec(allocator="first-fit", cluster_order="memory"), hosts) == "b"
    assert chosen(spec(allocator="first-fit", cluster_order="cpu"), hosts) == "a"


def test_soft_wishes_are_preferred_and_never_refuse() -> None:
    hosts = fleet(row("empty"), row("ssd", tags=["ssd"], memory_claimed_mib=9_000))
    assert chosen(spec(soft_tags={"ssd": "offering a"}), hosts) == "ssd"
    assert chosen(spec(soft_tags={"nvme": "offering a"}), hosts) == "empty"
    assert chosen(spec(soft_apart_hosts={key("empty"): ("db",)}), hosts) == "ssd"
    assert chosen(spec(soft_together_hosts={key("ssd"): ("web",)}), hosts) == "ssd"


def test_own_weights_of_request_and_cluster() -> None:
    hosts = [row("a", memory_claimed_mib=9_000, vcpu_claimed=1), row("b", memory_claimed_mib=1_000, vcpu_claimed=9)]
    assert chosen(spec(allocator="weights", weights={"free-cpu": 1.0}), fleet(*hosts)) == "a"
    assert chosen(spec(allocator="weights", weights={"free-cpu": 1.0, "free-memory": 5.0}), fleet(*hosts)) == "b"
    own = [ClusterRow(key("linux"), "linux", allocator="weights", weights={"free-cpu": -1.0})]
    assert chosen(spec(), fleet(*hosts, clusters=own)) == "b"


def test_clusters_with_different_allocators_are_looked_at_in_order() -> None:
    clusters = [ClusterRow(key("linux"), "linux", 0, allocator="pack"), ClusterRow(key("windows"), "windows", 1)]
    hosts = [row("a", memory_claimed_mib=9_000), row("b"), row("c", "windows")]
    asked = spec(cluster_order="position")
    assert chosen(asked, fleet(*hosts, clusters=clusters)) == "a"
    full = [row("a", hold="fenced"), row("b", vcpu_claimed=16), row("c", "windows")]
    assert chosen(asked, fleet(*full, clusters=clusters)) == "c"


def test_equally_good_hosts_take_turns_by_seed_and_worse_ones_never_do() -> None:
    hosts = fleet(row("a"), row("b"), row("c"), row("full", memory_claimed_mib=8_000))
    found = {chosen(spec(seed=seed, among=8), hosts) for seed in range(40)}
    assert found == {"a", "b", "c"}
    assert {chosen(spec(seed=seed), hosts) for seed in range(10)} == {"a"}
    assert {chosen(spec(seed=seed, among=8, allocator="first-fit"), hosts) for seed in range(10)} == {"a"}
    assert {chosen(spec(seed=seed, allocator="random"), hosts) for seed in range(60)} == {"a", "b", "c", "full"}


def nearest(asked: Spec, hosts: Fleet) -> tuple[str, list[dict[str, Any]]]:
    miss = decide(asked, hosts).nearest
    assert miss is not None
    return miss.name, list(miss.changes)


def test_the_nearest_miss_names_the_exact_shortfall() -> None:
    hosts = fleet(row("a", memory_claimed_mib=15_000), row("b", memory_claimed_mib=16_000), row("c", hold="fenced"))
    assert nearest(spec(), hosts) == ("a", [{"filter": "memory", "change": "free-memory", "amount": 664}])


def test_the_nearest_miss_prefers_what_is_easy_to_change() -> None:
    hosts = fleet(row("a", memory_claimed_mib=15_000), row("b", schedulable=False), row("c", "gpu", tags=[]))
    assert nearest(spec(), fleet(row("a", memory_claimed_mib=15_000), row("b", schedulable=False)))[0] == "b"
    asked = spec(home_cluster=key("linux"), across_clusters=False)
    assert nearest(asked, hosts)[1] == [{"filter": "cluster-scope", "change": "allow-across-clusters"}]


def test_what_cannot_be_changed_is_never_the_nearest() -> None:
    asked = spec(exclude_hosts={key("a"): "It is there already."})
    assert decide(asked, fleet(row("a"), row("b", kind="vsphere"))).nearest is None
    two = fleet(row("a"), row("b", schedulable=False, memory_claimed_mib=16_000))
    assert nearest(asked, two)[0] == "b"
    assert len(nearest(asked, two)[1]) == 2


def test_legal_leaves_aside_what_depends_on_the_load() -> None:
    hosts = fleet(row("full", vcpu_claimed=16, memory_claimed_mib=16_384), row("cordoned", schedulable=False))
    asked = spec(consoles=50, apart_hosts={key("full"): ("db",)}, memory_threshold_percent=1)
    assert dict(zip(hosts.structure.names, legal(asked, hosts).tolist(), strict=True)) == {
        "cordoned": False,
        "full": True,
    }
    assert legal(asked, hosts, without=["schedulable"]).all()


def test_an_empty_fleet_fits_nothing_and_says_so() -> None:
    hosts = fleet()
    result = decide(spec(), hosts)
    assert (result.host, result.considered, cluster_results(spec(), hosts, result)) == (None, 0, ())
    assert words.refusal(spec(), result) == "There are no hosts."
    assert words.refusal_remedy(result) == "Add a host first."


def test_tenants_learn_nothing_of_hosts_and_others() -> None:
    asked = spec(tags={"gpu": "template cuda"}, apart_hosts={key("kvm-secret"): ("others-db",)})
    hosts = fleet(row("kvm-secret", memory_claimed_mib=16_000), row("kvm-two", tags=["gpu"], vcpu_claimed=16))
    told = " ".join(words.for_tenant(asked, decide(asked, hosts).lost, placed=False))
    assert "template cuda" in told
    for secret in ("kvm", "others", "linux", "16", "384"):
        assert secret not in told


NAMES = ["a", "b", "c", "d", "e", "f"]
HOSTS = st.builds(
    lambda name, cluster, **values: row(name, cluster, **values),
    st.sampled_from(NAMES),
    st.sampled_from(["linux", "windows", "gpu"]),
    tags=st.lists(st.sampled_from(["x", "y"]), unique=True),
    networks=st.lists(st.sampled_from(["lan", "dmz"]), unique=True),
    vcpu_claimed=st.integers(0, 20),
    memory_claimed_mib=st.integers(0, 20_000),
    schedulable=st.booleans(),
    hold=st.sampled_from(["", "maintenance"]),
    connection=st.sampled_from(["up", "up", "unknown"]),
    consoles=st.integers(0, 40),
)
FLEETS = st.lists(HOSTS, max_size=6, unique_by=lambda one: one.name)
SPECS = st.builds(
    Spec,
    purpose=st.sampled_from(list(Purpose)),
    vcpus=st.integers(0, 16),
    memory_mib=st.integers(0, 16_384),
    tags=st.dictionaries(st.sampled_from(["x", "y", "z"]), st.just("offering a"), max_size=2),
    soft_tags=st.dictionaries(st.sampled_from(["x", "z"]), st.just("template b"), max_size=2),
    home_cluster=st.sampled_from([None, key("linux"), key("gpu")]),
    across_clusters=st.booleans(),
    kind=st.sampled_from(["", "libvirt"]),
    networks=st.sampled_from([(), ("lan",), ("lan", "dmz")]),
    only_hosts=st.sampled_from([None, (key("a"), key("b"))]),
    exclude_hosts=st.dictionaries(st.sampled_from([key(n) for n in NAMES]), st.just("no"), max_size=2),
    apart_hosts=st.dictionaries(st.sampled_from([key(n) for n in NAMES]), st.just(("g",)), max_size=2),
    together_hosts=st.dictionaries(st.sampled_from([key(n) for n in NAMES]), st.just(("h",)), max_size=2),
    consoles=st.integers(0, 3),
    allocator=st.sampled_from(["", *ALLOCATORS]),
    weights=st.dictionaries(st.sampled_from(sorted(WEIGHERS)), st.floats(-5, 5), max_size=3),
    cluster_order=st.sampled_from(["memory", "cpu", "position"]),
    memory_threshold_percent=st.sampled_from([50, 100]),
    seed=st.integers(0, 2**32),
    among=st.sampled_from([1, 8]),
)


@given(FLEETS, SPECS)
def test_a_decision_is_right_complete_and_can_be_made_again(rows: list[HostRow], asked: Spec) -> None:
    hosts = fleet(*rows)
    result = decide(asked, hosts)
    told = [verdicts(asked, hosts, result, place) for place in range(len(hosts))]
    fits = [all(one.passed for one in found) for found in told]
    assert result.fit == sum(fits)
    assert result.considered == result.fit + sum(result.lost.values())
    assert (result.place is not None and fits[result.place]) or (result.place is None and not any(fits))
    for found in told:
        assert [one.filter for one in found] == [one.name for one in FILTERS]
        assert all(bool(words.reason(one, asked)) is not one.passed for one in found)
    clusters = cluster_results(asked, hosts, result)
    assert sum(one.fit for one in clusters) == result.fit
    assert sum(one.considered for one in clusters) == result.considered
    _same(result, decide(Spec.from_json(asked.to_json()), Fleet.decode(hosts.encode())))
    assert Spec.from_json(asked.to_json()) == asked


def _same(one: Result, other: Result) -> None:
    for name in ("host", "place", "considered", "fit", "lost", "allocator", "top", "nearest"):
        assert getattr(one, name) == getattr(other, name)


@given(FLEETS, st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 9), st.integers(-500, 5_000)), max_size=5))
def test_changes_bring_an_older_copy_up_to_date(rows: list[HostRow], moves: list[tuple[int, int, int]]) -> None:
    before = fleet(*rows)
    claims = {before.structure.ids[at % len(rows)]: (vcpus, memory) for at, vcpus, memory in moves if rows}
    after = before.with_claims(claims)
    places = [before.structure.index[host] for host in claims]
    for half in range(len(places) + 1):
        older = Fleet.decode(before.encode())
        older.apply(after.changes(places[:half], places[half:]))
        assert older.encode() == after.encode()


@given(st.integers(0, 2**64 - 1), st.integers(1, 8))
def test_whose_turn_it_is_is_drawn_as_hosts_are(seed: int, count: int) -> None:
    assert turn(seed, count) == int(mix(np.array([seed], dtype=np.uint64))[0]) % count


@given(FLEETS, st.lists(SPECS, min_size=2, max_size=4), st.data())
def test_what_an_owner_keeps_of_a_fleet_changes_no_decision(
    rows: list[HostRow], asked: list[Spec], data: st.DataObject
) -> None:
    """Decisions on a fleet whose owner tells of each change, against those on a fresh one."""
    hosts = fleet(*rows)
    hosts.derive()
    for one in asked:
        _same(decide(one, hosts), decide(one, hosts.copy()))
        if rows:
            place = data.draw(st.integers(0, len(rows) - 1))
            hosts.claim(place, data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4_096)))
            _same(decide(one, hosts), decide(one, hosts.copy()))
            numbers = (data.draw(st.integers(0, 32)), data.draw(st.integers(0, 32_768)), 1, 512)
            standing = (data.draw(st.booleans()), data.draw(st.integers(0, 2)), data.draw(st.integers(0, 3)))
            hosts.put(place, (*numbers, *standing))
        _same(decide(one, hosts), decide(one, hosts.copy()))
