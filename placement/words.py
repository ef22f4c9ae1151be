"""Verdicts in plain words: for people who run the fleet, and for tenants, who learn nothing of hosts and other tenants.

No Django. Memory is told in MiB below 10 GiB and in GiB above.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from placement.filters import Measure
from placement.scheduler import NearestMiss, Result, Verdict, smallest_change
from placement.spec import Spec

TITLES: Mapping[str, str] = {
    "only-hosts": "Asked-for hosts",
    "excluded-hosts": "Left-out hosts",
    "kind": "Hypervisor",
    "schedulable": "Cordon",
    "connection": "Connection",
    "hold": "Maintenance",
    "cluster-scope": "Cluster",
    "tags": "Tags",
    "networks": "Networks",
    "datastores": "Storage",
    "local-disks": "Local disks",
    "cpu-model": "CPU model",
    "together": "Keep together",
    "apart": "Keep apart",
    "threshold": "Cluster threshold",
    "vcpus": "vCPUs",
    "memory": "Memory",
    "consoles": "Console slots",
}
ALLOCATORS: Mapping[str, str] = {
    "first-fit": "first fit",
    "spread": "spread",
    "pack": "pack",
    "least-consoles": "least consoles",
    "random": "random",
    "weights": "own weights",
}
_HOLDS = {
    "draining": "is being drained",
    "maintenance": "is in maintenance",
    "fenced": "is fenced",
    "platform": "is in its platform's own maintenance mode",
}
_KINDS = {"libvirt": "KVM", "vsphere": "VMware", "simulated": "simulated"}


def memory(mib: int) -> str:
    """ "512 MiB", "16 GiB", "15.5 GiB"."""
    if abs(mib) < 10_240:
        return f"{mib:,} MiB"
    return f"{mib / 1024:,.1f}".removesuffix(".0") + " GiB"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}" if len(names) > 1 else "".join(names)


def _plural(count: int, one: str) -> str:
    return f"{count:,} {one}" + ("" if count == 1 else "s")


def reason(verdict: Verdict, spec: Spec) -> str:
    """Why a host fails this filter, as the end of a sentence about the host; "" when it passes."""
    return "" if verdict.passed else _REASONS[verdict.filter](verdict.measure, spec)


def _missing_tags(missing: Sequence[str], spec: Spec) -> str:
    asked = [f"{tag} (asked by {spec.tags[tag]})" if spec.tags.get(tag) else tag for tag in missing]
    return f"missing tag{'' if len(asked) == 1 else 's'} {_listed(asked)}"


def _nearly_full(measure: Measure, spec: Spec) -> str:
    parts = [
        f"{what} at {measure.available[what]:g} % with this VM, threshold {measure.needed[what]} %"
        for what in measure.missing
    ]
    return f"its cluster is nearly full: {_listed(parts)}"


def _kind(name: str) -> str:
    return _KINDS.get(name, name)


_REASONS: Mapping[str, Callable[[Measure, Spec], str]] = {
    "only-hosts": lambda m, s: m.missing[0] if m.missing else "another host was asked for",
    "excluded-hosts": lambda m, s: m.missing[0] if m.missing else "left out",
    "kind": lambda m, s: f"is a {_kind(m.available)} host; the VM needs {_kind(m.needed)}",
    "schedulable": lambda m, s: "cordoned",
    "connection": lambda m, s: "not reachable" if m.available == "unreachable" else "not seen yet",
    "hold": lambda m, s: _HOLDS.get(m.available, m.available),
    "cluster-scope": lambda m, s: f"in cluster {m.available}; the VM may not leave {m.needed or 'its cluster'}",
    "tags": lambda m, s: _missing_tags(m.missing, s),
    "networks": lambda m, s: f"has no network {_listed(m.missing)}",
    "datastores": lambda m, s: f"does not reach {_listed(m.missing)}",
    "local-disks": lambda m, s: f"cannot reach the VM's local disk{'s' * (len(m.missing) > 1)} {_listed(m.missing)}",
    "cpu-model": lambda m, s: f"has another CPU ({m.available}); the VM was given {m.needed}",
    "together": lambda m, s: f"without the VMs of {_listed(m.missing)}",
    "apart": lambda m, s: f"has another VM of {_listed(m.missing)}",
    "threshold": _nearly_full,
    "vcpus": lambda m, s: f"{max(0, m.available)} of {_plural(m.needed, 'vCPU')} free",
    "memory": lambda m, s: f"{memory(max(0, m.available))} of {memory(m.needed)} free",
    "consoles": lambda m, s: f"{_plural(max(0, m.available), 'console slot')} free, {m.needed} needed",
}


def remedy(change: Mapping[str, Any], host: str = "") -> str:
    """What to do, as a sentence, so that ``host`` passes."""
    where, missing, amount = host or "the host", list(change.get("missing", ())), int(change.get("amount", 0))
    plain = {
        "uncordon": f"Uncordon {where}.",
        "reconnect": f"Mend the connection to {where}.",
        "end-hold": _end_hold(str(change.get("hold", "")), where),
        "allow-across-clusters": "Let the VM go to other clusters: allow it for this VM, or turn on “migrate VMs "
        "across clusters” in the settings.",
        "add-tags": f"Add the tag{'' if len(missing) == 1 else 's'} {_listed(missing)} to {where} or to another host "
        "with room, if that is true of it; or stop asking for it.",
        "connect-networks": f"Give {where} the network {_listed(missing)}.",
        "connect-datastores": f"Connect {where} to {_listed(missing)}.",
        "copy-storage": "Let the local disks be copied with the VM.",
        "move-group": f"Move the other VMs of {_listed(missing)} to {where}, or make the group a preference.",
        "relax-group": f"Make the group {_listed(missing)} a preference, or move its other VM away from {where}.",
        "raise-threshold": f"Raise the {_listed(missing)} threshold of {where}'s cluster, or free room in it.",
        "free-vcpus": f"Free {_plural(amount, 'vCPU')} on {where}: move or stop a VM there, or raise the overcommit.",
        "free-memory": f"Free {memory(amount)} on {where}: move or stop a VM there.",
        "close-consoles": f"Close {_plural(amount, 'console')} on {where}, or raise its console limit.",
    }
    return plain.get(change["change"], "Add a host that this VM can run on.")


def _end_hold(hold: str, where: str) -> str:
    if hold == "fenced":
        return f"Unfence {where} once it is certainly sound."
    if hold == "platform":
        return (
            f"Take {where} out of maintenance mode in its management service, or complete the maintenance of CloudOps "
            "that asked for it."
        )
    return f"End the maintenance of {where}, or wait until it is done."


def remedies(verdicts: Sequence[Verdict], host: str = "") -> list[str]:
    """What to do about each filter that the host fails and that something can be done about."""
    changes = [smallest_change(verdict) for verdict in verdicts if not verdict.passed]
    return [remedy(change, host) for change in changes if change["change"] != "none"]


_LOST: Mapping[str, str] = {
    "only-hosts": "were not asked for",
    "excluded-hosts": "were left out",
    "kind": "run another hypervisor",
    "schedulable": "are cordoned",
    "connection": "are not reachable",
    "hold": "are held for maintenance",
    "cluster-scope": "are in other clusters",
    "tags": "lack a tag",
    "networks": "lack a network",
    "datastores": "do not reach its storage",
    "local-disks": "cannot reach its local disks",
    "cpu-model": "have another CPU",
    "together": "are without the VMs it is to be with",
    "apart": "have a VM it is to be kept apart from",
    "threshold": "are in nearly full clusters",
    "vcpus": "have too few vCPUs free",
    "memory": "have too little memory free",
    "consoles": "have too few console slots free",
}


_OF_ONE: Mapping[str, str] = {"are": "is", "were": "was", "have": "has", "lack": "lacks", "run": "runs", "do": "does"}


def losses(lost: Mapping[str, int]) -> str:
    """ "3 lack a tag, 1 is cordoned": how many fell to which filter."""
    return ", ".join(f"{count:,} {_lost(name, count)}" for name, count in lost.items())


def _lost(name: str, count: int) -> str:
    verb, _, rest = _LOST.get(name, name).partition(" ")
    return f"{_OF_ONE.get(verb, verb) if count == 1 else verb} {rest}".strip()


def refusal(spec: Spec, result: Result) -> str:
    """Why no host fits, in a few sentences for people who run the fleet."""
    if not result.considered:
        return "There are no hosts."
    needs = f"{_plural(spec.vcpus, 'vCPU')} and {memory(spec.memory_mib)}"
    text = f"None of {_plural(result.considered, 'host')} fits ({needs} needed): {losses(result.lost)}."
    return f"{text} {nearest(result.nearest, spec)}".strip()


def nearest(miss: NearestMiss | None, spec: Spec) -> str:
    """ "Nearest is kvm-03 (linux): missing tag ssd (asked by offering fast)." """
    if miss is None:
        return ""
    return f"Nearest is {miss.name} ({miss.cluster}): {'; '.join(reason(one, spec) for one in miss.verdicts)}."


def refusal_remedy(result: Result) -> str:
    """The smallest change that would have helped."""
    if not result.considered:
        return "Add a host first."
    if result.nearest is None:
        return "Add a host that this VM can run on, or choose others than those that were left out."
    return " ".join(remedy(change, result.nearest.name) for change in result.nearest.changes)


def chosen(spec: Spec, result: Result) -> str:
    """Why the chosen host, in one sentence."""
    if not result.top:
        return ""
    best = result.top[0]
    others = result.fit - 1
    how = ALLOCATORS.get(result.allocator, result.allocator)
    told = (
        f"{best.name} ({best.cluster}) by {how}: score {best.score:.3f}; {_plural(others, 'other host')} would fit too."
    )
    higher = max(result.top, key=lambda one: one.score)
    if higher.score > best.score:
        told += f" {higher.name} scores {higher.score:.3f}: hosts that are about as good take turns."
    return told


def gist(summary: Mapping[str, Any]) -> str:
    """What a stored decision came to, in one sentence, from its summary alone."""
    if not summary["host"]:
        return f"No host fitted: {losses(summary['lost'])}." if summary["considered"] else "There were no hosts."
    how = ALLOCATORS.get(summary["allocator"], summary["allocator"])
    return f"Chosen by {how}; {summary['fit']:,} of {_plural(summary['considered'], 'host')} fitted."


def for_tenant(spec: Spec, lost: Mapping[str, int], *, placed: bool) -> tuple[str, ...]:
    """The outcome, telling only what the tenant's own VM asks for: no hosts, no numbers, nobody else's VMs."""
    if placed:
        return ("There is a place for this VM.",)
    told = [words for names, words in _TENANT if any(name in lost for name in names)]
    if "tags" in lost:
        who = sorted({asker for asker in spec.tags.values() if asker})
        told.insert(0, f"It needs a host with particular features ({_listed(who)}), and none of those can take it now.")
    return ("There is no place for this VM now.", *dict.fromkeys(told), "An administrator can see the details.")


_TENANT: tuple[tuple[tuple[str, ...], str], ...] = (
    (("vcpus", "memory", "threshold"), "What is left is not enough for its size; a smaller offering may fit."),
    (("together", "apart"), "Its placement rules leave no host."),
    (("networks", "datastores", "local-disks"), "Its networks or disks cannot be reached from elsewhere."),
    (("consoles",), "Its open consoles would exceed what is left elsewhere; close some."),
    (("cluster-scope", "only-hosts"), "It may not leave where it is."),
    (("schedulable", "hold", "connection"), "Some of the fleet is not in use at the moment."),
)
