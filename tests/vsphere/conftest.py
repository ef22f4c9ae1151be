"""One fake vCenter for each test that wants one: starting it takes a tenth of a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudops.hypervisors.vsphere.driver import VsphereHypervisor
from tests.vsphere.fake import FakeVcenter


@pytest.fixture
def vcenter() -> Iterator[FakeVcenter]:
    """Two hosts in a cluster with two VMs each, at 127.0.0.2: pyvmomi itself never verifies 127.0.0.1 and localhost."""
    with FakeVcenter(hosts=2, vms=4) as vcenter:
        yield vcenter


@pytest.fixture
def driver(vcenter: FakeVcenter) -> Iterator[VsphereHypervisor]:
    made = VsphereHypervisor(vcenter.spec())
    yield made
    made.close()
