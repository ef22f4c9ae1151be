"""The endpoint's description for the product's driver."""

from __future__ import annotations

from typing import Any, Protocol

from cloudops.hypervisors.port import EndpointSpec, Kind


class Reachable(Protocol):
    @property
    def uri(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def password(self) -> str: ...
    @property
    def fingerprint_sha256(self) -> str: ...


def endpoint_spec(fake: Reachable, *, key: str, timeout_seconds: float, **others: Any) -> EndpointSpec:
    values: dict[str, Any] = {
        "key": key,
        "kind": Kind.VSPHERE,
        "uri": fake.uri,
        "username": fake.username,
        "secret": fake.password,
        "certificate_sha256": fake.fingerprint_sha256,
        "timeout_seconds": timeout_seconds,
    }
    return EndpointSpec(**(values | others))
