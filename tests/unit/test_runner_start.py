"""A run that finds no table at first, while another one makes and fills it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.calls import InlineTracker, RetryPolicy
from k2i_tasks.clock import SystemClock
from k2i_tasks.codecs import MetadataColumns, make_decoder
from k2i_tasks.engine.triggers import Limits
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.metrics import Metrics
from k2i_tasks.ports import Settings
from k2i_tasks.runner import Runner
from k2i_tasks.status import Status
from k2i_tasks.types import Offsets, Ranges, RawBatch, TopicPartition
from tests.support import no_upkeep, open_gate
from tests.unit.codec_batches import batch_of

P0 = TopicPartition("t", 0)


class OneBatch:
    """A source that has three records at 0, and drains the run once it is read from elsewhere."""

    def __init__(self) -> None:
        self.assigned: list[dict[TopicPartition, int]] = []
        self.runner: Any = None
        self.operations: Any = None

    rebalanced = False

    def given(self) -> frozenset[TopicPartition]:
        return frozenset({P0})

    def inspect(self, _timeout: float) -> Any:
        return SimpleNamespace(topic="t", topic_id=None, cluster_id=None)

    def assign(self, offsets: Offsets) -> None:
        self.assigned.append(dict(offsets))

    def poll(self, _max_records: int, _timeout: float) -> RawBatch | None:
        if self.runner.buffer.scan() or len(self.assigned) > 1:
            self.runner.request_drain("seen enough")
            return None
        return batch_of([b'{"n":0}', b'{"n":1}', b'{"n":2}'])

    def __getattr__(self, _name: str) -> Any:
        return lambda *_arguments: {}


class OnlyNoise(OneBatch):
    """Records that cannot be decoded, without an end until there is a table."""

    def __init__(self) -> None:
        super().__init__()
        self.polls = 0

    def poll(self, _max_records: int, _timeout: float) -> RawBatch | None:
        if self.operations.created:
            return None
        self.polls += 1
        assert self.polls < 10, "all of it is gathered in memory"
        return batch_of([b"noise " * 10] * 10, 10 * (self.polls - 1))


class FromZero:
    """Reads P0 from 0; Kafka has lost nothing."""

    def offsets(self, _topic: Any, _state: SinkState | None) -> Offsets:
        return {P0: 0}

    def lost(self, _topic: Any, _offsets: Offsets) -> Ranges:
        return {}


class Raced:
    """Operations on a table that, when it is to be created, records `filled` next offsets."""

    epoch, wal_bytes, wal_damage, shared = 1, 0, (), False

    def __init__(self, filled: int) -> None:
        self.filled = filled
        self.created = False
        self.flushed: list[Any] = []
        self.claimed = SinkState()

    def open(self) -> SinkState | None:
        return None

    def create(self, _schema: pa.Schema) -> SinkState:
        self.created = True
        return SinkState(offsets={P0: self.filled} if self.filled else {})

    def claim(self, state: SinkState, offsets: Offsets, _mine: Any, _origin: Any) -> SinkState:
        self.claimed = SinkState(offsets={**offsets, **state.offsets})
        return self.claimed

    def recover(self) -> Offsets:
        return self.claimed.offsets

    def payload_schema(self) -> pa.Schema:
        return pa.schema([("n", pa.int64())])

    def flush(self, batch: Any) -> Any:
        self.flushed.append(batch.ranges)
        raise KeyError("far enough")

    def close(self) -> None:
        """Nothing is open."""


def run(
    filled: int, source: OneBatch | None = None, limits: Limits | None = None
) -> tuple[OneBatch, Raced, Status | None]:
    source, operations = source or OneBatch(), Raced(filled)
    runner = Runner(
        topic="t",
        table="db.t",
        source=source,
        operations=operations,  # type: ignore[arg-type]
        decoder_for=lambda schema: make_decoder(
            "json",
            columns=MetadataColumns(),
            table_schema=schema,
            max_message_bytes=1000,
            mode="auto-additive",
        ),
        start_rule=FromZero(),
        gate=open_gate(),
        tracker_factory=lambda _status, _drain: InlineTracker(),
        meter=Metrics(),
        clock=SystemClock(),
        settings=Settings(limits=limits or Limits(), retry=RetryPolicy(budget_seconds=0)),
        batch_prefix="r",
        upkeep_factory=no_upkeep,
    )
    source.runner, source.operations = runner, operations
    if not filled:
        with pytest.raises(Exception, match="far enough"):
            runner.run()
        return source, operations, None
    return source, operations, runner.run()


def test_rows_that_the_other_run_has_committed_are_not_written_again() -> None:
    source, operations, status = run(filled=3)
    assert source.assigned == [{P0: 0}, {P0: 3}]
    assert operations.flushed == []
    assert status is not None
    assert (status.records_consumed, status.positions) == (0, {P0: 3})


def test_without_a_rival_the_first_records_are_the_first_batch() -> None:
    source, operations, _status = run(filled=0)
    assert source.assigned == [{P0: 0}]
    assert [str(span) for span in operations.flushed[0].values()] == ["[0,3)"]


def test_records_that_cannot_be_decoded_are_not_gathered_without_a_bound() -> None:
    _source, operations, _status = run(0, OnlyNoise(), Limits(flush_bytes=2_000))
    assert [span.start for span in operations.flushed[0].values()] == [0]
