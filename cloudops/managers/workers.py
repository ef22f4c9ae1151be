"""A Celery worker among the management servers' other processes: its row, for as long as it lives."""

from __future__ import annotations

import os
import threading
from typing import Any, Final

import structlog
from celery.signals import worker_ready, worker_shutdown
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connections
from django.utils import timezone

from cloudops import __version__
from cloudops.managers import processes
from cloudops.managers.models import ServerProcess

log = structlog.get_logger(__name__)
END_SECONDS: Final = 5.0


class _Row:
    """Registers, renews and ends the row, in a thread of its own in the worker's main process."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker-lease", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._stop.set()
        self._thread.join(END_SECONDS)

    def _run(self) -> None:
        process: ServerProcess | None = None
        while True:
            try:
                process = self._beat(process)
            except (DatabaseError, InterfaceError) as error:
                log.warning("worker_database_away", error=str(error))
            finally:
                connections.close_all()
            if self._stop.wait(processes.RENEW_SECONDS):
                break
        if process is not None:
            self._finish(process)

    @staticmethod
    def _beat(process: ServerProcess | None) -> ServerProcess:
        now = timezone.now()
        if process is not None and processes.renew(process=process, now=now):
            return process
        return processes.register(
            role=ServerProcess.Role.WORKER,
            server_name=settings.SERVER_NAME,
            pid=os.getpid(),
            version=__version__,
            now=now,
        )

    @staticmethod
    def _finish(process: ServerProcess) -> None:
        try:
            processes.stop(process=process, now=timezone.now())
        except (DatabaseError, InterfaceError) as error:
            log.warning("worker_database_away", error=str(error))
        finally:
            connections.close_all()


_rows: list[_Row] = []


def connect() -> None:
    """Celery's signals are sent in worker processes only."""
    worker_ready.connect(_started, dispatch_uid="cloudops-worker-row")
    worker_shutdown.connect(_ending, dispatch_uid="cloudops-worker-row")


def _started(**_: Any) -> None:
    row = _Row()
    _rows.append(row)
    row.start()


def _ending(**_: Any) -> None:
    while _rows:
        _rows.pop().end()
