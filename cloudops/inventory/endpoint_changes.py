"""Changes of a management endpoint, which concern every host behind it: its address, credentials and certificate."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from cloudops.core import crypto
from cloudops.core.errors import Conflict, Invalid
from cloudops.core.validation import assign, demand_valid
from cloudops.hypervisors.port import HostFacts, Kind, VmFacts
from cloudops.inventory import certificates, probing, takeover
from cloudops.inventory.models import Endpoint, Host, Vm

ENDPOINT_FIELDS = ("uri", "username", "certificate_sha256", "timeout_seconds", "takes_clusters_over")
MOST_COMPARED_VMS = 500


class HostExists(Conflict):
    code = "host-exists"
    title = "This host is there already."
    remedy = "Change the host that is there instead."


def demand_new(endpoint: Endpoint, hosts: Sequence[HostFacts] = (), vms: Sequence[VmFacts] = ()) -> None:
    """The same daemon under two URIs would make every VM jump to and fro, and so would an ESXi host beside its vCenter.
    Raises :class:`HostExists`."""
    if known := Host.objects.filter(endpoint__uri=endpoint.uri).exclude(endpoint__pk=endpoint.pk).first():
        raise HostExists(f"{endpoint.uri} is {known.name}'s URI.", host=str(known.pk))
    unique = [fact.ref for fact in hosts if _is_uuid(fact.ref)]
    others = Host.objects.filter(endpoint__kind=endpoint.kind).exclude(endpoint__pk=endpoint.pk)
    twin = others.filter(ref__in=unique).select_related("endpoint").first() if unique else None
    if twin is None and endpoint.kind == Kind.VSPHERE:  # its hosts' names are unique only within one vCenter
        refs = [fact.ref for fact in vms[:MOST_COMPARED_VMS]]
        seen = Vm.objects.filter(ref__in=refs, host__in=others, missing_since=None)
        found = seen.select_related("host__endpoint").first()
        twin = found.host if found else None
    if twin is not None:
        raise HostExists(f"This is {twin.name}, which is there as {twin.endpoint.uri}.", host=str(twin.pk))


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def change(endpoint: Endpoint, changes: dict[str, Any], secret: str | None, *, now: datetime) -> dict[str, list[Any]]:
    """Writes some of :data:`ENDPOINT_FIELDS` and the secret (None keeps it) of a locked row; returns what changed, for
    the audit trail. Raises :class:`Invalid`, :class:`HostExists`."""
    if "certificate_sha256" in changes:
        changes = {**changes, "certificate_sha256": certificates.normal(changes["certificate_sha256"])}
    if "uri" in changes:
        changes = {**changes, "uri": probing.plain_uri(endpoint.kind, changes["uri"])}
    changed = assign(endpoint, changes)
    if changed:
        probing.demand_sound_uri(endpoint.kind, endpoint.uri)
        demand_new(endpoint)
        demand_valid(endpoint)
    if secret is None and "uri" in changed and endpoint.secret_encrypted:
        secret = ""  # a stored credential is never sent to an address that it was not entered for
    _demand_vsphere_has(endpoint, changed, secret)
    if secret is not None:
        endpoint.secret_encrypted = crypto.encrypt(secret)
    if "certificate_sha256" in changed:
        endpoint.certificate_pinned_at = now if endpoint.certificate_sha256 else None
        endpoint.offered_certificate = None
    if "takes_clusters_over" in changed and not endpoint.takes_clusters_over:
        takeover.let_go(endpoint)
    if changed or secret is not None:
        pin = ("certificate_pinned_at", "offered_certificate") if "certificate_sha256" in changed else ()
        endpoint.save(update_fields=[*changed, *pin, "secret_encrypted"])
    return changed if secret is None else changed | {"credential": ["(hidden)", "(hidden)"]}


def _demand_vsphere_has(endpoint: Endpoint, changed: dict[str, list[Any]], secret: str | None) -> None:
    if endpoint.kind != Kind.VSPHERE:
        if endpoint.takes_clusters_over:
            fields = {"takes_clusters_over": ["Only vSphere has clusters of its own."]}
            raise Invalid("Only vSphere has clusters of its own.", fields=fields)
        return
    fields = {}
    if "username" in changed and not endpoint.username:
        fields["username"] = ["vCenter and ESXi need it."]
    if secret == "":
        why = "Enter it again: the stored one was entered for another address." if "uri" in changed else ""
        fields["secret"] = [why or "vCenter and ESXi need it."]
    if "certificate_sha256" in changed and not endpoint.certificate_sha256:
        fields["certificate_sha256"] = ["A confirmed certificate can be replaced, but not given up."]
    if fields:
        raise Invalid("vCenter and ESXi need a user name, a password and a confirmed certificate.", fields=fields)
