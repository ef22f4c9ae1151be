"""Refusals of the console domain: each with its code, numbers and way out."""

from __future__ import annotations

from typing import Any, ClassVar

from cloudops.core.errors import Conflict, Forbidden, Refusal, Unavailable
from consoles.reasons import Refused


class ConsoleLimit(Conflict):
    """All slots of a host, a VM, a user or a project are taken; ``numbers`` say which and what may be done about it."""

    code = "console-limit"
    title = "All console slots are taken."
    remedy = "Disconnect consoles that you do not need, ask somebody to release theirs, or try again later."
    platform_remedy = (
        "Disconnect a console of this VM, ask somebody to release theirs, or have a connection from outside ended; "
        "the platform lets the VM have no more."
    )
    project_remedy = (
        "Disconnect consoles of the project that nobody needs, ask somebody to release theirs, "
        "or ask an administrator for a larger console quota."
    )

    def __init__(
        self,
        *,
        scope: str,
        scope_name: str,
        limit: int,
        in_use: int,
        foreign: int,
        by_platform: bool,
        holders: list[dict[str, Any]],
        idle_candidates: list[dict[str, Any]],
        retry_after_seconds: int,
    ) -> None:
        super().__init__(
            _limit_words(scope, scope_name, limit, in_use, foreign),
            remedy=self.project_remedy if scope == "project" else self.platform_remedy if by_platform else "",
            retry_after_seconds=retry_after_seconds,
            scope=scope,
            scope_name=scope_name,
            limit=limit,
            in_use=in_use,
            foreign=foreign,
            by_platform=by_platform,
            holders=holders,
            idle_candidates=idle_candidates,
            may_ask_release=scope != "user",
        )
        self.numbers["retry_after_seconds"] = retry_after_seconds
        self.scope = scope


def _limit_words(scope: str, name: str, limit: int, in_use: int, foreign: int) -> str:
    whose = {"host": f"host {name}", "vm": f"VM {name}", "project": f"project {name}"}.get(scope, "your account")
    if not limit:
        return f"No consoles are allowed to {whose}."
    words = f"{in_use} of {limit} console slots of {whose} are taken"
    return f"{words}, {foreign} of them by connections from outside CloudOps." if foreign else f"{words}."


class VmNotRunning(Conflict):
    code = "vm-not-running"
    title = "The VM is not running."
    remedy = "Start the VM first."


class VmMissing(Conflict):
    code = "vm-missing"
    title = "The VM's hypervisor does not report it any more."
    remedy = "It may have been removed or moved outside CloudOps; synchronise its host."


class VmWithoutConsole(Conflict):
    code = "vm-without-console"
    title = "The VM has no console."
    remedy = "Add a VNC graphics device to the VM's definition and restart the VM."


class HostUnreachable(Unavailable):
    code = "host-unreachable"
    title = "The VM's host cannot be reached."
    remedy = "Try again in a moment; an administrator can look at the host's page for what fails."


class SessionEnded(Conflict):
    code = "console-ended"
    title = "This console has ended."
    remedy = "Open the console again."


class TurnedAway(Refusal):
    """A console socket that is refused before it belongs to a session; nothing changes by it."""

    status = 403
    refused: ClassVar[Refused] = Refused.UNAVAILABLE


class SecretRefused(TurnedAway):
    code = "console-secret"
    title = Refused.SECRET.text
    remedy = "Open the console again for a new link."
    refused = Refused.SECRET


class OriginRefused(TurnedAway):
    code = "console-origin"
    title = Refused.ORIGIN.text
    remedy = "Open consoles from the address that CLOUDOPS_PUBLIC_URL or CLOUDOPS_CONSOLE_BASE_URL names."
    refused = Refused.ORIGIN


class RightRefused(TurnedAway):
    code = "console-right"
    title = Refused.RIGHT.text
    remedy = "Sign in as the person who opened the console, or ask for the console right."
    refused = Refused.RIGHT


class ConsoleOver(TurnedAway):
    code = "console-over"
    title = Refused.ENDED.text
    remedy = "Open the console again."
    refused = Refused.ENDED


class NotTaking(TurnedAway):
    code = "console-unavailable"
    status = 503
    title = Refused.UNAVAILABLE.text
    remedy = "Try again in a moment; another management server may take it."
    refused = Refused.UNAVAILABLE


class ReleaseNotAllowed(Forbidden):
    code = "release-not-allowed"
    title = "You may not ask for this console."
    remedy = "Only people who may open a console on the same host or in the same project can ask for one of its slots."


class ReleaseOwn(Conflict):
    code = "release-own"
    title = "This console is your own."
    remedy = "Disconnect it instead."


class ReleaseAlreadyAsked(Conflict):
    code = "release-already-asked"
    title = "You have asked for this console already."
    remedy = "Wait for the answer, or ask for another one."


class ReleaseTooOften(Refusal):
    code = "release-too-often"
    status = 429
    title = "You have asked too often."
    remedy = "Wait as long as Retry-After says."


class ConnectionUnnamed(Conflict):
    code = "connection-unnamed"
    title = "The platform does not name this connection."
    remedy = (
        "vSphere before 7.0.1 only counts connections. Close it where it was opened, restart the VM, or move the VM to "
        "another host, which ends them all."
    )


class ConnectionStays(Conflict):
    code = "connection-stays"
    title = "The platform did not end the connection."
    remedy = "Try again in a moment; if it stays, close it where it was opened."
