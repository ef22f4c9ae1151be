"""Why a VM could not be placed, and the smallest change that would let it go, in words and numbers.

Everything is judged on the layout that the plan ends with: what it says fits, fits beside all other moves of the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from placement.planner.board import Board, Column, Layout, Numbers
from placement.planner.model import Blocker, Host, Kind, Proof, Relaxation, Remedy, Rule, Stranded, column_of
from placement.planner.units import Ceiling

WORDS: dict[str, str] = {
    Kind.TAG: "tag {name}",
    Kind.SOFT_TAG: "soft tag {name}",
    Kind.CLUSTER: "cluster {name}",
    Kind.NETWORK: "network {name}",
    Kind.DATASTORE: "datastore {name}",
    Kind.LOCAL_DISK: "local disk {name}",
    Kind.CPU_MODEL: "CPU model {name}",
    Kind.HYPERVISOR: "hypervisor {name}",
}
LIFTED: dict[str, str] = {
    Kind.SOFT_TAG: "drop soft tag {name}",
    Kind.CLUSTER: "allow it to leave cluster {name}",
    Kind.LOCAL_DISK: "copy its local disk {name}",
}
VCPU_WEIGHT = 1024


class Explainer:
    """Reasons for the VMs a layout leaves where they are."""

    def __init__(self, board: Board, layout: Layout) -> None:
        self.board = board
        self.layout = layout
        self.count = len(board.hosts)
        self.candidates = board.column(h for h in range(self.count) if h not in board.sources)
        self.ceiling = Ceiling(board)
        self.receiving = board.column(h for h, host in enumerate(board.hosts) if host.can_receive)

    def stranded(self, v: int, *, refused: Kind | None = None, proven: bool = False) -> Stranded:
        """Everything about one VM. ``refused``: what kept it from being tried."""
        judged = _Judged(self, v)
        blockers = (*self._refused(v, refused), *judged.blockers()) or (self._nothing_else(v),)
        relaxations = sorted(
            (*self._unpinned(v, refused, judged), *judged.relaxations(refused)),
            key=lambda one: (list(Remedy).index(one.remedy), one.memory_mib + VCPU_WEIGHT * one.vcpus + one.consoles),
        )
        if not relaxations and (several := judged.several(refused)):
            relaxations = [several]
        hopeless = self.ceiling.hopeless(self.board.unit([v]))
        sure = proven or hopeless or refused not in (None, Kind.ORDER)
        vm = self.board.vms[v]
        return Stranded(
            vm=vm.id,
            host=vm.host,
            blockers=blockers,
            relaxations=tuple(relaxations),
            proof=Proof.PROVEN if sure else Proof.NOT_FOUND,
            nearest=relaxations[0].host or None if relaxations else None,
        )

    def _refused(self, v: int, refused: Kind | None) -> Iterator[Blocker]:
        vm = self.board.vms[v]
        if refused is Kind.TOGETHER:
            yield Blocker(Kind.TOGETHER, ", ".join(vm.together), detail="another VM of the group stays on this host")
        elif refused is Kind.ORDER:
            yield Blocker(refused, detail="there is room at the end, but no order of the moves leads there")
        elif refused is not None:
            yield Blocker(refused, detail=vm.why_not)

    def _nothing_else(self, v: int) -> Blocker:
        """No host rules it out by itself: there is none, or none has room for all that has to come along."""
        if self.candidates.any():
            names = ", ".join(self.board.vms[v].together)
            return Blocker(Kind.TOGETHER, names, detail="no host has room for the whole group")
        return Blocker(Kind.NOT_RECEIVING, detail="there is no other host")

    def _unpinned(self, v: int, refused: Kind | None, judged: _Judged) -> Iterator[Relaxation]:
        vm, hosts = self.board.vms[v], np.flatnonzero(judged.fits)
        if refused in (None, Kind.ORDER) or not hosts.size:
            return
        host = self.board.hosts[int(hosts[0])]
        if refused is Kind.PINNED:
            yield Relaxation(Remedy.UNPIN, host.id, f"unpin {vm.name}: {host.name} has room", refused)
        elif refused is Kind.NOT_MOVABLE:
            words = f"wait until {vm.name} can be moved{_why(vm.why_not)}: {host.name} has room"
            yield Relaxation(Remedy.WAIT, host.id, words, refused)
        else:
            words = f"lift group {vm.together[0]}: {host.name} has room for {vm.name} alone"
            yield Relaxation(Remedy.LIFT_GROUP, host.id, words, Kind.TOGETHER, vm.together[0])


class _Judged:
    """Every verdict about one VM, a column over the hosts each."""

    def __init__(self, about: Explainer, v: int) -> None:
        board, layout = about.board, about.layout
        self.about, self.board, self.layout, self.v = about, board, layout, v
        self.vm = board.vms[v]
        self.rules = [(rule, _column(rule, about.count)) for rule in self.vm.rules]
        self.memory = layout.free_memory >= self.vm.memory_mib
        self.vcpus = layout.free_vcpus >= self.vm.vcpus
        self.consoles = (layout.free_consoles >= self.vm.consoles) | (self.vm.consoles == 0)
        tried = board.problem.tried.get(self.vm.id, frozenset())
        self.untried = ~board.column(board.host_index[host] for host in tried if host in board.host_index)
        self.fixed = board.column([board.fixed[v]]) if v in board.fixed else np.ones(about.count, bool)
        self.apart = {name: self._free_of(name) for name in self.vm.apart}
        self.together = self._with_group()
        self.elsewhere = about.candidates & ~board.column([layout.at[v]])
        self.fits = self._all()

    def _free_of(self, name: str) -> Column:
        mates = [w for w in self.board.apart.get(name, ()) if w != self.v]
        return ~self.board.column(self.layout.at[w] for w in mates)

    def _with_group(self) -> Column:
        """Where the rest of its group is; all hosts when it is alone or the rest is on hosts to be emptied too."""
        mates = [w for w in self.board.mates_together(self.v) if w != self.v]
        anchors = [self.layout.at[w] for w in mates if self.layout.at[w] not in self.board.sources]
        return self.board.column(anchors) if anchors else np.ones(self.about.count, bool)

    def _all(self, *, without: object = None) -> Column:
        """Hosts that pass every verdict but the one named: a rule, an apart group's name, or a :class:`Kind`."""
        ok = self.elsewhere.copy()
        for rule, column in self.rules:
            if rule is not without:
                ok &= column
        for name, column in self.apart.items():
            if name != without:
                ok &= column
        for kind, column in self._simple():
            if kind is not without:
                ok &= column
        return ok

    def _simple(self) -> Iterator[tuple[Kind, Column]]:
        yield Kind.NOT_RECEIVING, self.about.receiving
        yield Kind.TRIED, self.untried
        yield Kind.FIXED, self.fixed
        yield Kind.TOGETHER, self.together
        yield Kind.CONSOLES, self.consoles
        yield Kind.MEMORY, self.memory
        yield Kind.VCPUS, self.vcpus

    def blockers(self) -> Iterator[Blocker]:
        """Rules count over all hosts; groups and room over the hosts that the rules leave."""
        scope = self.elsewhere
        for rule, column in self.rules:
            if lost := int(np.count_nonzero(scope & ~column)):
                yield Blocker(rule.kind, rule.name, lost)
        legal = scope.copy()
        for _, column in self.rules:
            legal &= column
        for kind, column in list(self._simple())[:4]:
            if lost := int(np.count_nonzero(legal & ~column)):
                yield Blocker(kind, ", ".join(self.vm.together) if kind is Kind.TOGETHER else "", lost)
            legal &= column
        for name, column in self.apart.items():
            if lost := int(np.count_nonzero(legal & ~column)):
                yield Blocker(Kind.APART, name, lost)
        yield from self._short(legal)

    def _short(self, legal: Column) -> Iterator[Blocker]:
        for kind, column, free, needed in (
            (Kind.CONSOLES, self.consoles, self.layout.free_consoles, self.vm.consoles),
            (Kind.MEMORY, self.memory, self.layout.free_memory, self.vm.memory_mib),
            (Kind.VCPUS, self.vcpus, self.layout.free_vcpus, self.vm.vcpus),
        ):
            if lost := int(np.count_nonzero(legal & ~column)):
                yield Blocker(kind, "", lost, needed, max(0, int(free[legal].max())))

    def relaxations(self, refused: Kind | None) -> Iterator[Relaxation]:
        """Single changes that are enough."""
        if refused not in (None, Kind.ORDER):
            return
        vm = self.vm
        for rule, _ in self.rules:
            yield from self._without_rule(rule)
        for name in vm.apart:
            yield from self._without(name, Remedy.LIFT_GROUP, partial(self._lift_group, name), Kind.APART, name)
        yield from self._without_group()
        yield from self._without(
            Kind.TRIED, Remedy.RETRY, lambda h: f"try {h.name} again, where moving {vm.name} failed", Kind.TRIED
        )
        yield from self._without(
            Kind.FIXED, Remedy.UNFIX, lambda h: f"let {vm.name} go elsewhere: {h.name} has room", Kind.FIXED
        )
        yield from self._without(
            Kind.NOT_RECEIVING,
            Remedy.RECEIVE,
            lambda h: f"let {h.name} receive VMs again{_why(h.why_not)}: it has room",
            Kind.NOT_RECEIVING,
        )
        yield from self._fewer_consoles()
        yield from self._more_room()
        yield from self._shut_down()

    def _lift_group(self, name: str, host: Host) -> str:
        return f"lift group {name}: {host.name} has room for {self.vm.name}"

    def _without_rule(self, rule: Rule) -> Iterator[Relaxation]:
        if rule.liftable:
            what = LIFTED.get(rule.kind, "lift " + _named(rule)).replace("{name}", rule.name)
            yield from self._without(
                rule, Remedy.LIFT_RULE, lambda h: f"{what}: {h.name} has room", rule.kind, rule.name
            )
        else:
            yield from self._without(
                rule,
                Remedy.MEET_RULE,
                lambda h: f"let {h.name} offer {_named(rule)}: it has room",
                rule.kind,
                rule.name,
            )

    def _without_group(self) -> Iterator[Relaxation]:
        """The VM alone, when the rest of its group is elsewhere or does not fit beside it."""
        if not self.vm.together:
            return
        name = self.vm.together[0]
        hosts = np.flatnonzero(self._all(without=Kind.TOGETHER))
        if hosts.size:
            host = self.board.hosts[int(hosts[0])]
            words = f"lift group {name}: {host.name} has room for {self.vm.name} alone"
            yield Relaxation(Remedy.LIFT_GROUP, host.id, words, Kind.TOGETHER, name)

    def _without(
        self, what: object, remedy: Remedy, say: Callable[[Host], str], kind: str = "", name: str = ""
    ) -> Iterator[Relaxation]:
        hosts = np.flatnonzero(self._all(without=what) & ~self.fits)
        if hosts.size:
            host = self.board.hosts[int(hosts[np.argmax(self.layout.free_memory[hosts])])]
            yield Relaxation(remedy, host.id, say(host), kind, name)

    def _fewer_consoles(self) -> Iterator[Relaxation]:
        hosts = np.flatnonzero(self._all(without=Kind.CONSOLES) & ~self.fits)
        if hosts.size:
            best = int(hosts[np.argmax(self.layout.free_consoles[hosts])])
            missing = self.vm.consoles - int(self.layout.free_consoles[best])
            host = self.board.hosts[best]
            words = f"free {missing} console {'slot' if missing == 1 else 'slots'} on {host.name}"
            yield Relaxation(Remedy.FREE_CONSOLES, host.id, words, Kind.CONSOLES, consoles=missing)

    def _missing(self) -> Numbers:
        memory: Numbers = np.maximum(self.vm.memory_mib - self.layout.free_memory, 0)
        vcpus: Numbers = np.maximum(self.vm.vcpus - self.layout.free_vcpus, 0)
        return memory + VCPU_WEIGHT * vcpus

    def _roomless(self) -> Column:
        """Hosts that lack nothing but memory or vCPUs."""
        saved = self.memory, self.vcpus
        self.memory = self.vcpus = np.ones(self.about.count, bool)
        found = self._all() & ~(saved[0] & saved[1])
        self.memory, self.vcpus = saved
        return found

    def _more_room(self) -> Iterator[Relaxation]:
        hosts = np.flatnonzero(self._roomless())
        if hosts.size:
            best = int(hosts[np.argmin(self._missing()[hosts])])
            memory = max(0, self.vm.memory_mib - int(self.layout.free_memory[best]))
            vcpus = max(0, self.vm.vcpus - int(self.layout.free_vcpus[best]))
            host = self.board.hosts[best]
            words = f"{amount(memory, vcpus)} more on {host.name}{self._demands()}"
            yield Relaxation(
                Remedy.ADD_CAPACITY, host.id, words, Kind.MEMORY if memory else Kind.VCPUS, "", memory, vcpus
            )

    def _demands(self) -> str:
        named = [_named(rule) for rule, _ in self.rules if rule.kind in (Kind.TAG, Kind.SOFT_TAG)]
        return f" or another host with {', '.join(named)}" if named else ""

    def _shut_down(self) -> Iterator[Relaxation]:
        """The smallest VM whose end makes room where nothing else is missing."""
        best: tuple[int, int, int] | None = None
        for host in np.flatnonzero(self._roomless()):
            memory = self.vm.memory_mib - int(self.layout.free_memory[host])
            vcpus = self.vm.vcpus - int(self.layout.free_vcpus[host])
            for w in self.layout.on[int(host)]:
                if w not in self.board.moving and self.board.memory[w] >= memory and self.board.vcpus[w] >= vcpus:
                    best = min(best or (1 << 60, 0, 0), (self.board.memory[w], w, int(host)))
        if best is not None:
            other, host_found = self.board.vms[best[1]], self.board.hosts[best[2]]
            words = f"shut down {other.name} on {host_found.name}"
            yield Relaxation(Remedy.SHUT_DOWN, host_found.id, words, Kind.MEMORY, other.id)

    def several(self, refused: Kind | None) -> Relaxation | None:
        """The host with the least in the way, and all of it; None when there is no other host."""
        hosts = np.flatnonzero(self.elsewhere)
        if not hosts.size:
            return None
        counted = np.sum([~column for column in self._columns()], axis=0)
        order = np.lexsort((self._missing()[hosts], counted[hosts]))
        best = int(hosts[order[0]])
        host = self.board.hosts[best]
        parts = [f"unpin {self.vm.name}"] if refused is Kind.PINNED else []
        parts += [_named(rule) for rule, column in self.rules if not column[best]]
        parts += [f"group {name}" for name, column in self.apart.items() if not column[best]]
        parts += [_SIMPLE[kind] for kind, column in self._simple() if kind in _SIMPLE and not column[best]]
        memory = max(0, self.vm.memory_mib - int(self.layout.free_memory[best]))
        vcpus = max(0, self.vm.vcpus - int(self.layout.free_vcpus[best]))
        parts += [amount(memory, vcpus)] if memory or vcpus else []
        words = f"on {host.name} several things are in the way at once: {', '.join(parts)}"
        return Relaxation(Remedy.SEVERAL, host.id, words, memory_mib=memory, vcpus=vcpus)

    def _columns(self) -> Sequence[Column]:
        return [*(c for _, c in self.rules), *self.apart.values(), *(c for _, c in self._simple())]


_SIMPLE = {
    Kind.NOT_RECEIVING: "it receives no VMs",
    Kind.TRIED: "moving there failed before",
    Kind.FIXED: "another host was chosen",
    Kind.TOGETHER: "the VM's group is elsewhere",
    Kind.CONSOLES: "console slots",
}


def _column(rule: Rule, count: int) -> Column:
    return column_of(rule.hosts, count)


def _named(rule: Rule) -> str:
    return WORDS.get(rule.kind, rule.kind + " {name}").replace("{name}", rule.name).strip()


def _why(words: str) -> str:
    return f" ({words})" if words else ""


def amount(memory_mib: int, vcpus: int) -> str:
    """ "96 GiB and 2 vCPUs" """
    parts = []
    if memory_mib:
        parts.append(f"{memory_mib / 1024:g} GiB" if memory_mib % 256 == 0 else f"{memory_mib} MiB")
    if vcpus:
        parts.append(f"{vcpus} {'vCPU' if vcpus == 1 else 'vCPUs'}")
    return " and ".join(parts)
