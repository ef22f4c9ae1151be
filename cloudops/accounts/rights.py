"""Who may do what: the one table of rights, for pages, API, tokens and WebSockets."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q

from cloudops.accounts.models import ApiToken, Membership, Role, User
from cloudops.core.errors import Forbidden

if TYPE_CHECKING:
    from django.http import HttpRequest


class Right(enum.StrEnum):
    """Rights of the whole installation. ``HOSTS_FENCE``: declare a host dead, or let a maintenance stop a VM."""

    FLEET_VIEW = "fleet.view"
    FLEET_MANAGE = "fleet.manage"
    HOSTS_FENCE = "hosts.fence"
    CONSOLES_MANAGE = "consoles.manage"
    OFFERINGS_MANAGE = "offerings.manage"
    SETTINGS_MANAGE = "settings.manage"
    USERS_MANAGE = "users.manage"
    AUDIT_VIEW = "audit.view"


class VmRight(enum.StrEnum):
    """Rights on one VM, through the VM's project or everywhere."""

    VIEW = "vm.view"
    CONSOLE = "vm.console"
    POWER = "vm.power"
    SCALE = "vm.scale"


class Scope(enum.StrEnum):
    """What an API token may do of what its owner may. ``READ`` is part of every token."""

    READ = "read"
    CONSOLE = "console"
    POWER = "power"
    SCALE = "scale"
    MANAGE = "manage"


_ROLE_RIGHTS: dict[str, frozenset[Right]] = {
    Role.ADMIN: frozenset(Right),
    Role.OPERATOR: frozenset({Right.FLEET_VIEW, Right.FLEET_MANAGE, Right.CONSOLES_MANAGE, Right.AUDIT_VIEW}),
    Role.TENANT: frozenset(),
}
_MEMBERSHIP_COLUMN = {VmRight.CONSOLE: "can_console", VmRight.POWER: "can_power", VmRight.SCALE: "can_scale"}
AnyUser = User | AnonymousUser


def has(user: AnyUser, right: Right) -> bool:
    """Whether ``user`` has ``right`` in the whole installation."""
    return isinstance(user, User) and user.is_active and right in _ROLE_RIGHTS[user.role]


def demand(user: AnyUser, right: Right) -> None:
    """Raises :class:`Forbidden` unless ``user`` has ``right``."""
    if not has(user, right):
        raise Forbidden(f"This needs the right “{right}”.", right=str(right))


def everywhere(user: AnyUser, right: VmRight) -> bool:
    """Whether ``user`` has ``right`` on every VM, whatever its project."""
    if not isinstance(user, User) or not user.is_active:
        return False
    if right is VmRight.CONSOLE:
        return user.is_admin or (user.role == Role.OPERATOR and user.can_console)
    return user.sees_fleet


def projects_with(user: AnyUser, right: VmRight) -> Q:
    """A condition on Membership: the memberships through which ``user`` has ``right``."""
    condition = Q(user_id=user.pk)
    column = _MEMBERSHIP_COLUMN.get(right)
    return condition & Q(**{column: True}) if column else condition


def on_project(user: AnyUser, right: VmRight, project_id: UUID | None) -> bool:
    """Whether ``user`` has ``right`` on VMs of a project; VMs without a project belong to nobody but the fleet."""
    if everywhere(user, right):
        return True
    if project_id is None or not isinstance(user, User) or not user.is_active:
        return False
    return Membership.objects.filter(projects_with(user, right), project_id=project_id).exists()


def demand_scope(request: HttpRequest, scope: Scope) -> None:
    """Raises :class:`Forbidden` when the request came with a token that lacks ``scope``."""
    token = getattr(request, "auth", None)
    if isinstance(token, ApiToken) and scope is not Scope.READ and scope not in token.scopes:
        raise Forbidden(
            f"This token lacks the scope “{scope}”.",
            remedy="Make a token with that scope under Account → API tokens.",
            scope=str(scope),
        )
