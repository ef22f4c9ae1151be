"""The Celery application. Beat asks often; each job claims its own interval, so any number of beats is harmless."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloudops.settings")

app = Celery("cloudops")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
# Tasks that wait for hypervisors have a worker of their own, with threads, so that they never keep the ticks waiting.
app.conf.task_routes = {
    "placement.tasks.run_migration": {"queue": "migrations"},
    "placement.tasks.follow_platform": {"queue": "hypervisors"},
    "cloudops.inventory.tasks.run_power": {"queue": "hypervisors"},
    "cloudops.inventory.tasks.sync_endpoint": {"queue": "hypervisors"},
    "scaling.tasks.run_resize": {"queue": "hypervisors"},
    "scaling.tasks.define_while_off": {"queue": "hypervisors"},
}
# A tick that comes late is dropped; late by ten seconds, so that servers' clocks need not agree to the second.
app.conf.beat_schedule = {
    "console-reaper": {"task": "consoles.tasks.reap", "schedule": 5.0, "options": {"expires": 10}},
    "inventory-sync": {"task": "cloudops.inventory.tasks.sync_due", "schedule": 5.0, "options": {"expires": 10}},
    "migrations-recover": {"task": "placement.tasks.recover_migrations", "schedule": 2.0, "options": {"expires": 10}},
    "resizes-recover": {"task": "scaling.tasks.recover_resizes", "schedule": 2.0, "options": {"expires": 10}},
    "maintenance-advance": {"task": "placement.tasks.advance_due", "schedule": 1.0, "options": {"expires": 10}},
    "maintenance-platforms": {
        "task": "placement.tasks.follow_platforms",
        "schedule": 2.0,
        "options": {"expires": 10},
    },
    "claims-reconcile": {"task": "placement.tasks.reconcile_claims", "schedule": 30.0, "options": {"expires": 30}},
    "decisions-purge": {"task": "placement.tasks.purge_decisions", "schedule": 3600.0, "options": {"expires": 3600}},
    "sizes-purge": {"task": "scaling.tasks.purge_sizes", "schedule": 3600.0, "options": {"expires": 3600}},
    "housekeeping": {"task": "cloudops.managers.tasks.housekeeping", "schedule": 60.0, "options": {"expires": 60}},
}


@setup_logging.connect
def keep_our_logging(**_: Any) -> None:
    """Celery must not replace the logging that the settings configured."""
