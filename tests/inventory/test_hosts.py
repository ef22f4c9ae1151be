"""Hosts are added, tried, changed, cordoned, tagged and removed; every refusal says why and how on."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from django.db import connection, transaction
from pytest_django import DjangoCaptureOnCommitCallbacks

from cloudops.core.errors import Invalid
from cloudops.core.models import Event, Tick
from cloudops.hypervisors.port import ConsoleEndpoint, PowerState, Transport, Unreachable
from cloudops.inventory import endpoints, hosts, signals, sync
from cloudops.inventory.models import Cluster, Endpoint, Host, Tag, Vm
from cloudops.inventory.probing import demand_sound_uri
from tests.inventory.conftest import Fakes
from tests.inventory.fake import ADMIN, EVERYWHERE, NOW, FakeHypervisor, host_facts, make_endpoint, vm_facts

pytestmark = pytest.mark.django_db
URI = "qemu+tcp://kvm1.example.org/system"
SECRET = "correct horse battery staple"


@pytest.fixture
def cluster() -> Cluster:
    return Cluster.objects.create(name="Rack 1")


def add(cluster: Cluster, **values: object) -> list[Host]:
    arguments: dict[str, object] = {"kind": "libvirt", "uri": URI, "cluster": cluster, "by": ADMIN, "now": NOW} | values
    return hosts.add_host(**arguments)  # type: ignore[arg-type]


@pytest.fixture
def vnc() -> Iterator[int]:
    """The port of something that greets like a VNC server."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"RFB 003.008\n")

        thread = threading.Thread(target=greet)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


class TestAdd:
    def test_every_host_of_the_endpoint_comes_with_its_vms(self, cluster: Cluster, fakes: Fakes) -> None:
        fakes[URI] = FakeHypervisor(
            host_list=[host_facts(1), host_facts(2)], vm_list=[vm_facts(1), vm_facts(2, host=2)]
        )
        rows = add(cluster, tags=["ssd", "Zone-A"], console_limit_override=12, username="root", secret=SECRET)
        assert [row.name for row in rows] == ["kvm1", "kvm2"]
        assert {host.console_limit_override for host in Host.objects.all()} == {12}
        assert all({tag.name for tag in row.tags.all()} == {"ssd", "zone-a"} for row in rows)
        assert {row.connection for row in rows} == {"up"}
        assert Vm.objects.filter(power_state=PowerState.RUNNING).count() == 2
        assert fakes[URI].spec.secret == SECRET

    def test_the_secret_is_stored_encrypted_and_told_to_nobody(self, cluster: Cluster, fakes: Fakes) -> None:
        fakes[URI] = FakeHypervisor()
        with structlog.testing.capture_logs() as logs:
            [host] = add(cluster, secret=SECRET)
            hosts.change_host(host, by=ADMIN, now=NOW, secret=SECRET + "2")
            fakes[URI].error = Unreachable("refused")
            sync.sync_endpoint(Endpoint.objects.get(), now=NOW)
        stored = Endpoint.objects.get().secret_encrypted
        assert SECRET not in stored
        assert endpoints.spec_of(Endpoint.objects.get()).secret == SECRET + "2"
        told = json.dumps([[e.data, e.reason, e.from_state, e.to_state] for e in Event.objects.all()]) + repr(logs)
        assert logs
        assert SECRET not in told
        assert stored not in told
        assert SECRET not in repr(endpoints.spec_of(Endpoint.objects.get()))
        assert Event.objects.get(kind="host.changed").data == {"changed": {"credential": ["(hidden)", "(hidden)"]}}

    def test_an_unreachable_one_is_refused_with_the_reason(self, cluster: Cluster, fakes: Fakes) -> None:
        fakes[URI] = FakeHypervisor(error=Unreachable("connection refused"))
        with pytest.raises(hosts.HostUnreachable) as refusal:
            add(cluster)
        assert refusal.value.detail == "connection refused"
        assert refusal.value.remedy_text == Unreachable.remedy
        assert refusal.value.numbers == {"reason": "hypervisor-unreachable"}
        assert not Endpoint.objects.exists()

    def test_forced_it_is_there_and_fills_in_when_it_answers(self, cluster: Cluster, fakes: Fakes) -> None:
        fakes[URI] = FakeHypervisor(error=Unreachable("refused"))
        [host] = add(cluster, force=True)
        assert (host.name, host.connection, host.error_code) == (
            "kvm1.example.org/system",
            "unreachable",
            "hypervisor-unreachable",
        )
        fakes[URI].error = None
        fakes[URI].vm_list = [vm_facts(1)]
        sync.sync_endpoint(host.endpoint, now=NOW)
        seen = Host.objects.get()
        assert (seen.pk, seen.name, seen.ref, seen.connection) == (host.pk, "kvm1", "host-1", "up")
        assert seen.vms.count() == 1

    def test_the_same_uri_or_the_same_host_twice_is_refused(self, cluster: Cluster, fakes: Fakes) -> None:
        ref = str(uuid.uuid4())
        fakes[URI] = FakeHypervisor(host_list=[host_facts(1, ref=ref)])
        fakes["qemu+ssh://root@kvm1/system"] = FakeHypervisor(host_list=[host_facts(1, ref=ref)])
        [host] = add(cluster)
        with pytest.raises(hosts.HostExists) as refusal:
            add(cluster)
        assert refusal.value.numbers == {"host": str(host.pk)}
        with pytest.raises(hosts.HostExists, match="there as qemu"):
            add(cluster, uri="qemu+ssh://root@kvm1/system")
        assert Host.objects.count() == 1

    @pytest.mark.parametrize(
        ("kind", "uri"),
        [
            ("libvirt", "qemu+tcp://user:pass@kvm1/system"),
            ("libvirt", "qemu+ssh://kvm1/system?command=/bin/sh"),
            ("libvirt", "qemu+ssh://kvm1/system?netcat=/tmp/evil"),
            ("libvirt", "qemu+ext://kvm1/system"),
            ("libvirt", "qemu+tcp:///system"),
            ("libvirt", "qemu+tcp://kvm1:99999/system"),
            ("libvirt", "simulated://x"),
            ("libvirt", "qemu+tcp://kvm1/sys\ntem"),
            ("vsphere", "http://vcenter"),
            ("simulated", "qemu:///system"),
            ("libvirt", ""),
            ("xen", "xen://host"),
        ],
    )
    def test_uris_that_make_no_sense_are_refused_by_field(
        self, cluster: Cluster, fakes: Fakes, kind: str, uri: str
    ) -> None:
        with pytest.raises(Invalid) as refusal:
            add(cluster, kind=kind, uri=uri)
        fields = refusal.value.numbers["fields"]
        assert isinstance(fields, dict)
        assert set(fields) & {"uri", "kind"}
        assert fakes == {}

    @pytest.mark.parametrize(
        "uri", ["qemu:///system", "qemu+unix:///system?socket=/run/x", "qemu+tls://[2001:db8::1]/system"]
    )
    def test_sound_uris_are_accepted(self, cluster: Cluster, fakes: Fakes, uri: str) -> None:
        assert add(cluster, uri=uri)[0].endpoint.uri == uri


class TestTestConnection:
    def test_it_reaches_a_guests_vnc_server_at_the_management_address(self, fakes: Fakes, vnc: int) -> None:
        console = ConsoleEndpoint(Transport.TCP, host=EVERYWHERE, port=vnc)
        fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)], console_endpoint=console)
        report = hosts.test_connection(kind="libvirt", uri=URI, management_address="127.0.0.1")
        assert report.ok
        assert (len(report.hosts), report.vm_count) == (1, 1)
        assert report.steps[-1].detail == f"guest1 answers at 127.0.0.1 port {vnc}."
        assert report.as_dict()["steps"][-1]["ok"] is True

    def test_a_vnc_server_that_cannot_be_reached_is_told_with_a_remedy(self, fakes: Fakes) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        console = ConsoleEndpoint(Transport.TCP, host="127.0.0.1", port=port)
        fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)], console_endpoint=console)
        report = hosts.test_connection(kind="libvirt", uri=URI, management_address="127.0.0.1")
        assert not report.ok
        assert "Connection refused" in report.steps[-1].detail
        assert "vnc_listen" in report.steps[-1].remedy

    def test_it_stops_at_the_first_step_that_fails(self, fakes: Fakes) -> None:
        fakes[URI] = FakeHypervisor(error=Unreachable("no route"))
        report = hosts.test_connection(kind="libvirt", uri=URI)
        assert not report.ok
        assert [(step.ok, step.remedy) for step in report.steps] == [(False, "Plug it in.")]

    def test_a_saved_host_is_tried_with_its_stored_secret(self, cluster: Cluster, fakes: Fakes) -> None:
        fakes[URI] = FakeHypervisor()
        [host] = add(cluster, secret=SECRET)
        assert hosts.test_host(host).ok
        assert fakes[URI].spec.secret == SECRET
        Endpoint.objects.update(secret_encrypted="another key's")
        host.refresh_from_db()
        report = hosts.test_host(host)
        assert "CLOUDOPS_ENCRYPTION_KEYS" in report.steps[0].remedy


class TestChange:
    def test_what_changed_is_audited_and_the_endpoint_is_tried_at_once(
        self, cluster: Cluster, fakes: Fakes, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
    ) -> None:
        fakes[URI] = FakeHypervisor()
        [host] = add(cluster)
        calls = len(fakes[URI].calls)
        other = Cluster.objects.create(name="Rack 2")
        with django_capture_on_commit_callbacks(execute=True):
            hosts.change_host(host, by=ADMIN, now=NOW, cluster=other, console_limit_override=7, timeout_seconds=30)
        host.refresh_from_db()
        assert (host.cluster, host.console_limit_override, host.endpoint.timeout_seconds) == (other, 7, 30)
        assert Event.objects.get(kind="host.changed").data["changed"] == {
            "cluster": ["Rack 1", "Rack 2"],
            "console_limit_override": [None, 7],
            "timeout_seconds": [10, 30],
        }
        assert fakes[URI].calls[calls:] == ["hosts", "vms"]

    def test_wrong_values_and_unknown_fields_change_nothing(self, cluster: Cluster, fakes: Fakes) -> None:
        fakes[URI] = FakeHypervisor()
        [host] = add(cluster)
        wrong: list[tuple[dict[str, Any], str]] = [
            ({"console_limit_override": 0}, "console_limit_override"),
            ({"uri": "qemu+ext:///x"}, "uri"),
            ({"timeout_seconds": 0}, "timeout_seconds"),
            ({"connection": "up"}, "connection"),
            ({"tags": ["not a tag!"]}, "tags"),
        ]
        for changes, field in wrong:
            with pytest.raises(Invalid) as refusal:
                hosts.change_host(host, by=ADMIN, now=NOW, **changes)
            assert field in str(refusal.value.numbers["fields"])
        assert not Event.objects.filter(kind="host.changed").exists()

    def test_cordon_is_said_once(self, cluster: Cluster, fakes: Fakes) -> None:
        fakes[URI] = FakeHypervisor()
        [host] = add(cluster)
        hosts.cordon(host, by=ADMIN, now=NOW, reason="new disks")
        hosts.cordon(host, by=ADMIN, now=NOW)
        host.refresh_from_db()
        assert not host.schedulable
        assert [e.reason for e in Event.objects.filter(kind="host.cordoned")] == ["new disks"]
        hosts.uncordon(host, by=ADMIN, now=NOW)
        host.refresh_from_db()
        assert host.schedulable

    def test_tags_are_made_with_their_first_use(self, cluster: Cluster, fakes: Fakes) -> None:
        fakes[URI] = FakeHypervisor()
        [host] = add(cluster)
        assert [tag.name for tag in hosts.set_tags(host, ["gpu", " GPU ", "ssd"], by=ADMIN, now=NOW)] == ["gpu", "ssd"]
        assert Tag.objects.count() == 2
        hosts.set_tags(host, ["ssd", "gpu"], by=ADMIN, now=NOW)
        assert Event.objects.filter(kind="host.tagged").count() == 1


class TestRemove:
    def test_a_host_goes_with_its_endpoint_and_what_hangs_on_it(self, cluster: Cluster, fakes: Fakes) -> None:
        fakes[URI] = FakeHypervisor(vm_list=[vm_facts(1)])
        [host] = add(cluster)
        Tick.objects.create(name=hosts.tick_name(host.endpoint), last_at=NOW)
        assert hosts.remove_host(host, by=ADMIN, now=NOW) == 1
        assert [Endpoint.objects.count(), Vm.objects.count(), Tick.objects.count()] == [0, 0, 0]
        assert Event.objects.get(kind="host.removed").subject_name == "kvm1"

    def test_consoles_forbid_it_unless_forced_and_are_told_before(self, cluster: Cluster, fakes: Fakes) -> None:
        fakes[URI] = FakeHypervisor()
        [host] = add(cluster)
        told: list[bool] = []

        def use(**_: object) -> dict[str, int]:
            return {"consoles": 3}

        def removing(host_ids: list[uuid.UUID], **_: object) -> None:
            told.append(Host.objects.filter(pk__in=host_ids).exists())

        signals.host_use.connect(use)
        signals.host_removing.connect(removing)
        try:
            with pytest.raises(hosts.HostInUse) as refusal:
                hosts.remove_host(host, by=ADMIN, now=NOW)
            assert refusal.value.numbers == {"consoles": 3}
            assert not told
            hosts.remove_host(host, by=ADMIN, now=NOW, force=True)
        finally:
            signals.host_use.disconnect(use)
            signals.host_removing.disconnect(removing)
        assert told == [True]
        assert not Host.objects.exists()

    def test_one_of_several_goes_only_after_its_endpoint_let_it_go(self, fakes: Fakes) -> None:
        endpoint = make_endpoint(URI, hosts=2)
        fakes[URI] = FakeHypervisor(host_list=[host_facts(1), host_facts(2)])
        sync.sync_endpoint(endpoint, now=NOW)
        host = Host.objects.get(ref="host-1")
        with pytest.raises(hosts.HostSharesEndpoint) as refusal:
            hosts.remove_host(host, by=ADMIN, now=NOW)
        assert refusal.value.numbers == {"hosts": 2}
        fakes[URI].host_list = [host_facts(2)]
        sync.sync_endpoint(endpoint, now=NOW)
        assert hosts.remove_host(host, by=ADMIN, now=NOW) == 1
        assert list(Host.objects.values_list("ref", flat=True)) == ["host-2"]
        assert hosts.remove_host(Host.objects.get(), by=ADMIN, now=NOW, whole_endpoint=True) == 1
        assert not Endpoint.objects.exists()


@pytest.mark.parametrize(
    ("kind", "uri", "own", "expected"),
    [
        ("libvirt", "qemu+tcp://kvm1.example.org:16509/system", "", "kvm1.example.org"),
        ("libvirt", "qemu+tls://[2001:db8::1]/system", "", "2001:db8::1"),
        ("libvirt", "qemu+unix:///system?socket=/run/x", "", "127.0.0.1"),
        ("libvirt", "qemu:///system", "", "127.0.0.1"),
        ("libvirt", "qemu+tcp://kvm1/system", "10.0.0.9", "10.0.0.9"),
        ("simulated", "simulated://demo?hosts=2", "", "127.0.0.1"),
    ],
)
def test_the_management_address_is_the_operators_else_the_uris(kind: str, uri: str, own: str, expected: str) -> None:
    host = Host(endpoint=Endpoint(kind=kind, uri=uri), management_address=own)
    assert endpoints.management_address(host) == expected
    for listens in (EVERYWHERE, "::", "127.0.0.1", "::1", "localhost", ""):
        console = ConsoleEndpoint(Transport.TCP, host=listens, port=5900)
        assert endpoints.reachable(console, host).host == expected
    fixed = ConsoleEndpoint(Transport.TLS, host="10.1.1.1", port=5900)
    assert endpoints.reachable(fixed, host) == fixed
    handed_over = ConsoleEndpoint(Transport.FD, fd=9)
    assert endpoints.reachable(handed_over, host) == handed_over


def test_a_stored_secret_is_not_sent_to_another_address(cluster: Cluster, fakes: Fakes) -> None:
    [host] = add(cluster, secret=SECRET)
    host = hosts.change_host(host, by=ADMIN, now=NOW, uri="qemu+tcp://elsewhere.example.net/system")
    assert not hosts.has_secret(host.endpoint)
    host = hosts.change_host(host, by=ADMIN, now=NOW, uri=URI, secret=SECRET)
    assert hosts.has_secret(host.endpoint)


def test_a_simulated_host_keeps_state_only_where_the_installation_allows_it(settings: Any, tmp_path: Path) -> None:
    inside = f"simulated://x?hosts=1&vms=1&state={tmp_path}/fleet.sqlite"
    for allowed in ("", str(tmp_path / "other")):
        settings.SIMULATED_DIR = allowed
        with pytest.raises(Invalid, match="CLOUDOPS_SIMULATED_DIR"):
            demand_sound_uri("simulated", inside)
    settings.SIMULATED_DIR = str(tmp_path)
    demand_sound_uri("simulated", inside)
    with pytest.raises(Invalid, match="CLOUDOPS_SIMULATED_DIR"):
        demand_sound_uri("simulated", inside.replace("/fleet", "/../fleet"))


@pytest.mark.postgres
@pytest.mark.django_db(transaction=True)
def test_a_host_is_changed_while_it_is_being_read(cluster: Cluster, fakes: Fakes) -> None:
    (host,) = add(cluster)
    reading, changing, done = threading.Event(), threading.Event(), threading.Event()

    def read() -> None:
        """What a synchronisation does: it locks the endpoint, then writes the host."""
        try:
            with transaction.atomic():
                Endpoint.objects.select_for_update().get(pk=host.endpoint_id)
                reading.set()
                changing.wait(10)
                time.sleep(0.3)  # until the other waits for the endpoint
                Host.objects.filter(pk=host.pk).update(cpu_percent=7.0)
            done.set()
        finally:
            connection.close()

    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(10)
    changing.set()
    hosts.change_host(host, timeout_seconds=5, by=ADMIN, now=NOW)
    reader.join(10)
    assert done.is_set()
    assert Endpoint.objects.get(pk=host.endpoint_id).timeout_seconds == 5
