"""vSphere's tasks: looking at one, and waiting for one that is short."""

from __future__ import annotations

import time
from typing import Any

from pyVmomi import vim

from cloudops.hypervisors.port import HypervisorError, TimedOut
from cloudops.hypervisors.vsphere.errors import typed
from cloudops.hypervisors.vsphere.link import Link

FIRST_LOOK_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5
MARGIN_SECONDS = 0.2
"""What is left of the deadline when a task is given up, so that this is said rather than the line cut."""


def info(link: Link, task: vim.Task) -> vim.TaskInfo:
    """One look. A login that vSphere forgot meanwhile is renewed. Raises pyvmomi's faults."""
    try:
        return task.info
    except vim.fault.NotAuthenticated:
        link.relogin()
        return task.info


def wait(link: Link, task: vim.Task, seconds: float | None = None) -> Any:
    """The task's result, once it has one. Raises its error, typed, and TimedOut at the link's deadline (or after
    ``seconds``, if that is sooner); the task goes on then."""
    until = link.deadline - MARGIN_SECONDS
    if seconds is not None:
        until = min(until, time.monotonic() + seconds)
    pause = FIRST_LOOK_SECONDS
    while True:
        seen = info(link, task)
        if seen.state == vim.TaskInfo.State.success:
            return seen.result
        if seen.state == vim.TaskInfo.State.error:
            raise failure(seen)
        if time.monotonic() + pause > until:
            raise TimedOut(
                f"The task {seen.descriptionId} is at {seen.progress or 0} % and goes on.",
                platform_code=task._moId,
                remedy="Wait for it; the vSphere Client shows it among the recent tasks.",
            )
        time.sleep(pause)
        pause = min(LONGEST_PAUSE_SECONDS, pause * 2)


def settle(link: Link, task: vim.Task, seconds: float) -> None:
    """Raises the error of a task that fails within ``seconds``; one that takes longer goes on by itself."""
    try:
        wait(link, task, seconds)
    except TimedOut as error:
        if error.platform_code != task._moId:  # the task's own failure
            raise


def failure(seen: vim.TaskInfo) -> HypervisorError:
    """The error of a task that has failed."""
    if seen.error is None:
        return HypervisorError(f"The task {seen.descriptionId} failed; vSphere does not say why.")
    return typed(seen.error)
