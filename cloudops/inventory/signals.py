"""What the inventory tells the layers above, without knowing them.

Unless said otherwise a signal is sent after commit, robustly, in whatever process saw the change, with ``now``. Like
every message it is a hint: whoever needs to be right also looks from time to time.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from django.dispatch import Signal


@dataclass(frozen=True, slots=True)
class VmMove:
    """A VM that runs on another host now."""

    vm_id: UUID
    from_host_id: UUID
    to_host_id: UUID


vm_stopped = Signal()
"""``vm_ids``: off or crashed now, or still not reported some time after they vanished. Never for "unknown"."""

vm_moved = Signal()
"""``moves``: a list of :class:`VmMove`."""

vms_moving = Signal()
"""``vm_ids``: asks which of them are on their way to another host; receivers return ``{vm_id: the host's name}``."""

vms_changed = Signal()
"""``vm_ids``: new, or their power state, size or host is another now; sent besides the signals that say more."""

vm_start_failed = Signal()
"""``vm_ids``: an operation was to start them and failed; they may be off, or not known."""

vm_access_changed = Signal()
"""``vm_ids``: their project changed; everybody's right on them is to be checked again."""

vm_console_changed = Signal()
"""``vm_ids``: the platform says that a display connection came or went."""

host_lost = Signal()
"""``host_ids``: their management service cannot be reached. Guests and their VNC servers may well live on."""

host_back = Signal()
"""``host_ids``: reachable again."""

host_removing = Signal()
"""``host_ids``: sent inside the transaction, right before the rows and all that hangs on them are deleted."""

host_use = Signal()
"""``host_ids``: asks what lives on these hosts; receivers return counts such as ``{"consoles": 3}``."""

vm_use = Signal()
"""``vm_ids``: asks which of these vanished VMs somebody still needs; receivers return a set of ids."""

vm_starting = Signal()
"""``vm``, ``operation``, ``by``: sent inside the transaction that starts the operation which starts this VM. A receiver
that raises a ``Refusal`` undoes it: the VM is not started, and the refusal's words are the answer."""

vm_power_on = Signal()
"""``vm``, ``operation``: sent robustly by the worker right before it asks the hypervisor to start this VM, for what can
only be changed while it is off. A receiver takes no longer than one call to the hypervisor, and hinders nothing."""

hosts_changed = Signal()
"""``host_ids``: new, or their totals, cordon, connection, cluster, tags, networks or datastores changed."""

host_console_load = Signal()
"""``host_ids`` (None: all): asks for consoles in use; receivers return ``{host_id: (in_use, limit)}``."""

vm_console_load = Signal()
"""``vm_ids``: asks for consoles in use; receivers return ``{vm_id: in_use}``, VMs without any left out."""


@dataclass(frozen=True, slots=True)
class HostHold:
    """Why a host takes no VMs beside its connection and its cordon. ``state``: draining, blocked, maintenance or
    fenced; ``words`` what the state is called; ``detail`` how far it is ("4 of 9"); ``url`` of the job, or ""."""

    state: str
    words: str
    detail: str = ""
    url: str = ""

    @property
    def kind(self) -> str:
        """The look of the state, as the tag ``status`` takes it."""
        return {"draining": "busy", "maintenance": "notice"}.get(self.state, "danger")


host_hold = Signal()
"""``host_ids`` (None: all): asks what holds hosts; receivers return ``{host_id: HostHold}``, the others left out."""

host_fenced = Signal()
"""``host_ids``: an administrator declared them dead; whatever still seems to live there has ended."""
