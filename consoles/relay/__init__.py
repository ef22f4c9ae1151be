"""The console relay: RFB between a browser's WebSocket and a VM's VNC server. No Django in here.

Open the VNC side with :func:`open_upstream`, make a :class:`RelayedConsole`, hand both to :func:`serve_console`; turn a
browser away with :func:`refuse`. Fast where uvicorn runs with ``--ws consoles.relay.server:RelayProtocol``, correct on
any ASGI server.
"""

from consoles.relay.console import ConsoleHooks, ConsolePolicy, Outcome, RelayedConsole
from consoles.relay.errors import (
    UpstreamAuthenticationFailed,
    UpstreamCertificateChanged,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamSecurityUnsupported,
    UpstreamTicketRefused,
    UpstreamTimedOut,
    UpstreamTlsError,
    UpstreamUnreachable,
)
from consoles.relay.serve import live_consoles, refuse, serve_console
from consoles.relay.upstream import Upstream, open_upstream

__all__ = [
    "ConsoleHooks",
    "ConsolePolicy",
    "Outcome",
    "RelayedConsole",
    "Upstream",
    "UpstreamAuthenticationFailed",
    "UpstreamCertificateChanged",
    "UpstreamError",
    "UpstreamProtocolError",
    "UpstreamRefused",
    "UpstreamSecurityUnsupported",
    "UpstreamTicketRefused",
    "UpstreamTimedOut",
    "UpstreamTlsError",
    "UpstreamUnreachable",
    "live_consoles",
    "open_upstream",
    "refuse",
    "serve_console",
]
