"""The WSDL methods, registered by being imported."""

from __future__ import annotations

from tests.vsphere.fake.methods import collecting, console, power, search, sessions

__all__ = ["collecting", "console", "power", "search", "sessions"]
