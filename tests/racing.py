"""Races: threads that begin at the same moment, and processes that do (see ``tests.forking``)."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from cloudops.core.errors import Refusal
from tests import databases
from tests.conftest import ROOT

Env = dict[str, str]
RACE_SECONDS = 280


def together(work: Callable[[int], str], threads: int) -> Counter[str]:
    """Every thread begins at the same moment; how often each outcome was, a refusal by its code. Anything else that one
    raises is the test's failure."""
    barrier, errors, outcomes = threading.Barrier(threads), list[BaseException](), Counter[str]()

    def run(number: int) -> None:
        try:
            barrier.wait(30)
            outcomes[work(number)] += 1
        except Refusal as refusal:
            outcomes[refusal.code] += 1
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    assert not errors, errors
    assert not any(thread.is_alive() for thread in running)
    return outcomes


def run(env: Env, module: str, **parameters: Any) -> Any:
    """What ``python -m module JSON`` tells, a race of processes inside an installation's environment."""
    command = [sys.executable, "-W", "ignore", "-m", module, json.dumps(parameters)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=RACE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def own_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a fresh database, with all tables, of the kind that the fixture's parameter names: ``sqlite`` or
    ``postgres``."""
    make_env = request.getfixturevalue("product_env")
    if request.param == "sqlite":
        folder = request.getfixturevalue("tmp_path_factory").getbasetemp()
        return databases.in_sqlite(tmp_path / "race.sqlite3", folder=folder, make_env=make_env)
    server_url = request.getfixturevalue("postgres_url")
    return databases.in_postgres(server_url, f"race_{time.monotonic_ns()}", make_env=make_env)
