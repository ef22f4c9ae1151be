"""The vCenter of script/demo: seeded once, found again, and the same certificate at every start."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from cloudops.accounts.models import Project
from cloudops.core.models import Event
from cloudops.hypervisors import registry
from cloudops.inventory.models import Endpoint, Host, Vm
from tests.vsphere import demo
from tests.vsphere.fake import FakeVcenter
from tests.vsphere.fake.certificates import Certificate
from tests.vsphere.fake.faults import VCENTER


@pytest.fixture
def vcenter() -> Iterator[FakeVcenter]:
    with FakeVcenter(demo.HOSTS, demo.world("")) as running:
        yield running
        registry.close_all()


def seed(monkeypatch: pytest.MonkeyPatch, vcenter: FakeVcenter) -> Any:
    wanted = {"people": {}, "hosts": [], "guests": [], "wait_seconds": 0, "vsphere": demo.told(vcenter)}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(wanted)))
    out = io.StringIO()
    call_command("demo_seed", stdout=out)
    return json.loads(out.getvalue().splitlines()[-1])


@pytest.mark.django_db
def test_it_is_added_once_and_follows_its_certificate(monkeypatch: pytest.MonkeyPatch, vcenter: FakeVcenter) -> None:
    assert seed(monkeypatch, vcenter)["vms"] == len(demo.VMS)
    rows = Host.objects.order_by("name").values_list("name", "cluster__name", "simulator", "tags__name")
    assert list(rows) == [("esxi-01", "esxi", True, "vmware"), ("esxi-02", "esxi", True, "vmware")]
    project = Project.objects.get(name="apollo")
    assert {vm.name: vm.project for vm in Vm.objects.all()} == dict.fromkeys(demo.VMS, project)
    assert {vm.offering.name for vm in Vm.objects.all() if vm.offering} == {"elastic-500"}

    events = Event.objects.count()
    seed(monkeypatch, vcenter)
    assert Event.objects.count() == events
    before = Endpoint.objects.get().certificate_sha256
    vcenter.faults.swap_certificate(VCENTER)
    seed(monkeypatch, vcenter)
    endpoint = Endpoint.objects.get()
    assert endpoint.certificate_sha256 != before
    assert endpoint.certificate_sha256.replace(":", "").lower() == vcenter.fingerprint_sha256


def test_the_certificate_stays_while_it_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = [Certificate(tmp_path, f"served-{number}", "127.0.0.1") for number in range(3)]
    kept = tmp_path / "kept"
    kept.mkdir()
    for one in served[:2]:
        demo.keep(one, kept, "127.0.0.1", now=datetime.now(UTC))
    assert served[0].sha256 == served[1].sha256
    demo.keep(served[2], kept, "127.0.0.1", now=datetime.now(UTC) + timedelta(days=29))
    assert served[2].sha256 != served[1].sha256
