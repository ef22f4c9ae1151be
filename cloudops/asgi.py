"""The ASGI application: pages and API, live updates, consoles, and the lease that lives as long as the process.

``uvicorn cloudops.asgi:application --ws consoles.relay.server:RelayProtocol``
"""

from __future__ import annotations

import os
from typing import Any
from uuid import UUID

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloudops.settings")

from django.core.asgi import get_asgi_application

django_app = get_asgi_application()

import structlog  # noqa: E402
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.db import database_sync_to_async  # noqa: E402

from cloudops.accounts import rights  # noqa: E402
from cloudops.accounts.models import Membership, User  # noqa: E402
from cloudops.accounts.rights import AnyUser, Right  # noqa: E402
from cloudops.core.consumers import LiveConsumer  # noqa: E402
from cloudops.core.models import Operation  # noqa: E402
from cloudops.hypervisors import registry  # noqa: E402
from cloudops.inventory.access import visible_vms  # noqa: E402
from consoles import origins  # noqa: E402
from consoles.gateway import console_app  # noqa: E402
from consoles.lease import keeper  # noqa: E402

log = structlog.get_logger(__name__)

ADMIN_TOPICS = {"settings": Right.SETTINGS_MANAGE, "users": Right.USERS_MANAGE}
NOT_FOUND = 4004
FORBIDDEN = 4403


def may_watch(user: AnyUser, topic: str) -> bool:
    """Fleet people watch the fleet, tenants their own consoles, projects, VMs and operations; offerings are for all."""
    if not isinstance(user, User) or not user.is_active:
        return False
    if topic in ADMIN_TOPICS:
        return rights.has(user, ADMIN_TOPICS[topic])
    if topic == "offerings" or rights.has(user, Right.FLEET_VIEW):
        return True
    name, _, key = topic.partition(":")
    return _is_own(user, name, key)


def _is_own(user: User, name: str, key: str) -> bool:
    if name == "user":
        return key == str(user.pk)
    try:
        subject = UUID(key)
    except ValueError:
        return False
    if name == "vm":
        return visible_vms(user).filter(pk=subject).exists()
    mine = Membership.objects.filter(user_id=user.pk)
    if name == "project":
        return mine.filter(project_id=subject).exists()
    if name == "operation":
        row = Operation.objects.filter(pk=subject).values_list("requested_by_id", "project_id").first()
        if row is None:
            return False
        return row[0] == user.pk or (row[1] is not None and mine.filter(project_id=row[1]).exists())
    return False


class Live(LiveConsumer):
    """Live updates with this installation's rules of who may watch what."""

    may_watch = staticmethod(database_sync_to_async(may_watch))


live_app = AuthMiddlewareStack(Live.as_asgi())
_SOCKETS = {"/ws/live/": live_app, "/ws/console/": console_app}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Routes by protocol and path."""
    match scope["type"]:
        case "http":
            await django_app(scope, receive, send)
        case "websocket":
            await _websocket(scope, receive, send)
        case "lifespan":
            await _lifespan(receive, send)


async def _websocket(scope: Any, receive: Any, send: Any) -> None:
    app = _SOCKETS.get(scope["path"])
    if app is console_app:  # it checks the origin itself, and tells the page
        await console_app(scope, receive, send)
    elif app is None:
        await _close(receive, send, NOT_FOUND)
    elif not origins.is_allowed(scope):
        await _close(receive, send, FORBIDDEN)
    else:
        await app(scope, receive, send)


async def _close(receive: Any, send: Any, code: int) -> None:
    await receive()
    await send({"type": "websocket.close", "code": code})


async def _lifespan(receive: Any, send: Any) -> None:
    """Starts the lease with the server; on shutdown consoles are let go so that they resume elsewhere."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await keeper().start()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await keeper().stop()
            registry.close_all()
            await send({"type": "lifespan.shutdown.complete"})
            return
