"""One SOAP endpoint: sessions, privileges, and from a request to its answer."""

from __future__ import annotations

import asyncio
import collections
import inspect
import logging
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.vsphere.fake import soap
from tests.vsphere.fake.certificates import Certificate
from tests.vsphere.fake.entities import Entity, Host
from tests.vsphere.fake.faults import Faults
from tests.vsphere.fake.mks import Consoles
from tests.vsphere.fake.types import Fault, refuse, support, vim, vmodl
from tests.vsphere.fake.world import World

log = logging.getLogger(__name__)

COOKIE = "vmware_soap_session"


@dataclass(eq=False)
class Session:
    """A login. ``collectors`` by id: what it watches ends with it."""

    key: str
    user: str
    begun_at: datetime
    collectors: dict[str, Any] = field(default_factory=dict)
    pages: dict[str, list[str]] = field(default_factory=dict)
    is_over: bool = False
    rest_key: str = ""

    def shown(self) -> Any:
        return vim.UserSession(
            key=self.key,
            userName=self.user,
            fullName=self.user,
            loginTime=self.begun_at,
            lastActiveTime=self.begun_at,
            locale="en",
            messageLocale="en",
            extensionSession=False,
            ipAddress="127.0.0.1",
            userAgent="",
            callCount=0,
        )


@dataclass(eq=False)
class Call:
    """One request on its way. ``session`` is there in every method that needs one."""

    service: Service
    name: str
    this: Any
    version: str
    session_or_none: Session | None
    client: str
    new_cookie: str = ""

    @property
    def session(self) -> Session:
        if self.session_or_none is None:
            raise refuse(
                vim.fault.NotAuthenticated,
                "The session is not authenticated.",
                object=self.this,
                privilegeId="System.View",
            )
        return self.session_or_none

    @property
    def world(self) -> World:
        return self.service.world

    def entity(self, ref: Any = None) -> Any:
        """The object called (or another reference). Raises: ManagedObjectNotFound."""
        wanted = self.this if ref is None else ref
        found = self.world.find(wanted)
        if found is None:
            raise refuse(
                vmodl.fault.ManagedObjectNotFound,
                "The object has already been deleted or has not been completely created",
                obj=wanted,
            )
        return found

    def demand(self, privilege: str, entity: Any) -> None:
        """Raises: NoPermission."""
        if self.service.is_denied(privilege, entity):
            raise refuse(
                vim.fault.NoPermission,
                "Permission to perform this operation was denied.",
                object=entity.ref if isinstance(entity, Entity) else self.this,
                privilegeId=privilege,
            )


Handler = Callable[..., Any]


@dataclass(frozen=True)
class Method:
    handler: Handler
    privilege: str
    is_open: bool


METHODS: dict[str, Method] = {}


def method(name: str, *, privilege: str = "", is_open: bool = False) -> Callable[[Handler], Handler]:
    """Registers ``handler(call, **arguments)`` for a WSDL method. ``is_open``: no login needed. ``privilege`` is asked
    on the object that is called."""

    def register(handler: Handler) -> Handler:
        METHODS[name] = Method(handler, privilege, is_open)
        return handler

    return register


class Service:
    def __init__(self, world: World, faults: Faults, username: str, password: str) -> None:
        self.world = world
        self.faults = faults
        self.username = username
        self.password = password
        self.consoles = Consoles(world)
        self.sessions: dict[str, Session] = {}
        self.calls: collections.Counter[str] = collections.Counter()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self.background: set[asyncio.Task[None]] = set()
        self.task_seconds = 0.1
        """How long a task takes."""
        self.certificates: dict[str, Certificate] = {}
        self.instance_uuid = str(uuid.uuid5(uuid.NAMESPACE_DNS, world.address))
        world.on_change(self.wake)

    # Waiting for changes

    def wake(self) -> None:
        """From any thread: whoever waits for a change looks again."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._wake_here)

    def _wake_here(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for one in waiting:
            if not one.done():
                one.set_result(None)

    async def change(self, seconds: float) -> None:
        """Returns after the next change, or the time."""
        if seconds <= 0:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(future)

    # Sessions and privileges

    def log_in(self, username: str, password: str) -> Session:
        """Raises: InvalidLogin."""
        if (username, password) != (self.username, self.password):
            raise refuse(vim.fault.InvalidLogin, "Cannot complete login due to an incorrect user name or password.")
        session = Session(secrets.token_hex(20), username, datetime.now(UTC), rest_key=secrets.token_hex(16))
        self.sessions[session.key] = session
        return session

    def log_out(self, session: Session) -> None:
        session.is_over = True
        self.sessions.pop(session.key, None)
        with self.world.lock:
            own = f"session[{session.key[:8]}]"
            for name in [one for one in self.world.objects if one.startswith(own)]:
                del self.world.objects[name]
        self.wake()

    def expire_sessions(self) -> None:
        with self.world.lock:
            for session in list(self.sessions.values()):
                self.log_out(session)

    def is_denied(self, privilege: str, entity: Any) -> bool:
        """Whether the privilege is missing on the entity or on something above it."""
        names = []
        while isinstance(entity, Entity):
            names.append(getattr(entity, "name", ""))
            entity = self.world.parent(entity)
        return self.faults.is_denied(privilege, *names)

    def thumbprint(self, host: Host, algorithm: str) -> str:
        return self.certificates[host.name].thumbprint(algorithm)

    # From request to answer

    def version_for(self, action: str) -> str:
        """The version to answer in: the one the client's SOAPAction names, if this server knows it."""
        own = support.versionMap[f"vim25/{self.world.api_version}"]
        asked = support.versionMap.get(action.strip('"').removeprefix("urn:"))
        return str(asked) if asked and support.IsChildVersion(own, asked) else str(own)

    async def answer(self, body: bytes, *, action: str, cookie: str, client: str) -> tuple[int, bytes, str]:
        """Status, body and the cookie to set ("" for none). Raises: soap.BadRequest."""
        request = soap.parse(body)
        self.calls[request.name] += 1
        version = self.version_for(action)
        call = Call(self, request.name, request.this, version, self.sessions.get(cookie), client)
        seconds = self.faults.latency_by_method.get(request.name, self.faults.latency_seconds)
        if seconds:
            await asyncio.sleep(seconds)
        try:
            content = await self._run(call, request)
        except Fault as raised:
            return 500, soap.fault(raised.detail, version), call.new_cookie
        except Exception as error:
            log.exception("the fake failed in %s", request.name)
            broken = refuse(vmodl.fault.SystemError, f"the fake failed: {error!r}", reason=repr(error))
            return 500, soap.fault(broken.detail, version), call.new_cookie
        return 200, soap.response(request.name, content), call.new_cookie

    async def _run(self, call: Call, request: soap.Request) -> str:
        if failing := self.faults.next_call_fault(request.name):
            raise refuse(support.GetVmodlType(failing[0]), failing[1] or failing[0])
        known = METHODS.get(request.name)
        info = None if request.name == "Fetch" else soap.method_info(request.name)
        if known is None or (info is not None and not support.IsChildVersion(self.version_for(""), info.version)):
            raise refuse(vmodl.fault.MethodNotFound, "method not found", receiver=call.this, method=request.name)
        if not known.is_open:
            _ = call.session
        if known.privilege:
            call.demand(known.privilege, call.entity())
        arguments = {"prop": request.text("prop")} if info is None else request.arguments(info.params)
        if inspect.iscoroutinefunction(known.handler):
            result = await known.handler(call, **arguments)
        else:
            with self.world.lock:
                result = known.handler(call, **arguments)
        return self._content(call, info, result)

    @staticmethod
    def _content(call: Call, info: Any, result: Any) -> str:
        if isinstance(result, Ready):
            return result.text
        if info is None:
            return soap.serialize(result, "returnval", object, support.F_OPTIONAL, call.version)
        kind = vim.Task if info.isTask else info.result
        return soap.serialize(result, "returnval", kind, info.resultFlags | support.F_OPTIONAL, call.version)


@dataclass(frozen=True)
class Ready:
    """An answer that is text already."""

    text: str
