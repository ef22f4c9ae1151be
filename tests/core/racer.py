"""One of several processes that race for the same tick: ``python -m tests.core.racer NAME {}``.

Says that it is ready and, after a line of input, tries 40 times at 10 ms and prints how often it won.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloudops.settings")

import django

django.setup()

from django.utils import timezone  # noqa: E402

from cloudops.core.ticks import claim_tick  # noqa: E402


def main() -> None:
    name, won = sys.argv[1], 0
    print("ready", flush=True)  # noqa: T201 - to the test
    sys.stdin.readline()
    for _ in range(40):
        won += claim_tick(name, interval_seconds=3600, now=timezone.now() + timedelta(milliseconds=1))
        time.sleep(0.01)
    print(won)  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main()
