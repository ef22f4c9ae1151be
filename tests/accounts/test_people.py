"""People, projects and memberships: every change is audited, and whoever loses a right is told of at once."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoCaptureOnCommitCallbacks

from cloudops.accounts import people, tokens
from cloudops.accounts.models import Membership, Project, Role, User
from cloudops.accounts.rights import Scope
from cloudops.accounts.signals import rights_changed
from cloudops.accounts.switcher import Switcher
from cloudops.core.actors import Actor, ActorKind
from cloudops.core.errors import Invalid
from cloudops.core.models import Event
from cloudops.inventory.models import Cluster, Endpoint, Host, Vm
from tests.conftest import Clock

pytestmark = pytest.mark.django_db
Capture = DjangoCaptureOnCommitCallbacks
BY = Actor(ActorKind.USER, "root")
PASSWORD = "correct-horse-battery"


@pytest.fixture
def told() -> Iterator[list[list[int]]]:
    """Whose rights were said to have changed."""
    messages: list[list[int]] = []

    def receive(user_ids: list[int], **_: object) -> None:
        messages.append(user_ids)

    rights_changed.connect(receive)
    yield messages
    rights_changed.disconnect(receive)


def person(name: str, clock: Clock, role: str = Role.TENANT, **values: object) -> User:
    arguments: dict[str, object] = {"username": name, "password": PASSWORD, "role": role, "by": BY, "now": clock.now}
    return people.create_user(**(arguments | values))  # type: ignore[arg-type]


@pytest.fixture
def admin(clock: Clock) -> User:
    return person("alice", clock, Role.ADMIN)


@pytest.fixture
def shop(clock: Clock) -> Project:
    return people.create_project(name=" shop ", by=BY, now=clock.now)


class TestUsers:
    def test_a_person_signs_in_with_the_password_given(self, clock: Clock) -> None:
        bob = person("bob", clock, email="Bob@EXAMPLE.org")
        assert (bob.role, bob.email, bob.is_superuser) == ("tenant", "Bob@example.org", False)
        assert Client().login(username="bob", password=PASSWORD)
        event = Event.objects.get(kind="user.created")
        assert event.data == {"role": "tenant", "can_console": False}
        assert PASSWORD not in json.dumps(event.data)

    def test_without_a_password_nobody_gets_in_by_one(self, clock: Clock) -> None:
        assert not person("sso", clock, password="").has_usable_password()

    @pytest.mark.parametrize(
        ("values", "field"),
        [
            ({"password": "short"}, "password"),
            ({"password": "987654321987654321"}, "password"),
            ({"username": "bad name!"}, "username"),
            ({"role": "king"}, "role"),
            ({"email": "nobody"}, "email"),
        ],
    )
    def test_what_is_wrong_is_said_by_field(self, clock: Clock, values: dict[str, str], field: str) -> None:
        with pytest.raises(Invalid) as refusal:
            person("bob", clock, **values)
        assert field in str(refusal.value.numbers["fields"])
        assert not User.objects.exists()

    def test_lost_roles_and_rights_are_told_other_changes_are_not(
        self, clock: Clock, told: list[list[int]], django_capture_on_commit_callbacks: Capture
    ) -> None:
        olga = person("olga", clock, Role.OPERATOR, can_console=True)
        with django_capture_on_commit_callbacks(execute=True):
            people.change_user(olga, by=BY, now=clock.now, first_name="Olga")
            assert told == []
            people.change_user(olga, by=BY, now=clock.now, can_console=False)
            people.change_user(olga, by=BY, now=clock.now, can_console=False)
        assert told == [[olga.pk]]
        assert Event.objects.filter(kind="user.changed").first().data == {"changed": {"can_console": [True, False]}}  # type: ignore[union-attr]

    def test_unknown_fields_are_refused(self, clock: Clock, admin: User) -> None:
        for name in ("is_superuser", "password", "username"):
            with pytest.raises(Invalid):
                people.change_user(admin, by=BY, now=clock.now, **{name: True})

    def test_the_last_administrator_stays(self, clock: Clock, admin: User) -> None:
        with pytest.raises(people.LastAdmin):
            people.change_user(admin, by=BY, now=clock.now, role=Role.OPERATOR)
        with pytest.raises(people.LastAdmin):
            people.deactivate(admin, by=BY, now=clock.now)
        second = person("carol", clock, Role.ADMIN)
        with pytest.raises(people.LastAdmin):
            people.deactivate_many([admin, second], by=BY, now=clock.now)
        assert User.objects.filter(is_active=True, role=Role.ADMIN).count() == 2
        people.change_user(admin, by=BY, now=clock.now, role=Role.OPERATOR)
        with pytest.raises(people.LastAdmin):
            people.deactivate(second, by=BY, now=clock.now)

    def test_an_inactive_administrator_does_not_count(self, clock: Clock, admin: User) -> None:
        people.deactivate(person("carol", clock, Role.ADMIN), by=BY, now=clock.now)
        with pytest.raises(people.LastAdmin):
            people.deactivate(admin, by=BY, now=clock.now)

    def test_deactivation_ends_tokens_web_sessions_and_tells(
        self, clock: Clock, told: list[list[int]], django_capture_on_commit_callbacks: Capture
    ) -> None:
        bob = person("bob", clock)
        client = Client()
        client.force_login(bob)
        _, secret = tokens.create(user=bob, label="ci", scopes=[Scope.READ], days=30, by=BY, now=clock.now)
        with django_capture_on_commit_callbacks(execute=True):
            people.deactivate(bob, by=BY, now=clock.now)
            people.deactivate(bob, by=BY, now=clock.now)
        assert told == [[bob.pk]]
        assert tokens.resolve(secret, now=clock.now) is None
        assert client.get("/my/vms/").status_code == 302
        assert not Client().login(username="bob", password=PASSWORD)
        people.reactivate(bob, by=BY, now=clock.now)
        assert Client().login(username="bob", password=PASSWORD)
        assert tokens.resolve(secret, now=clock.now) is None
        kinds = Event.objects.filter(subject_id=str(bob.pk)).order_by("id").values_list("kind", flat=True)
        assert list(kinds) == ["user.created", "user.deactivated", "user.reactivated"]

    def test_a_new_password_ends_sessions_elsewhere(self, clock: Clock) -> None:
        bob = person("bob", clock)
        client = Client()
        client.force_login(bob)
        assert client.get("/my/vms/").status_code == 200
        people.set_password(bob, password="another-horse-battery", by=BY, now=clock.now)
        assert client.get("/my/vms/").status_code == 302
        for bad in ("", "short"):
            with pytest.raises(Invalid):
                people.set_password(bob, password=bad, by=BY, now=clock.now)


class TestProjects:
    def test_names_are_unique(self, clock: Clock, shop: Project) -> None:
        assert shop.name == "shop"
        with pytest.raises(Invalid):
            people.create_project(name="shop", by=BY, now=clock.now)
        people.change_project(shop, by=BY, now=clock.now, description="things")
        assert Event.objects.get(kind="project.changed").project_id == shop.pk

    def test_one_with_vms_stays(self, clock: Clock, shop: Project) -> None:
        endpoint = Endpoint.objects.create(kind="simulated", uri="simulated://x")
        host = Host.objects.create(endpoint=endpoint, cluster=Cluster.objects.create(name="c"), ref="h", name="h")
        Vm.objects.create(ref="v", name="v", host=host, project=shop)
        with pytest.raises(people.ProjectInUse) as refusal:
            people.delete_project(shop, by=BY, now=clock.now)
        assert refusal.value.numbers == {"vms": 1}

    def test_its_members_lose_their_rights_with_it(
        self, clock: Clock, shop: Project, told: list[list[int]], django_capture_on_commit_callbacks: Capture
    ) -> None:
        bob = person("bob", clock)
        people.add_member(shop, user=bob, by=BY, now=clock.now)
        with django_capture_on_commit_callbacks(execute=True):
            people.delete_project(shop, by=BY, now=clock.now)
        assert told == [[bob.pk]]
        assert not Membership.objects.exists()


class TestMemberships:
    def test_a_member_is_added_once(self, clock: Clock, shop: Project) -> None:
        bob = person("bob", clock)
        membership = people.add_member(shop, user=bob, can_power=False, by=BY, now=clock.now)
        assert (membership.can_console, membership.can_power) == (True, False)
        with pytest.raises(people.AlreadyMember) as refusal:
            people.add_member(shop, user=bob, by=BY, now=clock.now)
        assert refusal.value.numbers == {"membership": membership.pk}
        event = Event.objects.get(kind="membership.added")
        assert (event.project_id, event.data["user"], event.data["can_power"]) == (shop.pk, "bob", False)

    def test_changes_and_removals_are_told(
        self, clock: Clock, shop: Project, told: list[list[int]], django_capture_on_commit_callbacks: Capture
    ) -> None:
        bob = person("bob", clock)
        membership = people.add_member(shop, user=bob, by=BY, now=clock.now)
        with django_capture_on_commit_callbacks(execute=True):
            people.change_member(membership, by=BY, now=clock.now, can_console=False)
            people.change_member(membership, by=BY, now=clock.now, can_console=False)
            people.remove_member(membership, by=BY, now=clock.now)
        assert told == [[bob.pk], [bob.pk]]
        assert not Membership.objects.exists()

    def test_many_at_once_cost_the_same_number_of_queries(self, clock: Clock, shop: Project) -> None:
        users = [person(f"user{number}", clock) for number in range(12)]
        people.add_members(shop, users=users[:1], by=BY, now=clock.now)
        counts = []
        for group in (users[:3], users[3:]):
            with CaptureQueriesContext(connection) as queries:
                people.add_members(shop, users=group, can_scale=False, by=BY, now=clock.now)
            counts.append(len(queries))
        assert counts[0] == counts[1]
        assert Membership.objects.count() == 12
        assert Membership.objects.filter(can_scale=True).count() == 1
        assert people.remove_members(shop, users=users[:5], by=BY, now=clock.now) == 5
        assert people.remove_members(shop, users=users[:5], by=BY, now=clock.now) == 0
        assert Event.objects.filter(kind="membership.removed").count() == 5

    def test_the_project_switcher_is_ones_own_choice(self, clock: Clock, shop: Project) -> None:
        bob = person("bob", clock)
        with pytest.raises(people.NoSuchProject):
            people.choose_project(bob, project=shop.pk)
        people.add_member(shop, user=bob, by=BY, now=clock.now)
        assert people.choose_project(bob, project=shop.pk) == shop
        bob.refresh_from_db()
        assert bob.current_project == shop
        assert people.choose_project(bob, project=None) is None
        bob.refresh_from_db()
        assert bob.current_project is None

    def test_a_choice_holds_while_there_is_something_to_choose(self, clock: Clock, shop: Project) -> None:
        bob = person("bob", clock)
        other = people.create_project(name="other", by=BY, now=clock.now)
        for project in (shop, other):
            people.add_member(project, user=bob, by=BY, now=clock.now)
        people.choose_project(bob, project=shop.pk)
        assert Switcher(bob).current == shop
        assert Switcher(bob).projects == sorted([shop, other], key=lambda project: project.name)
        people.remove_members(other, users=[bob], by=BY, now=clock.now)
        assert Switcher(bob).current is None
        assert Switcher(bob).projects == []
        people.add_member(other, user=bob, by=BY, now=clock.now)
        people.remove_members(shop, users=[bob], by=BY, now=clock.now)
        assert Switcher(bob).current is None
