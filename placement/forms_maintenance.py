"""The maintenance wizard's form: it lives in the address until it is confirmed, so that a preview can be shared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.http import QueryDict

from cloudops.inventory.models import Cluster, Host
from placement.maintenance import Choice, Mode, Options, VmChoice
from placement.maintenance.options import RELAXATIONS

RETRY = "retry"
ASK_AGAIN = "ask-again"
ACROSS = {"on": True, "off": False}


def choice_words(vm_id: UUID, choice: VmChoice) -> str:
    """A choice as it stands in an address: ``vm~host~host id~across+copy-storage``."""
    return f"{vm_id}~{choice.main}~{choice.host_id or ''}~{'+'.join(sorted(choice.relaxed))}"


def read_choice(text: str) -> tuple[UUID, VmChoice]:
    """The opposite of :func:`choice_words`. Raises ``ValueError``."""
    vm, main, host, relaxed = text.split("~")
    given = frozenset(str(Choice(word)) for word in relaxed.split("+") if word)
    if main in RELAXATIONS or not given <= set(RELAXATIONS):
        raise ValueError(text)
    if (main == Choice.HOST) != bool(host):
        raise ValueError(text)
    return UUID(vm), VmChoice(str(Choice(main)), UUID(host) if host else None, given)


class ChoicesField(forms.Field):
    """Any number of ``choice=`` parameters; ``clean`` gives a choice by VM id."""

    widget = forms.MultipleHiddenInput

    def clean(self, value: Any) -> dict[UUID, VmChoice]:
        try:
            return dict(read_choice(text) for text in value or ())
        except ValueError as error:
            raise forms.ValidationError("A choice in the address cannot be read. Choose again.") from error


class WizardForm(forms.Form):
    """Which hosts are emptied, and how."""

    host = forms.ModelMultipleChoiceField(
        label="Hosts", queryset=Host.objects.select_related("cluster"), required=False, widget=forms.MultipleHiddenInput
    )
    cluster = forms.ModelChoiceField(queryset=Cluster.objects.all(), required=False, widget=forms.HiddenInput)
    mode = forms.ChoiceField(
        label="What for",
        choices=[
            (Mode.MAINTENANCE, "Maintenance: empty it and hold it empty until I say so"),
            (Mode.DRAIN, "Drain: empty it, nothing more"),
        ],
        initial=Mode.MAINTENANCE,
        required=False,
    )
    across_clusters = forms.ChoiceField(
        label="To other clusters",
        choices=[("", "As the settings say"), ("on", "Allowed"), ("off", "Not allowed")],
        required=False,
    )
    hosts_at_once = forms.IntegerField(
        label="Hosts at a time",
        min_value=1,
        max_value=1_000,
        required=False,
        help_text="Of several hosts, so many are out of use at a time. Empty: all of them.",
    )
    host_parallel = forms.IntegerField(
        label="Migrations per host",
        min_value=1,
        max_value=64,
        required=False,
        help_text="At once. Empty: as the settings say.",
    )
    move_powered_off = forms.BooleanField(
        label="Move VMs that are off, too", required=False, help_text="Otherwise they stay, and cannot start meanwhile."
    )
    choice = ChoicesField(required=False)

    def clean_mode(self) -> str:
        return self.cleaned_data["mode"] or Mode.MAINTENANCE

    @property
    def host_ids(self) -> list[UUID]:
        """The hosts that were named, or all of the cluster that was, in their order."""
        named = list(self.cleaned_data.get("host") or [])
        if not named and (cluster := self.cleaned_data.get("cluster")):
            named = list(cluster.hosts.all())
        return [host.pk for host in named]

    @property
    def options(self) -> Options:
        values = self.cleaned_data
        return Options(
            mode=values["mode"],
            across_clusters=ACROSS.get(values["across_clusters"]),
            move_powered_off=values["move_powered_off"],
            hosts_at_once=values["hosts_at_once"] or 0,
            host_parallel=values["host_parallel"],
            choices=values["choice"],
        )

    @property
    def stops(self) -> bool:
        """Whether a VM is to be stopped, which needs more than managing the fleet."""
        return any(choice.main == Choice.STOP for choice in self.cleaned_data["choice"].values())

    def address(self, choices: Mapping[UUID, VmChoice] | None = None) -> str:
        """This request as a query string, with other ``choices`` if they are given."""
        return urlencode(self.pairs(choices))

    def pairs(self, choices: Mapping[UUID, VmChoice] | None = None) -> list[tuple[str, str]]:
        """Every parameter, for an address and for the hidden fields of the confirmation."""
        values = self.cleaned_data
        found = [("host", str(pk)) for pk in self.host_ids]
        found += [("mode", values["mode"]), ("across_clusters", values["across_clusters"])]
        found += [(name, str(values[name])) for name in ("hosts_at_once", "host_parallel") if values[name]]
        found += [("move_powered_off", "on")] if values["move_powered_off"] else []
        wanted = values["choice"] if choices is None else choices
        return found + [("choice", choice_words(vm, one)) for vm, one in wanted.items() if one != VmChoice()]


class ChooseForm(forms.Form):
    """One remedy for one VM of a job that runs."""

    choice = forms.ChoiceField(
        choices=[*Choice.choices, (RETRY, "Try again"), (ASK_AGAIN, "Ask it again to shut down")], required=False
    )
    host = forms.ModelChoiceField(queryset=Host.objects.all(), required=False)


def bound(query: QueryDict) -> WizardForm:
    """The form as an address or a confirmation fills it."""
    return WizardForm(query)


def hosts_by_cluster(hosts: Iterable[Host]) -> list[tuple[Cluster, list[Host]]]:
    """For choosing hosts, in their order."""
    found: dict[Any, tuple[Cluster, list[Host]]] = {}
    for host in hosts:
        found.setdefault(host.cluster_id, (host.cluster, []))[1].append(host)
    return list(found.values())
