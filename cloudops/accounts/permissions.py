"""The API's gate: signed in, a token's scope, and the installation-wide right that a view names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from cloudops.accounts import rights
from cloudops.accounts.rights import Right, Scope


class ApiPermission(BasePermission):
    """Reads ``scopes`` and ``rights`` of a :class:`~cloudops.core.rest.ApiViewSet`. Raises Forbidden, saying why."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if not request.user.is_authenticated:
            return False
        action = getattr(view, "action", None)
        if action is None:
            return True
        scope = view.scopes.get(action) or (Scope.READ if request.method in SAFE_METHODS else Scope.MANAGE)
        rights.demand_scope(request, Scope(scope))
        right = view.rights.get(action, view.rights.get("*"))
        if right:
            rights.demand(request.user, Right(right))
        return True


def demand_own_scopes(request: Request, wanted: Iterable[str]) -> None:
    """A token gives on no more than it has. Raises Forbidden; a browser session may give everything."""
    for scope in wanted:
        rights.demand_scope(request, Scope(scope))
