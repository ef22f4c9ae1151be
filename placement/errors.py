"""How placement refuses."""

from __future__ import annotations

from cloudops.core.errors import Conflict, Invalid, Refusal


class NoHostFits(Refusal):
    """``numbers`` hold ``decision`` (its id), ``considered``, ``lost`` per filter and ``nearest``."""

    code = "no-host-fits"
    title = "No host can take this VM."
    remedy = "Open the decision: it names what every host lacks."


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


class TemplateInUse(Conflict):
    code = "template-in-use"
    title = "VMs were made from this template."
    remedy = "Give those VMs another template first."
