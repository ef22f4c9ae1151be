"""A private libvirt host: libvirtd with QEMU in namespaces of its own, without systemd, beside whatever there is.

Everything it starts is in one PID namespace and dies with it, however we end. Several hosts run side by side: each has
its own state directory, host name, UUID and socket, and may live in a network namespace.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from cloudops.lab.cpu_cgroup import CpuCgroup, make_cpu_cgroup
from cloudops.lab.domain import GuestSpec, domain_xml
from cloudops.lab.libvirtd_config import Listen, daemon_settings, qemu_settings, write_lines
from cloudops.lab.process import Child, ServiceError, find_program, log_tail

READY_SECONDS = 30.0
VIRSH_SECONDS = 60.0
FREEZE_SECONDS = 10.0
SOCKET_PATH_BYTES = 107
CAPABILITIES = "cache/qemu/capabilities"


_learned: Path | None = None
"""Where a host of this process keeps what libvirtd found out about QEMU, which takes it a second or more each time."""


class InUse(ServiceError):
    """Another process runs a host in this state directory."""


class LibvirtHost:
    """One libvirt host. Not safe for use by several threads at once."""

    def __init__(
        self,
        state_dir: Path,
        name: str,
        *,
        listen: Listen | None = None,
        vnc_ports: tuple[int, int] = (5900, 6899),
        peers: Mapping[str, str] | None = None,
        shared_dir: Path | None = None,
        socket_gid: int | None = None,
    ) -> None:
        """``peers``: addresses of other hosts by name, for migration; hosts that send each other guests have a
        ``shared_dir`` in common, for guests' serial logs and definitions. ``socket_gid`` lets a group beside root use
        the socket: whoever may, is root on this host."""
        self.state_dir = state_dir.absolute()
        self.name = name
        self.network_namespace: Path | None = None
        """The network namespace that the next :meth:`start` lives in; None: the machine's own."""
        self.guests: dict[str, str] = {}
        self._listen = listen
        self._vnc_ports = vnc_ports
        self._peers = dict(peers or {})
        self._shared_dir = shared_dir.absolute() if shared_dir else self.state_dir
        self._socket_gid = socket_gid
        self._child: Child | None = None
        self._lock: IO[str] | None = None
        self._cpu: CpuCgroup | None = None

    # -- life of the host

    @property
    def socket(self) -> Path:
        return self.state_dir / "run" / "libvirt-sock"

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self.socket}"

    @property
    def uuid(self) -> str:
        """The host's UUID as libvirt reports it; two hosts on one machine must differ, or nothing migrates."""
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{self.name}.{self.state_dir}"))

    @property
    def log(self) -> Path:
        return self.state_dir / "log" / "host.log"

    def start(self) -> Self:
        """Returns when libvirtd answers and knows its QEMU. Raises ServiceError when it cannot be had, saying why;
        InUse is one."""
        if self._child is not None and self._child.is_running():
            return self
        if os.geteuid() != 0:
            raise ServiceError("a libvirt host of our own needs root (namespaces, mounts). Remedy: run it through sudo")
        if len(os.fsencode(self.socket)) > SOCKET_PATH_BYTES:
            raise ServiceError(f"{self.socket} is too long for a socket. Remedy: use a shorter state directory")
        for program, package in (("libvirtd", "libvirt-daemon"), ("virsh", "libvirt-clients")):
            find_program(program, package=package)
        find_program("qemu-system-x86_64", package="qemu-system-x86")
        self._prepare()
        self._launch()
        return self

    def stop(self, *, save_guests: bool = False) -> None:
        """Ends the host and every process of it. ``save_guests`` keeps running guests' memory on disk first
        (virDomainManagedSave), so that the next ``ensure_guest`` continues them within seconds."""
        if self._child is None:
            return
        try:
            if save_guests and self._child.is_running():
                for guest in self.running():
                    self.virsh("managedsave", guest)
        finally:
            self._kill_host(self._child)
            self._child = None
            if self._cpu is not None:
                self._cpu.remove()
                self._cpu = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def is_running(self) -> bool:
        """Whether the host is on; its libvirtd may still be frozen, or dead for a moment."""
        return self._child is not None and self._child.is_running()

    def wait_answering(self, *, timeout_seconds: float) -> None:
        """Returns once libvirtd answers. Raises ServiceError after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while not self._answers():
            if time.monotonic() > deadline:
                raise ServiceError(f"libvirtd of {self.name} does not answer after {timeout_seconds:.0f} s")
            time.sleep(0.1)

    # -- guests

    def defined(self) -> Sequence[str]:
        """Names of all guests this host knows."""
        return self.virsh("list", "--all", "--name").split()

    def running(self) -> Sequence[str]:
        """Names of the guests that run."""
        return self.virsh("list", "--name").split()

    def remove_guest(self, name: str) -> None:
        """Kills a guest if it runs and forgets it."""
        self.virsh_quietly("destroy", name)
        self.virsh_quietly("undefine", name, "--managed-save")
        self.guests.pop(name, None)
        if name in self.defined():
            raise ServiceError(f"{self.name} does not let go of the guest {name}")

    def ensure_guest(self, spec: GuestSpec, *, start: bool = True) -> str:
        """Defines the guest if it is missing or was defined differently, starts it if it is off; returns its UUID."""
        xml = domain_xml(spec, self.serial_log(spec.name))
        definition = self._shared_dir / "guests" / f"{spec.name}.xml"
        running = spec.name in self.running()
        if not running and (
            not definition.exists() or definition.read_text() != xml or spec.name not in self.defined()
        ):
            self.virsh_quietly("managedsave-remove", spec.name)
            definition.touch(mode=0o600)
            definition.write_text(xml)
            self.virsh("define", str(definition))
        if start and not running:
            self._start_guest(spec.name)
        self.guests[spec.name] = spec.reference
        return spec.reference

    def wait_booted(self, name: str, *, timeout_seconds: float = 60.0) -> None:
        """Returns once the guest's shell is on its screen. Raises ServiceError after the timeout."""
        self.wait_serial(name, "GUEST READY", timeout_seconds=timeout_seconds)

    def wait_serial(self, name: str, text: str, *, timeout_seconds: float) -> str:
        """Waits until the guest has written ``text`` to its serial line; returns the whole log."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            written = self.serial_log(name).read_text(errors="replace") if self.serial_log(name).exists() else ""
            if text in written:
                return written
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"guest {name} did not write {text!r} within {timeout_seconds:.0f} s:\n{written[-2000:]}"
                )
            time.sleep(0.05)

    def serial_log(self, name: str) -> Path:
        """What the guest wrote to ttyS0, since its last boot."""
        return self._shared_dir / "serial" / f"{name}.log"

    def virsh(self, *arguments: str) -> str:
        """Output of one virsh command against this host. Raises ServiceError with libvirt's own words."""
        command = ["virsh", "--quiet", "--connect", self.uri, *arguments]
        try:
            done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=VIRSH_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ServiceError(
                f"{self.name} did not answer virsh {arguments[0]} within {VIRSH_SECONDS:.0f} s"
            ) from error
        except subprocess.CalledProcessError as error:
            raise ServiceError(f"virsh {' '.join(arguments)}: {error.stderr.strip()}") from error
        return done.stdout.strip()

    def virsh_quietly(self, *arguments: str) -> None:
        """:meth:`virsh`, whether or not it succeeds."""
        with contextlib.suppress(ServiceError):
            self.virsh(*arguments)

    # -- faults

    def freeze(self, *, guests: bool = False) -> None:
        """SIGSTOP to libvirtd (and its guests): sockets stay open and silent, as on a hung host. Raises ServiceError
        when they do not stop: a thread that is busy in the kernel stops a moment later."""
        stopping = self._signal_all(signal.SIGSTOP, guests=guests)
        deadline = time.monotonic() + FREEZE_SECONDS
        while not all(map(_is_stopped, stopping)):
            if time.monotonic() >= deadline:
                raise ServiceError(f"{self.name} does not freeze")
            time.sleep(0.005)

    def thaw(self) -> None:
        """Undoes :meth:`freeze`."""
        self._signal_all(signal.SIGCONT, guests=True)

    def kill_daemon(self) -> None:
        """SIGKILL to libvirtd, as in a crash. Guests live on; the supervisor starts it again about a second later."""
        for pid in self.daemon_pids():
            os.kill(pid, signal.SIGKILL)

    def daemon_pids(self) -> Sequence[int]:
        """Process ids of libvirtd: one, or none between a crash and the supervisor's next start."""
        return self._processes("libvirtd")

    def guest_pid(self, name: str) -> int:
        """Process id of a guest's QEMU. Raises ServiceError when it does not run."""
        for pid in self._processes("qemu-system"):
            if f"guest={name},".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        raise ServiceError(f"guest {name} does not run on {self.name}")

    def kill_guest(self, name: str) -> None:
        """SIGKILL to a guest's QEMU, as in a crash of it."""
        os.kill(self.guest_pid(name), signal.SIGKILL)

    # -- inside

    def _prepare(self) -> None:
        self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
        lock = (self.state_dir / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise InUse(f"another process runs a libvirt host in {self.state_dir}. Remedy: stop it first") from error
        self._lock = lock
        shutil.rmtree(self.state_dir / "run", ignore_errors=True)
        for folder in ("etc", "run", "lib", "log/qemu", "cache"):
            (self.state_dir / folder).mkdir(parents=True, exist_ok=True)
        _recall(self.state_dir / CAPABILITIES)
        for folder in ("serial", "guests"):
            (self._shared_dir / folder).mkdir(parents=True, exist_ok=True)
        (self.state_dir / "run").chmod(0o750)
        if self._socket_gid is not None:
            os.chown(self.state_dir / "run", -1, self._socket_gid)
        self._cpu = make_cpu_cgroup(self.uuid)
        listen = self._listen or Listen()
        write_lines(self.state_dir / "etc/libvirtd.conf", daemon_settings(listen, self.uuid))
        settings = qemu_settings(listen.address, self._vnc_ports, cpu_control=self._cpu is not None)
        write_lines(self.state_dir / "etc/qemu.conf", settings)
        write_lines(self.state_dir / "etc/libvirt.conf", [])
        write_lines(self.state_dir / "hosts", ["127.0.0.1 localhost", *self._host_names(), *_lines("/etc/hosts")])
        users = [line for line in _lines("/etc/passwd") if not line.startswith("libvirt-qemu:")]
        write_lines(
            self.state_dir / "passwd", [*users, "libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin"]
        )
        groups = [line for line in _lines("/etc/group") if not line.startswith(("libvirt-qemu:", "kvm:", "labusers:"))]
        groups += ["kvm:x:64056:", "libvirt-qemu:x:64055:", f"labusers:x:{self._socket_gid or 0}:"]
        write_lines(self.state_dir / "group", groups)

    def _host_names(self) -> list[str]:
        names = {self.name: self._listen.address if self._listen else "127.0.1.1"} | self._peers
        return [f"{address} {name}" for name, address in names.items()]

    def _launch(self) -> None:
        script = Path(__file__).parent / "libvirt_host.sh"
        command = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command += ["--propagation", "private", "bash", str(script), str(self.state_dir), self.name]
        if self._cpu is not None:
            command.append(str(self._cpu.path))
        if self.network_namespace is not None:
            command = ["nsenter", f"--net={self.network_namespace}", "--", *command]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "LIBVIRTD_ARGS": "--listen" if self._listen else ""}
        self.log.write_bytes(b"")
        self._child = Child(
            f"libvirt host {self.name}", command, log=self.log, env=environment, parent_death=signal.SIGKILL
        )
        try:
            self._child.wait_ready(self._answers, deadline_seconds=READY_SECONDS)
            # Has libvirtd look at its QEMU now: on a busy machine that takes longer than a first call would wait.
            self.virsh("version")
            _remember(self.state_dir / CAPABILITIES)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        if "Driver state initialization failed" in log_tail(self.log):
            raise ServiceError(
                f"libvirtd cannot load its QEMU driver. Its log is {self.log} and ends:\n{log_tail(self.log)}"
            )
        if not self.socket.exists():
            return False
        try:
            self.defined()
        except ServiceError:
            return False
        return True

    def _start_guest(self, name: str) -> None:
        if name in self.virsh("list", "--inactive", "--with-managed-save", "--name").split():
            try:
                self.virsh("start", name)
            except ServiceError:  # saved by another version of QEMU, or damaged: a fresh boot is what is left
                self.virsh("managedsave-remove", name)
            else:
                return
        self.serial_log(name).write_bytes(b"")
        self.virsh("start", name)

    def _kill_host(self, child: Child) -> None:
        inside = self._processes("")
        child.kill()
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in inside) and time.monotonic() < deadline:
            time.sleep(0.01)

    def _processes(self, name: str) -> Sequence[int]:
        """Processes of this host whose program starts with ``name``: PID 1 of its namespace and that one's children."""
        if self._child is None:
            return []
        found = []
        for init in _children(self._child.pid):
            for pid in (init, *_children(init)):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text().startswith(name):
                        found.append(pid)
        return found

    def _signal_all(self, number: signal.Signals, *, guests: bool) -> list[int]:
        """Sends it to libvirtd, and to the guests; returns to whom."""
        names = ("libvirtd", "qemu-system") if guests else ("libvirtd",)
        found = [pid for name in names for pid in self._processes(name)]
        for pid in found:
            os.kill(pid, number)
        return found


def _remember(capabilities: Path) -> None:
    global _learned
    _learned = capabilities


def _recall(capabilities: Path) -> None:
    """Spares a new host to find out for itself; libvirtd checks that it is of the same QEMU."""
    if _learned is not None and _learned.is_dir() and not capabilities.exists():
        shutil.copytree(_learned, capabilities)


def _is_stopped(pid: int) -> bool:
    """Every thread of it; a process that is gone counts."""
    with contextlib.suppress(OSError):
        return all(
            (task / "stat").read_text().rpartition(")")[2].split()[0] in "TZX"
            for task in Path(f"/proc/{pid}/task").iterdir()
        )
    return True


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
