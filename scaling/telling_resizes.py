"""How a resize is shown while it runs and afterwards: how far it is, what came of it, and what can be done about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Exists, OuterRef, QuerySet

from cloudops.core.models import Operation
from cloudops.core.operations_view import told_to
from scaling import resizes
from scaling.models import Resize
from scaling.telling import size_words
from scaling.values import Size

OUTCOMES: Final = {
    Resize.Outcome.APPLIED: ("applied", "ok"),
    Resize.Outcome.UNCONFIRMED: ("applied, the guest does not tell", "notice"),
    Resize.Outcome.PARTLY: ("partly applied", "danger"),
    Resize.Outcome.NOTHING: ("nothing was changed", "off"),
}


@dataclass(frozen=True, slots=True)
class ResizeLine:
    """One resize for one reader: ``operation`` as they may read it, ``state`` in words with its kind for the dot."""

    row: Resize
    operation: Operation
    state: str
    kind: str
    words: str
    from_words: str
    to_words: str
    may_continue: bool
    why_no_cancel: str

    @property
    def running(self) -> bool:
        return self.row.ended_at is None

    @property
    def failed(self) -> bool:
        return self.operation.status == Operation.Status.FAILED

    @property
    def may_roll_back(self) -> bool:
        return self.may_continue


def shown() -> QuerySet[Resize]:
    """Resizes, the latest first, with everything a line needs, in one query."""
    later = Resize.objects.filter(vm=OuterRef("vm"), created_at__gt=OuterRef("created_at"))
    rows = Resize.objects.select_related("operation", "vm").annotate(superseded=Exists(later))
    return rows.order_by("-created_at", "operation_id")


def lines(user: Any, rows: Iterable[Resize]) -> list[ResizeLine]:
    """A line for each row of :func:`shown`, in this order."""
    return [line(user, row) for row in rows]


def line(user: Any, row: Resize) -> ResizeLine:
    """One row of :func:`shown` for one reader."""
    operation = told_to(user, row.operation)
    state, kind = ("resizing", "busy") if row.ended_at is None else _outcome(row, operation)
    return ResizeLine(
        row=row,
        operation=operation,
        state=state,
        kind=kind,
        words=guest_words(row),
        from_words=size_words(Size(**row.from_size)),
        to_words=size_words(Size(**row.to_size)),
        may_continue=_open(row),
        why_no_cancel=_why_no_cancel(row),
    )


def _why_no_cancel(row: Resize) -> str:
    if row.ended_at is not None:
        return "It has ended."
    if row.cancel_requested_at is not None:
        return f"{row.cancel_requested_by} has asked for that already."
    return "" if row.phase in resizes.BEFORE_CHANGES else "It is at a step that cannot be taken back."


def _open(row: Resize) -> bool:
    """It was applied in part, and no other resize came after it."""
    superseded = getattr(row, "superseded", True)
    return row.ended_at is not None and row.outcome == Resize.Outcome.PARTLY and not superseded


def _outcome(row: Resize, operation: Operation) -> tuple[str, str]:
    if operation.status == Operation.Status.CANCELLED and row.outcome != Resize.Outcome.PARTLY:
        return "cancelled", "off"
    return OUTCOMES.get(Resize.Outcome(row.outcome), (str(operation.status), "neutral"))


def guest_words(row: Resize) -> str:
    """What the VM and its guest have of it, as was read back at the end; empty before that."""
    return str(row.seen.get("words", ""))
