"""What a run does when its source ends, or Kafka has lost what it was to read next."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from k2i_tasks.calls import InlineTracker, RetryPolicy
from k2i_tasks.clock import SystemClock
from k2i_tasks.engine.triggers import Limits
from k2i_tasks.errors import Component, FencedError, IntegrityError, K2IError
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.metrics import Metrics
from k2i_tasks.ports import Settings
from k2i_tasks.runner import Runner
from k2i_tasks.status import RunState
from k2i_tasks.types import (
    OffsetRange,
    Offsets,
    Ranges,
    RawBatch,
    SealedBatch,
    TableCommit,
    TopicPartition,
)
from tests.support import no_upkeep, open_gate
from tests.unit.codec_batches import decoder_of, records

P0 = TopicPartition("t", 0)
GONE = IntegrityError("records are gone", component=Component.KAFKA)
#: What a source does in one poll: hands over [start, end), or raises.
Turn = tuple[int, int] | K2IError


class Scripted:
    """A source that does one thing after the other, and drains the run when it is through."""

    def __init__(self, calls: list[str], turns: Iterable[Turn], gap: Ranges) -> None:
        self.calls = calls
        self.turns = list(turns)
        self.gap = gap
        self.assigned: Offsets = {}
        self.runner: Runner
        self.other_topic: K2IError | None = None

    rebalanced = False

    def given(self) -> frozenset[TopicPartition]:
        return frozenset({P0})

    def inspect(self, _timeout: float) -> Any:
        self.calls.append("inspect")
        return SimpleNamespace(topic="t", topic_id="id", cluster_id=None)

    def assign(self, offsets: Offsets) -> None:
        self.assigned = dict(offsets)

    def poll(self, _max_records: int, _timeout: float) -> RawBatch | None:
        if not self.turns:
            self.runner.request_drain("through")
            return None
        turn = self.turns.pop(0)
        if isinstance(turn, K2IError):
            raise turn
        return records(*turn)

    def gaps(self) -> Ranges:
        gap, self.gap = self.gap, {}
        return gap

    def confirm(self) -> None:
        if self.other_topic is not None:
            raise self.other_topic

    def __getattr__(self, _name: str) -> Any:
        return lambda *_arguments: {}


class Table:
    """Operations on a table that records `at`; `left`: end of a batch that is to be recovered."""

    epoch, wal_bytes, wal_damage, shared = 1, 0, (), False

    def __init__(self, calls: list[str], at: int, left: int | None) -> None:
        self.calls = calls
        self.at = at
        self.left = left
        self.exists = True

    @property
    def unfinished(self) -> bool:
        return self.left is not None

    def open(self) -> SinkState | None:
        self.calls.append("open")
        return SinkState(offsets={P0: self.at}) if self.exists else None

    def create(self, _schema: pa.Schema) -> SinkState:
        self.calls.append("create")
        return SinkState()

    def claim(self, *_arguments: Any) -> SinkState:
        self.calls.append("claim")
        return SinkState(offsets={P0: self.at})

    def recover(self) -> Offsets:
        self.calls.append("recover")
        self.at = self.left or self.at
        return {P0: self.at}

    def payload_schema(self) -> pa.Schema:
        return pa.schema([("n", pa.int64())])

    def reload(self) -> pa.Schema:
        come = [("m", pa.int64())] if "recover" in self.calls else []
        return pa.schema([("n", pa.int64()), *come])

    def pass_gap(self, lost: Ranges) -> None:
        self.calls.append(f"gap {lost[P0]}")

    def flush(self, _batch: SealedBatch) -> Any:
        return SimpleNamespace(size_bytes=0, files=())

    def commit(self, batch: SealedBatch) -> TableCommit:
        span = batch.ranges[P0]
        assert span.start == self.at
        self.at = span.end
        self.calls.append(f"commit {span}, {batch.rows} rows")
        return TableCommit(batch.batch_id, 1, batch.rows, 0, 0, 0, batch.ranges, 0.0, -1)

    def close(self) -> None:
        """Nothing is open."""


class Rule:
    """Reads on from the table; Kafka has nothing below `low`."""

    def __init__(self, low: int, *, halt: bool) -> None:
        self.low = low
        self.halt = halt

    def offsets(self, _topic: Any, state: SinkState | None) -> Offsets:
        return state.offsets if state is not None else {P0: 0}

    def lost(self, _topic: Any, offsets: Offsets) -> Ranges:
        if offsets[P0] >= self.low:
            return {}
        if self.halt:
            raise GONE
        return {P0: OffsetRange(offsets[P0], self.low)}


class Run:
    """One run over a scripted source; what was called, in order."""

    def __init__(
        self,
        *turns: Turn,
        gap: Ranges | None = None,
        at: int = 0,
        left: int | None = None,
        low: int = 0,
        halt: bool = True,
    ) -> None:
        self.calls: list[str] = []
        self.source = Scripted(self.calls, turns, gap or {})
        self.table = Table(self.calls, at, left)
        self.runner = self.source.runner = Runner(
            topic="t",
            table="db.t",
            source=self.source,
            operations=self.table,  # type: ignore[arg-type]
            decoder_for=self._decoder,
            start_rule=Rule(low, halt=halt),
            gate=open_gate(),
            tracker_factory=lambda _status, _drain: InlineTracker(),
            meter=Metrics(),
            clock=SystemClock(),
            settings=Settings(limits=Limits(), retry=RetryPolicy(budget_seconds=0)),
            batch_prefix="r",
            upkeep_factory=no_upkeep,
        )

    def _decoder(self, schema: pa.Schema | None) -> Any:
        self.known = [] if schema is None else schema.names
        return decoder_of(schema)

    def commits(self) -> list[str]:
        return [call for call in self.calls if call.startswith(("commit", "gap"))]


def test_what_was_read_is_committed_before_an_error_of_the_source_ends_the_run() -> None:
    run = Run((0, 3), (3, 5), GONE, (5, 9))
    with pytest.raises(IntegrityError, match="records are gone"):
        run.runner.run()
    assert run.commits() == ["commit [0,5), 5 rows"]
    assert run.runner.status().components["kafka"].message != ""


def test_the_first_error_is_the_one_that_is_told() -> None:
    run = Run((0, 3), GONE)
    run.source.other_topic = FencedError("a later one")
    with pytest.raises(IntegrityError, match="records are gone"):
        run.runner.run()
    assert run.commits() == []


def failing(closed: list[str], name: str) -> Any:
    def close() -> None:
        closed.append(name)
        raise IntegrityError(f"{name} does not close", component=Component.KAFKA)

    return close


def test_an_error_at_the_end_does_not_hide_the_one_that_ended_the_run() -> None:
    run = Run((0, 3), GONE)
    closed: list[str] = []
    vars(run.source)["close"] = failing(closed, "source")
    vars(run.table)["close"] = failing(closed, "table")
    with pytest.raises(IntegrityError, match="records are gone"):
        run.runner.run()
    assert closed == ["table", "source"]


@pytest.mark.parametrize("name", ["source", "table"])
def test_an_error_at_the_end_of_a_sound_run_is_the_runs(name: str) -> None:
    run = Run((0, 3))
    closed: list[str] = []
    vars(getattr(run, name))["close"] = failing(closed, name)
    with pytest.raises(IntegrityError, match=f"{name} does not close"):
        run.runner.run()
    assert closed == [name]
    assert run.runner.status().state is RunState.FAILED
    assert run.commits() == ["commit [0,3), 3 rows"]


def test_rows_that_may_be_of_another_topic_are_not_written() -> None:
    run = Run((0, 3))
    run.source.other_topic = IntegrityError("another topic")
    with pytest.raises(IntegrityError, match="another topic"):
        run.runner.run()
    assert run.commits() == []


def test_a_topic_created_again_before_its_first_record_leaves_no_table_behind() -> None:
    run = Run((0, 3))
    run.table.exists = False
    run.source.other_topic = IntegrityError("another topic")
    with pytest.raises(IntegrityError, match="another topic"):
        run.runner.run()
    assert run.calls == ["open", "inspect"]


def test_columns_that_came_with_what_was_recovered_are_known_to_the_decoder() -> None:
    run = Run((3, 5), left=3)
    run.runner.run()
    assert run.commits() == ["commit [3,5), 2 rows"]
    assert run.known == ["n", "m"]


def test_a_gap_is_kept_in_the_log_and_committed_as_positions() -> None:
    run = Run((7, 9), gap={P0: OffsetRange(0, 7)})
    status = run.runner.run()
    assert run.commits() == ["gap [0,7)", "commit [0,9), 2 rows"]
    assert "and skipped: 0:[0,7)" in status.last_errors[0].message
    assert status.components["kafka"].message == status.last_errors[0].message


def test_a_gap_at_the_start_is_passed_too() -> None:
    run = Run((7, 9), at=4, low=7, halt=False)
    run.runner.run()
    assert run.source.assigned == {P0: 7}
    assert run.commits() == ["gap [4,7)", "commit [4,9), 2 rows"]


def test_a_gap_that_halts_the_start_changes_nothing() -> None:
    run = Run(at=4, low=7)
    with pytest.raises(IntegrityError, match="records are gone"):
        run.runner.run()
    assert run.calls == ["open", "inspect"]


@pytest.mark.parametrize("left", [5, 7])
def test_files_of_an_earlier_run_are_committed_before_the_gap_is_judged(left: int) -> None:
    run = Run((7, 9), at=4, left=left, low=7, halt=left < 7)
    if left < 7:
        with pytest.raises(IntegrityError, match="records are gone"):
            run.runner.run()
    else:
        run.runner.run()
    assert run.calls[:4] == ["open", "inspect", "claim", "recover"]
    assert run.table.at == (left if left < 7 else 9)
