"""What can be done about a resize that was begun: continue, roll back, cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_POST

from cloudops.accounts.models import User
from cloudops.accounts.pages import person, signed_in
from cloudops.accounts.rights import VmRight
from cloudops.core import pages
from cloudops.core.errors import NotFound
from cloudops.core.requests import actor_of
from cloudops.inventory import access
from scaling import resizes, telling_resizes
from scaling.models import Resize


def resize_for(user: User, resize_id: UUID, right: VmRight = VmRight.SCALE) -> Resize:
    """One resize, for who has ``right`` on its VM. Raises NotFound to strangers."""
    row = telling_resizes.shown().filter(pk=resize_id).first()
    if row is None:
        raise NotFound("There is no such resize, or you may not see it.")
    access.vm_for(user, row.vm_id, right)
    return row


@require_POST
@signed_in
def continue_(request: HttpRequest, resize_id: UUID) -> HttpResponse:
    """Carries on with a resize that was applied in part."""
    return _act(request, resize_id, resizes.continue_)


@require_POST
@signed_in
def roll_back(request: HttpRequest, resize_id: UUID) -> HttpResponse:
    """Takes a resize back that was applied in part."""
    return _act(request, resize_id, resizes.roll_back)


def _act(request: HttpRequest, resize_id: UUID, verb: Callable[..., Any]) -> HttpResponse:
    row = resize_for(person(request), resize_id)
    operation = verb(row, by=actor_of(request), now=timezone.now())
    to = reverse("vm-scale", args=[row.vm_id])
    return pages.done(request, f"{operation.title}: under way.", to=to, level="info")


@require_POST
@signed_in
def cancel(request: HttpRequest, resize_id: UUID) -> HttpResponse:
    """Stops a resize before a step that cannot be taken back."""
    row = resize_for(person(request), resize_id)
    resizes.cancel(row, by=actor_of(request), now=timezone.now())
    to = reverse("vm-scale", args=[row.vm_id])
    return pages.done(request, "It is being cancelled.", to=pages.back(request, to), level="info")
