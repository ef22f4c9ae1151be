"""Builds the lab's guest: a tiny real Linux that boots under plain emulation within seconds.

Its kernel is what the machine's apt archive offers (see ``kernel``), taken out of its packages with ``apt-get
download`` and ``dpkg-deb`` (never installed); its initramfs is busybox and a dozen modules. No root rights are needed.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cloudops.lab import kernel
from cloudops.lab.cpio import CpioArchive
from cloudops.lab.process import ServiceError, locked, run_tool

Progress = Callable[[str], None]

OS_RELEASE = Path("/etc/os-release")
BUSYBOX = Path("/bin/busybox")
DIRECTORIES = ("bin", "dev", "etc", "etc/acpi", "etc/acpi/PWRF", "lib", "lib/modules", "proc", "root", "sys", "tmp")
MODULES = ("virtio_pci", "virtio_balloon", "virtio_mem", "virtio_net", "button", "evdev")
"""Kernel modules of the guest; those that they need come with them, and one that is built in is left out."""
WITHOUT = {
    "virtio_balloon": "guests report no memory use and cannot give memory back",
    "virtio_mem": "guests' memory cannot grow while they run",
    "virtio_net": "guests have no network",
    "button": "guests do not shut down when asked",
    "evdev": "guests do not shut down when asked",
}
"""What a guest cannot do whose kernel lacks a driver."""


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
    with locked(cache_dir / ".lock"):
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
    sources = (Path(__file__), Path(kernel.__file__))
    for source in (_init_script(), *(path.read_bytes() for path in sources), str(BUSYBOX.stat().st_size).encode()):
        digest.update(source)
    return digest.hexdigest()[:16]


def _init_script() -> bytes:
    return (Path(__file__).parent / "guest_init.sh").read_bytes()


def _build(cache_dir: Path, progress: Progress) -> str:
    packages = _kernel_packages(cache_dir, progress)
    with tempfile.TemporaryDirectory(dir=cache_dir) as folder:
        progress("Unpacking the guest's kernel")
        for package in packages:
            run_tool(["dpkg-deb", "-x", str(package), folder], "unpack the kernel package")
        found = kernel.unpacked(Path(folder))
        for name in found.missing(tuple(WITHOUT)):
            progress(f"The kernel {found.version} has no {name}: {WITHOUT[name]}")
        progress("Building the guest's file system")
        initrd = cache_dir / "initrd.img.new"
        initrd.write_bytes(gzip.compress(_initramfs(found), compresslevel=6, mtime=0))
        shutil.copyfile(found.image, cache_dir / "vmlinuz.new")
        for name in ("initrd.img", "vmlinuz"):
            (cache_dir / f"{name}.new").replace(cache_dir / name)
        return found.version


def _kernel_packages(cache_dir: Path, progress: Progress) -> list[Path]:
    """The packages that an earlier build downloaded, or those that apt offers now."""
    listed = cache_dir / "packages"
    cached = [cache_dir / name for name in listed.read_text().split()] if listed.exists() else []
    if not cached:  # from before there was a list, when one package was all
        cached = sorted(cache_dir.glob("linux-image-*-cloud-amd64_*.deb"))[-1:]
    if cached and all(path.exists() for path in cached):
        return cached
    names = kernel.choose(kernel.system(_os_release()), _apt_depends)
    found = []
    for name in names:
        progress(f"Downloading {name}")
        run_tool(["apt-get", "download", name], "download the kernel package (apt-get update may help)", cwd=cache_dir)
        found.append(max(cache_dir.glob(f"{name}_*.deb"), key=lambda path: path.stat().st_mtime))
    listed.write_text("".join(f"{path.name}\n" for path in found))
    return found


def _os_release() -> str:
    return OS_RELEASE.read_text() if OS_RELEASE.exists() else ""


def _apt_depends(name: str) -> str:
    """``apt-cache depends``, "" for a package that the archive does not have (apt-cache fails then)."""
    try:
        return run_tool(["apt-cache", "depends", name], "look the kernel package up")
    except ServiceError as error:
        if "No packages found" in str(error):
            return ""
        raise


def _initramfs(of: kernel.Kernel) -> bytes:
    archive = CpioArchive()
    for path in DIRECTORIES:
        archive.directory(path)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", BUSYBOX.read_bytes(), executable=True)
    for applet in run_tool([str(BUSYBOX), "--list"], "list busybox's commands").split():
        if applet != "busybox":
            archive.symlink(f"bin/{applet}", "busybox")
    modules = of.in_load_order(MODULES)
    for name, module in modules.items():
        archive.file(f"lib/modules/{name}.ko", module)
    archive.file("lib/modules/order", "".join(f"{name}.ko\n" for name in modules).encode())
    # What acpid runs when the hypervisor presses the power button (virDomainShutdown).
    archive.file("etc/acpi/PWRF/00000080", b"#!/bin/sh\npoweroff -f\n", executable=True)
    archive.file("init", _init_script(), executable=True)
    return archive.finish()
