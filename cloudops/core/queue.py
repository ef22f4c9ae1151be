"""Handing work to a Celery worker from domain code, which knows tasks by name only (they are above it)."""

from __future__ import annotations

import structlog
from celery import current_app
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)


def enqueue(task_name: str, *args: object, expires_seconds: float | None = None) -> bool:
    """Queues the task; False (and a log line) when the queue cannot be reached, so that the caller can say so.

    Call it after commit: a worker may be quicker than the transaction.
    """
    if current_app.conf.task_always_eager:
        current_app.loader.import_default_modules()
        current_app.tasks[task_name].apply_async(args=args)
        return True
    try:
        current_app.send_task(task_name, args=args, expires=expires_seconds, retry=False, ignore_result=True)
    except (OperationalError, RedisError, OSError) as error:
        log.warning("queue_unavailable", task=task_name, error=str(error))
        return False
    return True
