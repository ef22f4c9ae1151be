"""How placement refuses."""

from __future__ import annotations

from collections.abc import Callable

from cloudops.core.errors import Conflict, Invalid, Refusal


class NoHostFits(Refusal):
    """``numbers`` hold ``decision`` (its id), ``considered``, ``lost`` per filter and ``nearest``.

    ``keep()`` stores the refused decision, which a rolled back transaction took away; ``tenant_words`` reveal nothing.
    """

    code = "no-host-fits"
    title = "No host can take this VM."
    remedy = "Open the decision: it names what every host lacks."
    keep: Callable[[], None] = staticmethod(lambda: None)
    tenant_words: str = "There is no place for this VM now."


class DecisionTooOld(Refusal):
    code = "decision-too-old"
    title = "What this decision was made on is not kept any more."
    remedy = "Look at its summary, or make a new dry run."


class CapacityGone(Conflict):
    """The host could take the VM a moment ago and cannot any more. Decide again."""

    code = "capacity-gone"
    title = "The host has no room for it, or takes no VMs any more."
    remedy = "Try again: another host is chosen."


class AlreadyClaimed(Conflict):
    code = "already-claimed"
    title = "The VM has its room on another host already."
    remedy = "Wait until its running operation ends; if there is none, look at placement's drift page."


class NothingIncoming(Conflict):
    code = "nothing-incoming"
    title = "No room is kept for the VM's arrival."
    remedy = "Look at the VM's migration; it may have ended already."


class PolicyInvalid(Invalid):
    code = "policy-invalid"
    title = "The policy is not right."
