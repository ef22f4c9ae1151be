"""What a page's HTML says."""

from __future__ import annotations


def has_error(html: str, field: str) -> bool:
    """Whether the named field is marked as wrong, beside it."""
    block = html.split(f'id="field-{field}"')[1].split('id="field-')[0]
    return "errorlist" in block
