"""Whether a VM may be resized at all, and whether while it runs: installation, offering, VM, host. No Django."""

from __future__ import annotations

from cloudops.hypervisors.port import PowerState
from scaling.values import ORDER, Reach, Reason, Subject, Wanted

Gate = tuple[Reach, tuple[Reason, ...]]


def judge(subject: Subject, wanted: Wanted) -> Gate:
    """``IMPOSSIBLE``, ``NOW`` (it is off), ``RESTART`` (not while it runs) or ``SAME`` (nothing is in the way)."""
    of_vm, of_offering = of_subject(subject), of_wanted(wanted)
    reach = together(of_vm[0], of_offering[0])
    held = () if reach is Reach.NOW else of_offering[1]
    if reach is Reach.IMPOSSIBLE and of_offering[0] is not Reach.IMPOSSIBLE:
        held = ()
    return reach, of_vm[1] + held


def together(of_vm: Reach, of_offering: Reach) -> Reach:
    """What both gates come to: a VM that is off need not be restarted."""
    if of_vm is Reach.NOW and of_offering is Reach.RESTART:
        return Reach.NOW
    return max(of_vm, of_offering, key=ORDER.__getitem__)


def of_subject(subject: Subject) -> Gate:
    """The VM's own half, the same for every offering. ``busy`` is told but changes nothing."""
    busy = (Reason("busy", {"operation": subject.busy}, ("wait",)),) if subject.busy else ()
    blocked = _blocked(subject)
    if blocked is not None:
        return Reach.IMPOSSIBLE, (blocked, *busy)
    if subject.power_state is PowerState.OFF:
        return Reach.NOW, busy
    held = []
    if not subject.installation_allows:
        held.append(Reason("installation-not-dynamic", {}, ("restart-now", "next-start", "allow-installation")))
    if not subject.vm_allows:
        held.append(Reason("vm-not-dynamic", {}, ("restart-now", "next-start", "allow-vm")))
    return (Reach.RESTART if held else Reach.SAME), (*held, *busy)


def of_wanted(wanted: Wanted) -> Gate:
    """The offering's half, the same for every VM."""
    names = {"offering": wanted.offering_name}
    if not wanted.enabled:
        return Reach.IMPOSSIBLE, (Reason("offering-disabled", names, ("other-offering",)),)
    if not wanted.dynamic:
        return Reach.RESTART, (Reason("offering-not-dynamic", names, ("restart-now", "next-start", "other-offering")),)
    return Reach.SAME, ()


def _blocked(subject: Subject) -> Reason | None:
    if not subject.reported:
        return Reason("not-reported", {"host": subject.host_name}, ("sync",))
    if not subject.host_up:
        return Reason("host-down", {"host": subject.host_name}, ("bring-host-back",))
    if subject.power_state is PowerState.UNKNOWN:
        return Reason("power-unknown", {"host": subject.host_name}, ("sync",))
    if subject.power_state is PowerState.PAUSED:
        return Reason("paused", {}, ("resume",))
    if subject.power_state is PowerState.CRASHED:
        return Reason("crashed", {}, ("power-off",))
    return None
