"""The one shape of a refusal: a code, a title, numbers and a remedy, written once beside the class.

Domain functions raise these; the API renders them as problem+json (RFC 9457), pages as words.
A refusal changes nothing.
"""

from __future__ import annotations


class Refusal(Exception):
    """Something was asked that cannot be done as asked.

    ``detail`` tells this case in words anybody may read who may call; ``numbers`` are merged into problem+json.
    ``retry_after_seconds`` becomes the Retry-After header.
    """

    code: str = "refused"
    status: int = 409
    title: str = "This cannot be done."
    remedy: str = "Look at the detail and try again."

    def __init__(
        self, detail: str = "", *, remedy: str = "", retry_after_seconds: int | None = None, **numbers: object
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.remedy_text = remedy or self.remedy
        self.retry_after_seconds = retry_after_seconds
        self.numbers = numbers


class NotFound(Refusal):
    code = "not-found"
    status = 404
    title = "There is no such thing, or you may not see it."
    remedy = "Check the address, or ask an administrator for access."


class Forbidden(Refusal):
    code = "forbidden"
    status = 403
    title = "You may not do this."
    remedy = "Ask an administrator for the right."


class Invalid(Refusal):
    code = "invalid"
    status = 400
    title = "Something in the request is not right."
    remedy = "Correct the fields that are named and send it again."


class Conflict(Refusal):
    code = "conflict"
    status = 409
    title = "Something else changed this meanwhile."
    remedy = "Look at the present state and try again."


class IllegalTransition(Conflict):
    code = "illegal-transition"
    title = "That step is not possible from the present state."
    remedy = "Look at the present state; the step may have been done already."


class TransitionConflict(Conflict):
    code = "transition-conflict"
    title = "The state changed while you were asking."
    remedy = "Look at the present state and try again if it is still needed."


class Unavailable(Refusal):
    code = "unavailable"
    status = 503
    title = "A part that this needs does not answer."
    remedy = "Try again in a moment; an administrator can look at /readyz."
