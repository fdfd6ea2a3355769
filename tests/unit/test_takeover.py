"""A run on a topic that has no records yet, and no table: it is up, and watches."""

from __future__ import annotations

from typing import Any

import pytest

from k2i_tasks.engine.triggers import Limits
from k2i_tasks.errors import Component, IntegrityError
from k2i_tasks.status import ErrorNote, RunState, Status
from k2i_tasks.types import Offsets, RawBatch, TopicPartition
from tests.unit.codec_batches import records
from tests.unit.test_runner_start import P0, OneBatch, run

P1 = TopicPartition("t", 1)
AT_ONCE = Limits(flush_rows=1)


class Quiet(OneBatch):
    """A source that has nothing for a while; what the run shows meanwhile is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Status] = []
        self.added: Offsets = {}

    def poll(self, _max_records: int, _timeout: float) -> RawBatch | None:
        self.seen.append(self.runner.status())
        if self.operations.created:
            return None
        return None if len(self.seen) < 4 else records(0, 3)

    def lag(self) -> dict[TopicPartition, int]:
        return {P0: 0}

    def errors(self) -> tuple[ErrorNote, ...]:
        return (ErrorNote(1e12, "kafka", "no broker answers"),)

    def new_partitions(self) -> Offsets:
        added, self.added = self.added, {}
        return added


def test_a_run_that_waits_for_the_first_record_is_running_and_shows_what_kafka_says() -> None:
    source = Quiet()
    run(0, source, AT_ONCE)
    waiting = source.seen[2]
    assert waiting.state is RunState.RUNNING
    assert waiting.lag == {P0: 0}
    assert waiting.positions == {P0: 0}
    assert [note.message for note in waiting.last_errors] == ["no broker answers"]


def test_partitions_that_appear_before_the_first_record_are_claimed_from_their_start() -> None:
    source = Quiet()
    source.added = {P1: 0}
    _source, operations, _status = run(0, source, AT_ONCE)
    assert operations.claimed.offsets == {P0: 0, P1: 0}


def test_a_topic_made_again_before_the_first_record_ends_the_run() -> None:
    source = Quiet()
    gone = IntegrityError("made again", component=Component.KAFKA)

    def lag() -> Any:
        raise gone

    source.lag = lag  # type: ignore[method-assign]
    with pytest.raises(IntegrityError, match="made again"):
        run(1, source, AT_ONCE)
