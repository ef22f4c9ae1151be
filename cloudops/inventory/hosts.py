"""Hosts: add, change, remove, cordon, tag. A host lives behind a management endpoint, which may hold many."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from django.db import transaction

from cloudops.core import crypto, events, live
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict, Invalid
from cloudops.core.models import Tick
from cloudops.core.queue import enqueue
from cloudops.core.validation import assign, demand_known
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import HypervisorError, NotSupported
from cloudops.inventory import adding, certificates, endpoint_changes, probing, reconcile_hosts, signals, sync
from cloudops.inventory import tags as tag_rows
from cloudops.inventory.endpoint_changes import ENDPOINT_FIELDS
from cloudops.inventory.endpoint_changes import HostExists as HostExists
from cloudops.inventory.models import Cluster, Endpoint, Host, HostTag, Tag
from cloudops.inventory.notices import after_commit, ask
from cloudops.inventory.probing import ProbeReport

HOST_FIELDS = (
    "name",
    "cluster",
    "management_address",
    "vnc_listen_address",
    "migration_uri",
    "console_limit_override",
    "cpu_threads_override",
    "memory_mib_override",
)
SYNC_TASK = "cloudops.inventory.tasks.sync_endpoint"


class HostUnreachable(Conflict):
    code = "host-unreachable"
    title = "The host cannot be reached with these details."
    remedy = "Test the connection, mend what fails and try again; or add it all the same and mend it later."


class HostInUse(Conflict):
    code = "host-in-use"
    title = "The host is in use."
    remedy = "Wait until that ends, or remove the host all the same, which ends it."


class HostSharesEndpoint(Conflict):
    code = "host-shares-endpoint"
    title = "The host's management service reports further hosts, and would report this one again."
    remedy = "Remove all hosts of that management service together, or take the host out of it there first."


def test_connection(
    *,
    kind: str,
    uri: str,
    username: str = "",
    secret: str = "",
    certificate_sha256: str = "",
    timeout_seconds: int = 10,
    management_address: str = "",
) -> ProbeReport:
    """Tries an endpoint that is not saved. Blocks for a few times ``timeout_seconds`` at most. Raises ``Invalid``."""
    endpoint = probing.endpoint_of(
        kind=kind,
        uri=uri,
        username=username,
        secret_encrypted=crypto.encrypt(secret),
        certificate_sha256=certificate_sha256,
        timeout_seconds=timeout_seconds,
    )
    return probing.examine(endpoint, management_address)


def test_host(host: Host) -> ProbeReport:
    """Tries a host's saved endpoint with its stored secret."""
    return probing.examine(host.endpoint, host.management_address)


def has_secret(endpoint: Endpoint) -> bool:
    """Whether a secret is stored. The secret itself is never given back."""
    return bool(endpoint.secret_encrypted)


def add_host(
    *,
    kind: str,
    uri: str,
    cluster: Cluster | None = None,
    takes_clusters_over: bool | None = None,
    username: str = "",
    secret: str = "",
    certificate_sha256: str = "",
    timeout_seconds: int = 10,
    management_address: str = "",
    vnc_listen_address: str | None = None,
    migration_uri: str = "",
    console_limit_override: int | None = None,
    tags: Sequence[str] = (),
    force: bool = False,
    by: Actor,
    now: datetime,
) -> list[Host]:
    """Adds a management endpoint with every host that it reports and their VMs. Blocks for its timeout a few times at
    most.

    ``takes_clusters_over`` (vSphere; None: yes) puts hosts into clusters named as the platform's; ``cluster`` then is
    for hosts that are in none, and may be left out. Raises ``Invalid``, :class:`HostExists`,
    :class:`CertificateUnconfirmed`, and :class:`HostUnreachable` unless ``force``; a host that is added unseen fills in
    when it first answers.
    """
    endpoint = probing.endpoint_of(
        kind=kind,
        uri=uri,
        username=username,
        secret_encrypted=crypto.encrypt(secret),
        certificate_sha256=certificate_sha256,
        timeout_seconds=timeout_seconds,
    )
    adding.demand_credentials(endpoint)
    adding.choose_clusters(endpoint, cluster, takes_clusters_over)
    first = adding.first_host(
        endpoint,
        management_address=management_address,
        vnc_listen_address=vnc_listen_address,
        migration_uri=migration_uri,
        console_limit_override=console_limit_override,
    )
    endpoint_changes.demand_new(endpoint)
    reading = _read_new(endpoint)
    if reading.error is not None and not force:
        detail = reading.error.detail or reading.error.title
        raise HostUnreachable(detail, remedy=reading.error.remedy, reason=reading.error.code)
    endpoint_changes.demand_new(endpoint, reading.hosts, reading.vms)
    endpoint.certificate_pinned_at = now if endpoint.certificate_sha256 else None
    with transaction.atomic():
        endpoint.save(force_insert=True)
        adding.place(first, cluster, reading.hosts, by=by, now=now)
        first.save(force_insert=True)
        rows = _fill(endpoint, first, reading, tags, now=now)
        told = {"kind": kind, "uri": endpoint.uri}
        events.record_many([events.line("host.added", by=by, now=now, subject=row, data=told) for row in rows])
        live.publish("hosts", "vms")
    return rows


def _read_new(endpoint: Endpoint) -> sync.Reading:
    try:
        certificates.demand_confirmed(endpoint)
        return sync.read(endpoint)
    except HypervisorError as error:  # of asking which certificate is served
        return sync.Reading(error=error)
    finally:
        registry.forget(str(endpoint.pk))


def _fill(
    endpoint: Endpoint, first: Host, reading: sync.Reading, tag_names: Sequence[str], *, now: datetime
) -> list[Host]:
    """What the first reading found, or why there is none; what the operator said holds for every host found."""
    sync.apply(endpoint, reading, now=now)
    rows = list(Host.objects.filter(endpoint=endpoint).select_related("endpoint", "cluster"))
    Host.objects.filter(endpoint=endpoint).update(console_limit_override=first.console_limit_override)
    _tag_all(rows, tag_names)
    after_commit(signals.hosts_changed, host_ids=[row.pk for row in rows], now=now)
    return rows


def _tag_all(rows: Sequence[Host], names: Sequence[str]) -> None:
    """Gives the operator's tags to hosts that have none but the platform's."""
    wanted = tag_rows.ensure(names)
    lines = HostTag.objects.filter(host__in=rows, tag__in=wanted)
    lines.update(own=True)
    there = set(lines.values_list("host_id", "tag_id"))
    HostTag.objects.bulk_create(
        [HostTag(host=row, tag=tag) for row in rows for tag in wanted if (row.pk, tag.pk) not in there]
    )


def change_host(host: Host, *, by: Actor, now: datetime, **changes: Any) -> Host:
    """Sets some of :data:`HOST_FIELDS`, :data:`ENDPOINT_FIELDS`, ``tags`` (the operator's own, names) and ``secret``
    (None keeps it).

    Changes of the endpoint concern all its hosts, and are tried out at once. Raises ``Invalid``, :class:`HostExists`.
    """
    demand_known(changes, (*HOST_FIELDS, *ENDPOINT_FIELDS, "secret", "tags"))
    wanted_tags = changes.pop("tags", None)
    secret = changes.pop("secret", None)
    with transaction.atomic():
        # The endpoint first, as synchronisation does: it may be reading the host at this moment.
        Endpoint.objects.select_for_update().filter(pk=host.endpoint_id).first()
        row = Host.objects.select_for_update(of=("self",)).select_related("endpoint", "cluster").get(pk=host.pk)
        changed = assign(row, {name: value for name, value in changes.items() if name in HOST_FIELDS})
        about_endpoint = endpoint_changes.change(
            row.endpoint, {name: value for name, value in changes.items() if name in ENDPOINT_FIELDS}, secret, now=now
        )
        if changed:
            adding.demand_sound(row)
            _demand_own_cluster(row, changed)
            row.save(update_fields=list(changed))
        if wanted_tags is not None:
            changed |= _set_tags(row, wanted_tags)
        if changed or about_endpoint:
            events.record("host.changed", by=by, now=now, subject=row, data={"changed": changed | about_endpoint})
            live.publish("hosts", f"host:{row.pk}")
            after_commit(signals.hosts_changed, host_ids=[row.pk], now=now)
        if about_endpoint:
            transaction.on_commit(partial(enqueue, SYNC_TASK, str(row.endpoint_id)), robust=True)
    return row


def accept_certificate(host: Host, *, sha256: str, by: Actor, now: datetime) -> None:
    """From now on the host's management service must present this certificate, which it does present: it is looked at
    first. Blocks for the endpoint's timeout at most. Raises ``Invalid``, ``NotSupported``, ``HypervisorError``,
    :class:`~certificates.CertificateChangedAgain`."""
    endpoint = host.endpoint
    if not certificates.is_demanded(endpoint.kind):
        raise NotSupported(f"{endpoint.uri} has no certificate that could be accepted here.")
    wanted = certificates.normal(sha256)
    found = certificates.served(endpoint.uri, timeout_seconds=endpoint.timeout_seconds)
    if not certificates.same(found.sha256, wanted):
        raise certificates.CertificateChangedAgain(
            f"It presents SHA-256 {found.sha256} now.", asked=wanted, **found.as_numbers()
        )
    with transaction.atomic():
        row = Endpoint.objects.select_for_update().get(pk=endpoint.pk)
        before = row.certificate_sha256
        row.certificate_sha256, row.certificate_pinned_at, row.offered_certificate = found.sha256, now, None
        row.save(update_fields=["certificate_sha256", "certificate_pinned_at", "offered_certificate"])
        data = {"uri": row.uri, "changed": {"certificate_sha256": [before, found.sha256]}, "subject": found.subject}
        events.record("host.certificate_accepted", by=by, now=now, subject=host, severity="notice", data=data)
        live.publish("hosts", f"host:{host.pk}")
        transaction.on_commit(partial(enqueue, SYNC_TASK, str(row.pk)), robust=True)


def _demand_own_cluster(host: Host, changed: Mapping[str, object]) -> None:
    if "cluster" in changed and host.endpoint.takes_clusters_over and host.platform_cluster:
        message = f"It follows its platform, where it is in {host.platform_cluster}: move it there."
        raise Invalid(
            message,
            fields={"cluster": [message]},
            remedy="Move the host in vCenter, or stop taking over the clusters of its management service.",
        )


def remove_host(host: Host, *, by: Actor, now: datetime, force: bool = False, whole_endpoint: bool = False) -> int:
    """Removes a host with its VMs' rows (nothing changes on the hypervisor); returns how many hosts went.

    Raises :class:`HostInUse` with numbers unless ``force``. A host that shares its endpoint can be removed alone only
    once the endpoint has ceased to report it: else :class:`HostSharesEndpoint`, unless ``whole_endpoint``.
    """
    with transaction.atomic():
        endpoint = Endpoint.objects.select_for_update().get(pk=host.endpoint_id)
        everything = list(Host.objects.filter(endpoint=endpoint))
        gone = [row for row in everything if row.pk == host.pk or whole_endpoint]
        alone = len(gone) == len(everything)
        if not alone and any(row.error_code != reconcile_hosts.NOT_REPORTED[0] for row in gone):
            raise HostSharesEndpoint(f"{endpoint.uri} reports {len(everything)} hosts.", hosts=len(everything))
        ids = [row.pk for row in gone]
        _demand_unused(ids, now=now, force=force)
        for _, answer in signals.host_removing.send(sender=None, host_ids=ids, now=now):
            del answer  # an exception of a receiver undoes the removal
        for row in gone:
            events.record("host.removed", by=by, now=now, subject=row, severity="notice", data={"uri": endpoint.uri})
        Host.objects.filter(pk__in=ids).delete()
        if alone:
            Tick.objects.filter(name=tick_name(endpoint)).delete()
            endpoint.delete()
            transaction.on_commit(partial(registry.forget, str(host.endpoint_id)), robust=True)
        live.publish("hosts", "vms", "consoles", *(f"host:{pk}" for pk in ids))
    return len(gone)


def _demand_unused(ids: Sequence[uuid.UUID], *, now: datetime, force: bool) -> None:
    use: Counter[str] = Counter()
    for answer in ask(signals.host_use, host_ids=list(ids), now=now):
        use.update(answer)
    if use.total() and not force:
        words = ", ".join(_counted(name, count) for name, count in sorted(use.items()) if count)
        numbers: dict[str, Any] = dict(+use)
        raise HostInUse(f"Still there: {words}.", **numbers)


def _counted(name: str, count: int) -> str:
    """ "1 maintenance job" of ``maintenance_jobs``."""
    return f"{count} {name.removesuffix('s') if count == 1 else name}".replace("_", " ")


def tick_name(endpoint: Endpoint) -> str:
    """Of the interval job that synchronises this endpoint."""
    return f"sync:{endpoint.pk}"


def cordon(host: Host, *, by: Actor, now: datetime, reason: str = "") -> None:
    """No new VMs are placed here; those that run stay. Doing it twice is harmless."""
    _set_schedulable(host, False, by=by, now=now, reason=reason)


def uncordon(host: Host, *, by: Actor, now: datetime) -> None:
    """VMs may be placed here again."""
    _set_schedulable(host, True, by=by, now=now, reason="")


def _set_schedulable(host: Host, schedulable: bool, *, by: Actor, now: datetime, reason: str) -> None:
    with transaction.atomic():
        if Host.objects.filter(pk=host.pk, schedulable=not schedulable).update(schedulable=schedulable):
            kind = "host.uncordoned" if schedulable else "host.cordoned"
            events.record(kind, by=by, now=now, subject=host, reason=reason, severity="notice")
            live.publish("hosts", f"host:{host.pk}")
            after_commit(signals.hosts_changed, host_ids=[host.pk], now=now)
    host.schedulable = schedulable


def set_tags(host: Host, names: Sequence[str], *, by: Actor, now: datetime) -> list[Tag]:
    """The operator's own tags are exactly these from now on; returns all the host has. Raises ``Invalid``."""
    with transaction.atomic():
        # The endpoint first, as synchronisation does: it may be giving the platform's tags at this moment.
        Endpoint.objects.select_for_update().filter(pk=host.endpoint_id).first()
        if changed := _set_tags(host, names):
            events.record("host.tagged", by=by, now=now, subject=host, data={"changed": changed})
            live.publish("hosts", f"host:{host.pk}")
            after_commit(signals.hosts_changed, host_ids=[host.pk], now=now)
        return list(host.tags.all())


def _set_tags(host: Host, names: Sequence[str]) -> dict[str, list[Any]]:
    """The operator's own tags; the platform's stay beside them."""
    wanted = {tag.pk: tag.name for tag in tag_rows.ensure(names)}
    lines = {line.tag_id: line for line in HostTag.objects.filter(host=host).select_related("tag")}
    before = sorted(line.tag.name for line in lines.values() if line.own)
    if before == sorted(wanted.values()):
        return {}
    HostTag.objects.filter(host=host, platform=False).exclude(tag__in=wanted).delete()
    HostTag.objects.filter(host=host, own=True).exclude(tag__in=wanted).update(own=False)
    HostTag.objects.filter(host=host, own=False, tag__in=wanted).update(own=True)
    HostTag.objects.bulk_create([HostTag(host=host, tag_id=pk) for pk in wanted if pk not in lines])
    return {"tags": [before, sorted(wanted.values())]}


def own_tags(host: Host) -> list[str]:
    """The names of the tags that the operator gave, in order."""
    return list(HostTag.objects.filter(host=host, own=True).values_list("tag__name", flat=True))


def platform_tags(host: Host) -> list[str]:
    """The names of the tags that the platform itself gave, in order."""
    return list(HostTag.objects.filter(host=host, platform=True).values_list("tag__name", flat=True))


def sync_soon(host: Host) -> bool:
    """Queues a synchronisation of the host's endpoint; False when the queue cannot be reached."""
    return enqueue(SYNC_TASK, str(host.endpoint_id))
