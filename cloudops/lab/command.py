"""`script/lab`: real libvirt hosts with guests and a CloudOps of its own, faults on request, all of it away again."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cloudops.lab import control, vcsim
from cloudops.lab.demo import add_common_arguments, checked
from cloudops.lab.helper import HostsPlan
from cloudops.lab.installation import PEOPLE, ROOT, Options, load_secrets, run
from cloudops.lab.process import ServiceError

DOWN_SECONDS = 60.0
FAULTS = {
    "freeze": "stop libvirtd and all guests of a host where they are: sockets open and silent",
    "thaw": "undo freeze",
    "crash": "cut a host's power: everything on it is gone",
    "start": "switch a crashed host on again",
    "unplug": "pull a host's network cable; `unplug uplink`: CloudOps loses all hosts, which still reach each other",
    "plug": "undo unplug",
    "kill-libvirtd": "kill a host's libvirtd; it is started again a second later, guests live on",
}
DESCRIPTION = """\
Real libvirt hosts with tiny real guests on this machine, on a network of their own, and a CloudOps that knows them:
to watch live migrations, maintenance and faults. It stays until Ctrl-C or `script/lab down` and leaves nothing behind.
"""


def parser() -> argparse.ArgumentParser:
    """The command line; see `script/lab --help`."""
    whole = argparse.ArgumentParser(prog="script/lab", description=DESCRIPTION)
    actions = whole.add_subparsers(dest="action", required=True, metavar="COMMAND")
    state = argparse.ArgumentParser(add_help=False)
    state.add_argument(
        "--state", type=Path, default=ROOT / "var/lab/up", metavar="DIR", help="which lab (default var/lab/up)"
    )
    up = actions.add_parser("up", parents=[state], help="start hosts, guests and CloudOps, and stay until Ctrl-C")
    up.add_argument("--hosts", type=int, default=3, metavar="N", help="real hosts, 1 to 4 (default 3), in two clusters")
    add_common_arguments(up, port=8090)
    actions.add_parser("status", parents=[state], help="address, logins, and each host with its guests")
    actions.add_parser("down", parents=[state], help="take the running lab away")
    simulator = actions.add_parser(
        "vcsim",
        help="build and start vcsim, govmomi's vCenter simulator, and stay until Ctrl-C",
        description="vcsim simulates a vCenter's inventory, power and moves; it has no consoles.",
    )
    simulator.add_argument("--hosts", type=int, default=2, metavar="N", help="ESXi hosts in one cluster (default 2)")
    simulator.add_argument("--vms", type=int, default=4, metavar="N", help="VMs on them (default 4)")
    simulator.add_argument("--esxi", action="store_true", help="one standalone ESXi host without a vCenter")
    simulator.add_argument("--port", type=int, default=0, help="port it listens on (default: a free one)")
    simulator.add_argument("--build-only", action="store_true", help="only build it, if it is not there yet")
    for name, what in FAULTS.items():
        fault = actions.add_parser(name, parents=[state], help=what, description=what.capitalize() + ".")
        fault.add_argument("name", metavar="HOST", help="kvm-01, kvm-02 …")
    return whole


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    whole = parser()
    if arguments[:1] == ["up"]:
        wanted = {name: value for name, value in vars(checked(whole, arguments)).items() if name != "action"}
        return run(Options(command=f"{whole.prog} up", networked=True, keep=False, **wanted))
    options = whole.parse_args(arguments)
    try:
        if options.action == "vcsim":
            _vcsim(whole, options)
            return 0
        state: Path = options.state.absolute()
        if options.action == "down":
            _down(state)
        elif options.action == "status":
            _status(state)
        else:
            answer = control.ask(_control_socket(state), options.action, options.name)
            print(f"{options.name} is {answer['state']}")
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _vcsim(whole: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.hosts < 1 or options.vms < 0 or not 0 <= options.port < 65536:
        whole.error("vcsim needs at least one host, not fewer VMs than none, and a port of 0 to 65535")
    model = vcsim.Model(options.hosts, options.vms, standalone=options.esxi)
    vcsim.run(ROOT / "var/lab/vcsim", model, port=options.port, build_only=options.build_only, progress=print)


def _control_socket(state: Path) -> Path:
    return HostsPlan(state / "libvirt", state, hosts=1, guests=(), socket_gid=0).control_socket


def _owner(state: Path) -> tuple[int, str]:
    """Process id and address of the running lab. Raises ServiceError."""
    control.ask(_control_socket(state), "status")
    found = re.match(r"pid (\d+), (\S+)", (state / "lock").read_text())
    if found is None:
        raise ServiceError(f"{state / 'lock'} does not say whose lab this is")
    return int(found[1]), found[2]


def _status(state: Path) -> None:
    _, address = _owner(state)
    known = load_secrets(state / "secrets")
    print(address)
    for name in PEOPLE:
        print(f"  {name:<6} {known[name]}")
    answer = control.ask(_control_socket(state), "status")
    for name, host in answer["hosts"].items():
        guests = "?" if host["guests"] is None else " ".join(host["guests"]) or "no guests"
        print(f"{name}  {host['state']:<9}  {host['uri']}  {guests}")
    print(f"uplink  {answer['uplink']}")


def _down(state: Path) -> None:
    pid, _ = _owner(state)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_SECONDS
    while state.exists():
        if time.monotonic() > deadline:
            raise ServiceError(f"the lab (pid {pid}) is still there after {DOWN_SECONDS:.0f} s; its state is {state}")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
