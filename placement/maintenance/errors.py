"""Refusals of maintenance, each with its code and its way out."""

from __future__ import annotations

from cloudops.core.errors import Conflict, Invalid, NotFound


class NoHosts(Invalid):
    code = "no-hosts"
    title = "No host was named."
    remedy = "Name at least one host."


class UnknownHost(NotFound):
    code = "unknown-host"
    title = "One of the hosts is not in the inventory."
    remedy = "Look at the list of hosts; it may have been removed meanwhile."


class AlreadyInMaintenance(Conflict):
    """Its number ``maintenance`` is the id of the job that has the host."""

    code = "already-in-maintenance"
    title = "Another maintenance job has one of these hosts."
    remedy = "Go on with that job, or cancel it first."


class HostNeeded(Invalid):
    code = "host-needed"
    title = "The choice “to this host” needs a host."
    remedy = "Name the host that the VM shall move to."


class HostNotChoosable(Conflict):
    code = "host-not-choosable"
    title = "The VM cannot be sent to this host."
    remedy = "Choose a host that is not being emptied and that can be reached."


class StopNotRepeated(Conflict):
    """Trying again is not choosing: what comes after a stop in vain is to power the VM off."""

    code = "stop-not-repeated"
    title = "The VM could not be stopped, and is not stopped again by trying."
    remedy = "Choose “Stop this VM” again to power it off, or choose something else for it."


class MoveUnderWay(Conflict):
    code = "move-under-way"
    title = "The VM is moving right now."
    remedy = "Wait until the migration ends, or abort it first."


class MoveOver(Conflict):
    code = "move-over"
    title = "There is nothing left to choose for this VM."
    remedy = "Look at where the VM is now."


class JobOver(Conflict):
    code = "maintenance-over"
    title = "The maintenance job has ended."
    remedy = "Start a new one; “resume” does so with the same hosts."


class JobStillOn(Conflict):
    code = "maintenance-still-on"
    title = "The maintenance job has not ended."
    remedy = "Complete or cancel it first."


class NotEmptyYet(Conflict):
    """Its numbers ``hosts`` and ``vms`` tell what is left."""

    code = "hosts-not-empty"
    title = "Not all hosts of this job are in maintenance yet."
    remedy = "Wait until they are empty, choose something for the VMs that block them, or cancel the job."


class HostsWaiting(Conflict):
    """Its number ``hosts`` tells how many have not had their turn."""

    code = "hosts-waiting"
    title = "Some hosts have not had their turn yet."
    remedy = "Give the present hosts back one by one, so that the next ones follow; or cancel the job."


class HostNotHeld(Conflict):
    code = "host-not-held"
    title = "The host is not in maintenance in this job."
    remedy = "Wait until it is empty, or cancel the job."


class NothingToBringHome(Conflict):
    code = "nothing-to-bring-home"
    title = "No VM of this job can be brought home."
    remedy = "Look at the list of its VMs: each one says where it is."


class HomeInMaintenance(Conflict):
    code = "home-in-maintenance"
    title = "The VMs' home is still in maintenance."
    remedy = "Complete that maintenance first; the VMs can be brought home then."
