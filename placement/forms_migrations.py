"""Forms of migrations and fencing. The domain verbs validate; these carry what was typed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django import forms

from cloudops.core.models import RuntimeSettings


class HowForm(forms.Form):
    """How VMs are moved; starts with the installation's settings."""

    bandwidth_mib_per_second = forms.IntegerField(
        label="Bandwidth", min_value=0, max_value=1_000_000, help_text="At most so much. 0: no limit."
    )
    downtime_milliseconds = forms.IntegerField(
        label="Longest pause", min_value=1, max_value=60_000, help_text="The guest stands still so long at the end."
    )
    timeout_seconds = forms.IntegerField(
        label="Give up after", min_value=10, max_value=86_400, help_text="Then it is aborted and stays where it is."
    )
    auto_converge = forms.BooleanField(
        label="Slow down a busy guest",
        required=False,
        help_text="One that writes memory faster than it can be copied is slowed, step by step, until it arrives.",
    )
    post_copy = forms.BooleanField(
        label="Post-copy, if it does not get there otherwise",
        required=False,
        help_text="It goes on at the destination before its memory is complete. It always arrives; but if the network "
        "or a host fails meanwhile, the guest is lost as if its power had failed.",
    )

    @classmethod
    def kept(cls, settings: RuntimeSettings) -> dict[str, Any]:
        """What the form shows before anything is changed."""
        return {name: getattr(settings, f"migration_{name}") for name in HowForm.base_fields}

    @property
    def options(self) -> dict[str, Any]:
        """As ``vm_migrations.Options.of`` takes them."""
        return {name: self.cleaned_data[name] for name in HowForm.base_fields}


class MigrateForm(HowForm):
    """One VM to one host, or to the best one."""

    to = forms.UUIDField(required=False)

    @property
    def host_id(self) -> UUID | None:
        """None: the best host that fits."""
        chosen: UUID | None = self.cleaned_data["to"]
        return chosen


class FenceForm(forms.Form):
    """Declares a host dead; its name is typed, so that it is surely this one."""

    name = forms.CharField(
        label="Type the host's name", max_length=200, widget=forms.TextInput({"autocomplete": "off"})
    )
    reason = forms.CharField(
        label="How do you know that it is off?",
        max_length=500,
        widget=forms.Textarea({"rows": 2, "placeholder": "Switched off at the rack's power strip"}),
        help_text="For the people who read it later.",
    )

    def __init__(self, *args: Any, host_name: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.host_name = host_name

    def clean_name(self) -> str:
        typed = str(self.cleaned_data["name"]).strip()
        if typed != self.host_name:
            raise forms.ValidationError(f"That is not “{self.host_name}”.")
        return typed
