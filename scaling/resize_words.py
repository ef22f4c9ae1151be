"""A resize's steps and results in plain words. Tenants read them: they name no host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cloudops.hypervisors.port import ResizeKind
from placement import vm_migrations
from scaling.models import Resize
from scaling.values import Size

CLAIM, STOP, DEFINE, START, CONFIRM = "claim", "stop", "define", "start", "confirm"
CHANGE: Final = "change"
_PLAIN: Final = {
    CLAIM: "Keep room on its host",
    STOP: "Ask the guest to shut down",
    DEFINE: "Change the VM's definition",
    START: "Start the VM",
    CONFIRM: "Read back what the VM and its guest have",
}
Mode = Resize.Mode


def steps(row: Resize) -> list[tuple[str, str]]:
    """The operation's steps in their order, as key and words. They follow from the row alone."""
    found: list[tuple[str, str]] = []
    if row.moves:  # in the order in which placement notes them
        found += [(f"move-{number}", name) for number, name in enumerate(vm_migrations.STEPS)]
    else:
        found.append((CLAIM, _PLAIN[CLAIM]))
    if row.mode == Mode.RESTART:
        found += [(key, _PLAIN[key]) for key in (STOP, DEFINE, START)]
    elif row.mode == Mode.NOW:
        found.append((DEFINE, _PLAIN[DEFINE]))
    else:
        found += [(f"{CHANGE}-{number}", change(one, row)) for number, one in enumerate(row.steps)]
    return [*found, (CONFIRM, _PLAIN[CONFIRM])]


def moving_steps(row: Resize) -> int:
    """How many of the first steps are placement's, whose words name hosts."""
    return len(vm_migrations.STEPS) if row.moves else 0


def change(step: Mapping[str, Any], row: Resize) -> str:
    """One live change for people."""
    was, given = Size(**row.from_size), Size(**row.given_size)
    value, kind = step["value"], ResizeKind(step["kind"])
    if kind is ResizeKind.VCPUS:
        return f"Change the vCPUs from {was.vcpus} to {value}"
    if kind is ResizeKind.CPU:
        return f"Set the CPU speed to {given.cpu_mhz:,} MHz each" if given.cpu_mhz else "Take the CPU speed off"
    if kind is ResizeKind.DIMM:
        return f"Add a memory module of {value:,} MiB"
    if kind is ResizeKind.BALLOON:
        return f"Leave the guest {value:,} MiB of its boot memory"
    if kind is ResizeKind.VIRTIO_MEM:
        return f"Give the guest {value:,} MiB beside its boot memory"
    return f"Set the memory to {value:,} MiB"


def size(one: Size) -> str:
    """ "2 vCPUs, 512 MiB, 500 MHz each" """
    words = [f"{one.vcpus} vCPU{'' if one.vcpus == 1 else 's'}", f"{one.memory_mib:,} MiB"]
    if one.cpu_mhz:
        words.append(f"{'at most ' if one.cpu_cap else ''}{one.cpu_mhz:,} MHz each")
    return ", ".join(words)


def title(name: str, given: Size) -> str:
    return f"Resize {name} to {size(given)}"[:200]


def kept(vcpus: int, memory_mib: int) -> str:
    """What was claimed beside what the VM has."""
    if not vcpus and not memory_mib:
        return "No more room is needed."
    parts = [*([f"{vcpus} vCPU{'' if vcpus == 1 else 's'}"] if vcpus else [])]
    parts += [f"{memory_mib:,} MiB"] if memory_mib else []
    return f"{' and '.join(parts)} more."


def names(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c" """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
