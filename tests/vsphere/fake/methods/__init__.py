"""The WSDL methods, registered by being imported."""

from __future__ import annotations

from tests.vsphere.fake.methods import (
    collecting,
    console,
    maintenance,
    moving,
    power,
    reconfiguring,
    rights,
    search,
    sessions,
)

__all__ = ["collecting", "console", "maintenance", "moving", "power", "reconfiguring", "rights", "search", "sessions"]
