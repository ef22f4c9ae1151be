"""The display connections that a VM has: listing and dropping them (vSphere API 7.0.1.0 and later)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cloudops.hypervisors.port import ConsoleConnection
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.lookup import Found

FAMILY: Final = "mks"
"""Such connections have a name, and no address of their own that would tell whose they are."""


def query(link: Link, found: Found) -> Sequence[ConsoleConnection]:
    """``QueryConnections``. Raises MethodNotFound, which means NotSupported, where the API is older."""
    listed = found.vm.QueryConnections() or ()
    return [_connection(one.label, one.client or "", one.userName or "") for one in listed]


def drop(link: Link, found: Found, labels: Sequence[str]) -> Sequence[str]:
    """Ends these connections (``DropConnections``); returns those of the labels that are not there afterwards.

    vSphere takes an empty list for "all", so that it is never sent.
    """
    doomed = [one for one in found.vm.QueryConnections() or () if one.label in labels]
    if not doomed:
        return list(labels)
    found.vm.DropConnections(doomed)
    left = {one.label for one in found.vm.QueryConnections() or ()}
    return [label for label in labels if label not in left]


def _connection(label: str, client: str, user_name: str) -> ConsoleConnection:
    """``client`` is a host name or an address, with or without a port, as the API's reference says."""
    host, port = client, ""
    if client.startswith("["):
        host, _, port = client[1:].partition("]")
        port = port.removeprefix(":")
    elif client.count(":") == 1:
        host, _, port = client.partition(":")
    number = int(port) if port.isdecimal() and len(port) <= 5 else 0
    return ConsoleConnection(label, FAMILY, client_host=host, client_port=number, user_name=user_name)
