"""``/ws/console/``: from a browser's WebSocket to a VM's display.

One visit to the database authorises the socket and takes its session; the display is resolved and opened; a second
visit notes that it is open; then the relay carries bytes until something ends it. Whoever is turned away gets a close
code with words, and the audit trail a line. Secrets appear in neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from django.utils import timezone

from cloudops.core.errors import Refusal, TransitionConflict, Unavailable
from cloudops.core.requests import address_of_scope
from cloudops.hypervisors.port import (
    AuthenticationFailed,
    CertificateMismatch,
    ConsoleLimitReached,
    HypervisorError,
    NoConsole,
    NoPermission,
    Unreachable,
    VmNotFound,
    VmNotRunning,
)
from consoles import admission, attach, displays, losses, origins
from consoles.admission import Knock
from consoles.attach import Attached
from consoles.errors import ConsoleLimit, NotTaking, OriginRefused, TurnedAway
from consoles.lease import DATABASE_TROUBLE, LeaseKeeper, keeper
from consoles.reasons import ClosedReason, Refused
from consoles.relay import UpstreamError, refuse, serve_console
from consoles.sockets import Socket

log = structlog.get_logger(__name__)

ADMIT_SECONDS: Final = 8.0
NOTE_SECONDS: Final = 4.0
SECRET_PROTOCOL: Final = "cloudops.secret."  # noqa: S105 - a subprotocol's prefix
RESUME_PROTOCOL: Final = "cloudops.resume."


@dataclass(frozen=True, slots=True)
class _Turned:
    """How a socket is closed that never became a console."""

    code: int
    text: str


async def console_app(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application of a console's socket."""
    await receive()
    lease = keeper()
    await lease.start()
    admitted = await _admit(scope, lease)
    if isinstance(admitted, _Turned):
        await refuse(scope, receive, send, admitted.code, admitted.text)
        return
    socket = Socket(admitted, lease, why_lost=losses.why, now=timezone.now())
    lease.hold(socket)
    try:
        await _carry(socket, lease, scope, receive, send)
    finally:
        socket.close(ClosedReason.SERVER_STOPPING)  # does nothing when it has ended, as it has unless we were cancelled


async def _admit(scope: Any, lease: LeaseKeeper) -> Attached | _Turned:
    """Authorises the socket, or says how it is turned away."""
    knock = _knock(scope)
    process_id = lease.taking()
    now = timezone.now()
    try:
        if not origins.is_allowed(scope):
            raise OriginRefused(f"The page's origin is {knock.origin[:100]}.")
        if process_id is None:
            raise NotTaking
        visit = partial(admission.admit, knock, process_id=process_id, now=now)
        return await lease.threads.run(visit, timeout_seconds=ADMIT_SECONDS)
    except Refusal as refusal:
        lease.in_background(_note_refusal(lease, knock, refusal))
        return _turned(refusal)
    except DATABASE_TROUBLE as error:
        log.warning("console_refused", reason="database", error=str(error), address=knock.address)
        return _Turned(Refused.UNAVAILABLE.ws_code, Refused.UNAVAILABLE.text)


def _knock(scope: Any) -> Knock:
    headers = {key: value.decode("latin-1") for key, value in scope.get("headers", ()) if key in _HEADERS}
    secret = resume = ""
    for name in scope.get("subprotocols", ()):
        if name.startswith(SECRET_PROTOCOL):
            secret = name.removeprefix(SECRET_PROTOCOL)
        elif name.startswith(RESUME_PROTOCOL):
            resume = name.removeprefix(RESUME_PROTOCOL)
    return Knock(
        secret=secret,
        resume_secret=resume,
        origin=origins.origin_of(scope),
        cookie=headers.get(b"cookie", ""),
        authorization=headers.get(b"authorization", ""),
        address=address_of_scope(scope),
    )


_HEADERS = frozenset({b"cookie", b"authorization"})


def _turned(refusal: Refusal) -> _Turned:
    if isinstance(refusal, ConsoleLimit):
        return _Turned(Refused.LIMIT.ws_code, refusal.detail)
    refused = refusal.refused if isinstance(refusal, TurnedAway) else Refused.UNAVAILABLE
    return _Turned(refused.ws_code, refused.text)


async def _note_refusal(lease: LeaseKeeper, knock: Knock, refusal: Refusal) -> None:
    log.info("console_refused", reason=refusal.code, address=knock.address)
    note = partial(admission.note_refusal, knock, refusal, now=timezone.now())
    try:
        await lease.threads.run(note, timeout_seconds=NOTE_SECONDS)
    except DATABASE_TROUBLE as error:
        log.warning("console_refusal_not_recorded", error=str(error))


async def _carry(socket: Socket, lease: LeaseKeeper, scope: Any, receive: Any, send: Any) -> None:
    """Opens the display and relays until the end. Whatever fails closes the console with its reason."""
    attached = socket.attached
    vm = attached.vm
    upstream = None
    try:
        upstream = await displays.open_display(socket, lease)
        if socket.console.outcome is None:
            visit = partial(
                attach.activate, session=attached.session, relay_address=upstream.local_address, now=timezone.now()
            )
            await lease.threads.run(visit, timeout_seconds=NOTE_SECONDS)
    except (UpstreamError, HypervisorError, Unavailable) as error:
        log.warning("console_display_failed", session=str(socket.session_id), vm=vm.name, error=str(error))
        reason, words = await losses.failed(attached, reason_of(error))
        if reason is not ClosedReason.VM_MOVED:
            words = await _note_failure(lease, attached, error)
        socket.close(reason, words)
    except TransitionConflict:  # ended, let go or taken over meanwhile
        socket.close(await losses.overtaken(attached))
    except DATABASE_TROUBLE:
        socket.close(ClosedReason.LEASE_LAPSED)
    except BaseException:
        if upstream is not None:
            upstream.close()
        raise
    if upstream is not None:
        await serve_console(scope, receive, send, console=socket.console, upstream=upstream)
    elif (outcome := socket.console.outcome) is not None:
        moves = outcome.reason is ClosedReason.VM_MOVED
        # With the first message the page learns how to come back, although it has seen no picture yet.
        first = socket.hello() if moves else None
        await refuse(scope, receive, send, outcome.reason.ws_code, outcome.detail, first=first)


async def _note_failure(lease: LeaseKeeper, attached: Attached, error: Exception) -> str:
    """The audit trail's line, and words for the page if there are better ones than the reason's own."""
    note = partial(admission.note_failure, attached.session, error, now=timezone.now())
    try:
        return await lease.threads.run(note, timeout_seconds=NOTE_SECONDS)
    except DATABASE_TROUBLE as trouble:
        log.warning("console_failure_not_recorded", error=str(trouble))
        return ""


def reason_of(error: Exception) -> ClosedReason:
    """What a failure on the way to a display means for the console."""
    if isinstance(error, UpstreamError):
        return error.closed_reason
    if isinstance(error, (VmNotRunning, VmNotFound)):
        return ClosedReason.VM_STOPPED
    if isinstance(error, NoConsole):
        return ClosedReason.GUEST_REFUSED
    if isinstance(error, ConsoleLimitReached):
        return ClosedReason.PLATFORM_LIMIT
    if isinstance(error, (AuthenticationFailed, CertificateMismatch, NoPermission)):
        return ClosedReason.MANAGEMENT_REFUSED
    return ClosedReason.HOST_LOST if isinstance(error, Unreachable) else ClosedReason.GUEST_UNREACHABLE
