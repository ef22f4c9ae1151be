"""libvirt's event loop: one thread per process, without which there are no events and no keep-alive."""

from __future__ import annotations

import logging
import os
import threading
import time

import libvirt

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_running = False


def ensure_event_loop() -> None:
    """Starts the loop once. To be called before any connection is opened (virEventRegisterDefaultImpl)."""
    global _running
    with _lock:
        if _running:
            return
        # Errors are raised; libvirt need not print them to stderr as well.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run, name="libvirt events", daemon=True).start()
        _running = True


def _run() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            logger.exception("libvirt's event loop failed; it goes on")
            time.sleep(1)


def _after_fork() -> None:
    global _lock, _running
    _lock = threading.Lock()
    _running = False


os.register_at_fork(after_in_child=_after_fork)
