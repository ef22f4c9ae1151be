"""What placement tells: sent after commit, robustly, in the process that saw it. A hint, like every signal."""

from __future__ import annotations

from django.dispatch import Signal

migration_ended = Signal()
"""``operation``, ``vm_id``, ``ok``, ``code``, ``detail``, ``remedy``, ``maintenance_id`` (or None) and ``now``.

``ok``: the VM is on the destination. Else ``code`` says why not; ``migration-cancelled`` when somebody aborted it."""
