"""What a vCenter says of its hosts: their clusters and tags, its own maintenance, and hosts that it does not reach."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from django.db import connection
from django.test import TestCase
from django.test.utils import CaptureQueriesContext

from cloudops.core.errors import Invalid
from cloudops.core.models import Event
from cloudops.hypervisors.backoff import Backoff
from cloudops.hypervisors.port import (
    CertificateMismatch,
    EventKind,
    HostFacts,
    HostNotConnected,
    HypervisorEvent,
    Unreachable,
)
from cloudops.inventory import certificates, clusters, hosts, sync
from cloudops.inventory.certificates import Served
from cloudops.inventory.models import Cluster, Endpoint, Host, HostTag, Vm
from cloudops.inventory.watching import EndpointWatch
from tests.inventory.conftest import Fakes, Heard
from tests.inventory.fake import ADMIN, NOW, FakeHypervisor, host_facts, vm_facts

pytestmark = pytest.mark.django_db
URI = "https://vcenter.example.org"
PIN = ":".join(["AB"] * 32)
OTHER_PIN = ":".join(["CD"] * 32)


def esxi(number: int, **changes: Any) -> HostFacts:
    return host_facts(number, name=f"esx{number}", hypervisor_version="VMware ESXi 8.0.2", **changes)


@pytest.fixture
def vcenter(fakes: Fakes) -> FakeHypervisor:
    """Three hosts, two of them in cluster A, with four VMs."""
    fakes[URI] = FakeHypervisor(
        host_list=[esxi(1, cluster="A", tags=("gold",)), esxi(2, cluster="A", tags=()), esxi(3, cluster="B")],
        vm_list=[vm_facts(number, host=1 + number % 3) for number in range(1, 5)],
    )
    return fakes[URI]


def add(**values: Any) -> list[Host]:
    arguments: dict[str, Any] = {
        "kind": "vsphere", "uri": URI, "username": "cloudops@vsphere.local", "secret": "s", "certificate_sha256": PIN,
        "by": ADMIN, "now": NOW,
    }  # fmt: skip
    return hosts.add_host(**arguments | values)


def again(minutes: int = 1) -> sync.SyncReport:
    with TestCase.captureOnCommitCallbacks(execute=True):
        return sync.sync_endpoint(Endpoint.objects.get(uri=URI), now=NOW + datetime.timedelta(minutes=minutes))


def places() -> dict[str, str]:
    return dict(Host.objects.values_list("name", "cluster__name"))


class TestClusters:
    def test_they_are_taken_over_by_name(self, vcenter: FakeHypervisor) -> None:
        assert len(add()) == 3
        assert places() == {"esx1": "A", "esx2": "A", "esx3": "B"}
        assert Cluster.objects.count() == 2
        assert set(Cluster.objects.values_list("platform_name", flat=True)) == {"A", "B"}

    def test_a_host_that_is_in_none_gets_one_of_its_own(self, vcenter: FakeHypervisor) -> None:
        vcenter.host_list += [esxi(4), esxi(5)]
        add()
        assert {places()["esx4"], places()["esx5"]} == {"vcenter.example.org"}

    def test_or_all_hosts_go_into_a_chosen_one_and_stay_there(self, vcenter: FakeHypervisor) -> None:
        chosen = Cluster.objects.create(name="ESXi")
        add(cluster=chosen, takes_clusters_over=False)
        vcenter.host_list = [*vcenter.host_list, esxi(4, cluster="C")]
        again()
        assert set(places().values()) == {"ESXi"}
        assert Host.objects.get(name="esx4").platform_cluster == "C"

    def test_hosts_that_join_or_change_follow(self, vcenter: FakeHypervisor, heard: Heard) -> None:
        add()
        vcenter.host_list = [esxi(1, cluster="B"), esxi(2, cluster="A"), esxi(3, cluster="B"), esxi(4, cluster="new")]
        again()
        assert places() == {"esx1": "B", "esx2": "A", "esx3": "B", "esx4": "new"}
        told = Event.objects.get(kind="host.changed")
        assert (told.subject_name, told.data["changed"]) == ("esx1", {"platform_cluster": ["A", "B"]})

    def test_a_host_that_leaves_its_cluster_stands_beside_them(self, vcenter: FakeHypervisor) -> None:
        add()
        vcenter.host_list = [esxi(1, cluster="A"), esxi(2), esxi(3, cluster="B"), esxi(4)]
        again()
        assert places() == {
            "esx1": "A", "esx2": "vcenter.example.org", "esx3": "B", "esx4": "vcenter.example.org",
        }  # fmt: skip
        again(2)
        assert Cluster.objects.filter(name__startswith="vcenter").count() == 1

    def test_a_cluster_keeps_its_row_when_either_side_renames_it(self, vcenter: FakeHypervisor) -> None:
        add()
        row = Cluster.objects.get(name="A")
        vcenter.host_list = [esxi(1, cluster="A2"), esxi(2, cluster="A2"), esxi(3, cluster="B")]
        again()
        assert Cluster.objects.get(pk=row.pk).name == "A2"
        clusters.change(row, name="Gold", by=ADMIN, now=NOW)
        again(2)
        assert places() == {"esx1": "Gold", "esx2": "Gold", "esx3": "B"}

    def test_a_cluster_of_others_is_not_mixed_with_it(self, vcenter: FakeHypervisor, fakes: Fakes) -> None:
        fakes["qemu+tcp://kvm/system"] = FakeHypervisor()
        kvm = Cluster.objects.create(name="A")
        hosts.add_host(kind="libvirt", uri="qemu+tcp://kvm/system", cluster=kvm, by=ADMIN, now=NOW)
        empty = Cluster.objects.create(name="B", description="made before")
        add()
        assert places()["esx1"] == "A (vcenter.example.org)"
        assert Host.objects.get(name="esx3").cluster == empty

    def test_a_host_that_follows_is_not_moved_here(self, vcenter: FakeHypervisor) -> None:
        add()
        own = Cluster.objects.create(name="own")
        host = Host.objects.get(name="esx1")
        with pytest.raises(Invalid, match="move it there") as refusal:
            hosts.change_host(host, by=ADMIN, now=NOW, cluster=own)
        assert "cluster" in refusal.value.numbers["fields"]  # type: ignore[operator]
        hosts.change_host(host, by=ADMIN, now=NOW, takes_clusters_over=False)
        hosts.change_host(host, by=ADMIN, now=NOW, cluster=own)
        again()
        assert places()["esx1"] == "own"
        assert not Cluster.objects.exclude(platform_name="").exists()
        hosts.change_host(host, by=ADMIN, now=NOW, takes_clusters_over=True)
        again(2)
        assert places() == {"esx1": "A", "esx2": "A", "esx3": "B"}

    def test_a_steady_vcenter_costs_as_many_queries_whatever_its_size(self, vcenter: FakeHypervisor) -> None:
        add()
        again(1)
        with CaptureQueriesContext(
            connection,
        ) as few:
            again(2)
        vcenter.host_list = [esxi(n, cluster=f"c{n % 7}", tags=("gold", f"t{n % 5}")) for n in range(1, 31)]
        again(3)
        with CaptureQueriesContext(connection) as many:
            again(4)
        assert len(many) == len(few)
        assert Host.objects.filter(tags__name="gold").count() == 30


class TestTags:
    def test_the_platforms_stay_apart_from_the_operators(self, vcenter: FakeHypervisor) -> None:
        add(tags=["ours", "gold"])
        first, second = Host.objects.get(name="esx1"), Host.objects.get(name="esx2")
        assert (hosts.own_tags(first), hosts.platform_tags(first)) == (["gold", "ours"], ["gold"])
        assert (hosts.own_tags(second), hosts.platform_tags(second)) == (["gold", "ours"], [])
        hosts.set_tags(first, ["ours"], by=ADMIN, now=NOW)
        assert [tag.name for tag in first.tags.all()] == ["gold", "ours"]
        vcenter.host_list = [esxi(1, cluster="A", tags=("ours", "silver")), *vcenter.host_list[1:]]
        again()
        assert (hosts.own_tags(first), hosts.platform_tags(first)) == (["ours"], ["ours", "silver"])
        hosts.set_tags(first, [], by=ADMIN, now=NOW)
        assert [tag.name for tag in first.tags.all()] == ["ours", "silver"]
        vcenter.host_list = [esxi(1, cluster="A", tags=()), *vcenter.host_list[1:]]
        again(2)
        assert not HostTag.objects.filter(host=first).exists()
        told = [event.data for event in Event.objects.filter(kind="host.tagged", actor_name="inventory")]
        assert {"changed": {"platform_tags": [["ours", "silver"], []]}} in told

    def test_what_is_not_told_stays_and_what_is_no_tag_is_left_out(self, vcenter: FakeHypervisor) -> None:
        vcenter.host_list = [esxi(1, tags=("gold", "No Tag!"))]
        [host] = add()
        assert hosts.platform_tags(host) == ["gold"]
        vcenter.host_list = [esxi(1, tags=None)]
        again()
        assert hosts.platform_tags(host) == ["gold"]

    def test_placement_hears_of_them(self, vcenter: FakeHypervisor, heard: Heard) -> None:
        add()
        heard.clear()
        vcenter.host_list = [*vcenter.host_list[:2], esxi(3, cluster="B", tags=("gold",))]
        again()
        assert Host.objects.get(name="esx3").pk in heard.all("hosts_changed", "host_ids")


class TestOneHost:
    def test_that_is_not_reached_is_unreachable_while_the_others_stay_up(
        self, vcenter: FakeHypervisor, heard: Heard
    ) -> None:
        add()
        vcenter.host_list[1] = esxi(2, cluster="A", problem="does not respond", cpu_threads=0, cpu_percent=None)
        again()
        lost = Host.objects.get(name="esx2")
        assert (lost.connection, lost.error_code) == ("unreachable", "host-not-connected")
        assert (lost.error_detail, lost.error_remedy) == ("Does not respond.", HostNotConnected.remedy)
        assert (lost.cpu_threads, lost.cpu_percent) == (16, 12.5)
        assert set(Host.objects.exclude(pk=lost.pk).values_list("connection", flat=True)) == {"up"}
        assert heard.all("host_lost", "host_ids") == [lost.pk]
        vcenter.host_list[1] = esxi(2, cluster="A")
        again(2)
        assert Host.objects.get(pk=lost.pk).connection == "up"
        assert heard.all("host_back", "host_ids") == [lost.pk]

    def test_the_same_failure_is_written_once_however_long_until_the_next_attempt(
        self, vcenter: FakeHypervisor
    ) -> None:
        add()
        lost = Unreachable("refused")
        backoff = Backoff()
        backoff.failed(lost)
        vcenter.error = lost
        again(1)
        with pytest.raises(Unreachable) as told:
            backoff.check()
        assert "Next attempt in" in told.value.detail
        vcenter.error = told.value
        with CaptureQueriesContext(connection) as seen:
            again(2)
        assert not [query for query in seen if query["sql"].startswith('INSERT INTO "inventory_host"')]
        assert set(Host.objects.values_list("error_detail", flat=True)) == {"refused"}

    def test_in_the_platforms_maintenance_is_known_and_told(self, vcenter: FakeHypervisor, heard: Heard) -> None:
        add()
        heard.clear()
        vcenter.host_list[0] = esxi(1, cluster="A", tags=("gold",), in_maintenance=True)
        again()
        host = Host.objects.get(name="esx1")
        assert host.platform_maintenance
        assert host.pk in heard.all("hosts_changed", "host_ids")
        assert Event.objects.filter(kind="host.platform_maintenance_entered", subject_id=str(host.pk)).exists()
        vcenter.host_list[0] = esxi(1, cluster="A", tags=("gold",))
        again(2)
        assert not Host.objects.get(pk=host.pk).platform_maintenance

    def test_that_was_taken_out_of_vcenter_can_be_removed_alone(self, vcenter: FakeHypervisor) -> None:
        add()
        gone = Host.objects.get(name="esx3")
        with pytest.raises(hosts.HostSharesEndpoint):
            hosts.remove_host(gone, by=ADMIN, now=NOW)
        vcenter.host_list = vcenter.host_list[:2]
        vcenter.vm_list = [vm for vm in vcenter.vm_list if vm.host_ref != "host-3"]
        again()
        gone.refresh_from_db()
        assert (gone.connection, gone.error_code) == ("unreachable", "host-not-reported")
        assert hosts.remove_host(gone, by=ADMIN, now=NOW) == 1
        assert set(places()) == {"esx1", "esx2"}
        assert hosts.remove_host(Host.objects.first(), by=ADMIN, now=NOW, whole_endpoint=True) == 2  # type: ignore[arg-type]
        assert not Endpoint.objects.exists()
        assert Cluster.objects.filter(taken_from=None).count() == 2

    def test_of_a_simulator_is_marked(self, vcenter: FakeHypervisor) -> None:
        vcenter.host_list = [esxi(1, simulator=True), esxi(2)]
        add()
        assert {host.name: host.is_simulated for host in Host.objects.select_related("endpoint")} == {
            "esx1": True, "esx2": False,
        }  # fmt: skip

    def test_counts_of_connections_are_kept(self, vcenter: FakeHypervisor) -> None:
        vcenter.vm_list = [vm_facts(1, max_consoles=40, console_connections=3)]
        add()
        assert Vm.objects.values_list("max_consoles", "console_connections").get() == (40, 3)


class TestAdding:
    def test_it_needs_a_user_a_password_and_sound_fields(self, vcenter: FakeHypervisor) -> None:
        for missing in ("username", "secret"):
            with pytest.raises(Invalid) as refusal:
                add(**{missing: ""})
            assert set(refusal.value.numbers["fields"]) == {missing}  # type: ignore[call-overload]
        for name in ("management_address", "vnc_listen_address", "migration_uri"):
            with pytest.raises(Invalid) as refusal:
                add(**{name: "https://x" if name == "migration_uri" else "10.0.0.1"})
            assert set(refusal.value.numbers["fields"]) == {name}  # type: ignore[call-overload]
        with pytest.raises(Invalid, match="64 hexadecimal digits"):
            add(certificate_sha256="AB:CD")
        with pytest.raises(Invalid, match="clusters of its own"):
            hosts.add_host(
                kind="libvirt", uri="qemu+tcp://kvm/system", cluster=Cluster.objects.create(name="c"),
                takes_clusters_over=True, by=ADMIN, now=NOW,
            )  # fmt: skip
        with pytest.raises(Invalid, match="need a cluster"):
            add(takes_clusters_over=False)
        assert not Endpoint.objects.exists()

    def test_the_same_vcenter_under_another_name_is_found_out(self, vcenter: FakeHypervisor, fakes: Fakes) -> None:
        add(uri=f"{URI}/ui/")
        assert Endpoint.objects.get().uri == URI
        with pytest.raises(hosts.HostExists, match="URI"):
            add(uri=f"{URI}:443")
        fakes["https://192.0.2.1"] = vcenter
        with pytest.raises(hosts.HostExists, match="there as https"):
            add(uri="https://192.0.2.1")

    def test_added_unseen_its_hosts_come_later(self, vcenter: FakeHypervisor) -> None:
        vcenter.error = HostNotConnected("nobody there")
        with pytest.raises(hosts.HostUnreachable):
            add()
        [unseen] = add(force=True)
        assert (unseen.name, unseen.cluster.name) == ("vcenter.example.org", "vcenter.example.org")
        vcenter.error = None
        again()
        assert places() == {"esx1": "A", "esx2": "A", "esx3": "B"}


class TestCertificate:
    @pytest.fixture
    def presented(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The SHA-256 that the vCenter presents: the last of this list."""
        shown = [PIN]

        def served(uri: str, *, timeout_seconds: float) -> Served:
            return Served(shown[-1], "12:34", "vcenter", "VMCA", NOW, NOW + datetime.timedelta(days=700))

        monkeypatch.setattr(certificates, "served", served)
        return shown

    def test_nobody_is_added_before_it_is_confirmed(self, vcenter: FakeHypervisor, presented: list[str]) -> None:
        with pytest.raises(certificates.CertificateUnconfirmed) as refusal:
            add(certificate_sha256="")
        assert refusal.value.numbers["sha256"] == PIN
        assert refusal.value.numbers["sha1"] == "12:34"
        assert vcenter.calls == []
        add(certificate_sha256=PIN.replace(":", "").lower())
        endpoint = Endpoint.objects.get()
        assert (endpoint.certificate_sha256, endpoint.certificate_pinned_at) == (PIN, NOW)

    def test_a_changed_one_is_shown_and_accepted_on_purpose(
        self, vcenter: FakeHypervisor, presented: list[str]
    ) -> None:
        host = add()[0]
        presented.append(OTHER_PIN)
        vcenter.error = CertificateMismatch("it differs", numbers={"found": OTHER_PIN, "found_sha1": "56:78"})
        again(1)
        again(5)
        endpoint = Endpoint.objects.get()
        offered = certificates.offered(endpoint)
        assert offered == {"sha256": OTHER_PIN, "sha1": "56:78", "seen_at": NOW + datetime.timedelta(minutes=1)}
        assert Host.objects.first().error_code == "hypervisor-certificate"  # type: ignore[union-attr]
        with pytest.raises(certificates.CertificateChangedAgain) as refusal:
            hosts.accept_certificate(host, sha256=PIN, by=ADMIN, now=NOW)
        assert refusal.value.numbers["sha256"] == OTHER_PIN
        hosts.accept_certificate(host, sha256=OTHER_PIN, by=ADMIN, now=NOW)
        endpoint.refresh_from_db()
        assert (endpoint.certificate_sha256, endpoint.offered_certificate) == (OTHER_PIN, None)
        told = Event.objects.get(kind="host.certificate_accepted")
        assert told.data["changed"] == {"certificate_sha256": [PIN, OTHER_PIN]}
        assert told.actor_name == "alice"

    def test_it_cannot_be_given_up_nor_the_password(self, vcenter: FakeHypervisor) -> None:
        host = add()[0]
        for change in ({"certificate_sha256": ""}, {"secret": ""}, {"username": ""}):
            with pytest.raises(Invalid) as refusal:
                hosts.change_host(host, by=ADMIN, now=NOW, **change)
            assert set(refusal.value.numbers["fields"]) == set(change)  # type: ignore[call-overload]
        with pytest.raises(Invalid) as refusal:
            hosts.change_host(host, by=ADMIN, now=NOW, uri="https://elsewhere.example.org")
        assert "another address" in str(refusal.value.numbers["fields"])
        hosts.change_host(host, by=ADMIN, now=NOW, uri="https://elsewhere.example.org", secret="new")
        assert Endpoint.objects.get().uri == "https://elsewhere.example.org"


def test_a_host_that_joins_is_read_without_waiting_for_the_next_interval(
    vcenter: FakeHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    add()
    watch = EndpointWatch(Endpoint.objects.get(), write=lambda function: function(), clock=lambda: NOW)
    asked: list[float] = []
    monkeypatch.setattr(watch, "_sync_in", asked.append)
    watch.notice(HypervisorEvent(EventKind.HOSTS_CHANGED))
    assert len(asked) == 1
    assert asked[0] <= 1


def test_a_host_is_called_as_its_platform_calls_it_unless_people_named_it(vcenter: FakeHypervisor) -> None:
    first, second, _ = add()
    hosts.change_host(second, by=ADMIN, now=NOW, name="rack 2")
    vcenter.host_list[:2] = [
        host_facts(number, name=f"{name}.example.org", cluster="A", tags=()) for number, name in ((1, "a"), (2, "b"))
    ]
    again()
    assert dict(Host.objects.filter(ref__in=[first.ref, second.ref]).values_list("ref", "name")) == {
        first.ref: "a.example.org",
        second.ref: "rack 2",
    }
    told = Event.objects.filter(kind="host.changed", subject_id=str(first.pk)).latest("at")
    assert told.data["changed"] == {"name": ["esx1", "a.example.org"]}
