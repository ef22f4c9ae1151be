"""The fake as a process: says where it is in one line of JSON, then runs until its standard input ends or SIGTERM."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

from tests.vsphere.fake.control import ControlServer
from tests.vsphere.fake.plans import VmPlan, simple_plan
from tests.vsphere.fake.vcenter import FakeVcenter


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.vsphere.fake", description=__doc__)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--vms", type=int, default=4)
    parser.add_argument("--clusters", type=int, default=1)
    parser.add_argument("--address", default="127.0.0.2")
    parser.add_argument("--port", type=int, default=0, help="of the vCenter; 0 takes a free one")
    parser.add_argument("--control", type=int, default=0, metavar="PORT", help="of the control, on 127.0.0.1")
    parser.add_argument("--api-version", default="8.0.2.0")
    parser.add_argument("--standalone", action="store_true", help="one ESXi host without a vCenter")
    parser.add_argument("--vnc", action="append", default=[], metavar="VM=WHERE", help="unix:/path or host:port")
    parser.add_argument("--wait-for", choices=("stdin", "signal"), default="stdin", help="what ends it beside SIGTERM")
    return parser.parse_args()


def plans(vms: Sequence[VmPlan], shown: Sequence[str]) -> list[VmPlan]:
    where = dict(one.partition("=")[::2] for one in shown)
    if unknown := sorted(where.keys() - {vm.name for vm in vms}):
        raise SystemExit(f"no such VM: {', '.join(unknown)}")
    return [replace(vm, vnc=where.get(vm.name, "")) for vm in vms]


def _outlive_input(ended: threading.Event) -> None:
    while os.read(0, 4096):  # a reader of sys.stdin would hold its lock when the interpreter ends
        pass
    ended.set()


def main() -> None:
    options = parsed()
    plan = simple_plan(options.hosts, options.vms, clusters=options.clusters)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    if options.wait_for == "stdin":
        threading.Thread(target=_outlive_input, args=(ended,), daemon=True).start()
    vcenter = FakeVcenter(
        plan.hosts,
        plans(plan.vms, options.vnc),
        api_version=options.api_version,
        standalone=options.standalone,
        address=options.address,
        port=options.port,
    )
    with vcenter, ControlServer(options.control, {"faults": vcenter.faults, "actions": vcenter.actions}) as control:
        threading.Thread(target=control.serve_forever, daemon=True).start()
        told = {name: getattr(vcenter, name) for name in ("uri", "username", "password", "fingerprint_sha256")}
        told |= {"certificate_pem": vcenter.certificate_pem, "control": f"http://127.0.0.1:{control.server_port}"}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        ended.wait()
        control.shutdown()


if __name__ == "__main__":
    main()
