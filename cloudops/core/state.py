"""State changes by compare-and-set: the only way a ``status`` changes."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import models, transaction

from cloudops.core import events
from cloudops.core.actors import Actor
from cloudops.core.errors import IllegalTransition, TransitionConflict
from cloudops.core.models import Event


def transition(
    obj: models.Model,
    *,
    to: str,
    by: Actor,
    now: datetime,
    reason: str = "",
    severity: str = Event.Severity.INFO,
    kind: str = "",
    where: models.Q | None = None,
    **fields: Any,
) -> None:
    """Moves ``obj`` from the status it was read with to ``to``, setting ``fields`` in the same UPDATE.

    ``where`` narrows the compare (for example "still owned by me"). Writes one Event in the same transaction and brings
    ``obj`` up to date. Raises :class:`IllegalTransition` for a pair that ``TRANSITIONS`` does not hold and
    :class:`TransitionConflict` when somebody else changed the row first; nothing is changed then.
    """
    model = type(obj)
    current: str = obj.status  # type: ignore[attr-defined]
    legal: dict[str, set[str]] = model.TRANSITIONS  # type: ignore[attr-defined]
    if to not in legal[current]:
        raise IllegalTransition(
            f"{model._meta.verbose_name} is {current}; it cannot become {to}.", current=current, to=to
        )
    with transaction.atomic():
        rows = model._default_manager.filter(pk=obj.pk, status=current)
        if where is not None:
            rows = rows.filter(where)
        if rows.update(status=to, **fields) != 1:
            raise TransitionConflict(f"{model._meta.verbose_name} is no longer {current}.", current=current, to=to)
        events.record(
            kind or f"{model._meta.model_name}.{to}",
            by=by,
            now=now,
            subject=obj,
            from_state=current,
            to_state=to,
            reason=reason,
            severity=severity,
        )
    for name, value in {"status": to, **fields}.items():
        setattr(obj, name, value)
