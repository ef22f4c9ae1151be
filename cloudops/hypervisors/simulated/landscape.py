"""An endpoint's hosts and VMs as they are now: its fleet, and what was changed, moved, added and removed since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cloudops.hypervisors.port import (
    CpuIncompatible,
    DiskKind,
    HypervisorError,
    MigrationOptions,
    MigrationUnsafe,
    NameTaken,
    NetworkMissing,
    StorageMissing,
    VmFacts,
)
from cloudops.hypervisors.simulated import guests, jobs
from cloudops.hypervisors.simulated.fleet import Fleet, FleetUri, SimulatedHost, fleet
from cloudops.hypervisors.simulated.state import State
from cloudops.hypervisors.simulated.store import store


class Landscape:
    """``state`` is what changes; everything else follows from the URI."""

    def __init__(self, uri: FleetUri) -> None:
        self.uri = uri
        self._bare_uri = replace(uri, state="")

    @property
    def state(self) -> State:
        """Found anew each time: a process that was forked has stores of its own."""
        return State(store(self.uri.state), f"{self.uri.name}/{self.uri.seed}")

    @property
    def _fleet(self) -> Fleet:
        return fleet(self._bare_uri)

    def hosts(self) -> dict[str, SimulatedHost]:
        """By reference; hosts that are down are not among them."""
        state = self.state
        down = state.faults().down_hosts
        changed = state.hosts_changed()
        everything = self._fleet.hosts | changed if changed else self._fleet.hosts
        return {ref: host for ref, host in everything.items() if ref not in down} if down else everything

    def vms(self) -> list[VmFacts]:
        """Those of the fleet first. VMs that are on their way here are paused, as on real hosts."""
        state = self.state
        jobs.settle(state.store)
        gone, powers = state.gone(), state.power_states()
        found = [vm for vm in self._fleet.vms.values() if vm.ref not in gone] if gone else [*self._fleet.vms.values()]
        found += state.here()
        if powers:
            found = [replace(vm, power_state=powers[vm.ref]) if vm.ref in powers else vm for vm in found]
        known = {vm.ref for vm in found}
        found += [vm for vm in jobs.incoming(state) if vm.ref not in known]
        if asked := state.guests():
            found = [guests.seen(vm, asked.get(vm.ref)) for vm in found]
        down = state.faults().down_hosts
        return [vm for vm in found if vm.host_ref not in down] if down else found

    def vm(self, vm_ref: str) -> VmFacts | None:
        """:meth:`vms`, one of them."""
        state = self.state
        jobs.settle(state.store)
        vm = state.one_here(vm_ref)
        if vm is None and not state.is_gone(vm_ref):
            vm = self._fleet.vms.get(vm_ref)
        if vm is None:
            vm = next((vm for vm in jobs.incoming(state) if vm.ref == vm_ref), None)
        if vm is None or vm.host_ref in state.faults().down_hosts:
            return None
        power = state.power_state(vm_ref)
        return guests.seen(vm if power is None else replace(vm, power_state=power), state.guest(vm_ref))

    def objections(self, vm: VmFacts, host: SimulatedHost, options: MigrationOptions) -> Sequence[HypervisorError]:
        """Why the host would not take the VM."""
        found: list[HypervisorError] = []
        twin = next(
            (one for one in self.vms() if one.host_ref == host.ref and vm.ref != one.ref and vm.name == one.name), None
        )
        if twin is not None:
            found.append(NameTaken(f"{host.name} has a VM {vm.name} already."))
        if vm.cpu_model and vm.cpu_model != host.cpu_model:
            found.append(CpuIncompatible(f"{vm.name} has a CPU {vm.cpu_model}; {host.name} is {host.cpu_model}."))
        disks = [disk for disk in vm.disks if not disk.removable]
        for disk in disks:
            if disk.kind is DiskKind.SHARED and disk.datastore not in host.datastores:
                found.append(StorageMissing(f"{host.name} does not reach {disk.datastore} ({disk.target})."))
            elif disk.kind is DiskKind.LOCAL and not options.copy_storage:
                found.append(MigrationUnsafe(f"Disk {disk.target} of {vm.name} ({disk.source}) is on local storage."))
        found += [
            NetworkMissing(f"{host.name} has no network {network}.")
            for network in vm.networks
            if network not in host.networks
        ]
        return found
