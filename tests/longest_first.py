"""Which files of tests pytest-xdist gives out first when several run side by side: those that take longest.

By itself it begins with the files of the most tests. Those that start whole installations have few, would begin last,
and one worker would be busy with them long after the others.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from xdist.scheduler import LoadFileScheduling

LONGEST = (
    "tests/lab/test_demo.py",
    "tests/e2e/test_screens.py",
    "tests/lab/test_lab_command.py",
    "tests/faults/test_faults.py",
    "tests/placement/test_real_migration.py",
    "tests/e2e/test_console.py",
    "tests/vsphere/test_vcsim.py",
    "tests/faults/test_resize_faults.py",
    "tests/hypervisors/test_libvirt_migration.py",
    "tests/e2e/test_scaling.py",
    "tests/e2e/test_vsphere.py",
    "tests/lab/test_lab.py",
    "tests/hypervisors/test_libvirt_real.py",
)


def to_the_front(waiting: OrderedDict[str, Any]) -> None:
    """Of the files that wait to be given out."""
    for file in reversed(LONGEST):
        if file in waiting:
            waiting.move_to_end(file, last=False)


class LongestFirst(LoadFileScheduling):  # type: ignore[misc]
    """pytest-xdist's ``loadfile`` in that order."""

    def _assign_work_unit(self, node: Any) -> None:
        to_the_front(self.workqueue)
        super()._assign_work_unit(node)
