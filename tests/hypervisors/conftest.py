"""A real libvirt host that listens in every way, with guests that are quick to start (firmware only)."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudops.lab.domain import GuestSpec
from cloudops.lab.libvirtd import LibvirtHost
from cloudops.lab.libvirtd_config import Listen
from cloudops.lab.process import free_port
from tests.hypervisors.certificates import Authority
from tests.lab.fixtures import lab_of_two, start_host

__all__ = ["lab_of_two"]

# What `nc -U PATH` does, for machines without it.
_NETCAT = """#!{python}
import os, select, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect(sys.argv[2])
pairs = {{0: lambda data: line.sendall(data), line.fileno(): lambda data: os.write(1, data)}}
while True:
    for source in select.select(list(pairs), [], [])[0]:
        data = os.read(source, 65536)
        if not data:
            sys.exit()
        pairs[source](data)
"""
# An ssh whose "remote" machine is this one; user "nobody" has no key there, user "stranger" is a host not known.
_SSH = """#!/bin/sh
case " $* " in
  *" -l nobody "*) echo 'nobody@127.0.0.1: Permission denied (publickey).' >&2; exit 255 ;;
  *" -l stranger "*) echo 'Host key verification failed.' >&2; exit 255 ;;
esac
for last; do :; done
exec /bin/sh -c "$last"
"""


@dataclass(frozen=True)
class LibvirtLab:
    """A host, its URIs by transport, and its guests: ``one`` runs, ``two`` is off, ``blind`` has no display."""

    host: LibvirtHost
    uris: dict[str, str]
    one: str
    two: str
    blind: str
    server_sha256: str


@pytest.fixture(scope="session")
def fake_ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Puts an ssh and an nc first in the PATH that reach this very machine."""
    folder = tmp_path_factory.mktemp("bin")
    for name, text in (("ssh", _SSH), ("nc", _NETCAT.format(python=sys.executable))):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    # Without virt-ssh-helper's own idea of where the socket is: the URI's socket= goes through nc.
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{folder}:{before}"
    yield
    os.environ["PATH"] = before


@pytest.fixture(scope="session")
def libvirt_lab(tmp_path_factory: pytest.TempPathFactory, fake_ssh: None) -> Iterator[LibvirtLab]:
    pki: Path = tmp_path_factory.mktemp("pki")
    authority = Authority(pki)
    server_sha256 = authority.issue("server", address="127.0.0.1")
    authority.issue("client")
    listen = Listen(address="127.0.0.1", tcp_port=free_port(), tls_port=free_port(), pki=pki)
    host = start_host("libvirt-lab", listen=listen)
    try:
        yield LibvirtLab(
            host=host,
            uris={
                "unix": host.uri,
                "tcp": f"qemu+tcp://127.0.0.1:{listen.tcp_port}/system",
                "tls": f"qemu+tls://127.0.0.1:{listen.tls_port}/system?pkipath={pki}",
                "ssh": f"qemu+ssh://root@127.0.0.1/system?socket={host.socket}",
            },
            one=host.ensure_guest(GuestSpec("one", memory_mib=32)),
            two=host.ensure_guest(GuestSpec("two", memory_mib=32), start=False),
            blind=host.ensure_guest(GuestSpec("blind", memory_mib=32, display=False)),
            server_sha256=server_sha256,
        )
    finally:
        host.thaw()
        host.stop()
