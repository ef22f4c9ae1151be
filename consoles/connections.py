"""Whose is a display connection: ours, a ghost's or somebody else's? Pure, for every platform alike.

Platforms tell connections apart in three ways. libvirt over the network names our own address and port. A passed
descriptor (libvirt on this machine) has none: as many of those are ours as we have open so. vSphere has names of its
own and shows every console of ours under the same address: its name for each is learned when it connects.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cloudops.hypervisors.port import ConsoleConnection
from consoles.models import ATTACHED, ConsoleSession, OwnConnection, Status

GHOST_SECONDS: Final = 15
"""A session over for less long may have its connection still closing."""
DESCRIPTOR: Final = "unix"
NAMED: Final = "mks"
"""Families (``ConsoleConnection.family``) without an address that would tell whose they are."""


@dataclass(frozen=True, slots=True)
class Sorted:
    """A VM's connections that are not our open consoles', and those of ours that the platform has no more."""

    ghosts: list[ConsoleConnection] = field(default_factory=list)
    foreign: list[ConsoleConnection] = field(default_factory=list)
    gone: list[OwnConnection] = field(default_factory=list)


def sort(
    found: Iterable[ConsoleConnection],
    sessions: Iterable[ConsoleSession],
    now: datetime,
    *,
    own: Iterable[OwnConnection] = (),
    account: str = "",
    grace_seconds: float = GHOST_SECONDS,
) -> Sorted:
    """Sorts what the platform has (``found``, asked for at ``now`` or later).

    ``sessions`` are the VM's, open or not, with their processes; ``own`` its learned names; ``account`` the one that
    CloudOps uses there. A connection of a session that is over for ``grace_seconds`` is a ghost; before, it is nobody's
    concern.
    """
    rows, learned = list(sessions), {one.label: one for one in own}
    open_now = [row for row in rows if row.is_attached(now)]
    addresses = _Addresses(rows, open_now, now, grace_seconds)
    named = {one.session_id for one in learned.values() if one.is_live(now)}
    result = Sorted()
    descriptors, unnamed = [], []
    seen = set()
    for connection in found:
        seen.add(connection.label)
        if (mine := learned.get(connection.label)) is not None:
            if _is_ghost(mine, now, grace_seconds):
                result.ghosts.append(connection)
        elif connection.family == DESCRIPTOR:
            descriptors.append(connection)
        elif connection.family == NAMED:
            unnamed.append(connection)
        else:
            addresses.sort(connection, result)
    result.foreign.extend(descriptors[sum(1 for row in open_now if not row.relay_port) :])
    _sort_unnamed(unnamed, sum(1 for row in open_now if row.pk not in named), addresses.hosts, account, result)
    result.gone.extend(one for one in learned.values() if one.label not in seen and one.learned_at <= now)
    return result


def _sort_unnamed(
    connections: list[ConsoleConnection], unknown: int, our_hosts: set[str], account: str, result: Sorted
) -> None:
    """Those whose name was not learned: ``unknown`` of them are our open consoles', which nothing tells from what may
    be left of others of ours. When none of ours is unknown, what comes from our servers under our account is a ghost.
    """

    def is_from_us(one: ConsoleConnection) -> bool:
        return one.client_host in our_hosts and is_same_account(one.user_name, account)

    from_us = [one for one in connections if is_from_us(one)]
    others = [one for one in connections if not is_from_us(one)]
    if unknown:
        result.foreign.extend((from_us + others)[unknown:])
    else:
        result.ghosts.extend(from_us)
        result.foreign.extend(others)


def is_same_account(one: str, other: str) -> bool:
    """Whether two names mean one account: ``svc@vsphere.local`` is ``VSPHERE.LOCAL\\svc``. Nobody is not."""
    first, second = (name.rpartition("\\")[2].partition("@")[0].lower() for name in (one, other))
    return bool(first) and first == second


class _Addresses:
    """Our own ends of the lines to a VM, as its platform sees them."""

    def __init__(self, rows: list[ConsoleSession], open_now: list[ConsoleSession], now: datetime, grace: float):
        self._known = {(row.relay_host, row.relay_port) for row in rows if row.relay_port}
        ours = {(row.relay_host, row.relay_port) for row in open_now if row.relay_port}
        over = {(row.relay_host, row.relay_port) for row in rows if row.relay_port and is_over(row, now, grace)}
        self._over = over - ours
        self.hosts = {row.relay_host for row in rows if row.relay_host}

    def sort(self, connection: ConsoleConnection, result: Sorted) -> None:
        address = (connection.client_host, connection.client_port)
        if address in self._over:
            result.ghosts.append(connection)
        elif address not in self._known:
            result.foreign.append(connection)


def _is_ghost(one: OwnConnection, now: datetime, grace_seconds: float) -> bool:
    """A name says for sure whose it is: only a session that just closed has a moment for its line to close too."""
    if one.is_live(now):
        return False
    session = one.session
    just_closed = session is not None and session.attachment == one.attachment and session.status == Status.CLOSED
    return session is None or not just_closed or is_over(session, now, grace_seconds)


def is_over(session: ConsoleSession, now: datetime, grace_seconds: float = GHOST_SECONDS) -> bool:
    """Ended, dropped or lapsed long enough ago for its connection to be gone by itself."""
    before = now - timedelta(seconds=grace_seconds)
    if session.status == Status.CLOSED:
        return session.ended_at is not None and session.ended_at <= before
    if session.status in ATTACHED:
        return session.process is None or session.process.lease_until <= before
    return session.status == Status.DETACHED and session.resume_until is not None and session.resume_until < now


@dataclass(slots=True)
class Newcomer:
    """Finds out which connection is the one that we just made: one that was not there ``before``.

    One that shows our address is ours at once. Where addresses do not agree (a proxy or NAT is between) it has to be
    the only new one twice in a row, as somebody else may come at the same moment.
    """

    before: frozenset[str]
    our_address: tuple[str, int] | None
    _only: str = ""

    def look(self, found: Iterable[ConsoleConnection]) -> str | None:
        """Its name; None while it is not there, or nothing tells it from another new one."""
        new = [one for one in found if one.label not in self.before]
        if self.our_address is not None:
            host, port = self.our_address
            exactly = [one.label for one in new if (one.client_host, one.client_port) == (host, port)]
            near = [one.label for one in new if one.client_host == host and not one.client_port]
            for same in (exactly, near):
                if len(same) == 1:
                    return same[0]
        only = new[0].label if len(new) == 1 else ""
        twice = bool(only) and only == self._only
        self._only = only
        return only if twice else None
