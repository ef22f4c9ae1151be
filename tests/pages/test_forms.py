"""Forms: what is right is done, what is wrong is said beside the field with a remedy, and nothing typed is lost."""

from __future__ import annotations

import pytest
from django.test import Client
from django.utils import timezone

from cloudops.accounts.models import Membership, User
from cloudops.core import runtime
from cloudops.core.actors import system
from cloudops.core.models import Event
from cloudops.inventory.models import Cluster, Connection, Host, Template, Vm
from consoles import sessions
from consoles.models import ConsoleSession, ReleaseRequest
from tests.pages.installation import Installation
from tests.pages.reading import has_error

pytestmark = pytest.mark.django_db


class TestClusters:
    def test_clusters(self, admin: Client, installation: Installation) -> None:
        assert admin.post("/clusters/add/", {"name": "gpu", "position": 5}).status_code == 302
        cluster = Cluster.objects.get(name="gpu")
        html = admin.post("/clusters/add/", {"name": "gpu", "description": "kept words"}).content.decode()
        assert has_error(html, "name")
        assert "kept words" in html
        admin.post(f"/clusters/{cluster.pk}/edit/", {"name": "gpu-1", "position": 0, "description": "d"})
        assert Cluster.objects.get(pk=cluster.pk).name == "gpu-1"
        assert admin.post(f"/clusters/{installation.clusters[0].pk}/delete/").status_code == 409
        assert admin.post(f"/clusters/{cluster.pk}/delete/").status_code == 302
        assert not Cluster.objects.filter(pk=cluster.pk).exists()


class TestSettings:
    def _form(self) -> dict[str, object]:
        row = runtime.current()
        values = {field.name: getattr(row, field.name) for field in runtime.tunable_fields()}
        return {name: ("on" if value is True else value) for name, value in values.items() if value is not False}

    def test_every_setting_is_on_the_page(self, admin: Client) -> None:
        html = admin.get("/settings/").content.decode()
        for field in runtime.tunable_fields():
            assert f'name="{field.name}"' in html, field.name

    def test_a_change_is_saved_and_audited(self, admin: Client) -> None:
        assert admin.post("/settings/", self._form() | {"console_host_limit": 25}).status_code == 302
        assert runtime.current().console_host_limit == 25
        event = Event.objects.filter(kind="settings.changed").first()
        assert event is not None
        assert event.data["changed"] == {"console_host_limit": [40, 25]}

    def test_a_wrong_one_is_marked_and_everything_typed_stays(self, admin: Client) -> None:
        wrong = self._form() | {"console_host_limit": 0, "console_vm_limit": 33}
        html = admin.post("/settings/", wrong).content.decode()
        assert has_error(html, "console_host_limit")
        assert 'value="33"' in html
        assert runtime.current().console_vm_limit == 40

    def test_the_order_of_warning_and_disconnect_is_told(self, admin: Client) -> None:
        wrong = self._form() | {"console_idle_warning_seconds": 900, "console_idle_disconnect_seconds": 600}
        html = admin.post("/settings/", wrong).content.decode()
        assert "must come later than the idle warning" in html
        assert 'value="900"' in html
        assert runtime.current().console_idle_warning_seconds == 600


class TestVms:
    def test_assigning_many(self, admin: Client, installation: Installation) -> None:
        free = [vm for vm in installation.vms if vm.project_id is None]
        admin.post("/vms/assign/", {"ids": [str(vm.pk) for vm in free], "project": str(installation.project.pk)})
        assert not Vm.objects.filter(project=None).exists()
        admin.post("/vms/assign/", {"ids": [str(free[0].pk)], "project": ""})
        assert Vm.objects.get(pk=free[0].pk).project is None

    def test_power_begins_an_operation(self, admin: Client, installation: Installation) -> None:
        vm = next(vm for vm in installation.vms if vm.is_running and vm.host.connection == Connection.UP)
        response = admin.post(f"/vms/{vm.pk}/power/", {"action": "shutdown"}, headers={"HX-Request": "true"})
        assert response.status_code == 204, response.headers
        assert Event.objects.filter(kind="operation.vm.power", subject_id=str(vm.pk)).exists()
        again = admin.post(f"/vms/{vm.pk}/power/", {"action": "shutdown"}, headers={"HX-Request": "true"})
        assert again.status_code == 409
        assert "remedy" in again["HX-Trigger"]

    def test_the_offering_is_chosen(self, admin: Client, installation: Installation) -> None:
        vm = installation.vms[1]
        admin.post(f"/vms/{vm.pk}/offering/", {"offering": str(installation.offering.pk)})
        assert Vm.objects.get(pk=vm.pk).offering == installation.offering

    def test_its_template_and_pin_are_noted_and_shown(self, admin: Client, installation: Installation) -> None:
        vm, debian = installation.vms[1], Template.objects.create(name="Debian 12")
        admin.post(f"/vms/{vm.pk}/placement/", {"template": str(debian.pk), "pinned": "on"})
        assert Vm.objects.filter(pk=vm.pk, template=debian, pinned=True).exists()
        page = admin.get(f"/vms/{vm.pk}/placement/").content.decode()
        assert f'value="{debian.pk}" selected' in page
        assert 'name="pinned" checked' in page
        admin.post(f"/vms/{vm.pk}/placement/", {"template": ""})
        assert Vm.objects.filter(pk=vm.pk, template=None, pinned=False).exists()
        assert admin.post(f"/vms/{vm.pk}/placement/", {"template": "nonsense"}).status_code == 400

    def test_the_console_button_says_why_not(self, tenant: Client, installation: Installation) -> None:
        vm = next(vm for vm in installation.vms if vm.project_id and vm.host.connection == Connection.UP)
        Vm.objects.filter(pk=vm.pk).update(power_state="off")
        assert "Start it first" in tenant.get(f"/vms/{vm.pk}/").content.decode()
        Membership.objects.update(can_console=False)
        assert "not open its console" in tenant.get(f"/vms/{vm.pk}/").content.decode()
        assert "not open its console" in tenant.get("/my/vms/").content.decode()


class TestConsoles:
    def _open(self, installation: Installation, user: User) -> ConsoleSession:
        vm = next(vm for vm in installation.vms if vm.is_running and vm.host.connection == Connection.UP)
        row = Vm.objects.select_related("host__endpoint", "project").get(pk=vm.pk)
        runtime.change(by=system("test"), now=timezone.now(), console_host_limit=100)
        Host.objects.update(console_limit_override=None)
        return sessions.open_session(vm=row, user=user, by=system("test"), now=timezone.now()).session

    def test_chosen_ones_are_disconnected(self, admin: Client, installation: Installation) -> None:
        session = self._open(installation, installation.tenant)
        admin.post("/consoles/disconnect/", {"ids": [str(session.pk), "nonsense"]})
        session.refresh_from_db()
        assert session.status == "closed"
        assert session.closed_by

    def test_idle_ones_of_the_filter_are_disconnected(self, admin: Client, installation: Installation) -> None:
        now = timezone.now()
        idle = ConsoleSession.objects.idle(now, 300)
        assert idle.exists()
        admin.post("/consoles/disconnect-idle/", {"q": "nobody-has-this-name"})
        assert idle.all().exists()
        admin.post("/consoles/disconnect-idle/")
        assert not ConsoleSession.objects.idle(timezone.now(), 300).exists()

    def test_ask_to_release_and_answer(self, admin: Client, tenant: Client, installation: Installation) -> None:
        session = self._open(installation, installation.tenant)
        assert admin.post(f"/consoles/{session.pk}/ask/", {"message": "Please"}).status_code == 302
        page = tenant.get("/my/consoles/").content.decode()
        assert "Please" in page
        asked = ReleaseRequest.objects.get()
        tenant.post(f"/my/requests/{asked.pk}/", {"answer": "release"})
        session.refresh_from_db()
        assert session.status == "closed"

    def test_only_ones_own_are_disconnected(self, tenant: Client, installation: Installation) -> None:
        other = self._open(installation, installation.admin)
        own = self._open(installation, installation.tenant)
        tenant.post("/my/consoles/disconnect/", {"ids": [str(own.pk), str(other.pk)]})
        own.refresh_from_db()
        other.refresh_from_db()
        assert (own.status, other.status) == ("closed", "pending")
