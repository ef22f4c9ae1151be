"""An installation and its cast for the pages' tests. The clock is the real one: pages take it at their edge."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.auth.hashers import make_password
from django.test import Client
from django.utils import timezone

from cloudops.accounts.models import User
from tests.kept import Kept
from tests.pages.installation import PASSWORD, Installation, build

As = Callable[[User | None], Client]
kept = Kept(lambda: build(timezone.now(), password=""))


@pytest.fixture
def installation(db: None) -> Installation:
    """Three hosts with VMs, consoles, people, events and operations."""
    return kept()


@pytest.fixture
def as_user(db: None) -> As:
    """A browser in which ``user`` (None: nobody) has signed in."""

    def sign_in(user: User | None) -> Client:
        client = Client()
        if user is not None:
            client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
        return client

    return sign_in


@pytest.fixture
def admin(installation: Installation, as_user: As) -> Client:
    return as_user(installation.admin)


@pytest.fixture
def tenant(installation: Installation, as_user: As) -> Client:
    return as_user(installation.tenant)


@pytest.fixture
def with_password(installation: Installation) -> Installation:
    """The administrator and the tenant can sign in with a password."""
    hashed = make_password(PASSWORD)
    User.objects.filter(pk__in=[installation.admin.pk, installation.tenant.pk]).update(password=hashed)
    return installation
