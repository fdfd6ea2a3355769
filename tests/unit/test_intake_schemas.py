"""Records whose schema is not there yet: they wait, nothing overtakes them, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.calls import RetryPolicy
from k2i_tasks.clock import SystemClock
from k2i_tasks.errors import Component, ServiceError, TransientError
from k2i_tasks.intake import Intake
from k2i_tasks.metrics import Metrics
from k2i_tasks.progress import Progress
from k2i_tasks.status import Health, RunState
from k2i_tasks.types import DecodedBatch, RawBatch
from tests.support import open_gate
from tests.unit.codec_batches import batch_of, payload
from tests.unit.framed_rows import Known, framed, row
from tests.unit.standstill_rig import Source

SCHEMA = pa.schema([("a", pa.int64())])
AWAY = TransientError("The schema registry is away.", component=Component.REGISTRY)
POLL_SECONDS = 0.2


class Rig:
    """An intake before a source of these batches."""

    def __init__(self, known: Known, *batches: RawBatch) -> None:
        self.source = Source(batches)
        self.progress = Progress("t", "t", 1 << 30, SystemClock())
        self.progress.state = RunState.RUNNING
        source: Any = self.source
        nothing: Any = None
        self.intake = Intake(source, nothing, open_gate(), nothing, Metrics(), self.progress)
        self.intake.decoder = framed(known, policy=RetryPolicy(initial_seconds=0.0))

    def poll(self) -> list[DecodedBatch]:
        return self.intake.poll(100, POLL_SECONDS, room_bytes=1 << 20, empty=True)

    def rows(self, polls: int) -> Iterator[int]:
        for _ in range(polls):
            for decoded in self.poll():
                yield from (one["a"] for one in payload(decoded))


@pytest.fixture
def known() -> Known:
    return Known({1: SCHEMA, 2: SCHEMA})


def test_records_wait_while_the_registry_is_away_and_come_in_order_once_it_is_back(
    known: Known,
) -> None:
    known.failure = AWAY
    rig = Rig(known, batch_of([row(1, a=1), row(2, a=2)]), batch_of([row(1, a=3)], 2))
    polls = rig.source.polls
    assert list(rig.rows(5)) == []
    # The client lives, and gives nothing that would have to be kept.
    assert rig.source.polls - polls >= 5
    assert rig.source.paused
    status = rig.progress.status()
    assert status.components["registry"].status is Health.DEGRADED
    assert "schema registry is away" in status.components["registry"].message
    known.failure = None
    assert list(rig.rows(5)) == [1, 2, 3]
    assert not rig.source.paused


def test_what_comes_before_the_unknown_schema_goes_on_through_an_outage(known: Known) -> None:
    rig = Rig(known, batch_of([row(1, a=1)]))
    assert list(rig.rows(2)) == [1]
    known.failure = AWAY
    rig.source.batches = [batch_of([row(1, a=2), row(1, a=3), row(2, a=4), row(1, a=5)], 1)]
    assert list(rig.rows(5)) == [2, 3]
    rig.source.batches = [batch_of([row(1, a=6)], 5)]
    known.failure = None
    assert list(rig.rows(6)) == [4, 5, 6]


def test_a_full_buffer_and_a_missing_schema_are_two_reasons_to_pause(known: Known) -> None:
    known.failure = AWAY
    rig = Rig(known, batch_of([row(1, a=1)]))
    rig.poll()
    rig.intake.pause()
    known.failure = None
    assert list(rig.rows(3)) == [1]
    assert rig.source.paused
    rig.intake.resume()
    assert not rig.source.paused
    rig.intake.pause("schemas")
    rig.intake.resume()
    assert rig.source.paused
    rig.intake.forget()
    rig.intake.resume()
    assert not rig.source.paused


def test_a_registry_that_refuses_us_ends_the_run(known: Known) -> None:
    known.failure = ServiceError("refused", component=Component.REGISTRY)
    rig = Rig(known, batch_of([row(1, a=1)]))
    with pytest.raises(ServiceError):
        rig.poll()
    # It is still to come: no position has moved past it.
    assert rig.progress.records_consumed == 0
    known.failure = None
    assert list(rig.rows(2)) == [1]
