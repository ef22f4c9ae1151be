"""The inventory over a real libvirt host with real guests: added, watched, powered, killed, frozen and thawed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from django.db import connections
from django.utils import timezone

from cloudops.core.models import Operation
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import PowerAction
from cloudops.inventory import hosts, vms
from cloudops.inventory.models import Cluster, Host, Vm
from cloudops.inventory.watcher import Watcher
from cloudops.lab.libvirtd import LibvirtHost
from tests.inventory.fake import ADMIN
from tests.lab.fixtures import real_host

__all__ = ["real_host"]

pytestmark = [pytest.mark.real, pytest.mark.fault, pytest.mark.timeout(240), pytest.mark.django_db(transaction=True)]


def until(condition: Callable[[], object], *, within_seconds: float) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within_seconds, "it did not happen in time"
        time.sleep(0.05)
    return time.monotonic() - started


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    watcher = Watcher("real", clock=timezone.now)
    yield watcher
    watcher.stop()
    registry.close_all()
    connections.close_all()


def guest(name: str) -> Vm:
    return Vm.objects.select_related("host__endpoint").get(name=name)


def power(name: str, action: PowerAction) -> Operation:
    operation = vms.power(guest(name), action=action, by=ADMIN, now=timezone.now())
    operation.refresh_from_db()
    return operation


def test_a_real_host_is_added_followed_and_told_of_in_words(real_host: LibvirtHost, watcher: Watcher) -> None:
    report = hosts.test_connection(kind="libvirt", uri=real_host.uri, timeout_seconds=3)
    assert report.ok, report.steps
    assert report.vm_count == 2
    [host] = hosts.add_host(
        kind="libvirt",
        uri=real_host.uri,
        cluster=Cluster.objects.create(name="Rack 1"),
        timeout_seconds=3,
        by=ADMIN,
        now=timezone.now(),
    )
    assert host.connection == "up"
    assert {vm.name: vm.ref for vm in Vm.objects.all()} == real_host.guests
    assert vms.screenshot(guest("alpha")).data.startswith(b"\x89PNG")
    watcher.step(watchers=1)

    stopped = power("beta", PowerAction.STOP)
    assert (stopped.status, stopped.result) == ("succeeded", {"power_state": "off"}), stopped.error_detail
    started = power("beta", PowerAction.START)
    assert (started.status, guest("beta").power_state) == ("succeeded", "running"), started.error_detail

    time.sleep(2)  # the watcher's subscription
    real_host.kill_guest("beta")
    until(lambda: guest("beta").power_state in {"off", "crashed"}, within_seconds=3)
    assert power("beta", PowerAction.START).status == "succeeded"

    real_host.freeze()
    try:
        until(lambda: Host.objects.get().connection == "unreachable", within_seconds=40)
        frozen = Host.objects.get()
        assert frozen.error_code
        assert frozen.error_remedy
        assert guest("alpha").power_state == "unknown"
    finally:
        real_host.thaw()
    until(lambda: Host.objects.get().connection == "up", within_seconds=40)
    until(lambda: guest("alpha").power_state == "running", within_seconds=5)
