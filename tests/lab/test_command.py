"""`python -m cloudops.lab services`: the command's exit code, its environment, and nothing left afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]

REPORT = """
import json, os, sys
import psycopg, redis
with redis.Redis.from_url(os.environ["CLOUDOPS_TEST_REDIS_URL"]) as client:
    client.ping()
with psycopg.connect(os.environ["CLOUDOPS_TEST_POSTGRES_URL"]) as connection:
    folder = connection.execute("SHOW data_directory").fetchone()[0]
print(json.dumps({"folder": folder, "database": os.environ["CLOUDOPS_DATABASE_URL"]}))
sys.exit(7)
"""


@pytest.mark.parametrize(("option", "scheme"), [("--postgres", "postgres"), (None, "sqlite")])
def test_the_command_sees_both_servers_and_its_exit_code_is_ours(option: str | None, scheme: str) -> None:
    command = [sys.executable, "-m", "cloudops.lab", "services", *([option] if option else [])]
    done = subprocess.run(
        [*command, "--", sys.executable, "-c", REPORT],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "CLOUDOPS_DATABASE_URL": "sqlite:////nowhere"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 7
    report = json.loads(done.stdout)
    assert urlsplit(report["database"]).scheme == scheme
    assert not Path(report["folder"]).parent.parent.exists()
