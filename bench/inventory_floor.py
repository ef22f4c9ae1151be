"""The floor of ``script/bench inventory``: plain pyVmomi reading the same properties, and doing nothing with them."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from pyVim import connect
from pyVmomi import vim, vmodl

from bench.inventory_vcenter import POWER, Places
from cloudops.hypervisors.vsphere import changes, facts

Collector = vmodl.query.PropertyCollector

READ: Mapping[type[Any], tuple[str, ...]] = {
    vim.HostSystem: facts.HOST_PATHS,
    vim.VirtualMachine: facts.VM_PATHS,
    vim.ClusterComputeResource: facts.CLUSTER_PATHS,
    vim.Datastore: facts.DATASTORE_PATHS,
    vim.Network: facts.NETWORK_PATHS,
}
"""What the driver reads, once each."""


@contextmanager
def logged_in(access: Mapping[str, Any]) -> Iterator[vim.ServiceInstance]:
    """A login of pyVmomi's own making that accepts the certificate that is served."""
    url = urlsplit(access["uri"])
    host, port = url.hostname or "", url.port or 443
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=ssl.get_server_certificate((host, port)))
    service = connect.SmartConnect(  # type: ignore[no-untyped-call]
        host=host, port=port, user=access["username"], pwd=access["secret"], sslContext=context
    )
    try:
        yield service
    finally:
        connect.Disconnect(service)  # type: ignore[no-untyped-call]


def _spec(service: vim.ServiceInstance, wanted: Mapping[type[Any], Any]) -> vmodl.query.PropertyCollector.FilterSpec:
    content = service.content
    view = content.viewManager.CreateContainerView(content.rootFolder, list(wanted), True)  # type: ignore[union-attr]
    through = Collector.TraversalSpec(name="view", type=vim.view.ContainerView, path="view", skip=False)
    return Collector.FilterSpec(
        objectSet=[Collector.ObjectSpec(obj=view, skip=True, selectSet=[through])],
        propSet=[Collector.PropertySpec(type=kind, pathSet=list(paths)) for kind, paths in wanted.items()],
    )


def read(access: Mapping[str, Any]) -> int:
    """Logs in and collects everything; how many objects."""
    with logged_in(access) as service:
        collector = service.content.propertyCollector
        answer = collector.RetrievePropertiesEx([_spec(service, READ)], Collector.RetrieveOptions())
        count = 0
        while answer is not None:
            count += len(answer.objects)
            answer = collector.ContinueRetrievePropertiesEx(answer.token) if answer.token else None
        return count


class Follower:
    """Waits for updates of what the driver follows, and knows each VM's power and host."""

    def __init__(self, service: vim.ServiceInstance) -> None:
        self._collector = service.content.propertyCollector
        self._collector.CreateFilter(_spec(service, changes.WATCHED), True)
        self._version = ""
        self._vms: dict[str, dict[str, Any]] = {}
        while self._take(wait_seconds=0):
            pass

    def until(self, wanted: Places, *, within_seconds: float) -> None:
        """Returns once it knows all that."""
        deadline = time.monotonic() + within_seconds
        while self._places() != wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the floor did not follow within {within_seconds} s")
            self._take(wait_seconds=1)

    def _take(self, *, wait_seconds: int) -> bool:
        options = Collector.WaitOptions(maxWaitSeconds=wait_seconds)
        answer = self._collector.WaitForUpdatesEx(self._version, options)
        if answer is None:
            return False
        self._version = answer.version
        for update in answer.filterSet:
            for one in update.objectSet:
                if isinstance(one.obj, vim.VirtualMachine):
                    values = self._vms.setdefault(one.obj._moId, {})
                    values.update({change.name: change.val for change in one.changeSet})
        return True

    def _places(self) -> Places:
        return {
            vm["config.instanceUuid"]: (POWER[vm["runtime.powerState"]], vm["runtime.host"]._moId)
            for vm in self._vms.values()
        }
