"""``manage.py demo_seed``: what script/demo shows. Reads a JSON object, writes progress lines and a JSON object.

May be run again at any time: it adds what is missing and changes nothing that people have changed since.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from cloudops.accounts import people
from cloudops.accounts.models import Membership, Project, Role, User
from cloudops.core.actors import Actor, system
from cloudops.core.errors import Refusal
from cloudops.hypervisors.port import Kind
from cloudops.inventory import certificates, clusters, hosts, offerings, vms
from cloudops.inventory.models import Cluster, Endpoint, Host, Offering, Vm

SEED: Actor = system("demo")
PROJECT = "apollo"
CITIES = ("amsterdam", "berlin", "lisbon", "warsaw")
OFFERINGS: dict[str, dict[str, Any]] = {
    "elastic-500": {"kind": "custom", "vcpus": 1, "max_vcpus": 2, "memory_mib": 256, "max_memory_mib": 512,
                    "cpu_mhz": 500, "description": "Where a small service begins."},
    "elastic-1000": {"kind": "custom", "vcpus": 2, "max_vcpus": 3, "memory_mib": 512, "max_memory_mib": 1024,
                     "cpu_mhz": 1000, "description": "The next step, taken while it runs."},
    "elastic-1500": {"kind": "custom", "vcpus": 1, "max_vcpus": 3, "memory_mib": 1025, "max_memory_mib": 1500,
                     "cpu_mhz": 1500, "description": "The step after that: more than 1 GiB, to the MiB."},
    "standard": {"vcpus": 2, "memory_mib": 1024, "description": "One size for all."},
    "free": {"kind": "unconstrained", "vcpus": 1, "memory_mib": 256, "description": "Any size that the host has."},
}  # fmt: skip
QUOTAS = {"quota_vcpus": 16, "quota_memory_mib": 8_192}
POLL_SECONDS = 0.3


class Command(BaseCommand):
    help = "Fills the demo (script/demo calls it): people, a project, hosts, offerings."

    def handle(self, *args: Any, **options: Any) -> None:
        wanted: dict[str, Any] = json.load(sys.stdin)
        now = timezone.now()
        try:
            changed = self.people(wanted["people"], now)
            self.offerings(now)
            for host in wanted["hosts"]:
                self.real_host(host, now)
            if wanted.get("fleet"):
                self.fleet(wanted["fleet"], wanted["vms_per_host"], wanted["simulated_state"], now)
            guests = list(wanted["guests"])
            if vcenter := wanted.get("vsphere"):
                self.vcenter(vcenter, now)
                guests += vcenter["vms"].values()
            if guests:
                self.hand_over(guests, wanted["wait_seconds"])
        except Refusal as refusal:
            raise CommandError(f"{refusal.detail} {refusal.numbers}") from refusal
        self.stdout.write(json.dumps({"changed_passwords": changed, "vms": Vm.objects.count()}))

    def people(self, wanted: dict[str, dict[str, str]], now: datetime) -> list[str]:
        """Makes the people and the project; returns the names of those whose password is not the demo's any more."""
        project = Project.objects.filter(name=PROJECT).first()
        if project is None:
            project = people.create_project(name=PROJECT, description="The demo's tenant.", **QUOTAS, by=SEED, now=now)
        changed = []
        for username, person in wanted.items():
            user = User.objects.filter(username=username).first()
            if user is None:
                user = people.create_user(
                    username=username, password=person["password"], role=Role(person["role"]), by=SEED, now=now
                )
                if user.role == Role.TENANT and not Membership.objects.filter(project=project, user=user).exists():
                    people.add_member(project, user=user, by=SEED, now=now)
            elif not user.check_password(person["password"]):
                changed.append(username)
        return changed

    def offerings(self, now: datetime) -> None:
        known = set(Offering.objects.filter(name__in=OFFERINGS).values_list("name", flat=True))
        for name, values in OFFERINGS.items():
            if name not in known:
                offerings.create(name=name, dynamic_scaling=True, **values, by=SEED, now=now)

    def cluster(self, name: str, now: datetime) -> Cluster:
        return Cluster.objects.filter(name=name).first() or clusters.create(name=name, by=SEED, now=now)

    def host(self, kind: Kind, uri: str, cluster: str, now: datetime) -> None:
        if not Endpoint.objects.filter(uri=uri).exists():
            hosts.add_host(kind=kind, uri=uri, cluster=self.cluster(cluster, now), by=SEED, now=now)

    def real_host(self, wanted: dict[str, Any], now: datetime) -> None:
        """A libvirt host, known by its name: its address may be another one than last time."""
        known = Host.objects.filter(name=wanted["name"], endpoint__kind=Kind.LIBVIRT).select_related("endpoint").first()
        if known is None:
            cluster = self.cluster(wanted["cluster"], now)
            (known,) = hosts.add_host(kind=Kind.LIBVIRT, uri=wanted["uri"], cluster=cluster, by=SEED, now=now)
            sizes = {"cpu_threads_override": wanted.get("cpu_threads"), "memory_mib_override": wanted.get("memory_mib")}
            hosts.change_host(known, **sizes, by=SEED, now=now)
        elif known.endpoint.uri != wanted["uri"]:
            hosts.change_host(known, uri=wanted["uri"], by=SEED, now=now)

    def vcenter(self, wanted: dict[str, Any], now: datetime) -> None:
        """The simulated vCenter, known by its user: its port or certificate may be another one than last time."""
        access = {name: wanted[name] for name in ("uri", "secret", "certificate_sha256")}
        known = Endpoint.objects.filter(kind=Kind.VSPHERE, username=wanted["username"]).first()
        if known is None:
            hosts.add_host(kind=Kind.VSPHERE, username=wanted["username"], **access, by=SEED, now=now)
        elif known.uri != wanted["uri"] or not certificates.same(
            known.certificate_sha256, wanted["certificate_sha256"]
        ):
            hosts.change_host(known.hosts.all()[0], **access, by=SEED, now=now)

    def fleet(self, count: int, vms_per_host: int, state: str, now: datetime) -> None:
        """``count`` simulated hosts over the cities' clusters; another count than last time replaces their URIs."""
        for index, (city, share) in enumerate(zip(CITIES, _shares(count, len(CITIES)), strict=True)):
            if not share:
                continue
            uri = f"simulated://{city}?hosts={share}&vms={vms_per_host}&seed={index + 1}&state={state}"
            earlier = Endpoint.objects.filter(kind=Kind.SIMULATED, uri__startswith=f"simulated://{city}?").first()
            if earlier is None:
                self.stdout.write(f"Adding {share} simulated hosts in {city}")
                self.stdout.flush()
                self.host(Kind.SIMULATED, uri, city, now)
            elif earlier.uri != uri:
                Endpoint.objects.filter(pk=earlier.pk).update(uri=uri, synced_at=None)

    def hand_over(self, guests: Sequence[str], wait_seconds: float) -> None:
        """Waits until the guests are discovered, then gives those that belong to nobody to the project, and an
        offering that their size fits."""
        deadline = time.monotonic() + wait_seconds
        kinds = (Kind.LIBVIRT, Kind.VSPHERE)
        found = Vm.objects.filter(host__endpoint__kind__in=kinds, ref__in=guests, missing_since=None)
        while found.count() < len(guests):
            if time.monotonic() > deadline:
                raise CommandError(f"only {found.count()} of {len(guests)} guests were discovered in {wait_seconds} s")
            time.sleep(POLL_SECONDS)
        if ownerless := list(found.filter(project=None)):
            vms.assign(ownerless, project=Project.objects.get(name=PROJECT), by=SEED, now=timezone.now())
            for vm in ownerless:
                self.label(vm, timezone.now())

    def label(self, vm: Vm, now: datetime) -> None:
        """The first of the demo's offerings that gives the size it has."""
        known = {offering.name: offering for offering in Offering.objects.filter(name__in=OFFERINGS, enabled=True)}
        for name in OFFERINGS:
            if name in known and offerings.bounds(known[name]).hold(vm.vcpus, vm.memory_mib):
                if vm.offering is None:
                    vms.set_offering(vm, offering=known[name], by=SEED, now=now)
                return


def _shares(count: int, parts: int) -> list[int]:
    return [count // parts + (index < count % parts) for index in range(parts)]
