"""A simulated platform's own maintenance mode, by a stepped clock."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import (
    EndpointSpec,
    EventKind,
    Hypervisor,
    HypervisorError,
    InvalidState,
    Kind,
    MigrationOptions,
    MigrationTarget,
    NotSupported,
    PowerAction,
    PowerState,
)
from cloudops.hypervisors.simulated import MaintenanceFault
from tests.hypervisors.contract import Events, eventually, opened

_numbers = itertools.count()


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    simulated.set_clock(clock)
    yield clock
    simulated.set_clock(None)


def _spec(uri: str) -> EndpointSpec:
    return EndpointSpec(key=uri, kind=Kind.SIMULATED, uri=uri, timeout_seconds=3.0)


@pytest.fixture
def platform() -> Iterator[Hypervisor]:
    uri = f"simulated://resting{next(_numbers)}?hosts=2&vms=3&maintenance_seconds=5&migrate_mib_per_second=100000"
    with opened(_spec(uri)) as hypervisor:
        yield hypervisor
    simulated.reset(uri)


def inside(hypervisor: Hypervisor) -> list[bool]:
    return [host.in_maintenance for host in hypervisor.hosts()]


def empty(hypervisor: Hypervisor, host_ref: str) -> None:
    for vm in hypervisor.vms():
        if vm.host_ref == host_ref and vm.power_state is PowerState.RUNNING:
            hypervisor.power(vm.ref, PowerAction.STOP)


def test_it_waits_until_the_host_is_empty_and_keeps_it_so(platform: Hypervisor, clock: Clock) -> None:
    first, second = (host.ref for host in platform.hosts())
    events = Events()
    platform.subscribe(events)
    running = next(vm for vm in platform.vms() if vm.host_ref == first and vm.power_state is PowerState.RUNNING)
    other = next(vm for vm in platform.vms() if vm.host_ref == second and vm.power_state is PowerState.RUNNING)
    for _ in range(2):
        platform.enter_maintenance(first)
    clock.now += 60
    assert inside(platform) == [False, False]
    empty(platform, first)
    assert inside(platform) == [True, False]
    events.wait(EventKind.HOSTS_CHANGED)
    with pytest.raises(InvalidState):
        platform.power(running.ref, PowerAction.START)
    target = MigrationTarget(platform.spec, first, platform.spec.uri)
    with pytest.raises(InvalidState):
        platform.migrate(other.ref, target, MigrationOptions())
    assert [one.code for one in platform.check_migration(other.ref, target, MigrationOptions())] == [InvalidState.code]
    for _ in range(2):
        platform.leave_maintenance(first)
    assert inside(platform) == [False, False]
    platform.power(running.ref, PowerAction.START)
    eventually(lambda: platform.vm(running.ref).power_state is PowerState.RUNNING)


def test_it_takes_its_time_and_is_taken_back_on_the_way(platform: Hypervisor, clock: Clock) -> None:
    first = platform.hosts()[0].ref
    empty(platform, first)
    platform.enter_maintenance(first)
    clock.now += 4
    assert inside(platform) == [False, False]
    platform.leave_maintenance(first)
    clock.now += 60
    assert inside(platform) == [False, False]


def test_what_it_refuses_is_used_up(platform: Hypervisor, clock: Clock) -> None:
    first = platform.hosts()[0].ref
    empty(platform, first)
    simulated.add_maintenance_fault(platform.spec.uri, MaintenanceFault(detail="No."))
    simulated.add_maintenance_fault(platform.spec.uri, MaintenanceFault(detail="Stay.", leave=True))
    with pytest.raises(InvalidState, match=r"No\."):
        platform.enter_maintenance(first)
    platform.enter_maintenance(first)
    clock.now += 6
    assert inside(platform)[0]
    with pytest.raises(InvalidState, match=r"Stay\."):
        platform.leave_maintenance(first)
    platform.leave_maintenance(first)
    assert not inside(platform)[0]
    with pytest.raises(HypervisorError, match="has no host"):
        platform.enter_maintenance("nobody")


def test_who_has_such_a_mode_is_known_without_asking() -> None:
    plain, own = "simulated://plain", "simulated://own?maintenance_seconds=0"
    assert [registry.has_maintenance_mode("simulated", uri) for uri in (plain, own)] == [False, True]
    assert registry.has_maintenance_mode("vsphere", "https://vc.example.org")
    assert not registry.has_maintenance_mode("libvirt", "qemu+tls://kvm-01/system")
    with opened(_spec(plain)) as hypervisor, pytest.raises(NotSupported):
        hypervisor.enter_maintenance(hypervisor.hosts()[0].ref)
