"""One Prefect API for this folder, and a run whose calls only count."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.flows.live import Live

# Before Prefect is imported: its settings are read then.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "ERROR")


@pytest.fixture(scope="session")
def prefect_api_url() -> Iterator[str]:
    """A throw-away Prefect API, with its address as this process's setting."""
    from prefect import settings
    from prefect.testing.utilities import prefect_test_harness

    updates: dict[Any, object] = {
        settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
        settings.PREFECT_SERVER_ANALYTICS_ENABLED: False,
    }
    with settings.temporary_settings(updates), prefect_test_harness(server_startup_timeout=120):
        url = settings.PREFECT_API_URL.value()
        assert url is not None
        yield url


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    if sys.platform != "linux":
        pytest.skip("looks into /proc")
    server = Live(tmp_path_factory.mktemp("prefect"))
    try:
        yield server
    finally:
        server.server.stop()
