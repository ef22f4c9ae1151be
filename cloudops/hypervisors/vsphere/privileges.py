"""The least that the account of CloudOps must be allowed to do in vSphere, and what each privilege is for.

Sources: the privileges named with each method in the vSphere Web Services API reference. ``System.Anonymous``,
``System.View`` and ``System.Read`` are part of every role.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Where(enum.StrEnum):
    """The kind of object on which a privilege is needed."""

    ROOT = "root folder"
    HOST = "hosts"
    VM = "VMs"
    POOL = "resource pools"
    DATASTORE = "datastores"


@dataclass(frozen=True, slots=True)
class Privilege:
    """``why`` continues the words "needed …". ``required``: without it nothing works; else only one thing does not."""

    id: str
    where: Where
    why: str
    required: bool = False


PRIVILEGES: tuple[Privilege, ...] = (
    Privilege("System.View", Where.ROOT, "to see hosts and VMs", required=True),
    Privilege("System.Read", Where.ROOT, "to read hosts, VMs, clusters, storage and networks", required=True),
    Privilege("VirtualMachine.Interact.ConsoleInteract", Where.VM, "for consoles; to count and drop their connections"),
    Privilege("VirtualMachine.Interact.PowerOn", Where.VM, "to start and resume VMs"),
    Privilege("VirtualMachine.Interact.PowerOff", Where.VM, "to stop VMs and to shut them down"),
    Privilege("VirtualMachine.Interact.Reset", Where.VM, "to reset and reboot VMs"),
    Privilege("VirtualMachine.Interact.Suspend", Where.VM, "to pause VMs"),
    Privilege(
        "VirtualMachine.Config.CPUCount",
        Where.VM,
        "to change how many vCPUs a VM has, and whether it may get more while it runs",
    ),
    Privilege(
        "VirtualMachine.Config.Memory",
        Where.VM,
        "to change how much memory a VM has, and whether it may get more while it runs",
    ),
    Privilege("VirtualMachine.Config.Resource", Where.VM, "to change a VM's CPU shares and limit"),
    Privilege("Resource.HotMigrate", Where.VM, "to move VMs that run"),
    Privilege("Resource.ColdMigrate", Where.VM, "to move VMs that are off"),
    Privilege("Resource.AssignVMToPool", Where.POOL, "to put VMs that move into their new host's resource pool"),
    Privilege("Datastore.AllocateSpace", Where.DATASTORE, "to copy disks along with VMs that move"),
    Privilege("Host.Config.Maintenance", Where.HOST, "for the hosts' own maintenance mode"),
)


def purpose(privilege_id: str) -> str:
    """What a privilege is for, as it continues "needed …"; empty for one that is not ours."""
    return next((one.why for one in PRIVILEGES if one.id == privilege_id), "")
