"""When an absent API is worth a line, and when its server is only starting."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import pytest

from k2i_tasks.companion import ShowOptions
from k2i_tasks.tracking.observer import Observer
from k2i_tasks.tracking.report import Tally
from tests.flows.rig import status, wait_until

NOWHERE = "http://127.0.0.1:9/api"


@pytest.mark.parametrize(("patience_seconds", "lines"), [(60.0, 0), (0.0, 1)])
def test_a_server_that_was_just_started_may_be_silent_for_a_while(
    caplog: pytest.LogCaptureFixture, patience_seconds: float, lines: int
) -> None:
    looks: list[None] = []

    class Counted(Observer):
        def _note_away(self, error: Exception) -> None:
            super()._note_away(error)  # type: ignore[arg-type]
            looks.append(None)

    options = ShowOptions("orders", "demo.orders", watch_interval_seconds=0.05)
    observer = Counted(options, status, lambda _reason: None, Tally())
    with caplog.at_level(logging.WARNING, "k2i_tasks"):
        observer.start(nullcontext, NOWHERE, patience_seconds=patience_seconds)
        try:
            wait_until(lambda: len(looks) >= 3, 60, "three looks")
        finally:
            observer.close()
            assert observer._thread is not None
            observer._thread.join(30)
    said = [r for r in caplog.records if "does not answer" in r.getMessage()]
    assert len(said) == lines
