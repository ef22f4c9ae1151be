"""What script/demo fills: again and again it adds what is missing, and leaves what people changed."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import call_command

from cloudops.accounts.models import Project
from cloudops.inventory import offerings
from cloudops.inventory.models import Offering, Vm
from tests.inventory.fake import ADMIN, NOW, make_endpoint

pytestmark = pytest.mark.django_db


def seed(monkeypatch: pytest.MonkeyPatch, *guests: str) -> Any:
    people = {"tessa": {"password": "a password to look around", "role": "tenant"}}
    wanted = {"people": people, "hosts": [], "guests": list(guests), "wait_seconds": 0}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(wanted)))
    out = io.StringIO()
    call_command("demo_seed", stdout=out)
    return json.loads(out.getvalue().splitlines()[-1])


def test_the_offerings_are_those_to_grow_through(monkeypatch: pytest.MonkeyPatch) -> None:
    host = make_endpoint("qemu+tcp://kvm1/system").hosts.get()
    small = Vm.objects.create(ref="small", name="small", host=host, vcpus=1, memory_mib=256)
    odd = Vm.objects.create(ref="odd", name="odd", host=host, vcpus=4, memory_mib=192)
    assert seed(monkeypatch, "small", "odd")["changed_passwords"] == []
    names = ("elastic-500", "elastic-1000", "elastic-1500")
    steps = [Offering.objects.get(name=name) for name in names]
    assert [(step.cpu_mhz, *offerings.bounds(step)) for step in steps] == [
        (500, 1, 2, 256, 512),
        (1_000, 2, 3, 512, 1_024),
        (1_500, 1, 3, 1_025, 1_500),
    ]
    assert all(step.dynamic_scaling for step in steps)
    assert set(Offering.objects.values_list("kind", flat=True)) == {"fixed", "custom", "unconstrained"}
    project = Project.objects.get(name="apollo")
    assert project.quota_vcpus is not None
    for vm, offering in ((small, "elastic-500"), (odd, "free")):
        vm.refresh_from_db()
        assert vm.offering is not None
        assert (vm.project, vm.offering.name, vm.offering_version) == (project, offering, 1)

    offerings.change(steps[0], cpu_mhz=600, by=ADMIN, now=NOW)
    Vm.objects.filter(pk=odd.pk).update(offering=None, offering_version=None)
    Project.objects.update(quota_vcpus=None)
    seed(monkeypatch, "small", "odd")
    assert Offering.objects.count() == 5
    steps[0].refresh_from_db()
    odd.refresh_from_db()
    assert (steps[0].cpu_mhz, steps[0].version, odd.offering) == (600, 2, None)
    assert Project.objects.get().quota_vcpus is None
