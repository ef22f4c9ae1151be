"""A small installation of simulated hosts with VMs that grow; a test lets time go by and kills runners."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from cloudops.core.models import Operation
from cloudops.hypervisors import registry, simulated
from cloudops.hypervisors.port import (
    DiskFacts,
    DiskKind,
    MemoryDevice,
    MemoryModel,
    PowerState,
    ScalingFacts,
    ScalingState,
    VmFacts,
)
from cloudops.inventory import endpoints
from cloudops.inventory.models import Host, Offering, OfferingKind, Vm
from placement import migration_run
from placement.models import Claim, ClaimKind, VmMigration
from scaling import planning, resize_run, resizes, subjects
from scaling.models import Resize
from scaling.values import Plan, Reach, Wanted
from tests.placement.moving import BY, Killed, Moving

LEASE_OVER_SECONDS = 30.0


def facts(boot_mib: int, *, most_vcpus: int = 8, virtio_mib: int = 1_792, **more: Any) -> ScalingFacts:
    """A VM that was started with this much and can grow by ``virtio_mib`` and to ``most_vcpus``."""
    device = MemoryDevice("ua-virtiomem0", MemoryModel.VIRTIO_MEM, virtio_mib, 0, 0, 2)
    given = ScalingFacts(
        max_vcpus=most_vcpus,
        max_memory_mib=boot_mib + virtio_mib,
        memory_slots=16 if virtio_mib else 0,
        boot_memory_mib=boot_mib,
        balloon_mib=boot_mib,
        has_balloon=True,
        dimm_limit_mib=boot_mib + virtio_mib if virtio_mib else 0,
        memory_devices=(device,) if virtio_mib else (),
    )
    return replace(given, **more)


class Scaling(Moving):
    """``Moving`` with sizes."""

    def add_sized(
        self,
        name: str,
        host: Host,
        *,
        vcpus: int = 1,
        memory_mib: int = 256,
        state: PowerState = PowerState.RUNNING,
        scaling: ScalingFacts | None = None,
        **values: Any,
    ) -> Vm:
        """A VM that can grow to 8 vCPUs and 2 GiB, unless said otherwise."""
        ref = str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.{name}"))
        disks = (DiskFacts("vda", f"san/{name}", DiskKind.SHARED, "san"),)
        given = scaling if scaling is not None else facts(memory_mib)
        one = VmFacts(ref, name, host.ref, state, vcpus, memory_mib, scaling=given, disks=disks, networks=("lan",))
        simulated.put_vm(host.endpoint.uri, one)
        self.sync(host)
        Vm.objects.filter(ref=ref).update(**values)
        return Vm.objects.get(ref=ref)

    def offering(self, name: str = "web", **values: Any) -> Offering:
        """A custom offering of 1 to 8 vCPUs and 16 to 65,536 MiB that scales live."""
        given: dict[str, Any] = {
            "kind": OfferingKind.CUSTOM,
            "vcpus": 1,
            "max_vcpus": 8,
            "memory_mib": 16,
            "max_memory_mib": 65_536,
            "dynamic_scaling": True,
        }
        return Offering.objects.create(name=name, **{**given, **values})

    def wanted(self, vcpus: int, memory_mib: int, offering: Offering | None = None, **more: Any) -> Wanted:
        one = offering or Offering.objects.filter(name="web").first() or self.offering()
        return subjects.wanted(one, vcpus=vcpus, memory_mib=memory_mib, **more)

    def plan(self, vm: Vm, wanted: Wanted) -> Plan:
        return planning.plan_now(vm, wanted, now=self.now)[1]

    def resize(self, vm: Vm, wanted: Wanted, how: Reach = Reach.LIVE, **more: Any) -> Resize:
        """Asks for it; nobody runs it yet."""
        operation = resizes.resize(vm, wanted=wanted, how=how, by=more.pop("by", BY), now=self.now, **more)
        return Resize.objects.select_related("operation", "vm").get(pk=operation.pk)

    def go(self, row: Resize, pause: Callable[[float], object] | None = None) -> Resize:
        """Workers, until it ends: its migration's first, then its own."""
        for _ in range(200):
            row = self.fresh(row)
            if row.ended_at is not None:
                return row
            self.work(row, pause)
        raise AssertionError(f"it does not end: {row.phase}, {row.operation.steps}")

    def work(self, row: Resize, pause: Callable[[float], object] | None = None) -> Resize:
        """One worker, until it lets go."""
        move = VmMigration.objects.filter(pk=row.pk, ended_at__isnull=True).first()
        operation = Operation.objects.get(pk=row.pk)
        if move is not None:
            migration_run.run(operation, clock=self.clock, pause=pause or self.pause)
        else:
            resize_run.run(operation, clock=self.clock, pause=pause or self.pause)
        return self.fresh(row)

    def work_for(self, row: Resize, seconds: float) -> Resize:
        """A worker that is killed after so long: it simply is no more."""
        end = self.now + timedelta(seconds=seconds)

        def pause(wait: float) -> None:
            self.pause(wait)
            if self.now >= end:
                raise Killed

        try:
            return self.work(row, pause)
        except Killed:
            return self.fresh(row)

    def fresh(self, row: Resize) -> Resize:
        return Resize.objects.select_related("operation", "vm__host__endpoint").get(pk=row.pk)

    def truth(self, vm: Vm) -> ScalingState:
        """Asked of the hypervisor itself."""
        host = Vm.objects.select_related("host__endpoint").get(pk=vm.pk).host
        return registry.call(endpoints.spec_of(host.endpoint), lambda hypervisor: hypervisor.scaling(vm.ref))

    def claimed(self, vm: Vm) -> dict[str, tuple[str, int, int]]:
        """Host, vCPUs and memory of each claim by its kind."""
        rows = Claim.objects.filter(vm=vm).select_related("host__host")
        return {str(one.kind): (one.host.host.name, one.vcpus, one.memory_mib) for one in rows}


__all__ = ["BY", "LEASE_OVER_SECONDS", "ClaimKind", "Killed", "Scaling", "facts"]
