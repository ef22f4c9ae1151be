"""One connection to vCenter or ESXi with pyvmomi's stub on it, for one thread at a time."""

from __future__ import annotations

import math
import select
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

from pyVmomi import VmomiSupport, vim
from pyVmomi.SoapAdapter import SoapStubAdapter

from cloudops.hypervisors.port import HypervisorError, NotSupported, Unreachable
from cloudops.hypervisors.vsphere.address import Address
from cloudops.hypervisors.vsphere.certificates import Trust
from cloudops.hypervisors.vsphere.dial import PinnedConnection

VERSIONS_PATH = "/sdk/vimServiceVersions.xml"
MAX_VERSIONS_BYTES = 1024 * 1024


class Link:
    """``stub`` and ``content`` are pyvmomi's, for whoever calls vSphere with them; ``deadline`` (monotonic clock)
    bounds everything that is sent and received."""

    def __init__(self, address: Address, trust: Trust, relogin: Callable[[Link], None]) -> None:
        """``relogin`` gives the link a session that is logged in, after vSphere said that it has none."""
        self.address = address.host
        self.port = address.port
        self.used_at = time.monotonic()
        self.is_broken = False
        self.generation = 0
        """Which login its cookie is from."""
        self.content: vim.ServiceInstanceContent
        self.version = ""
        self._trust = trust
        self._deadline = math.inf
        self._relogin = relogin
        self._connection: PinnedConnection | None = None
        self.stub = SoapStubAdapter(host=address.host, port=address.port, path="/sdk", poolSize=1)
        self.stub.scheme = self._connect  # type: ignore[assignment]  # it calls what it finds there
        self.stub.schemeArgs = {}

    @property
    def api_version(self) -> str:
        """As the server states it: ``8.0.2.0``."""
        return str(self.content.about.apiVersion)

    @property
    def is_vcenter(self) -> bool:
        return bool(self.content.about.apiType == "VirtualCenter")

    @property
    def deadline(self) -> float:
        return self._deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        self._deadline = deadline
        if self._connection is not None:
            self._connection.deadline = deadline
            if self._connection.sock is not None:
                self._connection.sock.deadline = deadline

    @property
    def is_usable(self) -> bool:
        """Whether an idle link can be used once more: vCenter has neither closed it nor said anything on it."""
        if self.is_broken or self._connection is None or self._connection.sock is None:
            return False
        poll = select.poll()  # select() itself knows no descriptor above 1023
        try:
            poll.register(self._connection.sock, select.POLLIN)
            return not poll.poll(0)
        except (OSError, ValueError):
            return False

    def relogin(self) -> None:
        """For what cannot be begun anew when vSphere forgets the session in its midst. Raises HypervisorError."""
        self._relogin(self)

    def negotiate(self) -> str:
        """Finds the newest version of the API that both sides know. Raises NotSupported and Unreachable."""
        connection = self.stub.GetConnection()
        connection.request("GET", VERSIONS_PATH)
        response = connection.getresponse()
        body = response.read(MAX_VERSIONS_BYTES)
        if response.status != 200:
            connection.close()
            raise Unreachable(
                f"https://{self.address}:{self.port} answers, but not as vSphere does (HTTP {response.status}).",
                remedy="Check that it is the address of vCenter or ESXi. A vCenter that starts answers so for minutes.",
            )
        self.stub.ReturnConnection(connection)
        return best_version(body)

    def use(self, version: str) -> None:
        """Speaks ``version`` from now on and reads what this vSphere offers."""
        self.version = version
        self.stub.ComputeVersionInfo(version)
        self.content = vim.ServiceInstance("ServiceInstance", self.stub).RetrieveContent()

    def cut(self) -> None:
        """Ends it from any thread: whoever waits on it fails at once."""
        self.is_broken = True
        if self._connection is not None and self._connection.sock is not None:
            self._connection.sock.cut()

    def close(self) -> None:
        """By the thread that uses it."""
        self.is_broken = True
        self.stub.DropConnections()
        if self._connection is not None:
            self._connection.close()

    def _connect(self, **_host_and_port: Any) -> PinnedConnection:
        if self.is_broken:
            raise Unreachable("The connection was closed.")
        self._connection = PinnedConnection(self.address, self.port, trust=self._trust, deadline=self._deadline)
        return self._connection


def best_version(document: bytes) -> str:
    """pyvmomi's name (``vim.version.v8_0_2_0``) for the newest version that this document (``vimServiceVersions.xml``)
    and pyvmomi both know. Raises NotSupported, and Unreachable for something else."""
    try:
        root = ET.fromstring(document)  # noqa: S314  (expat's limits hold; a bomb would end this one call)
    except ET.ParseError as error:
        raise _no_vsphere() from error
    offered = {
        version.text
        for namespace in root.findall("namespace")
        if namespace.findtext("name") == "urn:vim25"
        for version in (*namespace.findall("version"), *namespace.findall("priorVersions/version"))
    }
    if not offered:
        raise _no_vsphere()
    for version in VmomiSupport.GetServiceVersions("vim25"):
        if VmomiSupport.versionIdMap[version] in offered:
            return str(version)
    raise NotSupported(
        f"It speaks the vSphere API {', '.join(sorted(filter(None, offered)))}, of which CloudOps speaks none.",
        remedy="CloudOps speaks with vSphere 6.7 and later.",
    )


def _no_vsphere() -> HypervisorError:
    return Unreachable(
        "It answers, but not with the versions of a vSphere API.",
        remedy="Check that the address is that of vCenter or ESXi, and that no proxy is between.",
    )
