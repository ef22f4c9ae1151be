"""Databases that have all tables already, for processes of the product: migrations run once per server."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

ROOT = Path(__file__).resolve().parent.parent
MakeEnv = Callable[..., dict[str, str]]
"""The fixture ``product_env``."""
MIGRATE_SECONDS = 200
_MADE, _MAKING = "cloudops_migrated", "cloudops_migrating"
_LOCK = 8_410_021
"""Of tests that run side by side on one server, one migrates."""


def in_postgres(server_url: str, name: str, *, make_env: MakeEnv) -> str:
    """The URL of a new database beside the one that ``server_url`` names; one of the same name is dropped."""
    with _admin(server_url) as admin:
        _drop(admin, name)
        admin.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (_MADE,)).fetchone() is None:
            _drop(admin, _MAKING)
            admin.execute(SQL("CREATE DATABASE {}").format(Identifier(_MAKING)))
            _migrate(_beside(server_url, _MAKING), make_env)
            admin.execute(SQL("ALTER DATABASE {} RENAME TO {}").format(Identifier(_MAKING), Identifier(_MADE)))
        admin.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(_MADE)))
    return _beside(server_url, name)


def drop_postgres(server_url: str, name: str) -> None:
    """Drops a database, whoever still uses it."""
    with _admin(server_url) as admin:
        _drop(admin, name)


def in_sqlite(path: Path, *, folder: Path, make_env: MakeEnv) -> str:
    """The URL of a new database in the file ``path``. ``folder`` outlives the test: there is what is copied."""
    made = folder / "migrated.sqlite3"
    if not made.exists():
        making = folder / "migrating.sqlite3"
        making.unlink(missing_ok=True)
        _migrate(f"sqlite:///{making}", make_env)
        making.rename(made)
    shutil.copyfile(made, path)
    return f"sqlite:///{path}"


def _migrate(database_url: str, make_env: MakeEnv) -> None:
    command = [sys.executable, "-W", "ignore", "manage.py", "migrate", "-v0"]
    env = make_env(database_url=database_url, redis_url="redis://127.0.0.1:1/0")  # migrations publish nothing
    done = subprocess.run(
        command, cwd=ROOT, env=env, timeout=MIGRATE_SECONDS, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@contextlib.contextmanager
def _admin(server_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(_beside(server_url, "postgres"), autocommit=True, connect_timeout=10) as admin:
        yield admin


def _beside(server_url: str, name: str) -> str:
    return f"{server_url.rpartition('/')[0]}/{name}"


def _drop(admin: psycopg.Connection, name: str) -> None:
    admin.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))
