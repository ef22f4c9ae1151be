"""The first administrator."""

from __future__ import annotations

import io

import pytest
from django.core.management import CommandError, call_command

from cloudops.accounts.models import Role, User

pytestmark = pytest.mark.django_db


def test_it_makes_an_administrator_who_can_sign_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDOPS_ADMIN_PASSWORD", "correct horse battery")
    out = io.StringIO()
    call_command("create_admin", "ada", stdout=out)
    ada = User.objects.get(username="ada")
    assert ada.role == Role.ADMIN
    assert ada.check_password("correct horse battery")
    assert "correct" not in out.getvalue()


def test_a_weak_password_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDOPS_ADMIN_PASSWORD", "12345")
    with pytest.raises(CommandError, match="too short"):
        call_command("create_admin", "ada")
    assert not User.objects.filter(username="ada").exists()
