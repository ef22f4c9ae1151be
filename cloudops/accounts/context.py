"""What the frame of every page needs."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from cloudops.accounts.rights import Right, has
from cloudops.accounts.switcher import Switcher


def frame(request: HttpRequest) -> dict[str, Any]:
    """Context processor: the person's rights by name, and the installation's facts."""
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return {"rights": frozenset(), "sees_fleet": False}
    return {
        "rights": frozenset(str(right) for right in Right if has(user, right)),
        "sees_fleet": user.sees_fleet,
        "switcher": Switcher(user),
        "server_name": settings.SERVER_NAME,
    }
