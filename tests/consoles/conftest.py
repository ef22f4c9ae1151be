from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.consoles.world import World, build

if TYPE_CHECKING:
    from tests.conftest import Clock


@pytest.fixture
def world(db: None, clock: Clock) -> World:
    return build(clock.now)
