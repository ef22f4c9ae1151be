"""What libvirt says when a size cannot be changed, as the port's typed errors.

Its codes are shared by unlike reasons, so its words decide too (src/qemu/qemu_domain.c, qemu_hotplug.c, qemu_driver.c).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import libvirt

from cloudops.hypervisors.libvirt.errors import translate
from cloudops.hypervisors.port import (
    AuthenticationFailed,
    Busy,
    CeilingExceeded,
    HypervisorError,
    MemoryMisaligned,
    ResizeFailed,
    SlotsExhausted,
    Unreachable,
    VcpusNotRemovable,
    VmNotFound,
    VmNotRunning,
)

# As for every other call.
_GENERAL = (Unreachable, AuthenticationFailed, VmNotFound, VmNotRunning, Busy)
_BY_WORDS: tuple[tuple[int, str, type[ResizeFailed]], ...] = (
    (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "slots count", SlotsExhausted),
    (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "no free memory device slot", SlotsExhausted),
    (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "maxMemory", CeilingExceeded),
    (libvirt.VIR_ERR_INVALID_ARG, "greater than max allowable vcpus", CeilingExceeded),
    (libvirt.VIR_ERR_INVALID_ARG, "higher than max memory", CeilingExceeded),
    (libvirt.VIR_ERR_OPERATION_INVALID, "cannot resize the maximum", CeilingExceeded),
    (libvirt.VIR_ERR_OPERATION_TIMEOUT, "vcpu unplug", VcpusNotRemovable),
    (libvirt.VIR_ERR_INTERNAL_ERROR, "vcpu unplug", VcpusNotRemovable),
    (libvirt.VIR_ERR_OPERATION_FAILED, "vcpu unplug", VcpusNotRemovable),
    (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "appropriate hotpluggable vcpus", VcpusNotRemovable),
    (libvirt.VIR_ERR_XML_DETAIL, "smaller than or equal to @size", CeilingExceeded),
    (libvirt.VIR_ERR_XML_DETAIL, "multiple of block size", MemoryMisaligned),
)


def resize_error(error: libvirt.libvirtError) -> HypervisorError:
    """The typed error, with libvirt's message and ``libvirt-<number>`` as ``platform_code``. What says nothing of sizes
    (the line, the VM is gone, its job lock is held) is as for every other call; the rest is a ResizeFailed."""
    general = translate(error)
    if isinstance(general, _GENERAL):
        return general
    code, message = error.get_error_code() or 0, general.detail
    kind = next((kind for number, words, kind in _BY_WORDS if number == code and words in message), ResizeFailed)
    return kind(message, platform_code=general.platform_code)


@contextmanager
def typed(before: str = "") -> Iterator[None]:
    """Raises libvirt's errors as the port's. ``before``: what is to be said of the change as a whole, when a part of it
    has been made already."""
    try:
        yield
    except libvirt.libvirtError as error:
        found = resize_error(error)
        if isinstance(found, Unreachable):
            raise  # the session knows better why its line broke
        if before:
            words = f"{before} libvirt says: {found.detail}"
            found = type(found)(words, platform_code=found.platform_code, remedy=found.remedy)
        raise found from error
