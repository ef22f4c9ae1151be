"""Who does something, and from where: given to every domain function that changes anything."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ActorKind(enum.StrEnum):
    USER = "user"
    TOKEN = "token"  # noqa: S105 - a kind of actor
    SYSTEM = "system"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Actor:
    """``name`` is what people read in the audit trail; ``address`` the client's, empty for the system itself."""

    kind: ActorKind
    name: str
    user_id: int | None = None
    address: str = ""
    request_id: str = ""


def system(name: str) -> Actor:
    """A part of CloudOps acting by itself, for example ``system("reaper")``."""
    return Actor(ActorKind.SYSTEM, name)
