"""The fleet that maintenance tests work on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.placement.maintenance.draining import Drains, fleet


@pytest.fixture
def world(transactional_db: None) -> Iterator[Drains]:
    with fleet() as world:
        yield world
