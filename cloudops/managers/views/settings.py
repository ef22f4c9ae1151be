"""The settings page: made from RuntimeSettings, saved through ``runtime.change``."""

from __future__ import annotations

from typing import Any

from django.conf import settings as boot
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone

from cloudops.accounts.pages import needs
from cloudops.accounts.rights import Right
from cloudops.core import pages, runtime
from cloudops.core.models import Event, Tick
from cloudops.core.requests import actor_of
from cloudops.managers.forms import SettingsForm

CHANGES_SHOWN = 5


@needs(Right.SETTINGS_MANAGE)
def settings(request: HttpRequest) -> HttpResponse:
    """Every run-time setting; a POST saves what was changed, at once and on every server."""
    row = runtime.current()
    kept = {field.name: getattr(row, field.name) for field in runtime.tunable_fields()}
    form = SettingsForm(request.POST or None, initial=kept)
    if request.method == "POST" and form.is_valid():
        values: dict[str, Any] = {name: form.cleaned_data[name] for name in form.changed_data}
        saved = pages.attempt(form, lambda: runtime.change(by=actor_of(request), now=timezone.now(), **values))
        if saved is not None:
            text = "Saved. It acts at once on every server." if values else "Nothing was changed."
            return pages.done(request, text, to=reverse("settings"))
    context = {
        "form": form,
        "groups": list(form.groups()),
        "updated_at": row.updated_at,
        "changes": Event.objects.filter(kind="settings.changed")[:CHANGES_SHOWN],
        "reaper": Tick.objects.filter(name="console-reaper").first(),
        "console_base_url": boot.CONSOLE_BASE_URL,
        "public_url": boot.PUBLIC_URL,
    }
    return pages.show(request, "managers/settings.html", context)
