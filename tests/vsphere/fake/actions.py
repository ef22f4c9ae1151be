"""What a test does to the fake's world, by names and plain values: the same in a thread and over a process' control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.vsphere.fake.plans import HostPlan, VmPlan

if TYPE_CHECKING:
    from tests.vsphere.fake.vcenter import FakeVcenter


class Actions:
    def __init__(self, vcenter: FakeVcenter) -> None:
        self._vcenter = vcenter
        self._world = vcenter.world

    def hosts(self) -> dict[str, dict[str, Any]]:
        """By name: its id, where its displays are served, connection, maintenance, and its VMs' names."""
        with self._world.lock:
            return {
                name: {
                    "ref": host.mo_id,
                    "address": host.address,
                    "port": host.port,
                    "connection": host.connection,
                    "in_maintenance": host.in_maintenance,
                    "vms": [vm.name for vm in host.vms.values()],
                }
                for name, host in self._world.hosts.items()
            }

    def vms(self) -> dict[str, dict[str, Any]]:
        """By name: its instance UUID, host, power state, size and connected displays."""
        with self._world.lock:
            return {
                name: {
                    "ref": vm.instance_uuid,
                    "host": vm.host.name,
                    "power": vm.power,
                    "cpus": vm.cpus,
                    "memory_mib": vm.memory_mib,
                    "connections": vm.connections,
                }
                for name, vm in self._world.vms.items()
            }

    def add_vm(self, name: str, **plan: Any) -> None:
        self._world.add_vm(VmPlan(name, **plan))

    def remove_vm(self, name: str) -> None:
        vm = self._world.vms[name]
        self._vcenter.service.consoles.drop_all(vm, 1001, "removed")
        self._world.remove_vm(vm)

    def add_host(self, name: str, **plan: Any) -> None:
        self._vcenter.add_host(HostPlan(name, **plan))

    def set_vm(self, name: str, **fields: Any) -> None:
        """Fields of :class:`tests.vsphere.fake.entities.Vm`, as ``max_connections`` or ``vnc``."""
        self._set(self._world.vms[name], fields)

    def set_host(self, name: str, **fields: Any) -> None:
        """Fields of :class:`tests.vsphere.fake.entities.Host`, as ``tags`` or ``cpu_used_mhz``."""
        self._set(self._world.hosts[name], fields)

    def _set(self, entity: Any, fields: dict[str, Any]) -> None:
        with self._world.lock:
            for name, value in fields.items():
                if not hasattr(entity, name):
                    raise AttributeError(f"{type(entity).__name__} has no {name}")
                setattr(entity, name, value)
            self._world.changed(entity)

    def place(self, vm: str, host: str) -> None:
        """As after a vMotion that somebody else made."""
        with self._world.lock:
            moved = self._world.vms[vm]
            self._vcenter.service.consoles.drop_all(moved, 1001, "vMotion")
            self._world.place(moved, self._world.hosts[host])

    def connect(self, host: str, state: str) -> None:
        """connected, disconnected or notResponding."""
        self._world.connect(self._world.hosts[host], state)

    def connections(self, vm: str = "") -> int:
        """Displays connected to the VM, or to all of them."""
        return self._vcenter.connections(vm)

    def labels(self, vm: str) -> list[str]:
        with self._world.lock:
            return [one.label for one in self._vcenter.service.consoles.of(self._world.vms[vm])]

    def expire_tickets(self) -> None:
        self._vcenter.service.consoles.expire_tickets()

    def calls(self, method: str) -> int:
        """How often that WSDL method (or REST path) was called."""
        return self._vcenter.calls(method)
