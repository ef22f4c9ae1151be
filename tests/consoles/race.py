"""A race for slots: `python -m tests.consoles.race JSON` inside an installation's environment.

It makes host, VMs and users, has several processes open consoles from several threads each, ends all consoles and
prints what happened.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from functools import partial
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cloudops.settings")

import django

django.setup()

from django.db import connection  # noqa: E402
from django.utils import timezone  # noqa: E402

from cloudops.accounts.models import Project, User  # noqa: E402
from cloudops.core.errors import Refusal  # noqa: E402
from cloudops.inventory.models import Host, Vm  # noqa: E402
from consoles import attach, limits, sessions  # noqa: E402
from consoles.errors import ConsoleLimit  # noqa: E402
from consoles.models import ConsoleSession  # noqa: E402
from consoles.reasons import ClosedReason  # noqa: E402
from consoles.sessions import Traffic  # noqa: E402
from tests import forking  # noqa: E402
from tests.consoles.world import actor, add_process, build  # noqa: E402

NOTHING = Traffic(None, 0, 0)


def seed(*, hosts: int, host_limit: int | None, quota: int | None) -> None:
    """The VMs, all of one project, are spread over the hosts."""
    world = build(timezone.now())
    places = [world.host, *(world.add_host(f"host-{number}") for number in range(1, hosts))]
    for number in range(6):
        world.add_vm(f"vm-{number}", host=places[number % hosts])
    Host.objects.update(console_limit_override=host_limit)
    Project.objects.filter(pk=world.project.pk).update(quota_consoles=quota)


def in_project() -> int:
    return sum(limits.in_use_by_project(Project.objects.values_list("pk", flat=True), now=timezone.now()).values())


def open_many(_number: int, wait: forking.Wait, *, threads: int, each: int, mix: bool) -> dict[str, Any]:
    """Every thread opens ``each`` consoles; with ``mix`` it also redeems, drops and resumes them."""
    process = add_process(timezone.now())
    outcome: dict[str, Any] = {"opened": 0, "refused": 0, "errors": [], "most": 0, "most_in_project": 0}
    lock, start = threading.Lock(), threading.Event()
    users = list(User.objects.filter(username__in=["tessa", "sam"]).order_by("pk"))
    vms = list(Vm.objects.select_related("host__endpoint", "project").order_by("name"))

    def note(key: str, error: str = "") -> None:
        with lock:
            if error:
                outcome["errors"].append(error)
            else:
                outcome[key] += 1

    def work(number: int) -> None:
        start.wait()
        for turn in range(each):
            user, vm = users[(number + turn) % len(users)], vms[(number * 3 + turn) % len(vms)]
            try:
                opened = sessions.open_session(vm=vm, user=user, by=actor(user), now=timezone.now())
                note("opened")
                if mix:
                    drop_and_resume(opened, process)
            except ConsoleLimit:
                note("refused")
            except Exception as error:  # everything but the limit is a failure of the test
                note("errors", f"{type(error).__name__}: {error}")
            used, together = limits.usage_of_host(vm.host, now=timezone.now()).in_use, in_project()
            with lock:
                outcome["most"] = max(outcome["most"], used)
                outcome["most_in_project"] = max(outcome["most_in_project"], together)
        connection.close()

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    wait()
    start.set()
    for thread in running:
        thread.join()
    return outcome


def drop_and_resume(opened: sessions.Opened, process: Any) -> None:
    """Uses the link, loses the line, comes back: the slot is given up and taken again under everybody's eyes."""
    where: dict[str, Any] = {"process_id": process.pk, "user": None, "address": "192.0.2.9"}
    try:
        attached = attach.redeem(secret=opened.secret, now=timezone.now(), **where)
        session = attached.session
        attach.activate(session=session, relay_address=None, now=timezone.now())
        by = actor(session.user)
        sessions.finish(
            session_id=session.pk,
            attachment=session.attachment,
            reason=ClosedReason.LINE_LOST,
            traffic=NOTHING,
            by=by,
            now=timezone.now(),
        )
        attach.resume(resume_secret=attached.resume_secret, now=timezone.now(), **where)
    except ConsoleLimit:
        pass  # somebody was quicker: this one stays dropped
    except Refusal as refusal:
        raise AssertionError(f"{refusal.code}: {refusal.detail}") from refusal


def close_all() -> dict[str, Any]:
    before = in_project()
    admin = User.objects.get(username="ada")
    closed = sessions.close_many(sessions=ConsoleSession.objects.all(), by=actor(admin), now=timezone.now())
    return {"before": before, "closed": closed, "after": in_project()}


def race(*, processes: int, opening: dict[str, Any], seeding: dict[str, Any]) -> dict[str, Any]:
    outcomes = forking.race(processes, partial(open_many, **opening), prepare=partial(seed, **seeding))
    return {"outcomes": outcomes, "end": close_all()}


if __name__ == "__main__":
    print(json.dumps(race(**json.loads(sys.argv[1]))))  # noqa: T201 - the answer to the test
