"""Asks vSphere which of the privileges that CloudOps needs its account has (``privileges`` lists them)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from cloudops.hypervisors.port import NoPermission
from cloudops.hypervisors.vsphere.link import Link
from cloudops.hypervisors.vsphere.privileges import PRIVILEGES, Privilege, Where
from cloudops.hypervisors.vsphere.properties import Row, collect

LOOKED_AT = 20
"""Objects of each kind that are asked about: roles are given on folders, so that a few tell of all."""
NAMED = 3
"""Objects that are named where many lack the same."""

_KINDS: Mapping[Where, type[Any]] = {
    Where.HOST: vim.HostSystem,
    Where.VM: vim.VirtualMachine,
    Where.POOL: vim.ResourcePool,
    Where.DATASTORE: vim.Datastore,
}


_UNTOLD = (
    vmodl.fault.InvalidArgument,  # it knows other privileges
    vmodl.fault.SecurityError,
    vmodl.fault.NotSupported,
    vmodl.fault.MethodNotFound,
    vmodl.fault.NotImplemented,
)


@dataclass(frozen=True, slots=True)
class Missing:
    """A privilege that the account lacks on these objects."""

    privilege: Privilege
    objects: tuple[str, ...]

    def __str__(self) -> str:
        named = ", ".join(self.objects[:NAMED])
        more = f" and {len(self.objects) - NAMED} more" if len(self.objects) > NAMED else ""
        return f"{self.privilege.id} on {named}{more} ({self.privilege.why})"


def missing(link: Link) -> Sequence[Missing]:
    """What the account that is logged in lacks. Raises pyvmomi's faults where vSphere does not tell."""
    authorization, sessions = link.content.authorizationManager, link.content.sessionManager
    current = sessions.currentSession if sessions is not None else None
    if authorization is None or current is None:
        raise vmodl.fault.NotSupported(msg="It has no authorization manager.")
    rows = collect(link, dict.fromkeys(_KINDS.values(), ("name",)))
    found: list[Missing] = []
    for where in Where:
        wanted = [one for one in PRIVILEGES if one.where is where]
        names = _names(link, where, rows)
        if wanted and names:
            entities = [obj for obj, _ in names.values()]
            told = authorization.HasPrivilegeOnEntities(entities, current.key, [one.id for one in wanted])
            found += _lacking(wanted, told, {ref: name for ref, (_, name) in names.items()})
    return found


def report(link: Link) -> str:
    """In words. Raises NoPermission when something lacks without which nothing works."""
    try:
        lacking = missing(link)
    except _UNTOLD:
        return "vSphere does not tell this account which privileges it has; what lacks is said when it is needed"
    essential = [one for one in lacking if one.privilege.required]
    if essential:
        raise NoPermission(
            f"Missing: {'; '.join(map(str, essential))}.",
            numbers={"privileges": [one.privilege.id for one in essential]},
            remedy="Give the account its role on the root folder (or the host), with propagation to what is below.",
        )
    if lacking:
        return f"enough to begin with; not allowed: {'; '.join(map(str, lacking))}"
    return f"all {len(PRIVILEGES)} that CloudOps uses"


def _names(link: Link, where: Where, rows: Sequence[Row]) -> dict[str, tuple[Any, str]]:
    """The objects to be asked about and their names, by reference."""
    if where is Where.ROOT:
        root = link.content.rootFolder
        return {root._moId: (root, "the root folder")}
    chosen = [row for row in rows if isinstance(row.obj, _KINDS[where])][:LOOKED_AT]
    return {row.ref: (row.obj, str(row.values.get("name") or row.ref)) for row in chosen}


def _lacking(wanted: Sequence[Privilege], told: Any, names: Mapping[str, str]) -> list[Missing]:
    refused: dict[str, list[str]] = {}
    for one in told or ():
        for privilege in one.privAvailability or ():
            if not privilege.isGranted:
                refused.setdefault(privilege.privId, []).append(names.get(one.entity._moId, one.entity._moId))
    return [Missing(one, tuple(sorted(refused[one.id]))) for one in wanted if one.id in refused]
