"""Several real libvirt hosts on this machine that send each other running guests, and their faults on request."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from cloudops.lab import serial_line
from cloudops.lab.domain import GuestSpec
from cloudops.lab.libvirtd import LibvirtHost
from cloudops.lab.libvirtd_config import Listen
from cloudops.lab.network import UPLINK, LabNetwork
from cloudops.lab.process import ServiceError

TCP_PORT = 16509
BACK_SECONDS = 30.0
BOOT_SECONDS = 110.0
MOST_HOSTS = 4
UNLIMITED_MIB_PER_SECOND = 10_240


def host_names(count: int) -> tuple[str, ...]:
    """("kvm-01", …)."""
    return tuple(f"kvm-{number:02}" for number in range(1, count + 1))


class Lab:
    """One to four libvirt hosts. Use it from the main thread: what it starts is tied to the thread (see `Child`).

    Each host has its address on the lab's own network and listens for libvirt without authentication there; guests'
    VNC servers listen on the address of the host they are on. Nothing outside this machine reaches the network.
    """

    def __init__(self, state_dir: Path, *, hosts: int = 3, socket_gid: int | None = None) -> None:
        if not 1 <= hosts <= MOST_HOSTS:
            raise ValueError(f"a lab has 1 to {MOST_HOSTS} hosts, not {hosts}")
        self.state_dir = state_dir.absolute()
        self.names = host_names(hosts)
        self._socket_gid = socket_gid
        self._hosts: dict[str, LibvirtHost] = {}
        self._network = LabNetwork(self.state_dir / "network.log", preferred_range=self._earlier_range())
        self._off: set[str] = set()
        self._frozen: set[str] = set()
        self._unplugged: set[str] = set()

    # -- life of the lab

    def start(self) -> Self:
        """Returns when every host's libvirtd answers. Raises ServiceError, and leaves nothing behind, when one does
        not."""
        if self._hosts:
            return self
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        try:
            self._network.start()
            (self.state_dir / "range").write_text(str(self._network.range))
            addresses = {name: self._network.address(name) for name in self.names}
            for name, address in addresses.items():
                self._hosts[name] = LibvirtHost(
                    self.state_dir / name,
                    name,
                    listen=Listen(address=address, tcp_port=TCP_PORT),
                    peers={other: addresses[other] for other in self.names if other != name},
                    shared_dir=self.state_dir,
                    socket_gid=self._socket_gid,
                )
                self._power_on(name)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, *, save_guests: bool = False) -> None:
        """Ends all hosts. ``save_guests``: see `LibvirtHost.stop`; a host that cannot save its guests just ends."""

        def end(name: str) -> None:
            with contextlib.suppress(ServiceError):
                self._hosts[name].stop(save_guests=save_guests and self._state(name) not in {"off", "frozen"})

        with ThreadPoolExecutor(MOST_HOSTS) as side_by_side:  # the kernel takes two seconds to take a host apart
            list(side_by_side.map(end, self._hosts))
        for names in (self._hosts, self._off, self._frozen, self._unplugged):
            names.clear()
        self._network.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def is_running(self) -> bool:
        """Whether every host that should be on is."""
        return all(host.is_running() for name, host in self._hosts.items() if name not in self._off)

    # -- hosts

    @property
    def hosts(self) -> tuple[LibvirtHost, ...]:
        return tuple(self._hosts.values())

    def host(self, name: str) -> LibvirtHost:
        """Raises ServiceError naming the hosts there are."""
        try:
            return self._hosts[name]
        except KeyError:
            raise ServiceError(f"there is no host {name}; there are {', '.join(self._hosts)}") from None

    def address(self, name: str) -> str:
        """The host's address: of its libvirtd, of its guests' VNC servers, and for migrations."""
        return self._network.address(self.host(name).name)

    def uri(self, name: str) -> str:
        """The libvirt URI of a host, from here and from the other hosts."""
        return f"qemu+tcp://{self.address(name)}/system"

    # -- guests

    def boot(self, spec: GuestSpec, *, on: str, wait: bool = False) -> str:
        """Runs a guest on a host, or where it is already defined; returns its UUID. ``wait``: until it has booted
        (guests with an image only)."""
        home = next((host for host in self._awake() if spec.name in host.defined()), self.host(on))
        reference = home.ensure_guest(replace(spec, vnc_listen=None))
        if wait:
            home.wait_booted(spec.name, timeout_seconds=BOOT_SECONDS)
        return reference

    def running(self) -> Mapping[str, set[str]]:
        """Names of the guests that run, by host; asked of each libvirt over its own socket, so also of an unplugged
        host. Raises ServiceError when a host is frozen."""
        return {name: set() if name in self._off else set(self._ask(name).running()) for name in self._hosts}

    def where(self, guest: str) -> str:
        """The host on which a guest runs. Raises ServiceError when that is none, or more than one."""
        found = [name for name, guests in self.running().items() if guest in guests]
        if len(found) != 1:
            raise ServiceError(f"{guest} runs on {' and '.join(found) or 'no host'}")
        return found[0]

    def life(self, guest: str) -> serial_line.Life:
        """Since when the guest's kernel lives, in its own words. The guest needs an image."""
        host = self.host(self.where(guest))
        terminal = Path(host.virsh("ttyconsole", guest))
        return serial_line.life(terminal, host.serial_log(guest))

    def hurry(self, guest: str, *, on: str) -> None:
        """From now on a migration of this guest away from ``on`` goes as fast as it can, if there is one
        (virDomainMigrateSetMaxSpeed)."""
        self._ask(on).virsh_quietly("migrate-setspeed", guest, str(UNLIMITED_MIB_PER_SECOND))

    # -- faults

    def freeze(self, name: str) -> None:
        """Stops libvirtd and the guests where they are: their sockets stay open and silent, as on a hung host."""
        self.host(name).freeze(guests=True)
        self._frozen.add(name)

    def thaw(self, name: str) -> None:
        """Undoes :meth:`freeze`."""
        self.host(name).thaw()
        self._frozen.discard(name)

    def crash(self, name: str) -> None:
        """Cuts a host's power: its line goes dead, then everything on it is gone at once."""
        host = self.host(name)
        if name not in self._off:
            self._network.unplug(name)
            self._off.add(name)
            host.stop()
            self._network.disconnect(name)
            self._frozen.discard(name)
            self._unplugged.discard(name)

    def start_host(self, name: str) -> None:
        """Switches a crashed host on again; its guests are defined and off, as after a power cut."""
        if self.host(name).name in self._off:
            self._power_on(name)

    def unplug(self, line: str) -> None:
        """Pulls a host's network cable; with ``uplink`` the one between CloudOps and all hosts, which still reach each
        other."""
        self._network.unplug(self._line(line))
        self._unplugged.add(line)

    def plug(self, line: str) -> None:
        """Undoes :meth:`unplug`."""
        self._network.plug(self._line(line))
        self._unplugged.discard(line)

    def kill_libvirtd(self, name: str) -> None:
        """SIGKILL to a host's libvirtd, as in a crash of it; it is started again about a second later, and guests live
        on."""
        self._ask(name).kill_daemon()

    def states(self) -> Mapping[str, str]:
        """In words, by host: "up", "off", "frozen", "unplugged"; and the uplink."""
        return {name: self._state(name) for name in (*self._hosts, UPLINK)}

    def reset(self) -> None:
        """Everything on, thawed and plugged in, and not a guest left. Raises ServiceError when a host stays dead."""
        for line in tuple(self._unplugged):
            self.plug(line)
        for name, host in self._hosts.items():
            self.thaw(name)
            if name not in self._off and not host.is_running():
                self.crash(name)
            self.start_host(name)
        for host in self._hosts.values():
            host.wait_answering(timeout_seconds=BACK_SECONDS)
            for guest in host.defined():
                host.remove_guest(guest)

    # -- inside

    def _power_on(self, name: str) -> None:
        host = self._hosts[name]
        host.network_namespace = self._network.connect(name)
        host.start()
        self._off.discard(name)

    def _awake(self) -> Iterable[LibvirtHost]:
        return [host for name, host in self._hosts.items() if name not in self._off | self._frozen]

    def _ask(self, name: str) -> LibvirtHost:
        state = self._state(self.host(name).name)
        if state in {"off", "frozen"}:
            raise ServiceError(f"{name} is {state}")
        return self._hosts[name]

    def _state(self, name: str) -> str:
        for state, names in (("off", self._off), ("frozen", self._frozen), ("unplugged", self._unplugged)):
            if name in names:
                return state
        return "up"

    def _line(self, name: str) -> str:
        if name == UPLINK:
            return name
        if self.host(name).name in self._off:
            raise ServiceError(f"{name} is off")
        return name

    def _earlier_range(self) -> int:
        try:
            return int((self.state_dir / "range").read_text())
        except (OSError, ValueError):
            return 0


def deal(guests: Sequence[str], hosts: Sequence[str]) -> Mapping[str, str]:
    """Guests dealt out over hosts in turn: guest to host."""
    return {guest: hosts[number % len(hosts)] for number, guest in enumerate(guests)}


def wait_moved(lab: Lab, guest: str, *, to: str, timeout_seconds: float) -> None:
    """Returns once a guest runs on ``to`` and nowhere else. Raises ServiceError after the timeout."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        found = [name for name, guests in lab.running().items() if guest in guests]
        if found == [to]:
            return
        if time.monotonic() > deadline:
            raise ServiceError(f"{guest} is on {found} after {timeout_seconds:.0f} s, not on {to}")
        time.sleep(0.1)
