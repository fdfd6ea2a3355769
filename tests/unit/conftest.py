"""Fixtures of unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from k2i_tasks.asking.engine import Engine
from tests.unit.asking_world import Asked
from tests.unit.views_world import ArrowView


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    """An engine over some tables, and its processes, for a module."""
    made = Asked(seconds_max=60.0)
    yield made
    made.engine.close()


@pytest.fixture(scope="module")
def engine(asked: Asked) -> Engine:
    return asked.engine


@pytest.fixture(scope="module")
def tables(asked: Asked) -> dict[str, ArrowView]:
    return asked.views
