"""Builds the lab's guest: a tiny real Linux that boots under plain emulation within seconds.

Its kernel is Debian's cloud kernel, taken out of its package with ``apt-get download`` and ``dpkg-deb`` (never
installed); its initramfs is busybox and a dozen modules. No root rights are needed.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloudops.lab.cpio import CpioArchive
from cloudops.lab.process import ServiceError

Progress = Callable[[str], None]

KERNEL_METAPACKAGE = "linux-image-cloud-amd64"
BUSYBOX = Path("/bin/busybox")
DOWNLOAD_SECONDS = 300
DIRECTORIES = ("bin", "dev", "etc", "etc/acpi", "etc/acpi/PWRF", "lib", "lib/modules", "proc", "root", "sys", "tmp")
MODULES = (
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/virtio/virtio_balloon",
    "drivers/virtio/virtio_mem",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/acpi/button",
    "drivers/input/evdev",
)
"""Kernel modules in load order; one that is built into the kernel is left out."""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """What QEMU boots."""

    kernel: Path
    initrd: Path
    kernel_version: str


def build_guest(cache_dir: Path, progress: Progress = lambda _message: None) -> GuestImage:
    """Builds the guest into ``cache_dir``, or returns the one already there if it was built by the same recipe.

    Several processes may call it at once. Raises :class:`ServiceError` when a tool or the network is missing.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    with _locked(cache_dir / ".lock"):
        recipe = _recipe()
        stamp = cache_dir / "recipe"
        if stamp.exists():
            built_recipe, _, version = stamp.read_text().strip().partition(" ")
            image = _image(cache_dir, version)
            if built_recipe == recipe and image.kernel.exists() and image.initrd.exists():
                return image
        version = _build(cache_dir, progress)
        stamp.write_text(f"{recipe} {version}\n")
        return _image(cache_dir, version)


def _image(cache_dir: Path, version: str) -> GuestImage:
    return GuestImage(kernel=cache_dir / "vmlinuz", initrd=cache_dir / "initrd.img", kernel_version=version)


def _recipe() -> str:
    if not BUSYBOX.exists():
        raise ServiceError("busybox is missing. Remedy: apt-get install busybox-static")
    digest = hashlib.sha256()
    for source in (_init_script(), Path(__file__).read_bytes(), str(BUSYBOX.stat().st_size).encode()):
        digest.update(source)
    return digest.hexdigest()[:16]


def _init_script() -> bytes:
    return (Path(__file__).parent / "guest_init.sh").read_bytes()


def _build(cache_dir: Path, progress: Progress) -> str:
    package = _kernel_package(cache_dir, progress)
    with tempfile.TemporaryDirectory(dir=cache_dir) as unpacked:
        progress("Unpacking the guest's kernel")
        _run(["dpkg-deb", "-x", str(package), unpacked], "unpack the kernel package")
        root = Path(unpacked)
        modules = next((root / "lib/modules").iterdir())
        progress("Building the guest's file system")
        initrd = cache_dir / "initrd.img.new"
        initrd.write_bytes(gzip.compress(_initramfs(modules / "kernel"), compresslevel=6, mtime=0))
        shutil.copyfile(root / f"boot/vmlinuz-{modules.name}", cache_dir / "vmlinuz.new")
        for name in ("initrd.img", "vmlinuz"):
            (cache_dir / f"{name}.new").replace(cache_dir / name)
        return modules.name


def _kernel_package(cache_dir: Path, progress: Progress) -> Path:
    """The newest cached kernel package, downloaded first when there is none."""
    cached = sorted(cache_dir.glob("linux-image-*-cloud-amd64_*.deb"))
    if cached:
        return cached[-1]
    depends = _run(["apt-cache", "depends", KERNEL_METAPACKAGE], "look the kernel package up")
    found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", depends)
    if found is None:
        raise ServiceError(f"apt knows no {KERNEL_METAPACKAGE} (Debian's cloud kernel). Remedy: apt-get update")
    progress(f"Downloading {found[1]} (about 27 MB)")
    _run(["apt-get", "download", found[1]], "download the kernel package (apt-get update may help)", cwd=cache_dir)
    return sorted(cache_dir.glob("linux-image-*-cloud-amd64_*.deb"))[-1]


def _initramfs(kernel_modules: Path) -> bytes:
    archive = CpioArchive()
    for path in DIRECTORIES:
        archive.directory(path)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", BUSYBOX.read_bytes(), executable=True)
    for applet in _run([str(BUSYBOX), "--list"], "list busybox's commands").split():
        if applet != "busybox":
            archive.symlink(f"bin/{applet}", "busybox")
    order = []
    for module in MODULES:
        source = kernel_modules / f"{module}.ko"
        if source.exists():
            order.append(source.name)
            archive.file(f"lib/modules/{source.name}", source.read_bytes())
    archive.file("lib/modules/order", "\n".join(order).encode() + b"\n")
    # What acpid runs when the hypervisor presses the power button (virDomainShutdown).
    archive.file("etc/acpi/PWRF/00000080", b"#!/bin/sh\npoweroff -f\n", executable=True)
    archive.file("init", _init_script(), executable=True)
    return archive.finish()


def _run(command: list[str], purpose: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            check=True,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise ServiceError(f"Could not {purpose}: {command[0]} is not installed.") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"Could not {purpose}: no answer within {DOWNLOAD_SECONDS} s.") from error
    except subprocess.CalledProcessError as error:
        raise ServiceError(f"Could not {purpose}: {error.stderr.strip() or error}") from error
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
