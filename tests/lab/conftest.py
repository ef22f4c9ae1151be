"""The lab's own fixtures, for its own tests."""

from __future__ import annotations

from tests.lab.fixtures import lab_of_three, lab_of_two, three_hosts, two_hosts

__all__ = ["lab_of_three", "lab_of_two", "three_hosts", "two_hosts"]
