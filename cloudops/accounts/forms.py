"""Forms about people, projects and API tokens. The domain verbs validate; these carry what was typed."""

from __future__ import annotations

from typing import Any

from django import forms

from cloudops.accounts.models import MOST_QUOTA, Project, Role, User
from cloudops.accounts.rights import Scope
from cloudops.accounts.tokens import MAX_DAYS

_SCOPES = [
    (Scope.CONSOLE, "Open and close consoles"),
    (Scope.POWER, "Start, stop and restart VMs"),
    (Scope.MANAGE, "Manage whatever its owner may manage"),
]


class TokenForm(forms.Form):
    """A new API token. Reading is part of every token."""

    label = forms.CharField(max_length=100, help_text="What will use it, for example “backup script on ops-1”.")
    scopes = forms.MultipleChoiceField(
        label="May also",
        choices=_SCOPES,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Every token may read what you may see, and never more than you may do yourself.",
    )
    days = forms.IntegerField(label="Expires after", min_value=1, max_value=MAX_DAYS, initial=90)


class ProjectChoiceForm(forms.Form):
    """The project to look at; empty for all."""

    project = forms.UUIDField(required=False)


class UserFields(forms.Form):
    """What an administrator says about a person."""

    first_name = forms.CharField(max_length=150, required=False)
    last_name = forms.CharField(max_length=150, required=False)
    email = forms.EmailField(required=False)
    role = forms.ChoiceField(
        choices=Role.choices,
        initial=Role.TENANT,
        help_text="Tenants see the VMs of their projects. Operators run the fleet. Administrators may do everything.",
    )
    can_console = forms.BooleanField(
        label="May open every console",
        required=False,
        help_text="For operators. Administrators always may; tenants get the right in each project.",
    )


class UserAddForm(UserFields):
    """A new person."""

    username = forms.CharField(max_length=150, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    password = forms.CharField(
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}, render_value=True),
        help_text="At least 12 characters. Leave it empty for people who sign in with SSO only.",
    )
    field_order = ["username", "password"]


class PasswordForm(forms.Form):
    """A new password for somebody else."""

    password = forms.CharField(
        label="New password",
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}, render_value=True),
        help_text="At least 12 characters. Their other sessions end.",
    )


def _quota(name: str) -> forms.IntegerField:
    column: Any = Project._meta.get_field(name)
    return forms.IntegerField(
        label=column.verbose_name, min_value=0, max_value=MOST_QUOTA, required=False, help_text=column.help_text
    )


class ProjectForm(forms.Form):
    """A project's own fields."""

    name = forms.CharField(max_length=100)
    description = forms.CharField(required=False, widget=forms.Textarea(attrs={"rows": 3}))
    quota_vcpus = _quota("quota_vcpus")
    quota_memory_mib = _quota("quota_memory_mib")
    quota_consoles = _quota("quota_consoles")


class MemberForm(forms.Form):
    """Somebody's place in a project."""

    user = forms.ModelChoiceField(label="Person", queryset=User.objects.none(), empty_label="Choose a person")
    can_console = forms.BooleanField(label="Console", required=False, initial=True)
    can_power = forms.BooleanField(label="Power", required=False, initial=True)
    can_scale = forms.BooleanField(label="Scale", required=False, initial=True)

    def __init__(self, *args: Any, project_id: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        people = User.objects.filter(is_active=True).exclude(memberships__project_id=project_id)
        self.fields["user"].queryset = people.order_by("username")  # type: ignore[attr-defined]


class MemberRightsForm(forms.Form):
    """The rights of a membership."""

    can_console = forms.BooleanField(required=False)
    can_power = forms.BooleanField(required=False)
    can_scale = forms.BooleanField(required=False)
