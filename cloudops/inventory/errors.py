"""What a hypervisor's typed error means to the one who asked."""

from __future__ import annotations

from cloudops.core.errors import Refusal
from cloudops.hypervisors.port import Busy, HypervisorError, Unreachable, VmNotFound


class HypervisorRefusal(Refusal):
    """A hypervisor's error in the shape of a refusal: its own code, title, words and remedy."""

    code = "hypervisor-error"
    status = 502

    def __init__(self, error: HypervisorError) -> None:
        super().__init__(error.detail or error.title, remedy=error.remedy)
        self.numbers = dict(error.numbers)
        self.code = error.code
        self.title = error.title
        if isinstance(error, Unreachable):
            self.status = 503
            self.retry_after_seconds = 10
        elif isinstance(error, Busy):
            self.status = 409
            self.retry_after_seconds = 5
        elif isinstance(error, VmNotFound):
            self.status = 404
        elif type(error) is not HypervisorError:
            self.status = 409


def from_hypervisor(error: BaseException) -> Refusal | None:
    """For ``problems.CONVERTERS``."""
    return HypervisorRefusal(error) if isinstance(error, HypervisorError) else None
