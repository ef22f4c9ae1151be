"""Why a migration is refused before it begins, and how it can end otherwise than well."""

from __future__ import annotations

from typing import ClassVar

from cloudops.core.errors import Conflict, Refusal


class VmNotMovable(Conflict):
    code = "vm-not-movable"
    title = "The VM's present state does not allow a move."
    remedy = "Look at the VM's power state; refresh it if it seems wrong."


class VmPinned(Conflict):
    code = "vm-pinned"
    title = "The VM is pinned to its host."
    remedy = "Unpin it, or move it all the same if you know why it was pinned."


class AlreadyThere(Conflict):
    code = "already-there"
    title = "The VM is on that host already."
    remedy = "Choose another host."


class LocalStorage(Conflict):
    code = "local-storage"
    title = "The VM has disks that only its present host reaches."
    remedy = "Move it together with its local disks (slower), or put the disks on shared storage first."


class NothingToReach(Conflict):
    code = "no-migration-uri"
    title = "The VM's present host has no way to reach the destination's hypervisor."
    remedy = "Set the destination's migration URI to one that works from other hosts, e.g. qemu+tls://kvm-02/system."


class DifferentPlatforms(Conflict):
    code = "different-platforms"
    title = "VMs move only between hosts of one kind of hypervisor."
    remedy = "Choose a host of the same kind."


class MigrationOver(Conflict):
    code = "migration-over"
    title = "This migration has ended already."
    remedy = "Look at how it ended; nothing is left to abort."


class Ending(Refusal):
    """How a migration that was begun did not arrive. Never raised to a caller: its words end the operation."""

    cancelled: ClassVar[bool] = False


class Cancelled(Ending):
    code = "migration-cancelled"
    title = "The migration was aborted; the VM stays where it was."
    remedy = "Start it again when it suits."
    cancelled = True


class TimedOutMigration(Ending):
    code = "migration-timeout"
    title = "The migration took longer than allowed and was aborted; the VM stays where it was."
    remedy = "Allow more time or bandwidth, slow the VM down (auto-converge), or use post-copy."


class Interrupted(Ending):
    code = "migration-lost"
    title = "The hypervisor forgot the migration; the VM stays where it was."
    remedy = "Its management service was probably restarted. Start the migration again."


class StoppedMeanwhile(Ending):
    code = "vm-stopped-meanwhile"
    title = "The VM was shut down while it moved, and stays at its source."
    remedy = "If that was not wanted, start it again; VMs that are off can be moved too."


class LeftPaused(Ending):
    code = "vm-left-paused"
    title = "The migration failed and left the VM paused at its source."
    remedy = "Make sure that it runs nowhere else, then resume it."


class Vanished(Ending):
    code = "vm-vanished"
    title = "Neither host knows the VM any more."
    remedy = "Somebody may have removed it meanwhile. Synchronise both hosts and look at their hypervisors' logs."


class WentElsewhere(Ending):
    code = "vm-elsewhere"
    title = "The VM arrived, and was found on another host than its destination."
    remedy = "Its platform, or somebody, moved it on. Migrate it again if it is to be elsewhere."


class HostFenced(Ending):
    code = "host-fenced"
    title = "A host of this migration was declared dead by an administrator."
    remedy = "Look where the VM is once the host is back; until then its power state is unknown."
