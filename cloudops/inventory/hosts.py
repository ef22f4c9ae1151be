"""Hosts: add, change, remove, cordon, tag. A host lives behind a management endpoint, which may hold many."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from django.db import transaction

from cloudops.core import crypto, events, live
from cloudops.core.actors import Actor
from cloudops.core.errors import Conflict
from cloudops.core.models import Tick
from cloudops.core.queue import enqueue
from cloudops.core.validation import assign, demand_known, demand_valid
from cloudops.hypervisors import registry
from cloudops.hypervisors.port import HostFacts
from cloudops.inventory import probing, reconcile_hosts, signals, sync
from cloudops.inventory import tags as tag_rows
from cloudops.inventory.models import Cluster, Endpoint, Host, Tag
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
ENDPOINT_FIELDS = ("uri", "username", "certificate_sha256", "timeout_seconds")
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - the guests' VNC servers, not ours
SYNC_TASK = "cloudops.inventory.tasks.sync_endpoint"


class HostExists(Conflict):
    code = "host-exists"
    title = "This host is there already."
    remedy = "Change the host that is there instead."


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
    cluster: Cluster,
    username: str = "",
    secret: str = "",
    certificate_sha256: str = "",
    timeout_seconds: int = 10,
    management_address: str = "",
    vnc_listen_address: str = ANY_ADDRESS,
    migration_uri: str = "",
    console_limit_override: int | None = None,
    tags: Sequence[str] = (),
    force: bool = False,
    by: Actor,
    now: datetime,
) -> list[Host]:
    """Adds a management endpoint with every host that it reports and their VMs. Blocks for its timeout at most.

    Raises ``Invalid``, :class:`HostExists`, and :class:`HostUnreachable` unless ``force``; a host that is added unseen
    fills in when it first answers.
    """
    endpoint = probing.endpoint_of(
        kind=kind,
        uri=uri,
        username=username,
        secret_encrypted=crypto.encrypt(secret),
        certificate_sha256=certificate_sha256,
        timeout_seconds=timeout_seconds,
    )
    first = Host(
        endpoint=endpoint,
        cluster=cluster,
        ref=reconcile_hosts.NOT_SEEN_REF,
        name=reconcile_hosts.placeholder_name(endpoint),
        management_address=management_address.strip(),
        vnc_listen_address=vnc_listen_address.strip(),
        migration_uri=migration_uri.strip(),
        console_limit_override=console_limit_override,
    )
    demand_valid(first, exclude={"endpoint", "ref"})
    probing.demand_sound_migration_uri(endpoint.kind, first.migration_uri)
    _demand_new(endpoint, [])
    reading = _read_new(endpoint)
    if reading.error is not None and not force:
        detail = reading.error.detail or reading.error.title
        raise HostUnreachable(detail, remedy=reading.error.remedy, reason=reading.error.code)
    _demand_new(endpoint, reading.hosts)
    with transaction.atomic():
        endpoint.save(force_insert=True)
        first.save(force_insert=True)
        rows = _fill(endpoint, first, reading, tags, now=now)
        for row in rows:
            events.record("host.added", by=by, now=now, subject=row, data={"kind": kind, "uri": endpoint.uri})
        live.publish("hosts", "vms")
    return rows


def _read_new(endpoint: Endpoint) -> sync.Reading:
    try:
        return sync.read(endpoint)
    finally:
        registry.forget(str(endpoint.pk))


def _demand_new(endpoint: Endpoint, facts: Sequence[HostFacts]) -> None:
    """The same daemon under two URIs would make every VM jump to and fro."""
    if known := Host.objects.filter(endpoint__uri=endpoint.uri).exclude(endpoint__pk=endpoint.pk).first():
        raise HostExists(f"{endpoint.uri} is {known.name}'s URI.", host=str(known.pk))
    unique = [fact.ref for fact in facts if _is_uuid(fact.ref)]
    twin = Host.objects.filter(ref__in=unique, endpoint__kind=endpoint.kind).select_related("endpoint").first()
    if twin is not None:
        raise HostExists(f"This is {twin.name}, which is there as {twin.endpoint.uri}.", host=str(twin.pk))


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _fill(
    endpoint: Endpoint, first: Host, reading: sync.Reading, tag_names: Sequence[str], *, now: datetime
) -> list[Host]:
    """What the first reading found, or why there is none; what the operator said holds for every host found."""
    sync.apply(endpoint, reading, now=now)
    rows = list(Host.objects.filter(endpoint=endpoint).select_related("endpoint", "cluster"))
    Host.objects.filter(endpoint=endpoint).update(console_limit_override=first.console_limit_override)
    wanted = tag_rows.ensure(tag_names)
    Host.tags.through.objects.bulk_create(
        [Host.tags.through(host_id=row.pk, tag_id=tag.pk) for row in rows for tag in wanted]
    )
    after_commit(signals.hosts_changed, host_ids=[row.pk for row in rows], now=now)
    return rows


def change_host(host: Host, *, by: Actor, now: datetime, **changes: Any) -> Host:
    """Sets some of :data:`HOST_FIELDS`, :data:`ENDPOINT_FIELDS`, ``tags`` (names) and ``secret`` (None keeps it).

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
        if changed:
            demand_valid(row)
            probing.demand_sound_migration_uri(row.endpoint.kind, row.migration_uri)
            row.save(update_fields=list(changed))
        about_endpoint = _change_endpoint(
            row.endpoint, {name: value for name, value in changes.items() if name in ENDPOINT_FIELDS}, secret
        )
        if wanted_tags is not None:
            changed |= _set_tags(row, wanted_tags)
        if changed or about_endpoint:
            events.record("host.changed", by=by, now=now, subject=row, data={"changed": changed | about_endpoint})
            live.publish("hosts", f"host:{row.pk}")
            after_commit(signals.hosts_changed, host_ids=[row.pk], now=now)
        if about_endpoint:
            transaction.on_commit(partial(enqueue, SYNC_TASK, str(row.endpoint_id)), robust=True)
    return row


def _change_endpoint(endpoint: Endpoint, changes: dict[str, Any], secret: str | None) -> dict[str, list[Any]]:
    changed = assign(endpoint, changes)
    if changed:
        probing.demand_sound_uri(endpoint.kind, endpoint.uri)
        _demand_new(endpoint, [])
        demand_valid(endpoint)
    if secret is None and "uri" in changed and endpoint.secret_encrypted:
        secret = ""  # a stored credential is never sent to an address that it was not entered for
    if secret is not None:
        endpoint.secret_encrypted = crypto.encrypt(secret)
    if changed or secret is not None:
        endpoint.save(update_fields=[*changed, "secret_encrypted"])
    return changed if secret is None else changed | {"credential": ["(hidden)", "(hidden)"]}


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
    """The host has exactly these tags from now on. Raises ``Invalid``."""
    with transaction.atomic():
        if changed := _set_tags(host, names):
            events.record("host.tagged", by=by, now=now, subject=host, data={"changed": changed})
            live.publish("hosts", f"host:{host.pk}")
            after_commit(signals.hosts_changed, host_ids=[host.pk], now=now)
        return list(host.tags.all())


def _set_tags(host: Host, names: Sequence[str]) -> dict[str, list[Any]]:
    before = sorted(host.tags.values_list("name", flat=True))
    host.tags.set(tag_rows.ensure(names))
    after = sorted(host.tags.values_list("name", flat=True))
    return {"tags": [before, after]} if before != after else {}


def sync_soon(host: Host) -> bool:
    """Queues a synchronisation of the host's endpoint; False when the queue cannot be reached."""
    return enqueue(SYNC_TASK, str(host.endpoint_id))
