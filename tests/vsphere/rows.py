"""Rows for a fake vCenter."""

from __future__ import annotations

from cloudops.core import crypto
from cloudops.hypervisors.port import Kind
from cloudops.inventory.models import Endpoint
from tests.vsphere.fake import FakeVcenter


def endpoint_on(vcenter: FakeVcenter, *, timeout_seconds: int = 5) -> Endpoint:
    """The fake as a management endpoint, its certificate confirmed."""
    return Endpoint.objects.create(
        kind=Kind.VSPHERE,
        uri=vcenter.uri,
        username=vcenter.username,
        secret_encrypted=crypto.encrypt(vcenter.password),
        certificate_sha256=vcenter.fingerprint_sha256,
        timeout_seconds=timeout_seconds,
    )
