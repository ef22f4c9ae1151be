"""Brings host rows in step with what their hypervisor reports. Writes differences only, in constantly many queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cloudops.core.bulk import overwrite
from cloudops.hypervisors.port import CertificateMismatch, HostFacts, HostNotConnected, HypervisorError, PowerState
from cloudops.inventory import certificates, takeover
from cloudops.inventory.models import Connection, Endpoint, Host, Vm
from cloudops.inventory.notices import Notices

NOT_SEEN_REF = ""
"""``ref`` of a host that was added while unreachable: the first host that its endpoint reports takes its place."""

NOT_REPORTED: Final = (
    "host-not-reported",
    "Its management service no longer lists this host.",
    "If the host was taken away for good, remove it here; else look at the management service.",
)
_OBSERVED = ("connection", "connection_changed_at", "error_code", "error_detail", "error_remedy")
_FACTS = ("cpu_threads", "cpu_mhz", "cpu_model", "memory_mib", "hypervisor_version", "networks", "datastores")
_GAUGES = ("cpu_percent", "memory_free_mib")
_PLATFORM = ("cluster", "platform_cluster", "platform_name", "platform_maintenance", "simulator")


def reconcile(endpoint: Endpoint, facts: Sequence[HostFacts], notices: Notices) -> dict[str, Host]:
    """The endpoint's hosts by ref, after writing what ``facts`` tell. The caller holds the endpoint's row lock."""
    rows = list(Host.objects.filter(endpoint=endpoint).order_by("created_at", "pk"))
    if not rows:  # the last one was removed a moment ago
        return {}
    by_ref = {row.ref: row for row in rows}
    places = takeover.Places(endpoint, rows, facts, notices)
    _adopt(endpoint, by_ref, facts)
    fresh = [_new(endpoint, rows, places, fact) for fact in facts if fact.ref not in by_ref]
    reported = {fact.ref: fact for fact in facts}
    for row in rows:
        fact = reported.get(row.ref)
        if fact is None:
            _set_unreachable(row, NOT_REPORTED, notices)
        else:
            _follow(row, places, fact, notices)
            _rename(row, fact, notices)
            _apply(row, fact, notices)
    for row in fresh:
        _apply(row, reported[row.ref], notices)
        notices.hosts[row.pk] = None
    Host.objects.bulk_create(fresh)
    overwrite(rows, ["ref", "name", "synced_at", *_OBSERVED, *_FACTS, *_GAUGES, *_PLATFORM])
    everyone = {row.ref: row for row in [*rows, *fresh]}
    takeover.put_tags(everyone, facts, notices)
    return everyone


def mark_unreachable(endpoint: Endpoint, error: HypervisorError, notices: Notices) -> None:
    """The endpoint failed: its hosts are unreachable, and nothing is known of their VMs' power any more."""
    if isinstance(error, CertificateMismatch):
        certificates.note_offered(endpoint, error, now=notices.now)
    rows = list(Host.objects.filter(endpoint=endpoint))
    reason = (error.code[:64], _lasting(error), error.remedy)
    changed = [row for row in rows if _set_unreachable(row, reason, notices)]
    overwrite(changed, _OBSERVED)
    _forget_power([row for row in rows if row.connection == Connection.UNREACHABLE], notices)


def _lasting(error: HypervisorError) -> str:
    """Its words without when the next attempt is (``backoff``), which is over before anybody reads it."""
    words = error.detail or error.title
    return words.rpartition(" Next attempt in ")[0] or words if "retry_seconds" in error.numbers else words


def _adopt(endpoint: Endpoint, by_ref: dict[str, Host], facts: Sequence[HostFacts]) -> None:
    """A host that was added unseen becomes the first reported host that nobody else is."""
    placeholder = by_ref.get(NOT_SEEN_REF)
    found = next((fact for fact in facts if fact.ref not in by_ref), None)
    if placeholder is None or found is None:
        return
    del by_ref[NOT_SEEN_REF]
    placeholder.ref = found.ref
    if placeholder.name == takeover.address_of(endpoint):
        placeholder.name = found.name[:200]
    by_ref[found.ref] = placeholder


def _new(endpoint: Endpoint, rows: Sequence[Host], places: takeover.Places, fact: HostFacts) -> Host:
    """A host that joined an endpoint; it is cordoned if those that were there all are."""
    return Host(
        endpoint=endpoint,
        cluster_id=places.of_new(fact),
        ref=fact.ref,
        name=fact.name[:200],
        vnc_listen_address=rows[0].vnc_listen_address,
        schedulable=any(row.schedulable for row in rows),
        platform_cluster=fact.cluster[:200],
        platform_name=fact.name[:200],
    )


def _follow(row: Host, places: takeover.Places, fact: HostFacts, notices: Notices) -> None:
    """To another cluster, where those are taken over and it went there."""
    place, was = places.of_known(row, fact), row.platform_cluster
    row.platform_cluster = fact.cluster[:200]
    if place != row.cluster_id:
        row.cluster_id = place
        notices.event("host.changed", subject=row, data={"changed": {"platform_cluster": [was, row.platform_cluster]}})
        notices.touch_host(row)
        notices.hosts[row.pk] = None


def _rename(row: Host, fact: HostFacts, notices: Notices) -> None:
    """As it is called there now, unless people gave it a name of its own here."""
    name, was = fact.name[:200], row.platform_name
    row.platform_name = name
    if was in ("", name) or row.name != was:
        return
    row.name = name
    notices.event("host.changed", subject=row, data={"changed": {"name": [was, name]}})
    notices.touch_host(row)
    notices.hosts[row.pk] = None


def _apply(row: Host, fact: HostFacts, notices: Notices) -> None:
    news = _news(row, fact)
    if any(getattr(row, name) != news[name] for name in news if name not in _GAUGES):
        notices.touch_host(row)
        notices.hosts[row.pk] = None
    elif any(getattr(row, name) != news[name] for name in news):
        notices.touch(f"host:{row.pk}")  # load moves all the time; lists of hosts need not follow every per cent
    if row.platform_maintenance != fact.in_maintenance:
        kind = "host.platform_maintenance_entered" if fact.in_maintenance else "host.platform_maintenance_left"
        notices.event(kind, subject=row, severity="notice")
    for name, value in news.items():
        setattr(row, name, value)
    row.synced_at = notices.now
    if fact.problem:
        _set_unreachable(row, (HostNotConnected.code, _sentence(fact.problem), HostNotConnected.remedy), notices)
    elif row.connection != Connection.UP:
        _set_up(row, notices)


def _news(row: Host, fact: HostFacts) -> dict[str, Any]:
    """What is to be written. Of a host that the management service does not reach it knows little any more: what was
    read before stays."""
    news: dict[str, Any] = {"platform_maintenance": fact.in_maintenance, "simulator": fact.simulator}
    if fact.problem and row.cpu_threads:
        return news
    news |= {name: getattr(fact, name) for name in (*_FACTS, *_GAUGES)}
    news["cpu_model"] = fact.cpu_model[:200]
    news["hypervisor_version"] = fact.hypervisor_version[:100]
    news["networks"], news["datastores"] = list(fact.networks), list(fact.datastores)
    return news


def _sentence(words: str) -> str:
    """``words`` with a capital at the beginning and a full stop."""
    return f"{words[0].upper()}{words[1:].rstrip('.')}."


def _set_up(row: Host, notices: Notices) -> None:
    notices.event("host.up", subject=row, from_state=row.connection, to_state=Connection.UP, severity="notice")
    if row.connection == Connection.UNREACHABLE:
        notices.back.append(row.pk)
    row.connection, row.connection_changed_at = Connection.UP, notices.now
    row.error_code = row.error_detail = row.error_remedy = ""
    notices.hosts[row.pk] = None
    notices.touch_host(row)


def _set_unreachable(row: Host, reason: tuple[str, str, str], notices: Notices) -> bool:
    """Whether anything changed. A new reason is kept without telling that the host was lost once more."""
    if row.connection == Connection.UNREACHABLE and (row.error_code, row.error_detail, row.error_remedy) == reason:
        return False
    if row.connection != Connection.UNREACHABLE:
        was, row.connection = row.connection, Connection.UNREACHABLE
        row.connection_changed_at = notices.now
        notices.lost.append(row.pk)
        notices.hosts[row.pk] = None
        notices.event(
            "host.unreachable",
            subject=row,
            from_state=was,
            to_state=Connection.UNREACHABLE,
            reason=reason[1],
            severity="warning",
            data={"code": reason[0], "remedy": reason[2]},
        )
    row.error_code, row.error_detail, row.error_remedy = reason
    notices.touch_host(row)
    return True


def _forget_power(hosts: Sequence[Host], notices: Notices) -> None:
    rows = Vm.objects.filter(host__in=hosts).exclude(power_state=PowerState.UNKNOWN)
    projects = set(rows.order_by().values_list("project_id", flat=True).distinct())
    if rows.update(power_state=PowerState.UNKNOWN):
        notices.touch("vms", *(f"project:{pk}" for pk in projects if pk is not None))
