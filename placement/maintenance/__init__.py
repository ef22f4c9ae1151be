"""Emptying hosts live: preview, start, go on, choose, cancel, complete, bring home. ``advance`` is the only engine; the
other verbs change rows and wake it."""

from placement.maintenance.advancing import advance, advance_due, on_migration_ended
from placement.maintenance.choosing import ask_again, choose, retry
from placement.maintenance.ending import cancel, complete, resume
from placement.maintenance.options import Choice, Mode, Options, VmChoice
from placement.maintenance.outlook import Preview
from placement.maintenance.previewing import preview
from placement.maintenance.reporting import Report, report
from placement.maintenance.returning import Homecoming, bring_home, homecoming
from placement.maintenance.rolling import release_host
from placement.maintenance.starting import start

__all__ = [
    "Choice",
    "Homecoming",
    "Mode",
    "Options",
    "Preview",
    "Report",
    "VmChoice",
    "advance",
    "advance_due",
    "ask_again",
    "bring_home",
    "cancel",
    "choose",
    "complete",
    "homecoming",
    "on_migration_ended",
    "preview",
    "release_host",
    "report",
    "resume",
    "retry",
    "start",
]
