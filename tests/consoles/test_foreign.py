"""Connections that are no consoles of ours, shown and ended by an administrator's click."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from django.test import Client

from cloudops.core.models import Event
from cloudops.hypervisors.port import NotSupported
from cloudops.inventory import endpoints
from consoles import foreign
from consoles.errors import ConnectionStays, ConnectionUnnamed
from consoles.models import ForeignConnection
from tests.conftest import Clock
from tests.consoles.world import World, actor


class Platform:
    """A driver that drops what it is told to, or does not."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []
        self.can = True
        self.works = True

    def drop_connections(self, vm_ref: str, labels: Sequence[str]) -> Sequence[str]:
        self.asked.append((vm_ref, list(labels)))
        if not self.can:
            raise NotSupported("QEMU's VNC server cannot end one connection and keep the others.")
        return labels if self.works else []


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Platform:
    made = Platform()
    monkeypatch.setattr(endpoints, "call", lambda endpoint, name, function, timeout=None: function(made))
    return made


def connection(world: World, clock: Clock, label: str = "mks-7", **values: object) -> ForeignConnection:
    fields = {"user_name": "LAB\\carla", "client_host": "198.51.100.9"} | values
    return ForeignConnection.objects.create(
        vm=world.vm, host=world.host, label=label, first_seen_at=clock.now, last_seen_at=clock.now, **fields
    )


def test_it_is_ended_and_told_in_the_audit_trail(world: World, clock: Clock, platform: Platform) -> None:
    row = connection(world, clock)
    foreign.drop(connection=row, by=actor(world.admin), now=clock.now)
    assert platform.asked == [("ref-alpha", ["mks-7"])]
    assert not ForeignConnection.objects.exists()
    assert world.in_use(clock.now) == 0
    event = Event.objects.get(kind="console.connection_dropped")
    assert (event.actor_name, event.data["user_name"], event.data["client"]) == ("ada", "LAB\\carla", "198.51.100.9")


def test_what_the_platform_does_not_end_stays_and_is_said(world: World, clock: Clock, platform: Platform) -> None:
    row = connection(world, clock)
    platform.works = False
    with pytest.raises(ConnectionStays, match=r"LAB.carla at 198\.51\.100\.9"):
        foreign.drop(connection=row, by=actor(world.admin), now=clock.now)
    platform.can = False
    with pytest.raises(NotSupported):
        foreign.drop(connection=row, by=actor(world.admin), now=clock.now)
    assert ForeignConnection.objects.count() == 1
    assert not Event.objects.filter(kind="console.connection_dropped").exists()


def test_one_that_is_only_counted_is_not_even_asked_for(world: World, clock: Clock, platform: Platform) -> None:
    row = connection(world, clock, "unnamed 1", is_named=False, user_name="", client_host="")
    with pytest.raises(ConnectionUnnamed) as refused:
        foreign.drop(connection=row, by=actor(world.admin), now=clock.now)
    assert "7.0.1" in refused.value.remedy_text
    assert platform.asked == []


def test_the_board_tells_foreign_from_left_over_and_offers_to_end_them(
    world: World, clock: Clock, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django.utils.timezone.now", lambda: clock.now)
    row = connection(world, clock)
    connection(world, clock, "mks-8", is_ghost=True, user_name="", client_host="")
    connection(world, clock, "unnamed 1", is_named=False, user_name="", client_host="")
    client = Client()
    client.force_login(world.admin, backend="allauth.account.auth_backends.AuthenticationBackend")
    for address in ("/consoles/", f"/vms/{world.vm.pk}/", f"/hosts/{world.host.pk}/"):
        page = client.get(address).content.decode()
        assert "LAB\\carla" in page, address
        assert "left over" in page, address
        assert "not named by the platform" in page, address
        assert f'hx-post="/consoles/foreign/{row.pk}/drop/"' in page, address
        assert page.count("cannot end one alone") == 1, address
    done = client.post(f"/consoles/foreign/{row.pk}/drop/", follow=True)
    assert "The connection LAB\\carla at 198.51.100.9 is ended." in done.content.decode()
    assert not ForeignConnection.objects.filter(pk=row.pk).exists()
