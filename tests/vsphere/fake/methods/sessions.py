"""The service instance, logging in and out, and reading a property by attribute (``Fetch``)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.vsphere.fake.methods.rights import privilege_list
from tests.vsphere.fake.service import Call, method
from tests.vsphere.fake.types import filled, refuse, vim, vmodl

BUILD = "22617221"


def about(call: Call) -> Any:
    """``name`` says simulator: nobody shall take this for a real vCenter."""
    world = call.world
    what = "ESXi" if world.is_standalone else "vCenter Server"
    major = ".".join(world.api_version.split(".")[:3])
    return filled(
        vim.AboutInfo(
            name=f"VMware {what} (CloudOps simulator)",
            fullName=f"VMware {what} {major} build-{BUILD} (CloudOps simulator)",
            vendor="CloudOps simulator",
            version=major,
            build=BUILD,
            osType="vmnix-x86" if world.is_standalone else "linux-x64",
            productLineId="embeddedEsx" if world.is_standalone else "vpx",
            apiType="HostAgent" if world.is_standalone else "VirtualCenter",
            apiVersion=world.api_version,
            instanceUuid=None if world.is_standalone else call.service.instance_uuid,
        )
    )


def service_content(call: Call) -> Any:
    """A standalone ESXi has no checker for provisioning."""
    prefix = "ha-" if call.world.is_standalone else ""
    content = vim.ServiceInstanceContent(
        rootFolder=call.world.root.ref,
        propertyCollector=vmodl.query.PropertyCollector(f"{prefix}propertyCollector"),
        viewManager=vim.view.ViewManager(f"{prefix}ViewManager"),
        about=about(call),
        sessionManager=vim.SessionManager(f"{prefix}SessionManager"),
        authorizationManager=vim.AuthorizationManager(f"{prefix}AuthorizationManager"),
        searchIndex=vim.SearchIndex(f"{prefix}SearchIndex"),
        taskManager=vim.TaskManager(f"{prefix}TaskManager"),
    )
    if not call.world.is_standalone:
        content.vmProvisioningChecker = vim.vm.check.ProvisioningChecker("ProvChecker")
        content.vmCompatibilityChecker = vim.vm.check.CompatibilityChecker("CompatChecker")
    return filled(content)


@method("RetrieveServiceContent", is_open=True)
def retrieve_service_content(call: Call) -> Any:
    return service_content(call)


@method("CurrentTime", is_open=True)
def current_time(call: Call) -> datetime:
    return datetime.now(UTC)


@method("Login", is_open=True)
def login(call: Call, userName: str, password: str, locale: str = "") -> Any:
    session = call.service.log_in(userName, password)
    call.new_cookie = session.key
    return filled(session.shown())


@method("Logout")
def logout(call: Call) -> None:
    call.service.log_out(call.session)


@method("SessionIsActive")
def session_is_active(call: Call, sessionID: str, userName: str) -> bool:
    known = call.service.sessions.get(sessionID)
    return known is not None and known.user == userName


@method("Fetch", is_open=True)
def fetch(call: Call, prop: str) -> Any:
    if isinstance(call.this, vim.ServiceInstance):
        return service_content(call) if prop == "content" else None
    session = call.session_or_none
    if isinstance(call.this, vim.SessionManager):
        return filled(session.shown()) if session and prop == "currentSession" else None
    _ = call.session
    if isinstance(call.this, vim.TaskManager):
        return None
    if isinstance(call.this, vim.AuthorizationManager):
        return privilege_list() if prop == "privilegeList" else None
    entity = call.entity()
    return entity.value(prop)


@method("CancelTask")
def cancel_task(call: Call) -> None:
    task = call.entity()
    if task.state not in ("running", "queued") or not task.cancelable:
        raise refuse(vim.fault.InvalidState, "The operation is not allowed in the current state.")
    task.cancelled = True
    call.world.changed(task)
