"""Tasks: what takes time, shows progress, may be cancelled and may be held or made to fail by a test."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.vsphere.fake.entities import Entity, Task, Vm
from tests.vsphere.fake.types import Fault, refuse, support, vim, vmodl

if TYPE_CHECKING:
    from tests.vsphere.fake.service import Call, Service

log = logging.getLogger(__name__)

STEPS = 5
KEPT = 1000
"""How many tasks are remembered, the oldest go first."""
FOREVER_SECONDS = 3600.0

Finish = Callable[[], Any]
Ready = Callable[[], bool]


def start(
    call: Call,
    entity: Entity,
    finish: Finish,
    *,
    seconds: float | None = None,
    check: Finish | None = None,
    until: Ready | None = None,
    within_seconds: float = 0,
    is_exclusive: bool = True,
    over: Callable[[], None] | None = None,
) -> Any:
    """Begins the task of the method called and answers its reference; call it under the world's lock.

    ``check`` runs when it begins. ``finish`` runs under the lock when ``until`` (if any) holds, before
    ``within_seconds`` are over (0: no limit, else Timedout); what it returns or raises is the task's end. ``over``
    runs in the end either way. Raises: TaskInProgress for a VM that another task has.
    """
    service = call.service
    if isinstance(entity, Vm) and is_exclusive:
        if entity.busy:
            other = service.world.running_tasks(entity)
            raise refuse(
                vim.fault.TaskInProgress,
                "The operation cannot be performed because another task is in progress.",
                task=other[0].ref if other else None,
            )
        entity.busy = True
    info = support.GetWsdlMethod("urn:vim25", call.name).info
    name = f"{info.typeName.rpartition('.')[2]}.{info.name[0].lower()}{info.name[1:]}"
    task = Task(name, entity, call.session.user, begun_at=datetime.now(UTC))
    service.world.add(task, vim.Task(f"task-{service.world.number()}"))
    service.world.tasks[task.mo_id] = task
    _forget(service)
    service.world.changed(entity)
    work = _Work(service, task, call.name, check, finish, until, within_seconds, over)
    running = asyncio.get_running_loop().create_task(work.run(service.task_seconds if seconds is None else seconds))
    service.background.add(running)
    running.add_done_callback(service.background.discard)
    return task.ref


def _forget(service: Service) -> None:
    tasks = service.world.tasks
    for mo_id in [one.mo_id for one in tasks.values() if one.state != "running"][: max(0, len(tasks) - KEPT)]:
        del tasks[mo_id], service.world.objects[mo_id]


class _Work:
    def __init__(
        self,
        service: Service,
        task: Task,
        method: str,
        check: Finish | None,
        finish: Finish,
        until: Ready | None,
        within_seconds: float,
        over: Callable[[], None] | None,
    ) -> None:
        self._service = service
        self._task = task
        self._method = method
        self._check = check
        self._finish = finish
        self._until = until
        self._within_seconds = within_seconds
        self._over = over

    async def run(self, seconds: float) -> None:
        task, world = self._task, self._service.world
        try:
            if self._check is not None:
                with world.lock:
                    self._check()
            await self._advance(seconds)
            await self._await_ready()
            with world.lock:
                self._check_cancelled()
                task.result = self._finish()
                task.state, task.progress = "success", 100
        except Fault as raised:
            task.state, task.error = "error", raised.detail
        except Exception as error:
            log.exception("the fake failed in %s", task.name)
            broken = refuse(vmodl.fault.SystemError, f"the fake failed: {error!r}", reason=repr(error))
            task.state, task.error = "error", broken.detail
        finally:
            with world.lock:
                task.ended_at = datetime.now(UTC)
                if self._over is not None:
                    self._over()
                if isinstance(task.entity, Vm) and not world.running_tasks(task.entity):
                    task.entity.busy = False
                world.changed(task, task.entity)

    async def _advance(self, seconds: float) -> None:
        for step in range(1, STEPS + 1):
            await asyncio.sleep(seconds / STEPS)
            self._check_cancelled()
            with self._service.world.lock:
                self._task.progress = min(99, step * 100 // STEPS)
                self._service.world.changed(self._task)
            if step == STEPS // 2:
                await self._middle()

    async def _middle(self) -> None:
        faults = self._service.faults
        while self._method in faults.held:
            await self._service.change(FOREVER_SECONDS)
            self._check_cancelled()
        if failing := faults.task_faults.get(self._method):
            raise refuse(support.GetVmodlType(failing[0]), failing[1] or failing[0])

    async def _await_ready(self) -> None:
        if self._until is None:
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + (self._within_seconds or FOREVER_SECONDS)
        while True:
            self._check_cancelled()
            with self._service.world.lock:
                if self._until():
                    return
            left = end - loop.time()
            if left <= 0:
                raise refuse(vim.fault.Timedout, "Operation timed out.")
            await self._service.change(left)

    def _check_cancelled(self) -> None:
        if self._task.cancelled:
            raise refuse(vmodl.fault.RequestCanceled, "The task was canceled by a user.")
