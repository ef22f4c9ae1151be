"""What accounts tell the layers above, without knowing them."""

from __future__ import annotations

from django.dispatch import Signal

rights_changed = Signal()
"""``user_ids``, ``now``: these people may have lost rights; sent after commit, robustly. Check what they hold open."""
