"""Why a resize is refused before it begins, and how it can end otherwise than well.

Tenants read these words: they name no host and no number of anybody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from cloudops.core.errors import Conflict, Refusal


class PlanOutdated(Conflict):
    """``changes``: what the plan rested on and is different now, as name, was and now."""

    code = "plan-outdated"
    title = "Something has changed since this plan was made; nothing was done."
    remedy = "Look at the new plan, and confirm that one if it still suits."

    def __init__(self, detail: str = "", *, changes: Sequence[Any] = (), **numbers: Any) -> None:
        self.changes = tuple(changes)
        told = [{"name": one.name, "was": one.was, "now": one.now} for one in self.changes]
        super().__init__(detail, changes=told, **numbers)


class NotReachable(Conflict):
    """``how`` is not a way to this size now; ``reach`` is the easiest that is, ``ways`` are all that are."""

    code = "size-not-reachable-so"
    title = "The size cannot be reached in this way."
    remedy = "Choose one of the ways that are named, or another size."


class NothingToChange(Conflict):
    code = "size-same"
    title = "The VM has this size and this offering already."
    remedy = "Choose another size or offering."


class QuotaExceeded(Conflict):
    code = "quota-exceeded"
    title = "The project's quota does not leave that much."
    remedy = "Choose a smaller size, make other VMs of the project smaller, or ask an administrator for more."


class VmNotResizable(Conflict):
    code = "vm-not-resizable"
    title = "The VM's present state does not allow a change of its size."
    remedy = "Look at the VM's power state; refresh it if it seems wrong."


class NoRoomToGrow(Conflict):
    """Tenants are not told how full a host is."""

    code = "no-room-to-grow"
    title = "The VM's host has no room for that any more."
    remedy = "Ask for the plan again: a move to another host may be the way."


class NoWayToMove(Conflict):
    code = "no-way-to-move"
    title = "The VM cannot be moved to a host that has room for that."
    remedy = "Choose a smaller size, try again later, or ask an administrator."


class ResizeOver(Conflict):
    code = "resize-over"
    title = "This resize has ended already."
    remedy = "Look at how it ended."


class ResizeNotOver(Conflict):
    code = "resize-not-open"
    title = "Only a resize that was applied in part can be continued or rolled back, and only the VM's latest."
    remedy = "Look at the VM's size, and choose the one that it is to have."


class NothingWaits(Conflict):
    code = "no-size-waits"
    title = "Nothing waits for the VM's next start."
    remedy = "Nothing is left to do."


class TooLateToCancel(Conflict):
    code = "too-late-to-cancel"
    title = "This resize is at a step that cannot be taken back."
    remedy = "Wait until it ends; then resize the VM again if that is needed."


class Ending(Refusal):
    """How a resize that was begun did not go well. Never raised to a caller: its words end the operation."""

    cancelled: ClassVar[bool] = False


class Cancelled(Ending):
    code = "resize-cancelled"
    title = "The resize was cancelled."
    remedy = "Start it again when it suits."
    cancelled = True


class GuestDidNotReact(Ending):
    code = "guest-did-not-react"
    title = "The guest did not shut down in time; the VM goes on at its old size."
    remedy = (
        "The guest may ignore ACPI or be busy. Look at its console and shut it down from inside, or have the size "
        "applied at its next start."
    )


class PartlyApplied(Ending):
    code = "partly-applied"
    title = "The VM has a part of the new size."
    remedy = "Continue, or roll back to the size that it had."


class StoppedMeanwhile(Ending):
    code = "vm-stopped-meanwhile"
    title = "The VM was shut down while it was resized."
    remedy = "Look at its size; start it, and resize it again if that is still needed."


class StartedMeanwhile(Ending):
    code = "vm-started-meanwhile"
    title = "The VM was started while its definition was to be changed."
    remedy = "Resize it again: it runs now, so the way may be another one."


class DidNotStart(Ending):
    code = "vm-did-not-start"
    title = "The VM was shut down for the resize and could not be started again."
    remedy = "Start it; if that does not work, ask an administrator to look at it."


class Vanished(Ending):
    code = "vm-vanished"
    title = "The hypervisor does not know the VM any more."
    remedy = "Somebody may have removed or moved it meanwhile. Ask an administrator to synchronise its host."


class HostFenced(Ending):
    code = "host-fenced"
    title = "The VM's host was declared dead by an administrator while it was resized."
    remedy = "Look at the VM's size once its host is back."


class MoveFailed(Ending):
    code = "move-failed"
    title = "The VM could not be moved to a host with room; its size is as it was."
    remedy = "Ask for the plan again, or ask an administrator to look at the move."
