"""Views, retrieving properties in pages, filters and waiting for updates."""

from __future__ import annotations

import secrets
import time
from typing import Any

from tests.vsphere.fake.collector import Collector, Filter, content, selected
from tests.vsphere.fake.entities import View
from tests.vsphere.fake.service import Call, Ready, method
from tests.vsphere.fake.types import refuse, vim, vmodl

PAGE = 100
"""Objects in a page when the client does not say how many it takes."""
LONGEST_WAIT_SECONDS = 1800.0
UNLIMITED = 1 << 30


@method("CreateContainerView")
def create_container_view(call: Call, container: Any, type: Any = (), recursive: bool = False) -> Any:
    view = View(call.entity(container), tuple(type), recursive)
    ref = vim.view.ContainerView(f"session[{call.session.key[:8]}]{secrets.token_hex(8)}")
    return call.world.add(view, ref).ref


@method("DestroyView")
def destroy_view(call: Call) -> None:
    del call.world.objects[call.entity().mo_id]


@method("RetrievePropertiesEx")
def retrieve_properties(call: Call, specSet: Any, options: Any = None) -> Ready:
    objects = _contents(call, specSet)
    return _page(call, objects, (options.maxObjects if options else None) or PAGE)


@method("ContinueRetrievePropertiesEx")
def continue_retrieving(call: Call, token: str) -> Ready:
    waiting = call.session.pages.pop(token, None)
    if waiting is None:
        raise refuse(
            vmodl.fault.InvalidArgument, "A specified parameter was not correct: token", invalidProperty="token"
        )
    return _page(call, waiting[1:], int(waiting[0]))


@method("CancelRetrievePropertiesEx")
def cancel_retrieving(call: Call, token: str) -> None:
    call.session.pages.pop(token, None)


@method("RetrieveProperties")
def retrieve_all_properties(call: Call, specSet: Any) -> Ready:
    found = "".join(_contents(call, specSet))
    return Ready(found.replace("<objects>", "<returnval>").replace("</objects>", "</returnval>"))


def _contents(call: Call, specs: Any) -> list[str]:
    return [
        content(entity, paths, call.version) for spec in specs for entity, paths in selected(call.world, spec).values()
    ]


def _page(call: Call, objects: list[str], size: int) -> Ready:
    if not objects:
        return Ready("")
    token = ""
    if len(objects) > size:
        name = secrets.token_hex(8)
        call.session.pages[name] = [str(size), *objects[size:]]
        token = f"<token>{name}</token>"
    return Ready(f"<returnval>{token}{''.join(objects[:size])}</returnval>")


def _collector(call: Call) -> Collector:
    name = str(call.this._moId)
    collectors: dict[str, Collector] = call.session.collectors
    if name not in collectors:
        if name.startswith("session["):
            raise refuse(vmodl.fault.ManagedObjectNotFound, "The object has already been deleted", obj=call.this)
        collectors[name] = Collector(call.this)
    return collectors[name]


@method("CreatePropertyCollector")
def create_property_collector(call: Call) -> Any:
    ref = vmodl.query.PropertyCollector(f"session[{call.session.key[:8]}]{secrets.token_hex(8)}")
    call.session.collectors[ref._moId] = Collector(ref)
    return ref


@method("DestroyPropertyCollector")
def destroy_property_collector(call: Call) -> None:
    collector = call.session.collectors.pop(str(call.this._moId), None)
    if collector is not None:
        collector.cancelled += 1
        call.service.wake()


@method("CreateFilter")
def create_filter(call: Call, spec: Any, partialUpdates: bool) -> Any:
    for entity, paths in selected(call.world, spec).values():
        content(entity, paths, call.version)
        break
    collector = _collector(call)
    ref = vmodl.query.PropertyCollector.Filter(f"session[{call.session.key[:8]}]{secrets.token_hex(8)}")
    collector.filters[ref._moId] = Filter(ref, spec, call.version)
    call.service.wake()
    return ref


@method("DestroyPropertyFilter")
def destroy_filter(call: Call) -> None:
    for collector in call.session.collectors.values():
        collector.filters.pop(str(call.this._moId), None)


@method("CancelWaitForUpdates")
def cancel_wait(call: Call) -> None:
    _collector(call).cancelled += 1
    call.service.wake()


@method("CheckForUpdates")
async def check_for_updates(call: Call, version: str = "") -> Ready | None:
    return await _wait(call, version, 0, UNLIMITED)


@method("WaitForUpdates")
async def wait_for_updates(call: Call, version: str = "") -> Ready | None:
    return await _wait(call, version, LONGEST_WAIT_SECONDS, UNLIMITED)


@method("WaitForUpdatesEx")
async def wait_for_updates_ex(call: Call, version: str = "", options: Any = None) -> Ready | None:
    seconds, limit = LONGEST_WAIT_SECONDS, UNLIMITED
    if options is not None:
        seconds = seconds if options.maxWaitSeconds is None else options.maxWaitSeconds
        limit = options.maxObjectUpdates or UNLIMITED
    return await _wait(call, version, seconds, limit)


def _lost(call: Call) -> Exception:
    return refuse(
        vim.fault.NotAuthenticated, "The session is not authenticated.", object=call.this, privilegeId="System.View"
    )


async def _wait(call: Call, version: str, seconds: float, limit: int) -> Ready | None:
    service, session = call.service, call.session
    with call.world.lock:
        collector = _collector(call)
        if replayed := _begin(call, collector, version):
            return Ready(replayed)
    end, cancelled = time.monotonic() + seconds, collector.cancelled
    while True:
        if session.is_over:
            raise _lost(call)
        if service.faults.take_lost_update():
            service.log_out(session)
            raise _lost(call)
        if collector.cancelled != cancelled:
            raise refuse(vmodl.fault.RequestCanceled, "The request was canceled.")
        with call.world.lock:
            found = collector.collect(call.world, service.faults.truncate_at or limit)
        if found:
            collector.asked_with, collector.answered = version, found
            return Ready(found)
        left = end - time.monotonic()
        if left <= 0:
            return None
        await service.change(left)


def _begin(call: Call, collector: Collector, version: str) -> str:
    """What was answered to the same version before, or "" when new changes are wanted."""
    if not version:
        collector.reset()
        return ""
    if call.service.faults.take_stale():
        raise refuse(vmodl.query.InvalidCollectorVersion, "The version is not known.")
    if collector.knows(version):
        return ""
    if collector.answered and version == collector.asked_with:
        return collector.answered
    raise refuse(vmodl.query.InvalidCollectorVersion, "The version is not known.")
