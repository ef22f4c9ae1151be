"""Users, projects and memberships. Whoever loses a right loses what they hold open by it within a second."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Q

from cloudops.accounts.models import ApiToken, Membership, Project, Role, User
from cloudops.accounts.signals import rights_changed
from cloudops.core import events, live
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict, Invalid, NotFound
from cloudops.core.models import Event
from cloudops.core.validation import assign, demand_known, demand_valid

USER_FIELDS = ("email", "first_name", "last_name", "role", "can_console")
QUOTA_FIELDS = ("quota_vcpus", "quota_memory_mib", "quota_consoles")
PROJECT_FIELDS = ("name", "description", *QUOTA_FIELDS)
MEMBERSHIP_FIELDS = ("can_console", "can_power", "can_scale")


class LastAdmin(Conflict):
    code = "last-admin"
    title = "This is the last active administrator."
    remedy = "Make somebody else an administrator first."


class ProjectInUse(Conflict):
    code = "project-in-use"
    title = "The project still has VMs."
    remedy = "Assign its VMs to another project, or to none, first."


class NoSuchProject(NotFound):
    code = "project-not-found"
    title = "There is no such project among yours."
    remedy = "Choose one of your projects, or all of them."


class AlreadyMember(Conflict):
    code = "already-member"
    title = "This person is a member already."
    remedy = "Change the membership that is there."


def create_user(
    *,
    username: str,
    password: str = "",
    email: str = "",
    first_name: str = "",
    last_name: str = "",
    role: str = Role.TENANT,
    can_console: bool = False,
    by: Actor,
    now: datetime,
) -> User:
    """A new person; without a password they can sign in through single sign-on only. Raises ``Invalid``."""
    user = User(
        username=username.strip(),
        email=User.objects.normalize_email(email),
        first_name=first_name,
        last_name=last_name,
        role=role,
        can_console=can_console,
        date_joined=now,
    )
    demand_valid(user, exclude={"password"})
    _put_password(user, password)
    with transaction.atomic():
        user.save(force_insert=True)
        events.record("user.created", by=by, now=now, subject=user, data={"role": role, "can_console": can_console})
        live.publish("users")
    return user


def change_user(user: User, *, by: Actor, now: datetime, **changes: Any) -> User:
    """Sets some of :data:`USER_FIELDS`. Raises ``Invalid`` and :class:`LastAdmin`."""
    demand_known(changes, USER_FIELDS)
    with transaction.atomic():
        [row], other_admins = _lock([user.pk])
        was_admin = row.is_admin and row.is_active
        changed = assign(row, changes)
        if not changed:
            return row
        demand_valid(row, exclude={"password"})
        if was_admin and not row.is_admin and not other_admins:
            raise _nobody_left()
        row.save(update_fields=list(changed))
        events.record("user.changed", by=by, now=now, subject=row, data={"changed": changed})
        live.publish("users", f"user:{row.pk}")
        if {"role", "can_console"} & set(changed):
            _tell([row.pk], now)
    return row


def set_password(user: User, *, password: str, by: Actor, now: datetime) -> None:
    """Sets a password for somebody, and ends their web sessions elsewhere. Raises ``Invalid`` with the rules broken."""
    if not password:
        raise Invalid("The password is empty.", fields={"password": ["Enter a password."]})
    _put_password(user, password)
    with transaction.atomic():
        user.save(update_fields=["password"])  # sessions carry a hash of the password, so that all others end by this
        events.record("user.password_set", by=by, now=now, subject=user, severity="notice")


def deactivate(user: User, *, by: Actor, now: datetime) -> None:
    """Ends a person's access: API tokens, web sessions, consoles. Raises :class:`LastAdmin`."""
    deactivate_many([user], by=by, now=now)
    user.is_active = False


def deactivate_many(users: Iterable[User], *, by: Actor, now: datetime) -> int:
    """:func:`deactivate` for several people, all or none; returns how many were active. Raises :class:`LastAdmin`."""
    with transaction.atomic():
        locked, other_admins = _lock([user.pk for user in users])
        rows = [row for row in locked if row.is_active]
        ids = [row.pk for row in rows]
        if not other_admins and any(row.is_admin for row in rows):
            raise _nobody_left()
        if not rows:
            return 0
        User.objects.filter(pk__in=ids).update(is_active=False)
        ApiToken.objects.filter(user__in=ids, revoked_at__isnull=True).update(revoked_at=now)
        events.record_many(
            [events.line("user.deactivated", by=by, now=now, subject=row, severity="notice") for row in rows]
        )
        live.publish("users", *(f"user:{pk}" for pk in ids))
        _tell(ids, now)
    return len(ids)


def reactivate(user: User, *, by: Actor, now: datetime) -> None:
    """Lets a person in again; their API tokens stay revoked."""
    with transaction.atomic():
        if User.objects.filter(pk=user.pk, is_active=False).update(is_active=True):
            events.record("user.reactivated", by=by, now=now, subject=user, severity="notice")
            live.publish("users", f"user:{user.pk}")
    user.is_active = True


def create_project(
    *,
    name: str,
    description: str = "",
    quota_vcpus: int | None = None,
    quota_memory_mib: int | None = None,
    quota_consoles: int | None = None,
    by: Actor,
    now: datetime,
) -> Project:
    """A new tenant; a quota of None is none. Raises ``Invalid``."""
    project = Project(
        name=name.strip(),
        description=description,
        quota_vcpus=quota_vcpus,
        quota_memory_mib=quota_memory_mib,
        quota_consoles=quota_consoles,
    )
    demand_valid(project)
    with transaction.atomic():
        project.save(force_insert=True)
        events.record("project.created", by=by, now=now, subject=project)
        live.publish("projects")
    return project


def change_project(project: Project, *, by: Actor, now: datetime, **changes: Any) -> Project:
    """Sets some of :data:`PROJECT_FIELDS`. A quota below what is in use takes nothing away. Raises ``Invalid``."""
    demand_known(changes, PROJECT_FIELDS)
    with transaction.atomic():
        row = Project.objects.select_for_update().get(pk=project.pk)
        if changed := assign(row, changes):
            demand_valid(row)
            row.save(update_fields=list(changed))
            events.record("project.changed", by=by, now=now, subject=row, data={"changed": changed})
            live.publish("projects", f"project:{row.pk}")
    return row


def delete_project(project: Project, *, by: Actor, now: datetime) -> None:
    """Removes a tenant without VMs, and its memberships. Raises :class:`ProjectInUse` with their number."""
    with transaction.atomic():
        row = Project.objects.select_for_update().get(pk=project.pk)
        # The reverse relation belongs to a layer above, which is why it is asked for by name.
        vms: int = getattr(row, "vms").count()  # noqa: B009
        if vms:
            raise ProjectInUse(f"{vms} VMs belong to {row.name}.", vms=vms)
        members = list(row.memberships.values_list("user_id", flat=True))
        events.record("project.deleted", by=by, now=now, subject=row, severity="notice", data={"members": len(members)})
        row.delete()
        live.publish("projects", f"project:{project.pk}")
        _tell(members, now)


def add_member(
    project: Project,
    *,
    user: User,
    can_console: bool = True,
    can_power: bool = True,
    can_scale: bool = True,
    by: Actor,
    now: datetime,
) -> Membership:
    """Raises :class:`AlreadyMember`."""
    rights = {"can_console": can_console, "can_power": can_power, "can_scale": can_scale}
    with transaction.atomic():
        membership, is_new = Membership.objects.get_or_create(project=project, user=user, defaults=rights)
        if not is_new:
            raise AlreadyMember(f"{user} is a member of {project}.", membership=membership.pk)
        _record("membership.added", membership, by=by, now=now, data=rights)
    return membership


def add_members(
    project: Project,
    *,
    users: Iterable[User],
    can_console: bool = True,
    can_power: bool = True,
    can_scale: bool = True,
    by: Actor,
    now: datetime,
) -> int:
    """Makes several people members; those who are stay as they are. Returns how many are new."""
    rights = {"can_console": can_console, "can_power": can_power, "can_scale": can_scale}
    count = 0
    with transaction.atomic():
        Project.objects.select_for_update().get(pk=project.pk)
        members = set(project.memberships.values_list("user_id", flat=True))
        fresh = [Membership(project=project, user=user, **rights) for user in users if user.pk not in members]
        count = len(Membership.objects.bulk_create(fresh))
        events.record_many([_line("membership.added", item, by=by, now=now, data=rights) for item in fresh])
        live.publish("users", f"project:{project.pk}")
    return count


def change_member(membership: Membership, *, by: Actor, now: datetime, **changes: bool) -> Membership:
    """Sets some of :data:`MEMBERSHIP_FIELDS`. Raises ``Invalid``."""
    demand_known(changes, MEMBERSHIP_FIELDS)
    with transaction.atomic():
        rows = Membership.objects.select_for_update(of=("self",)).select_related("project", "user")
        row = rows.get(pk=membership.pk)
        if changed := assign(row, changes):
            demand_valid(row)
            row.save(update_fields=list(changed))
            _record("membership.changed", row, by=by, now=now, data={"changed": changed})
            _tell([row.user_id], now)
    return row


def remove_member(membership: Membership, *, by: Actor, now: datetime) -> None:
    """Takes a person out of a project; their consoles of its VMs end."""
    remove_members(membership.project, users=[membership.user], by=by, now=now)


def remove_members(project: Project, *, users: Iterable[User], by: Actor, now: datetime) -> int:
    """Takes several people out; returns how many were members."""
    with transaction.atomic():
        rows = Membership.objects.select_for_update(of=("self",)).select_related("project", "user")
        gone = list(rows.filter(project=project, user__in=[user.pk for user in users]).order_by("pk"))
        events.record_many([_line("membership.removed", item, by=by, now=now, data={}) for item in gone])
        Membership.objects.filter(pk__in=[item.pk for item in gone]).delete()
        live.publish("users", f"project:{project.pk}")
        if gone:
            _tell([item.user_id for item in gone], now)
    return len(gone)


def choose_project(user: User, *, project: UUID | None) -> Project | None:
    """The person's own pages show one project's things from now on, or (None) all. It changes no right and nobody
    else sees it, so nothing is audited. Raises :class:`NoSuchProject` unless they are a member."""
    chosen = None
    if project is not None:
        chosen = user.projects.filter(pk=project).first()
        if chosen is None:
            raise NoSuchProject
    User.objects.filter(pk=user.pk).update(current_project=chosen)
    user.current_project = chosen
    live.publish(f"user:{user.pk}")
    return chosen


def _put_password(user: User, password: str) -> None:
    if not password:
        user.set_unusable_password()
        return
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise Invalid("The password is too easy to guess.", fields={"password": error.messages}) from error
    user.set_password(password)


def _lock(ids: list[int]) -> tuple[list[User], list[User]]:
    """These people, and the active administrators besides; all locked in one order, so that two administrators cannot
    take the role from each other at once."""
    concerned = Q(pk__in=ids) | Q(role=Role.ADMIN, is_active=True)
    rows = list(User.objects.select_for_update().filter(concerned).order_by("pk"))
    return [row for row in rows if row.pk in ids], [row for row in rows if row.pk not in ids]


def _nobody_left() -> LastAdmin:
    return LastAdmin("Nobody could manage users and settings any more.")


def _line(kind: str, item: Membership, *, by: Actor, now: datetime, data: dict[str, Any]) -> Event:
    names = {"user": item.user.get_username(), "user_id": item.user_id}
    return events.line(kind, by=by, now=now, subject=item.project, data={**names, **data})


def _record(kind: str, item: Membership, *, by: Actor, now: datetime, data: dict[str, Any]) -> None:
    events.record_many([_line(kind, item, by=by, now=now, data=data)])
    live.publish("users", f"project:{item.project_id}")


def _tell(user_ids: Iterable[int], now: datetime) -> None:
    send = partial(rights_changed.send_robust, sender=None, user_ids=sorted(set(user_ids)), now=now)
    transaction.on_commit(send, robust=True)
