"""Simulated hypervisors: what a real one does, without one. For tests, for development and for a fleet to look at.

A URI ``simulated://NAME?hosts=10&vms=20&seed=1`` is an endpoint with ten hosts of twenty VMs each. Everything about
them follows from the URI, so that every process sees the same fleet. What changes (power states, console connections,
where VMs are, faults) lives in this process's memory, or with ``&state=/path/file.sqlite`` in a file that processes
share. VMs migrate between the hosts of an endpoint, and between endpoints that are in memory or share a file, with
``&migrate_mib_per_second=1024``; tests let time go by with :func:`set_clock`. With ``&maintenance_seconds=5`` hosts
have a maintenance mode of their own, as vSphere's have, into which an empty one takes so long.
"""

from cloudops.hypervisors.simulated.driver import (
    SimulatedHypervisor,
    add_maintenance_fault,
    add_migration_fault,
    add_resize_fault,
    clear_migration_faults,
    clear_resize_faults,
    put_host,
    put_vm,
    remove_vm,
    reset,
    set_faults,
    set_guest,
)
from cloudops.hypervisors.simulated.fleet import SimulatedHost
from cloudops.hypervisors.simulated.guests import SimulatedGuest
from cloudops.hypervisors.simulated.jobs import MigrationFault
from cloudops.hypervisors.simulated.maintenance import MaintenanceFault
from cloudops.hypervisors.simulated.resizing import ResizeFault
from cloudops.hypervisors.simulated.state import Faults
from cloudops.hypervisors.simulated.store import set_clock

__all__ = [
    "Faults",
    "MaintenanceFault",
    "MigrationFault",
    "ResizeFault",
    "SimulatedGuest",
    "SimulatedHost",
    "SimulatedHypervisor",
    "add_maintenance_fault",
    "add_migration_fault",
    "add_resize_fault",
    "clear_migration_faults",
    "clear_resize_faults",
    "put_host",
    "put_vm",
    "remove_vm",
    "reset",
    "set_clock",
    "set_faults",
    "set_guest",
]
