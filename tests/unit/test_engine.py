"""The engine's triggers, order of commits, backpressure and drain."""

from k2i_tasks.engine.engine import (
    Arrival,
    Commit,
    Committed,
    Encode,
    Engine,
    Failed,
    Flushed,
    Pause,
    Release,
    Resume,
    Seal,
    Stop,
)
from k2i_tasks.engine.triggers import Limits
from k2i_tasks.errors import FencedError
from k2i_tasks.types import OffsetRange, SealReason, TopicPartition

P0 = TopicPartition("t", 0)
P1 = TopicPartition("t", 1)
MB = 1 << 20


def engine(**limits: float) -> Engine:
    return Engine(Limits(**limits), {P0: 0}, batch_prefix="b")  # type: ignore[arg-type]


def rows(start: int, end: int, nbytes: int = 1000) -> Arrival:
    return Arrival(end - start, nbytes, {P0: OffsetRange(start, end)})


def test_a_row_waits_no_longer_than_the_interval() -> None:
    e = engine(flush_interval_seconds=5)
    assert e.arrived(rows(0, 10), 100.0) == []
    assert e.tick(104.9) == []
    assert e.tick(105.0) == [Seal("b-1", SealReason.TIME, {P0: OffsetRange(0, 10)})]
    assert e.tick(300.0) == []


def test_the_interval_starts_with_the_first_row_after_a_seal() -> None:
    e = engine(flush_interval_seconds=5)
    e.arrived(rows(0, 10), 100.0)
    e.tick(105.0)
    e.arrived(rows(10, 20), 200.0)
    assert e.tick(204.9) == []
    assert [type(a) for a in e.tick(205.0)] == [Seal]


def test_rows_and_bytes_seal_at_once() -> None:
    span = {P0: OffsetRange(0, 10)}
    by_rows = engine(flush_rows=10).arrived(rows(0, 10), 0.0)
    assert by_rows == [Seal("b-1", SealReason.ROWS, span)]
    by_bytes = engine(flush_bytes=500).arrived(rows(0, 10), 0.0)
    assert by_bytes == [Seal("b-1", SealReason.BYTES, span)]


def test_rows_enough_for_a_row_group_are_encoded_before_their_batch_is_sealed() -> None:
    e = engine(flush_rows=100, encode_rows=30, encode_bytes=50_000)
    assert e.arrived(rows(0, 29), 0.0) == []
    assert e.arrived(rows(29, 31), 0.0) == [Encode("b-1")]
    assert e.arrived(rows(31, 60), 0.0) == []
    by_bytes = e.arrived(rows(60, 62, nbytes=60_000), 0.0)
    assert by_bytes == [Encode("b-1")]
    # What a seal takes along needs no encoding of its own.
    assert [type(a) for a in e.arrived(rows(62, 110), 0.0)] == [Seal]
    assert e.arrived(rows(110, 150), 0.0) == [Encode("b-2")]


def test_nothing_is_encoded_before_its_seal_when_that_is_turned_off() -> None:
    e = engine(flush_rows=1_000, encode_rows=0)
    assert e.arrived(rows(0, 900), 0.0) == []


def test_commits_follow_the_order_of_seals_whatever_flushes_first() -> None:
    e = engine(flush_rows=10)
    e.arrived(rows(0, 10), 0.0)
    e.arrived(rows(10, 20), 0.0)
    assert e.outcome(Flushed("b-2"), 1.0) == []
    assert e.outcome(Flushed("b-1"), 1.0) == [Commit("b-1")]
    assert e.outcome(Committed("b-1"), 2.0) == [Release("b-1", {P0: 10}), Commit("b-2")]


def test_a_backlog_makes_larger_batches_not_more_of_them() -> None:
    e = engine(flush_rows=10, batches_in_flight_max=2)
    seals = [a for n in range(20) for a in e.arrived(rows(n * 10, n * 10 + 10), 0.0)]
    assert len(seals) == 2
    e.outcome(Flushed("b-1"), 1.0)
    actions = e.outcome(Committed("b-1"), 1.0)
    assert Seal("b-3", SealReason.ROWS, {P0: OffsetRange(20, 200)}) in actions


def test_pressure_pauses_seals_and_resumes() -> None:
    e = engine(buffer_bytes_max=100 * MB, flush_bytes=10**12, flush_rows=10**9)
    actions = e.arrived(rows(0, 10, 99 * MB), 0.0)
    assert actions == [Pause(), Seal("b-1", SealReason.PRESSURE, {P0: OffsetRange(0, 10)})]
    assert e.tick(1.0) == []
    e.outcome(Flushed("b-1"), 2.0)
    assert Resume() in e.outcome(Committed("b-1"), 3.0)


def test_the_rest_of_a_backlog_is_sealed_as_soon_as_the_topic_is_read_to_its_end() -> None:
    e = engine(flush_rows=10, flush_interval_seconds=5, batches_in_flight_max=2)
    e.arrived(rows(0, 12), 0.0)
    assert e.idle(0.1) == []  # all of it is on its way
    e.arrived(rows(12, 15), 0.2)
    assert e.idle(0.3) == [Seal("b-2", SealReason.CAUGHT_UP, {P0: OffsetRange(12, 15)})]
    e.arrived(rows(15, 16), 0.4)
    assert e.idle(0.5) == []


def test_a_backlogs_rest_waits_while_enough_is_on_its_way() -> None:
    e = engine(flush_rows=10, flush_interval_seconds=5, batches_in_flight_max=1)
    e.arrived(rows(0, 10), 0.0)
    e.arrived(rows(10, 13), 0.1)
    assert e.idle(0.2) == []
    e.outcome(Flushed("b-1"), 0.3)
    e.outcome(Committed("b-1"), 0.4)
    assert e.idle(0.5) == [Seal("b-2", SealReason.CAUGHT_UP, {P0: OffsetRange(10, 13)})]


def test_a_topic_that_trickles_is_sealed_by_the_interval_alone() -> None:
    e = engine(flush_rows=10, flush_interval_seconds=5, batches_in_flight_max=64)
    seals = []
    for second in range(20):
        seals += e.arrived(rows(second, second + 1), float(second))
        seals += e.idle(second + 0.1)
    assert [seal.reason for seal in seals if isinstance(seal, Seal)] == [SealReason.TIME] * 3


def test_a_topic_that_comes_in_bursts_makes_no_more_commits_than_without_them() -> None:
    e = engine(flush_rows=10, flush_interval_seconds=30, batches_in_flight_max=64)
    seals = []
    for second in range(60):
        seals += e.arrived(rows(second * 3, second * 3 + 3), float(second))
        seals += e.idle(second + 0.1)
    reasons = [seal.reason for seal in seals if isinstance(seal, Seal)]
    assert reasons == [SealReason.ROWS] * 15


def test_nothing_is_caught_up_with_after_the_end() -> None:
    e = engine(flush_rows=10)
    e.arrived(rows(0, 10), 0.0)
    e.arrived(rows(10, 11), 0.0)
    e.outcome(Failed("b-1", FencedError("Fenced.")), 0.1)
    assert e.idle(0.2) == []


def test_positions_without_rows_are_committed_now_and_then() -> None:
    e = engine(flush_interval_seconds=5, idle_commit_seconds=60)
    e.arrived(Arrival(0, 0, {P0: OffsetRange(0, 3)}), 0.0)
    assert e.tick(59.0) == []
    assert e.tick(60.0) == [Seal("b-1", SealReason.TIME, {P0: OffsetRange(0, 3)})]


def test_a_drain_commits_what_is_buffered_and_then_stops() -> None:
    e = engine()
    e.arrived(rows(0, 10), 0.0)
    assert [type(a) for a in e.drain(1.0)] == [Seal]
    assert e.poll_budget() == 0
    e.outcome(Flushed("b-1"), 2.0)
    assert e.outcome(Committed("b-1"), 3.0) == [Release("b-1", {P0: 10}), Stop(None)]
    assert e.drain(4.0) == []


def test_an_idle_drain_stops_at_once() -> None:
    assert engine().drain(0.0) == [Stop(None)]


def test_a_failure_stops_and_nothing_follows_it() -> None:
    e = engine(flush_rows=10)
    e.arrived(rows(0, 10), 0.0)
    error = FencedError("gone")
    assert e.outcome(Failed("b-1", error), 1.0) == [Stop(error)]
    assert e.tick(100.0) == []


def test_new_partitions_seal_what_is_there_and_join() -> None:
    e = engine()
    e.arrived(rows(0, 10), 0.0)
    actions = e.partitions_added({P1: 0}, 1.0)
    assert [a.reason for a in actions if isinstance(a, Seal)] == [SealReason.REBALANCE]
    assert e.arrived(Arrival(1, 10, {P1: OffsetRange(0, 1)}), 2.0) == []


def test_the_poll_shrinks_with_the_room_that_is_left() -> None:
    e = engine(buffer_bytes_max=10 * MB, poll_records_max=20_000, flush_bytes=10**12)
    e.arrived(rows(0, 1000, MB), 0.0)
    assert 1 <= e.poll_budget() <= 9 * 1000
