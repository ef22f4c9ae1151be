"""What is asked of placement keeps its meaning through any database."""

from __future__ import annotations

from typing import Any

from placement.spec import Purpose, Spec


def _turned(value: Any) -> Any:
    """As jsonb may give it back: the keys of every object in another order."""
    if isinstance(value, dict):
        return {key: _turned(value[key]) for key in sorted(value, reverse=True)}
    return [_turned(item) for item in value] if isinstance(value, list) else value


def test_the_order_in_which_a_database_keeps_keys_does_not_matter() -> None:
    asked = Spec(
        purpose=Purpose.MIGRATE,
        vcpus=2,
        memory_mib=2048,
        tags={"linux": "template debian", "generic": "offering small"},
        soft_tags={"ssd": "offering small", "fast": "template debian"},
        exclude_hosts={"b": "It is there already.", "a": "Nobody reaches it."},
        apart_hosts={"d": ("web",), "c": ("web", "db")},
        weights={"memory": 2.0, "consoles": 1.0},
    )
    again = Spec.from_json(_turned(asked.to_json()))
    assert again == asked
    for name in ("tags", "soft_tags", "exclude_hosts", "apart_hosts", "weights"):
        assert list(getattr(again, name)) == list(getattr(asked, name)) == sorted(getattr(asked, name))
