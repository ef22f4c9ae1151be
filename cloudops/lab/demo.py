"""`script/demo`: CloudOps on this machine, with real guests to look at; data stay for the next time."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cloudops.lab.installation import ROOT, Options, run
from cloudops.lab.lab import MOST_HOSTS

GUESTS_PER_HOST = 2


def parse(arguments: Sequence[str]) -> Options:
    """The command line; see `script/demo --help`."""
    parser = argparse.ArgumentParser(prog="script/demo", description="Runs CloudOps here, with real guests to look at.")
    add_common_arguments(parser, port=8080)
    parser.add_argument(
        "--hosts", type=int, default=1, metavar="N", help="real hosts (default 1; 2 to 4 send each other guests live)"
    )
    parser.add_argument("--no-guests", action="store_const", dest="guests", const=0, help="no libvirt, no real guests")
    parser.add_argument(
        "--vsphere", action="store_true", help="a simulated vCenter too: two ESXi hosts, a real guest on their consoles"
    )
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        help="where it keeps its data (default var/demo, or var/demo-N for N hosts)",
    )
    parser.add_argument("--check", action="store_true", help="start, sign in, look around, stop; for tests")
    options = checked(parser, arguments)
    if options.hosts > 1 and not options.guests:
        parser.error("--hosts needs guests; hosts without guests: script/lab up --guests 0")
    return Options(
        command=parser.prog,
        networked=options.hosts > 1,
        **{**vars(options), "state": options.state or ROOT / ("var/demo" + f"-{options.hosts}" * (options.hosts > 1))},
    )


def add_common_arguments(parser: argparse.ArgumentParser, *, port: int) -> None:
    """What `script/demo` and `script/lab up` have in common."""
    parser.add_argument("--port", type=int, default=port, help=f"port of the web server (default {port})")
    parser.add_argument("--host", default="127.0.0.1", help="address it listens on (default 127.0.0.1; 0.0.0.0: all)")
    parser.add_argument(
        "--public-url", default="", help="address people type (default http://localhost:PORT, or this machine's name)"
    )
    parser.add_argument("--guests", type=int, metavar="N", help="real guests to boot (default two for each host)")
    parser.add_argument("--fleet", type=int, default=0, metavar="N", help="add N simulated hosts with VMs")
    parser.add_argument("--verbose", action="store_true", help="show what the processes log, not only warnings")


def checked(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parses; ends with a message about numbers that cannot be."""
    options = parser.parse_args(arguments)
    if not 1 <= options.hosts <= MOST_HOSTS:
        parser.error(f"--hosts must be 1 to {MOST_HOSTS}")
    if options.guests is None:
        options.guests = GUESTS_PER_HOST * options.hosts
    if not 0 < options.port < 65536:
        parser.error("--port must be 1 to 65535")
    if options.guests < 0 or options.fleet < 0:
        parser.error("--guests and --fleet must not be negative")
    return options


if __name__ == "__main__":
    sys.exit(run(parse(sys.argv[1:])))
