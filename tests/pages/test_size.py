"""The number of queries does not grow with the installation."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.pages.conftest import As
from tests.pages.installation import Installation, build

MOST_QUERIES = 45
"""Where VMs could grow to, while the scheduler reads the whole fleet anew; no other page but a dry run comes near."""


def _addresses(of: Installation) -> dict[str, str]:
    vm = next(vm for vm in of.vms if vm.project_id and vm.is_running)
    return {
        "fleet": "/fleet/",
        "fleet, filtered": "/fleet/?tag=ssd&near=1",
        "fleet csv": "/fleet/?format=csv",
        "host": f"/hosts/{of.hosts[0].pk}/",
        "host chart": f"/hosts/{of.hosts[0].pk}/chart.json",
        "vms": "/vms/",
        "vms csv": "/vms/?format=csv",
        "vm": f"/vms/{vm.pk}/",
        "consoles": "/consoles/",
        "consoles by idle": "/consoles/?sort=idle",
        "history": "/consoles/history/",
        "chart": "/consoles/chart.json",
        "my vms": "/my/vms/",
        "my consoles": "/my/consoles/",
        "clusters": "/clusters/",
        "offerings": "/offerings/",
        "offering": f"/offerings/{of.offering.pk}/",
        "templates": "/templates/",
        "placement": "/placement/",
        "decisions": "/placement/decisions/",
        "decision": f"/placement/decisions/{of.decision.pk}/",
        "dry run": f"/placement/try/?vm={of.vms[0].pk}",
        "groups": "/placement/groups/",
        "drift": "/placement/drift/",
        "migrations": "/migrations/",
        "placement of a VM": f"/vms/{vm.pk}/placement/",
        "placement of a moving VM": f"/vms/{of.vms[1].pk}/placement/",
        "migrate": f"/vms/{vm.pk}/migrate/",
        "placement on a host": f"/hosts/{of.hosts[0].pk}/placement/",
        "fence": f"/hosts/{of.hosts[2].pk}/fence/",
        "maintenances": "/maintenance/",
        "maintenance": f"/maintenance/{of.job.pk}/",
        "maintenance, hosts": "/maintenance/new/",
        "servers": "/servers/",
        "settings": "/settings/",
        "audit": "/audit/",
        "operations": "/operations/",
        "tray": "/operations/tray/",
        "users": "/users/",
        "projects": "/projects/",
        "project": f"/projects/{of.project.pk}/",
        "account": "/account/",
        "search": "/search/?q=we",
        "size": f"/vms/{vm.pk}/size/",
        "resize": f"/vms/{vm.pk}/scale/",
        "scaling": f"/scaling/?offering={of.offering.pk}",
    }


def _counts(of: Installation, client: Any) -> dict[str, int]:
    counts = {}
    for name, address in _addresses(of).items():
        client.get(address)  # what is read once per process is not counted
        with CaptureQueriesContext(connection) as queries:
            assert client.get(address).status_code == 200, name
        counts[name] = len(queries)
    return counts


@pytest.mark.django_db
@pytest.mark.usefixtures("steady_mirror")
def test_queries_do_not_grow(as_user: As) -> None:
    now = timezone.now()
    few = build(now, hosts=5, vms_per_host=2, sessions=5, people=5, password="")
    small = {user.username: _counts(few, as_user(user)) for user in (few.admin,)}
    _forget()
    many = build(now, hosts=50, vms_per_host=4, sessions=50, people=50, password="")
    large = {user.username: _counts(many, as_user(user)) for user in (many.admin,)}
    grown = {
        (who, page): (small[who][page], count)
        for who, counts in large.items()
        for page, count in counts.items()
        if count > small[who][page]
    }
    assert not grown
    assert max(large["anna"].values()) <= MOST_QUERIES, large


def _forget() -> None:
    """Everything but the schema goes, so that the second installation is built from nothing."""
    from cloudops.accounts.models import Project, User
    from cloudops.core.models import Event, Operation
    from cloudops.inventory.models import Cluster, Endpoint, Offering, Tag, Template
    from cloudops.managers.models import ServerProcess
    from placement.models import AffinityGroup, Maintenance

    for model in (
        Endpoint,
        Cluster,
        Offering,
        Template,
        Tag,
        AffinityGroup,
        Maintenance,
        ServerProcess,
        Event,
        Operation,
        Project,
    ):
        model._default_manager.all().delete()
    User.objects.all().delete()


@pytest.mark.django_db
@pytest.mark.usefixtures("steady_mirror")
def test_a_tenants_pages_do_not_grow_either(as_user: As) -> None:
    now = timezone.now()
    sizes: dict[str, list[int]] = {}
    for vms in (2, 20):
        made = build(now, hosts=2, vms_per_host=vms, sessions=vms, people=0, password="")
        client = as_user(made.tenant)
        for address in ("/my/vms/", "/my/consoles/", "/my/activity/", "/operations/"):
            client.get(address)
            with CaptureQueriesContext(connection) as queries:
                assert client.get(address).status_code == 200
            sizes.setdefault(address, []).append(len(queries))
        _forget()
    assert all(small >= large for small, large in sizes.values()), sizes
