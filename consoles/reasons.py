"""Why a console ends or is refused: one table for the relay, the database, the page and the API.

No Django here: the relay uses it too. WebSocket codes 4000-4999 are for applications (RFC 6455, 7.4.2). A socket is
always accepted before it is closed with one of these, as a browser sees no code otherwise.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class _Reason(NamedTuple):
    ws_code: int
    resumable: bool
    text: str


class ClosedReason(enum.StrEnum):
    """Why a session ended. ``resumable``: the page may come back with its resume secret."""

    USER_CLOSED = "user_closed"
    EXPIRED = "expired"
    IDLE = "idle"
    MAX_DURATION = "max_duration"
    DISCONNECTED = "disconnected"
    RIGHT_REVOKED = "right_revoked"
    TAKEN_OVER = "taken_over"
    LINE_LOST = "line_lost"
    BROWSER_SILENT = "browser_silent"
    SERVER_STOPPING = "server_stopping"
    LEASE_LAPSED = "lease_lapsed"
    VM_MOVED = "vm_moved"
    VM_STOPPED = "vm_stopped"
    HOST_LOST = "host_lost"
    GUEST_CLOSED = "guest_closed"
    GUEST_UNREACHABLE = "guest_unreachable"
    GUEST_REFUSED = "guest_refused"
    GUEST_CERTIFICATE = "guest_certificate"
    TICKET_REFUSED = "ticket_refused"
    PLATFORM_LIMIT = "platform_limit"
    MANAGEMENT_REFUSED = "management_refused"
    PROTOCOL_ERROR = "protocol_error"

    @property
    def ws_code(self) -> int:
        return _TABLE[self].ws_code

    @property
    def resumable(self) -> bool:
        return _TABLE[self].resumable

    @property
    def text(self) -> str:
        """One plain sentence for people."""
        return _TABLE[self].text


_TABLE: dict[ClosedReason, _Reason] = {
    ClosedReason.USER_CLOSED: _Reason(1000, False, "You closed this console."),
    ClosedReason.EXPIRED: _Reason(4410, False, "The console was not opened in time."),
    ClosedReason.IDLE: _Reason(4408, False, "Disconnected because there was no input."),
    ClosedReason.MAX_DURATION: _Reason(4440, False, "Disconnected because the longest allowed time was reached."),
    ClosedReason.DISCONNECTED: _Reason(4420, False, "Disconnected by an administrator or by yourself elsewhere."),
    ClosedReason.RIGHT_REVOKED: _Reason(4421, False, "Your right to this console was withdrawn."),
    ClosedReason.TAKEN_OVER: _Reason(4411, False, "This console goes on in another window."),
    ClosedReason.LINE_LOST: _Reason(4441, True, "The line to your browser was lost."),
    ClosedReason.BROWSER_SILENT: _Reason(4442, True, "Your browser stopped answering."),
    ClosedReason.SERVER_STOPPING: _Reason(4443, True, "The management server is restarting."),
    ClosedReason.LEASE_LAPSED: _Reason(4444, True, "The management server lost its hold on this console."),
    ClosedReason.VM_MOVED: _Reason(4431, True, "The VM is moving to another host."),
    ClosedReason.VM_STOPPED: _Reason(4430, False, "The VM stopped."),
    ClosedReason.HOST_LOST: _Reason(4432, False, "The VM's host cannot be reached."),
    ClosedReason.GUEST_CLOSED: _Reason(4433, True, "The VM's display closed the connection."),
    ClosedReason.GUEST_UNREACHABLE: _Reason(4434, False, "The VM's display cannot be reached."),
    ClosedReason.GUEST_REFUSED: _Reason(4435, False, "The VM's display refused the connection."),
    ClosedReason.GUEST_CERTIFICATE: _Reason(4436, False, "The host shows another certificate than expected."),
    ClosedReason.TICKET_REFUSED: _Reason(4437, False, "The host did not take the ticket for this console."),
    ClosedReason.PLATFORM_LIMIT: _Reason(4438, False, "The platform lets no more consoles be open on this VM."),
    ClosedReason.MANAGEMENT_REFUSED: _Reason(
        4439, False, "The host's management service refuses CloudOps. An administrator has to look at it."
    ),
    ClosedReason.PROTOCOL_ERROR: _Reason(4402, False, "The browser sent something that is not RFB."),
}


def moving_words(vm: str, host: str) -> str:
    """VM_MOVED, more exactly; fits into a close frame (RFC 6455, 5.5.1: 123 bytes) with names of usual length."""
    return f"{vm} is moving to {host}."


class Refused(enum.StrEnum):
    """Why a socket is turned away before it belongs to a session. No session changes by it."""

    SECRET = "secret"  # noqa: S105 - a reason's name
    ORIGIN = "origin"
    RIGHT = "right"
    LIMIT = "limit"
    ENDED = "ended"
    UNAVAILABLE = "unavailable"

    @property
    def ws_code(self) -> int:
        return _REFUSED[self][0]

    @property
    def text(self) -> str:
        """One plain sentence for people."""
        return _REFUSED[self][1]


_REFUSED: dict[Refused, tuple[int, str]] = {
    Refused.SECRET: (4401, "This console link is not valid: it was used already, has expired, or is not complete."),
    Refused.ORIGIN: (4403, "This page may not open consoles here."),
    Refused.RIGHT: (4404, "You may not open this console."),
    Refused.LIMIT: (4409, "All console slots are taken."),
    Refused.ENDED: (4412, "This console has ended."),
    Refused.UNAVAILABLE: (4413, "The server cannot take consoles right now. Try again in a moment."),
}
