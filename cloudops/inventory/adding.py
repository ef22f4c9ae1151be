"""What a management endpoint needs before it is added: credentials, a place for its hosts, and what its kind knows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cloudops.core.actors import Actor
from cloudops.core.errors import Invalid
from cloudops.core.validation import demand_valid
from cloudops.hypervisors.port import HostFacts, Kind
from cloudops.inventory import probing, reconcile_hosts, takeover
from cloudops.inventory.models import Cluster, Endpoint, Host
from cloudops.inventory.notices import Notices

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - the guests' VNC servers, not ours
NOT_OF_VSPHERE = ("management_address", "vnc_listen_address", "migration_uri")
"""An ESXi host has none of these: the platform itself says where consoles are, and moves VMs among its hosts."""


def demand_credentials(endpoint: Endpoint) -> None:
    """Raises :class:`Invalid` when a vCenter or ESXi has no user name or no password."""
    if endpoint.kind != Kind.VSPHERE:
        return
    given = {"username": endpoint.username, "secret": endpoint.secret_encrypted}
    if missing := [name for name, value in given.items() if not value]:
        fields = {name: ["vCenter and ESXi need it."] for name in missing}
        raise Invalid("vCenter and ESXi need a user name and a password.", fields=fields)


def choose_clusters(endpoint: Endpoint, cluster: Cluster | None, takes_over: bool | None) -> None:
    """Sets where the endpoint's hosts go. Raises :class:`Invalid`."""
    is_vsphere = endpoint.kind == Kind.VSPHERE
    if takes_over and not is_vsphere:
        fields = {"takes_clusters_over": ["Only vSphere has clusters of its own."]}
        raise Invalid("Only vSphere has clusters of its own.", fields=fields)
    endpoint.takes_clusters_over = is_vsphere if takes_over is None else takes_over
    if cluster is None and not endpoint.takes_clusters_over:
        raise Invalid("The hosts need a cluster.", fields={"cluster": ["Choose the cluster of its hosts."]})
    if is_vsphere:
        endpoint.cluster = cluster


def first_host(
    endpoint: Endpoint,
    *,
    management_address: str,
    vnc_listen_address: str | None,
    migration_uri: str,
    console_limit_override: int | None,
) -> Host:
    """The row that the first host reported takes; not saved, and in no cluster yet. Raises :class:`Invalid`."""
    listens = "" if endpoint.kind == Kind.VSPHERE else ANY_ADDRESS
    host = Host(
        endpoint=endpoint,
        ref=reconcile_hosts.NOT_SEEN_REF,
        name=takeover.address_of(endpoint),
        management_address=management_address.strip(),
        vnc_listen_address=listens if vnc_listen_address is None else vnc_listen_address.strip(),
        migration_uri=migration_uri.strip(),
        console_limit_override=console_limit_override,
    )
    demand_sound(host, exclude=("endpoint", "cluster", "ref"))
    return host


def demand_sound(host: Host, *, exclude: Sequence[str] = ()) -> None:
    """Raises :class:`Invalid` for what a host of its kind cannot have. Needs ``host.endpoint``."""
    demand_valid(host, exclude=exclude)
    kind = host.endpoint.kind
    if kind == Kind.VSPHERE:
        if strange := [name for name in NOT_OF_VSPHERE if getattr(host, name)]:
            fields = {name: ["An ESXi host has none."] for name in strange}
            raise Invalid("Some fields mean nothing for an ESXi host.", fields=fields)
    elif not host.vnc_listen_address:
        raise Invalid("Some fields are not right.", fields={"vnc_listen_address": ["This field cannot be blank."]})
    probing.demand_sound_migration_uri(kind, host.migration_uri)


def place(first: Host, cluster: Cluster | None, facts: Sequence[HostFacts], *, by: Actor, now: datetime) -> None:
    """Puts the first host, which may be unseen yet, into the chosen cluster, or else into the platform's own, which is
    made where it is missing. The endpoint is saved already."""
    fact = facts[0] if facts else HostFacts("", "", 0, 0, 0, 0, "")
    if cluster is not None:
        first.cluster = cluster
        return
    places = takeover.Places(first.endpoint, [], facts, Notices(by=by, now=now))
    first.cluster_id = places.of_new(fact)
    first.platform_cluster = fact.cluster[:200]
