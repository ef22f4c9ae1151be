"""The vCenter of ``script/demo --vsphere`` as a process: two ESXi hosts in a cluster, and what runs on them.

Its directory holds the password it is to take, and afterwards its certificate, which stays the same from one start to
the next, and once it listens ``endpoint.json``: what CloudOps needs to add it. It ends with SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.vsphere.fake import FakeVcenter, HostPlan, VmPlan
from tests.vsphere.fake.certificates import Certificate
from tests.vsphere.fake.faults import VCENTER

HOSTS = tuple(
    HostPlan(f"esxi-{number:02}", "esxi", cpu_threads=16, memory_mib=32_768, tags=("vmware",)) for number in (1, 2)
)
VMS = ("erp", "files", "mail", "wiki")
FRESH = timedelta(days=2)
"""A certificate that ends sooner is not used again."""


def world(vnc: str) -> Sequence[VmPlan]:
    """The VMs, dealt to the hosts in turn; ``vnc`` is what their consoles show, empty for the fake's own screen."""
    hosts = [host.name for host in HOSTS]
    return [
        VmPlan(name, hosts[number % len(hosts)], cpus=1, memory_mib=512, vnc=vnc) for number, name in enumerate(VMS)
    ]


def keep(served: Certificate, state: Path, address: str, *, now: datetime) -> None:
    """Serves the certificate of last time, or while that is not valid for long any more, a new one that is kept."""
    file = state / f"{VCENTER}.pem"
    if not file.exists() or _certificate(file).not_valid_after_utc < now + FRESH:
        Certificate(state, VCENTER, address)  # writes the file
    served.context.load_cert_chain(file)
    served.der = _certificate(file).public_bytes(Encoding.DER)


def _certificate(file: Path) -> x509.Certificate:
    pem = file.read_bytes()
    return x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERTIFICATE") :])


def told(vcenter: FakeVcenter) -> dict[str, Any]:
    """What ``manage.py demo_seed`` adds to CloudOps."""
    return {
        "uri": vcenter.uri,
        "username": vcenter.username,
        "secret": vcenter.password,
        "certificate_sha256": vcenter.fingerprint_sha256,
        "vms": {vm.name: vm.instance_uuid for vm in vcenter.world.vms.values()},
    }


def main() -> None:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True, metavar="DIR")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--vnc", default="", help="unix:/path or host:port of a VNC server that all consoles show")
    options = parser.parse_args()
    os.umask(0o077)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    password = (options.state / "password").read_text()
    with FakeVcenter(
        HOSTS, world(options.vnc), address=options.address, port=options.port, password=password
    ) as vcenter:
        keep(vcenter.service.certificates[VCENTER], options.state, options.address, now=datetime.now(UTC))
        ready = options.state / "endpoint.new"
        ready.write_text(json.dumps(told(vcenter)))
        ready.replace(options.state / "endpoint.json")
        ended.wait()


if __name__ == "__main__":
    main()
