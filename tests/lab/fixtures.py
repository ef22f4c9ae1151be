"""Real libvirt hosts for tests. Import a fixture, and those that it needs, into a conftest. They fail, and never skip,
when no host can be had.

The guest's kernel and file system are built once into ``CLOUDOPS_LAB_CACHE`` (default: ``var/lab`` in the tree).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudops.lab.domain import GuestSpec
from cloudops.lab.guest import GuestImage, build_guest
from cloudops.lab.lab import Lab
from cloudops.lab.libvirtd import InUse, LibvirtHost
from cloudops.lab.libvirtd_config import Listen
from cloudops.lab.process import ServiceError

ROOT = Path(__file__).resolve().parent.parent.parent
STATE_SLOTS = 16
"""How many hosts may run at once from one cache directory: other test runs, xdist workers, hosts for faults."""


BOOT_SECONDS = 110.0
"""A guest boots within 6 s on an idle machine; the machine may be busy with many other tests."""


def lab_cache() -> Path:
    return Path(os.environ.get("CLOUDOPS_LAB_CACHE", ROOT / "var" / "lab"))


def start_host(name: str, *, listen: Listen | None = None) -> LibvirtHost:
    """Starts a host without guests in the first state directory that nobody uses. The caller stops it."""
    for slot in range(STATE_SLOTS):
        first_port = 5900 + 100 * (slot + 1)
        host = LibvirtHost(
            lab_cache() / "hosts" / f"test{slot}", name, listen=listen, vnc_ports=(first_port, first_port + 99)
        )
        try:
            host.start()
        except InUse:
            continue
        for guest in host.virsh("list", "--all", "--name").split():
            host.virsh("undefine", guest, "--managed-save")
        return host
    raise ServiceError(f"{STATE_SLOTS} libvirt hosts run already from {lab_cache()}; is an old test run still alive?")


def guest_image() -> GuestImage:
    """The guest's kernel and initramfs, built at the first call."""
    return build_guest(lab_cache() / "guest")


@pytest.fixture(scope="session")
def real_host() -> Iterator[LibvirtHost]:
    """A libvirt host with two running Linux guests, "alpha" and "beta" (``host.guests``: name to UUID). A test that
    stops, freezes or kills anything of it puts it back."""
    image = guest_image()
    host = start_host("lab1")
    try:
        for name in ("alpha", "beta"):
            host.ensure_guest(GuestSpec(name, image))
        for name in ("alpha", "beta"):
            host.wait_booted(name, timeout_seconds=BOOT_SECONDS)
        yield host
    finally:
        host.stop()


def start_lab(hosts: int) -> Lab:
    """Starts a lab without guests in the first state directory that nobody uses. The caller stops it."""
    for slot in range(STATE_SLOTS):
        lab = Lab(lab_cache() / "labs" / str(slot), hosts=hosts)
        try:
            lab.start()
        except InUse:
            continue
        try:
            lab.reset()
        except BaseException:
            lab.stop()
            raise
        return lab
    raise ServiceError(f"{STATE_SLOTS} labs run already from {lab_cache()}; is an old test run still alive?")


@pytest.fixture(scope="session")
def lab_of_two() -> Iterator[Lab]:
    """Two hosts that send each other guests. Tests ask for ``two_hosts``, which begins with a clean lab."""
    lab = start_lab(2)
    yield lab
    lab.stop()


@pytest.fixture(scope="session")
def lab_of_three() -> Iterator[Lab]:
    """Three hosts that send each other guests. Tests ask for ``three_hosts``, which begins with a clean lab."""
    lab = start_lab(3)
    yield lab
    lab.stop()


@pytest.fixture
def two_hosts(lab_of_two: Lab) -> Iterator[Lab]:
    """kvm-01 and kvm-02: up, plugged in and without guests, before and after."""
    lab_of_two.reset()
    yield lab_of_two
    lab_of_two.reset()


@pytest.fixture
def three_hosts(lab_of_three: Lab) -> Iterator[Lab]:
    """kvm-01 to kvm-03: up, plugged in and without guests, before and after."""
    lab_of_three.reset()
    yield lab_of_three
    lab_of_three.reset()
