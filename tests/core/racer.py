"""Processes that race for the same tick: ``python -m tests.core.racer JSON`` prints how often each won."""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloudops.settings")

import django

django.setup()

from django.utils import timezone  # noqa: E402

from cloudops.core.ticks import claim_tick  # noqa: E402
from tests import forking  # noqa: E402


def race(*, processes: int, name: str) -> list[int]:
    """Each tries 40 times at 10 ms."""

    def work(_number: int, wait: forking.Wait) -> int:
        wait()
        won = 0
        for _ in range(40):
            won += claim_tick(name, interval_seconds=3600, now=timezone.now() + timedelta(milliseconds=1))
            time.sleep(0.01)
        return won

    return forking.race(processes, work, prepare=lambda: None)


if __name__ == "__main__":
    print(json.dumps(race(**json.loads(sys.argv[1]))))  # noqa: T201 - what the test reads
