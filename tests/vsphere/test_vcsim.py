"""The driver against vcsim, which nobody here wrote. What vcsim lacks (consoles, MigrateVM_Task, faithful hot-add and
maintenance) is the fake's to show; what it has, it has from govmomi's reading of the same API."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cloudops.hypervisors.port import (
    AuthenticationFailed,
    CertificateMismatch,
    EndpointSpec,
    EventKind,
    Hypervisor,
    HypervisorError,
    Kind,
    MigrationOptions,
    MigrationState,
    MigrationTarget,
    PowerAction,
    PowerState,
    VmFacts,
    VmNotFound,
)
from cloudops.lab.vcsim import Model, Vcsim, build_vcsim
from tests.hypervisors.contract import Events, eventually, opened
from tests.lab.fixtures import lab_cache

HOSTS, VMS = 2, 4
pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]  # script/test has built it; alone it may be the first


@pytest.fixture(scope="module")
def vcsim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vcsim]:
    program = build_vcsim(lab_cache() / "vcsim")
    with Vcsim(program, tmp_path_factory.mktemp("vcsim"), Model(HOSTS, VMS)) as running:
        yield running


def spec_of(vcsim: Vcsim) -> EndpointSpec:
    return EndpointSpec(
        key=str(uuid.uuid4()),
        kind=Kind.VSPHERE,
        uri=vcsim.uri,
        username=vcsim.username,
        secret=vcsim.password,
        certificate_sha256=vcsim.fingerprint_sha256,
        timeout_seconds=20,
    )


@pytest.fixture
def hypervisor(vcsim: Vcsim) -> Iterator[Hypervisor]:
    with opened(spec_of(vcsim)) as driver:
        yield driver


def vm_of(hypervisor: Hypervisor, number: int) -> VmFacts:
    """Each test that changes a VM has its own."""
    return next(vm for vm in hypervisor.vms() if vm.name == f"DC0_C0_RP0_VM{number}")


def switch(hypervisor: Hypervisor, vm_ref: str, action: PowerAction, state: PowerState) -> None:
    hypervisor.power(vm_ref, action)
    eventually(lambda: hypervisor.vm(vm_ref).power_state is state)


def test_inventory(hypervisor: Hypervisor) -> None:
    hosts = {host.name: host for host in hypervisor.hosts()}
    assert sorted(hosts) == ["DC0_C0_H0", "DC0_C0_H1"]
    for host in hosts.values():
        assert host.cluster == "DC0_C0"
        assert (host.cpu_threads, host.cpu_mhz, host.memory_mib) == (2, 2294, 4095)
        assert 0 < host.memory_free_mib <= host.memory_mib
        assert host.hypervisor_version
        assert (host.in_maintenance, host.problem, host.simulator) == (False, "", True)
        assert host.networks
        assert host.datastores == ()  # vcsim's is on the hosts' own disks
    vms = hypervisor.vms()
    assert sorted(vm.name for vm in vms) == [f"DC0_C0_RP0_VM{number}" for number in range(VMS)]
    for vm in vms:
        assert uuid.UUID(vm.ref)
        assert vm.host_ref in {host.ref for host in hosts.values()}
        assert (vm.vcpus, vm.memory_mib, vm.power_state) == (1, 32, PowerState.RUNNING)
        assert [disk.source.partition(" ")[0] for disk in vm.disks] == ["[LocalDS_0]"]
        assert hypervisor.vm(vm.ref) == vm
    with pytest.raises(VmNotFound):
        hypervisor.vm(str(uuid.uuid4()))


def test_connecting(vcsim: Vcsim) -> None:
    with opened(spec_of(vcsim)) as driver:
        steps = driver.probe()
        assert steps[0].ok, steps
    with opened(replace(spec_of(vcsim), secret="wrong")) as driver, pytest.raises(AuthenticationFailed):
        driver.hosts()
    other = replace(spec_of(vcsim), certificate_sha256="ab" * 32)
    with opened(other) as driver, pytest.raises(CertificateMismatch) as caught:
        driver.hosts()
    assert vcsim.fingerprint_sha256 in str(caught.value.numbers).replace(":", "").lower()


def test_a_standalone_esxi_host(tmp_path: Path) -> None:
    """One host, in no cluster."""
    program = build_vcsim(lab_cache() / "vcsim")
    with Vcsim(program, tmp_path, Model(vms=2, standalone=True)) as alone, opened(spec_of(alone)) as driver:
        (host,) = driver.hosts()
        assert host.cluster == ""
        assert {vm.host_ref for vm in driver.vms()} == {host.ref}
        assert len(driver.vms()) == 2


def test_power_and_what_others_are_told(vcsim: Vcsim, hypervisor: Hypervisor) -> None:
    """Through one connection, seen through another that waits for updates."""
    vm, events = vm_of(hypervisor, 0), Events()
    with opened(spec_of(vcsim)) as watching:
        cancel = watching.subscribe(events)
        eventually(lambda: events.has(EventKind.CONNECTED))
        for action, state in (
            (PowerAction.STOP, PowerState.OFF),
            (PowerAction.START, PowerState.RUNNING),
            (PowerAction.PAUSE, PowerState.PAUSED),
            (PowerAction.RESUME, PowerState.RUNNING),
        ):
            since = len(events.seen)
            switch(hypervisor, vm.ref, action, state)
            eventually(partial(events.has, EventKind.VM_CHANGED, vm.ref, state, since))
        cancel()
        assert not events.has(EventKind.DISCONNECTED)
    assert hypervisor.vm(vm.ref).power_state is PowerState.RUNNING


def test_relocate_and_what_others_are_told(vcsim: Vcsim, hypervisor: Hypervisor) -> None:
    vm, events = vm_of(hypervisor, 1), Events()
    target = next(host for host in hypervisor.hosts() if host.ref != vm.host_ref)
    with opened(spec_of(vcsim)) as watching:
        cancel = watching.subscribe(events)
        eventually(lambda: events.has(EventKind.CONNECTED))
        since = len(events.seen)
        there = MigrationTarget(spec=hypervisor.spec, host_ref=target.ref, uri=hypervisor.spec.uri)
        options = MigrationOptions(label="here-to-there")
        assert hypervisor.check_migration(vm.ref, there, options) == []
        hypervisor.migrate(vm.ref, there, options)
        eventually(lambda: hypervisor.migration(vm.ref).state is not MigrationState.RUNNING)
        status = hypervisor.migration(vm.ref)
        assert (status.state, status.label, status.error) == (MigrationState.COMPLETED, "here-to-there", None)
        moved = hypervisor.vm(vm.ref)
        assert moved.host_ref == target.ref
        assert moved == replace(vm, host_ref=target.ref)
        eventually(lambda: events.has(EventKind.VM_CHANGED, vm.ref, since=since))
        cancel()


def test_reconfigure(hypervisor: Hypervisor) -> None:
    vm = vm_of(hypervisor, 2)
    switch(hypervisor, vm.ref, PowerAction.STOP, PowerState.OFF)
    shape = hypervisor.scaling(vm.ref).next_start
    assert (shape.vcpus, shape.memory_mib) == (1, 32)
    hypervisor.define(vm.ref, replace(shape, vcpus=2, max_vcpus=max(2, shape.max_vcpus), memory_mib=64))
    after = hypervisor.scaling(vm.ref)
    assert (after.vcpus, after.memory_mib) == (2, 64)
    facts = hypervisor.vm(vm.ref)
    assert (facts.vcpus, facts.memory_mib) == (2, 64)
    hypervisor.define(vm.ref, shape)
    switch(hypervisor, vm.ref, PowerAction.START, PowerState.RUNNING)


def test_what_it_lacks_is_said_in_words(hypervisor: Hypervisor) -> None:
    with pytest.raises(HypervisorError) as caught:
        hypervisor.console(vm_of(hypervisor, 3).ref)
    assert caught.value.code
    assert caught.value.title
