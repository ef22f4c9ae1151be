"""Run inside an installation: makes the cast of users and registers a hypervisor. Prints one line of JSON.

The cast: ada (administrator), oskar (operator), alice and bob (tenants of project apollo), mallory (tenant of zephyr).
"""

from __future__ import annotations

import json
import sys
from typing import Any

import django

from tests.e2e.product import PASSWORD

CAST = {"ada": "admin", "oskar": "operator", "alice": "tenant", "bob": "tenant", "mallory": "tenant"}


def seed(
    *, uri: str, kind: str, console_limit: int | None = None, cluster: str = "lab", access: dict[str, str] | None = None
) -> dict[str, Any]:
    """Returns ``{"host": id, "vms": {name: id}}``; every VM belongs to project apollo. ``access``: user name, secret
    and certificate where the hypervisor wants them."""
    from django.utils import timezone

    from cloudops.accounts import people, tokens
    from cloudops.accounts.models import Project, User
    from cloudops.core.actors import system
    from cloudops.inventory import clusters, hosts, vms
    from cloudops.inventory.models import Cluster, Vm
    from cloudops.inventory.sync import sync_endpoint

    by, now = system("seed"), timezone.now()
    for username, role in CAST.items():
        if not User.objects.filter(username=username).exists():
            people.create_user(username=username, password=PASSWORD, role=role, can_console=True, by=by, now=now)
    for name, members in {"apollo": ("alice", "bob"), "zephyr": ("mallory",)}.items():
        if not Project.objects.filter(name=name).exists():
            project = people.create_project(name=name, by=by, now=now)
            for username in members:
                people.add_member(project, user=User.objects.get(username=username), by=by, now=now)
    home = Cluster.objects.filter(name=cluster).first() or clusters.create(name=cluster, by=by, now=now)
    known: dict[str, Any] = {"cluster": home, "console_limit_override": console_limit, **(access or {})}
    added = hosts.add_host(kind=kind, uri=uri, **known, by=by, now=now)
    sync_endpoint(added[0].endpoint, now=timezone.now())
    vms.assign(list(Vm.objects.filter(host__in=added)), project=Project.objects.get(name="apollo"), by=by, now=now)
    secrets = {
        username: tokens.create(
            user=User.objects.get(username=username),
            label="tests",
            scopes=["console", "power", "scale", "manage"],
            days=1,
            by=by,
            now=now,
        )[1]
        for username in CAST
    }
    return {
        "host": str(added[0].pk),
        "vms": {vm.name: str(vm.pk) for vm in Vm.objects.filter(host__in=added)},
        "tokens": secrets,
    }


if __name__ == "__main__":
    django.setup()
    sys.stdout.write(json.dumps(seed(**json.loads(sys.argv[1]))) + "\n")
