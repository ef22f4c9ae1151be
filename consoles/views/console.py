"""The page in which a console runs."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from cloudops.accounts.pages import person, signed_in
from cloudops.accounts.rights import VmRight
from cloudops.core import pages
from cloudops.core.errors import NotFound
from cloudops.inventory import access
from cloudops.inventory.models import Vm
from consoles.models import ConsoleSession
from consoles.reasons import ClosedReason, Refused


@require_safe
@never_cache
@signed_in
def vm_console(request: HttpRequest, vm_id: UUID) -> HttpResponse:
    """Opens a console of a VM in this page: its script asks the API for a session and connects."""
    vm = access.vm_for(person(request), vm_id, VmRight.CONSOLE)
    return _page(request, vm, session_id="", view_only="view" in request.GET)


@require_safe
@never_cache
@signed_in
def session_console(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """The link that the API returned: the secret is in the fragment, which never reaches the server."""
    session = ConsoleSession.objects.for_display().filter(pk=session_id, user=person(request)).first()
    if session is None:
        raise NotFound("There is no such console, or it is not yours.")
    vm = access.vm_for(person(request), session.vm_id, VmRight.CONSOLE)
    return _page(request, vm, session_id=str(session.pk), view_only=session.view_only)


def _page(request: HttpRequest, vm: Vm, *, session_id: str, view_only: bool) -> HttpResponse:
    context: dict[str, Any] = {
        "vm": vm,
        "host_name": vm.host.name if person(request).sees_fleet else "",
        "session_id": session_id,
        "open_url": f"/api/v1/vms/{vm.pk}/console-sessions/",
        "view_only": view_only,
        "back_url": reverse("vm", args=[vm.pk]),
        "close_reasons": {
            str(reason.ws_code): {
                "reason": str(reason),
                "text": reason.text,
                "resumable": getattr(reason, "resumable", False),
            }
            for reason in (*ClosedReason, *Refused)
        },
        "now": timezone.now(),
    }
    return pages.show(request, "consoles/console.html", context)
