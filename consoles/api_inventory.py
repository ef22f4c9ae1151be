"""Hosts and VMs as the inventory's API has them, with their console slots."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from cloudops.inventory import api as inventory_vms
from cloudops.inventory import api_fleet
from cloudops.inventory.serializers import VmSerializer
from consoles import limits
from consoles.limits import Usage
from consoles.serializers import HostWithConsolesSerializer, VmWithConsolesDetailSerializer, VmWithConsolesSerializer


class HostViewSet(api_fleet.HostViewSet):
    """Hypervisor hosts, each with its console slots."""

    serializer_class = HostWithConsolesSerializer
    _usages: dict[UUID, Usage] | None = None

    def prepare(self, rows: list[Any]) -> None:
        self._usages = limits.usage_by_host([row.pk for row in rows], now=self.now)

    def usage_of(self, host: Any) -> Usage | None:
        """The host's slots; a page's hosts are counted together. None when it has gone meanwhile."""
        if self._usages is None:
            return limits.usage_by_host([host.pk], now=self.now).get(host.pk)
        return self._usages.get(host.pk)


class VmViewSet(inventory_vms.VmViewSet):
    """VMs, each with its console slots. Tenants see those of their projects."""

    serializer_class: type[VmSerializer] = VmWithConsolesSerializer
    detail_serializer_class = VmWithConsolesDetailSerializer
    _usages: dict[UUID, Usage] | None = None

    def prepare(self, rows: list[Any]) -> None:
        self._usages = limits.usage_by_vm([row.pk for row in rows], now=self.now)

    def usage_of(self, vm: Any) -> Usage | None:
        """The VM's slots; a page's VMs are counted together. None when it has gone meanwhile."""
        if self._usages is None:
            return limits.usage_by_vm([vm.pk], now=self.now).get(vm.pk)
        return self._usages.get(vm.pk)
