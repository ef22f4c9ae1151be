"""`python -m cloudops.lab services [--postgres] -- COMMAND`: runs a command beside a private Redis and PostgreSQL.

The command finds them in CLOUDOPS_TEST_REDIS_URL and CLOUDOPS_TEST_POSTGRES_URL; with --postgres its database is the
PostgreSQL (CLOUDOPS_DATABASE_URL). The exit code is the command's. Nothing is left running or on disk.
`python -m cloudops.lab hosts`: see `cloudops.lab.helper`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cloudops.lab import helper
from cloudops.lab.process import ServiceError
from cloudops.lab.services import PrivatePostgres, PrivateRedis


def run_beside_services(command: Sequence[str], *, on_postgres: bool) -> int:
    """Starts both servers, runs the command to its end, stops them; returns the command's exit code."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="cloudops-svc-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o711)
        redis = stack.enter_context(PrivateRedis(folder / "redis"))
        postgres = stack.enter_context(PrivatePostgres(folder / "postgres"))
        env = {**os.environ, "CLOUDOPS_TEST_REDIS_URL": redis.url(), "CLOUDOPS_TEST_POSTGRES_URL": postgres.url()}
        if on_postgres:
            env["CLOUDOPS_DATABASE_URL"] = postgres.url()
        child = subprocess.Popen(command, env=env)
        # A terminal's Ctrl-C reaches the command by itself; the servers must outlive its way of ending.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        code = child.wait()
        return code if code >= 0 else 128 - code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m cloudops.lab", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    services = actions.add_parser("services", help="run a command beside a private Redis and PostgreSQL")
    services.add_argument("--postgres", action="store_true", help="make PostgreSQL the command's database")
    services.add_argument("command", nargs="+")
    hosts = actions.add_parser("hosts", help="run libvirt hosts until standard input ends (needs root)")
    hosts.add_argument("--state", dest="state_dir", type=Path, required=True)
    hosts.add_argument("--cache", dest="cache_dir", type=Path, required=True)
    hosts.add_argument("--hosts", type=int, required=True)
    hosts.add_argument("--socket-gid", type=int, required=True)
    hosts.add_argument(
        "--networked", action="store_true", help="on a network of their own; they send each other guests"
    )
    hosts.add_argument("--keep", action="store_true", help="save the guests' memory at the end")
    hosts.add_argument("guests", nargs="*")
    options = parser.parse_args()
    if options.action == "hosts":
        wanted = {name: value for name, value in vars(options).items() if name != "action"}
        return helper.run(helper.HostsPlan(**{**wanted, "guests": tuple(options.guests)}))
    try:
        return run_beside_services(options.command, on_postgres=options.postgres)
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
