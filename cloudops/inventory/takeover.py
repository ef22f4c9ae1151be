"""What a platform says of its hosts beside their facts, taken over: the clusters that they are in, and their tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from django.core.exceptions import ValidationError

from cloudops.hypervisors.port import HostFacts
from cloudops.inventory import clusters
from cloudops.inventory import tags as tag_rows
from cloudops.inventory.models import Cluster, Endpoint, Host, HostTag, validate_tag
from cloudops.inventory.notices import Notices

LONGEST_NAME = 100


class Places:
    """In which cluster each reported host of ``endpoint`` belongs. Made within the transaction that writes the hosts;
    makes the clusters that are missing. Constantly many queries while nothing is new."""

    def __init__(self, endpoint: Endpoint, rows: Sequence[Host], facts: Sequence[HostFacts], notices: Notices) -> None:
        self._endpoint = endpoint
        self._rows = rows
        self._notices = notices
        self._taken = self._take_over(facts) if endpoint.takes_clusters_over else {}

    def of_new(self, fact: HostFacts) -> UUID:
        """Of a host that has just joined: what the platform says, else what the operator chose, else where the others
        of its endpoint are."""
        if fact.cluster in self._taken:
            return self._taken[fact.cluster]
        return self._fallback()

    def of_known(self, row: Host, fact: HostFacts) -> UUID:
        """Of a host that is there. Where clusters are taken over it follows the platform; else it stays."""
        if not self._endpoint.takes_clusters_over:
            return row.cluster_id
        if fact.cluster:
            return self._taken[fact.cluster]
        return self._fallback() if row.platform_cluster else row.cluster_id

    def _fallback(self) -> UUID:
        if self._endpoint.cluster_id is not None:
            return self._endpoint.cluster_id
        standing = next((row for row in self._rows if not row.platform_cluster), None)
        if not self._endpoint.takes_clusters_over or standing is not None:
            return (standing or self._rows[0]).cluster_id
        made = self._cluster(address_of(self._endpoint))
        self._endpoint.cluster = made
        self._endpoint.save(update_fields=["cluster"])
        return made.pk

    def _take_over(self, facts: Sequence[HostFacts]) -> dict[str, UUID]:
        names = {fact.cluster for fact in facts if fact.cluster}
        if not names:
            return {}
        known = {row.platform_name: row for row in Cluster.objects.filter(taken_from=self._endpoint)}
        for name in sorted(names - set(known)):
            known[name] = self._renamed(name, known, facts) or self._adopt(name)
        return {name: known[name].pk for name in names}

    def _renamed(self, name: str, known: Mapping[str, Cluster], facts: Sequence[HostFacts]) -> Cluster | None:
        """The cluster whose hosts, and no others, are all reported under ``name`` now."""
        reported = {fact.cluster for fact in facts}
        refs = {fact.ref for fact in facts if fact.cluster == name}
        for row in known.values():
            members = {host.ref for host in self._rows if host.platform_cluster == row.platform_name}
            if row.platform_name not in reported and members and members == refs:
                if row.name == row.platform_name[:LONGEST_NAME]:
                    clusters.change(row, name=self._free_name(name), by=self._notices.by, now=self._notices.now)
                Cluster.objects.filter(pk=row.pk).update(platform_name=name)
                return row
        return None

    def _adopt(self, name: str) -> Cluster:
        """The cluster of this name, unless hosts of other endpoints are in it: VMs do not move freely to those."""
        row = Cluster.objects.filter(name=name[:LONGEST_NAME], taken_from=None).first()
        if row is None or row.hosts.exclude(endpoint=self._endpoint).exists():
            row = self._cluster(name)
        Cluster.objects.filter(pk=row.pk).update(taken_from=self._endpoint, platform_name=name)
        return row

    def _cluster(self, name: str) -> Cluster:
        return clusters.create(name=self._free_name(name), by=self._notices.by, now=self._notices.now)

    def _free_name(self, name: str) -> str:
        """``name``, with the endpoint's address and at last a number where another cluster is called so."""
        wanted = name.strip() or address_of(self._endpoint)
        tries = [wanted[:LONGEST_NAME]]
        tail = f" ({address_of(self._endpoint)})"[:60]
        tries.append(wanted[: LONGEST_NAME - len(tail)] + tail)
        used = set(Cluster.objects.filter(name__startswith=wanted[:40]).values_list("name", flat=True))
        number = 2
        while tries[0] in used:
            tries.pop(0)
            tries.append(f"{wanted[:90]} {number}")
            number += 1
        return tries[0]


def address_of(endpoint: Endpoint) -> str:
    """The endpoint without its scheme, for people."""
    return endpoint.uri.partition("://")[2].partition("?")[0].strip("/")[:200] or endpoint.uri[:200]


def let_go(endpoint: Endpoint) -> None:
    """The endpoint's clusters are the operator's own from now on."""
    Cluster.objects.filter(taken_from=endpoint).update(taken_from=None, platform_name="")


def put_tags(rows: Mapping[str, Host], facts: Sequence[HostFacts], notices: Notices) -> None:
    """Gives saved hosts (by ref) the platform's tags, beside the operator's own, which stay. A host of whose tags
    nothing was told keeps them; words that cannot be a tag are left out."""
    told = {fact.ref: _sound(fact.tags) for fact in facts if fact.tags is not None and fact.ref in rows}
    if not told:
        return
    hosts = {rows[ref].pk: rows[ref] for ref in told}
    carried: dict[UUID, dict[str, HostTag]] = {pk: {} for pk in hosts}
    for line in HostTag.objects.filter(host__in=hosts).select_related("tag"):
        carried[line.host_id][line.tag.name] = line
    changes = _TagChanges()
    for ref, wanted in told.items():
        host = rows[ref]
        before = sorted(name for name, line in carried[host.pk].items() if line.platform)
        if before != sorted(wanted):
            changes.of(host, carried[host.pk], wanted)
            data = {"changed": {"platform_tags": [before, sorted(wanted)]}}
            notices.event("host.tagged", subject=host, data=data)
            notices.touch_host(host)
            notices.hosts[host.pk] = None
    changes.write()


class _TagChanges:
    """Collects what is to become of the lines, for a few statements in the end."""

    def __init__(self) -> None:
        self.missing: list[tuple[Host, str]] = []
        self.given: list[int] = []
        self.taken: list[int] = []
        self.gone: list[int] = []

    def of(self, host: Host, carried: Mapping[str, HostTag], wanted: set[str]) -> None:
        self.missing += [(host, name) for name in sorted(wanted) if name not in carried]
        for name, line in carried.items():
            if name in wanted and not line.platform:
                self.given.append(line.pk)
            elif name not in wanted and line.platform:
                (self.taken if line.own else self.gone).append(line.pk)

    def write(self) -> None:
        if self.missing:
            tags = {tag.name: tag.pk for tag in tag_rows.ensure({name for _, name in self.missing})}
            HostTag.objects.bulk_create(
                [HostTag(host=host, tag_id=tags[name], own=False, platform=True) for host, name in self.missing]
            )
        HostTag.objects.filter(pk__in=self.given).update(platform=True)
        HostTag.objects.filter(pk__in=self.taken).update(platform=False)
        HostTag.objects.filter(pk__in=self.gone).delete()


def _sound(names: Sequence[str]) -> set[str]:
    return {name for name in names if _is_tag(name)}


def _is_tag(name: str) -> bool:
    try:
        validate_tag(name)
    except ValidationError:
        return False
    return True
