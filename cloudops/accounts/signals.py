"""What accounts tell the layers above, without knowing them."""

from __future__ import annotations

from django.dispatch import Signal

rights_changed = Signal()
"""``user_ids``, ``now``: these people may have lost rights; sent after commit, robustly. Check what they hold open."""

project_use = Signal()
"""``project_ids``, ``now``: asks what is in use of each project's quotas; receivers return ``{project_id: {name: n}}``
with the names that they know of: ``vcpus``, ``memory_mib``, ``consoles``."""
