"""Recovery of staged batches on a real table: each attempt goes on from what the last one did."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import CommitFailedException

from k2i_tasks import durable
from k2i_tasks.calls import Call, RetryPolicy
from k2i_tasks.errors import (
    CommitConflictError,
    CommitStateUnknownError,
    FencedError,
    IntegrityError,
    ServiceError,
    TransientError,
)
from k2i_tasks.iceberg.committer import Committer
from k2i_tasks.iceberg.data_files import STAGED_SECONDS_MAX
from k2i_tasks.iceberg.dead_letters import DeadLetterTable
from k2i_tasks.iceberg.state import BATCHES_KEPT, state_key
from k2i_tasks.journal import Journal
from k2i_tasks.operations import Operations
from k2i_tasks.types import (
    DeadLetter,
    OffsetRange,
    Offsets,
    Origin,
    SealedBatch,
    SealReason,
    TopicPartition,
)
from k2i_tasks.wal.log import WriteAheadLog
from k2i_tasks.wiring import build_operations
from tests.iceberg_tables import NAME, catalog_of, config_at, rows_of

P0 = TopicPartition("events", 0)
ORIGIN = Origin("events", "topic-id", "cluster-id")


def batch(number: int) -> SealedBatch:
    """Rows [10 n, 10 n + 10) of partition 0."""
    first = 10 * number
    rows = pa.table({"n": pa.array(range(first, first + 10), pa.int64())})
    span = OffsetRange(first, first + 10)
    return SealedBatch(
        f"batch-{number}", (rows,), (), {P0: span}, 10, rows.nbytes, SealReason.ROWS, -1
    )


@contextmanager
def operations(
    folder: Path, owner: str, *, wal: str = "wal", assignment: str = "all"
) -> Iterator[Operations]:
    log = WriteAheadLog.open(folder / wal, segment_bytes_max=1 << 20, segments_max=10)
    config = config_at(folder, table_management={"schema_mismatch_action": "evolve"})
    kafka = config.kafka.model_copy(update={"assignment": assignment})
    config = config.model_copy(update={"kafka": kafka})
    found = build_operations(config, {}, owner, Journal(log), lambda _offsets: None)
    try:
        yield found
    finally:
        found.close()


def claimed(found: Operations, offsets: Offsets) -> None:
    state = found.open() or found.create(pa.schema([("n", pa.int64())]))
    found.claim(state, offsets, offsets.keys(), ORIGIN)


def staged(folder: Path, batches: int) -> None:
    """What a run leaves that dies after it has staged so many batches."""
    with operations(folder, "dead") as found:
        claimed(found, {P0: 0})
        found.recover()
        for number in range(batches):
            found.flush(batch(number))


def numbers(folder: Path) -> list[int]:
    table = catalog_of(config_at(folder)).load_table(NAME)
    return [row["n"] for row in rows_of(table.scan().to_arrow())]


def lose_answers(monkeypatch: pytest.MonkeyPatch, *, nth: int, applied: bool) -> None:
    """The `nth` commit from now fails with an unknown outcome, applied or not."""
    plain, calls = Committer._send, iter(range(1, 100))

    def send(self: Committer, *what: Any, **named: Any) -> int:
        turn = next(calls)
        if turn != nth:
            return plain(self, *what, **named)
        if applied:
            plain(self, *what, **named)
        raise CommitStateUnknownError("the answer was lost")

    monkeypatch.setattr(Committer, "_send", send)


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_recovery_that_failed_half_way_is_finished_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int, applied: bool
) -> None:
    staged(tmp_path, 3)
    with operations(tmp_path, "next") as found:
        claimed(found, {P0: 0})
        lose_answers(monkeypatch, nth=nth, applied=applied)
        with pytest.raises(CommitStateUnknownError):
            found.recover()
        assert found.recover() == {P0: 30}
    assert sorted(numbers(tmp_path)) == list(range(30))


def test_a_recovery_after_another_claim_is_fenced(tmp_path: Path) -> None:
    staged(tmp_path, 1)
    with operations(tmp_path, "late") as late:
        claimed(late, {P0: 0})
        rival = Committer(
            catalog_of(config_at(tmp_path)), NAME, sink="main", branch="main", owner="rival"
        )
        state = rival.look().recorded.newest
        assert state is not None
        rival.claim(state, {})
        with pytest.raises(FencedError):
            late.recover()


def test_a_table_behind_what_the_log_saw_landing_halts_even_without_the_property(
    tmp_path: Path,
) -> None:
    with operations(tmp_path, "before") as found:
        claimed(found, {P0: 0})
        found.recover()
        for number in range(2):
            found.flush(batch(number))
            found.commit(batch(number))
    table = catalog_of(config_at(tmp_path)).load_table(NAME)
    first = table.metadata.snapshots[1]  # batch 0, behind the claim
    table.manage_snapshots().rollback_to_snapshot(first.snapshot_id).commit()
    with table.transaction() as transaction:
        transaction.remove_properties(state_key("main"))
    with operations(tmp_path, "after") as found:
        claimed(found, {P0: 0})
        with pytest.raises(IntegrityError, match="rolled back"):
            found.recover()
    assert numbers(tmp_path) == list(range(10))


def test_files_that_the_table_refers_to_outlive_a_log_that_gives_them_up(tmp_path: Path) -> None:
    staged(tmp_path, 1)
    before = tmp_path / "wal-before"
    shutil.copytree(tmp_path / "wal", before)
    with operations(tmp_path, "next") as found:
        claimed(found, {P0: 0})
        found.recover()  # commits the staged batch
        for number in range(1, BATCHES_KEPT + 2):
            found.flush(batch(number))
            found.commit(batch(number))
    shutil.rmtree(tmp_path / "wal")
    before.rename(tmp_path / "wal")
    with operations(tmp_path, "late") as found:
        claimed(found, {P0: 0})
        found.recover()
    assert sorted(numbers(tmp_path)) == list(range(10 * (BATCHES_KEPT + 2)))


def test_a_conflict_that_had_landed_harms_nothing_of_a_run_as_it_is_wired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with operations(tmp_path, "run") as found:
        claimed(found, {P0: 0})
        found.recover()
        found.flush(batch(0))
        plain, lies = SqlCatalog.commit_table, ["once"]

        def lying(*arguments: Any, **named: Any) -> Any:
            answer = plain(*arguments, **named)
            if lies.pop() if lies else None:
                raise CommitFailedException("conflict, says the proxy")
            return answer

    with operations(tmp_path, "next") as found:
        monkeypatch.setattr(SqlCatalog, "commit_table", lying)
        lies.clear()
        claimed(found, {P0: 0})
        assert found.recover() == {P0: 10}
        found.flush(batch(1))
        lies.append("once")
        # PyIceberg, left to itself, would add the rows again, or delete what the head refers to.
        with pytest.raises(CommitConflictError):
            found.commit(batch(1))
        found.commit(batch(1))
    assert sorted(numbers(tmp_path)) == list(range(20))


@pytest.mark.parametrize("ending", [".parquet", ".avro", ".metadata.json"])
def test_a_failed_fsync_of_the_warehouse_is_final_and_the_next_run_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    plain, broken = durable.sync, [True]

    def sync(path: Path) -> None:
        if path.name.endswith(ending) and broken.pop() if broken else False:
            raise OSError(errno.EIO, "Input/output error", str(path))
        plain(path)

    with operations(tmp_path, "run") as found:
        claimed(found, {P0: 0})
        found.recover()
        monkeypatch.setattr(durable, "sync", sync)

        def attempt() -> None:
            found.flush(batch(0))
            found.commit(batch(0))

        call = Call("flush", "flush and commit", attempt, RetryPolicy())
        call.claim("test")
        call.run_with_retries()
        assert isinstance(call.error, ServiceError), call.error
        assert "Check the disk" in str(call.error)
        assert call.attempts == 1
    with operations(tmp_path, "next") as found:
        claimed(found, {P0: 0})
        if found.recover() == {P0: 0}:
            found.flush(batch(0))
            found.commit(batch(0))
    assert sorted(numbers(tmp_path)) == list(range(10))


def test_the_claim_records_the_ids_of_topic_and_cluster(tmp_path: Path) -> None:
    with operations(tmp_path, "run") as found:
        claimed(found, {P0: 0})
        state = found.open()
        assert state is not None
        assert (state.topic_ids, state.cluster_id) == ({"events": "topic-id"}, "cluster-id")


def test_a_flush_that_failed_at_its_letters_does_not_write_the_rows_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, tries = DeadLetterTable.stage, iter(range(10))

    def stage(self: DeadLetterTable, *what: Any) -> Any:
        if next(tries) == 0:
            raise TransientError("the store was away")
        return plain(self, *what)

    monkeypatch.setattr(DeadLetterTable, "stage", stage)
    letter = DeadLetter("events", 0, 10, -1, None, b"x", None, "decode", "json.syntax", "bad")
    both = replace(batch(0), dead_letters=(letter,), ranges={P0: OffsetRange(0, 11)})
    with operations(tmp_path, "run") as found:
        claimed(found, {P0: 0})
        with pytest.raises(TransientError):
            found.flush(both)
        staged = found.flush(both)
        there = {
            str(path) for path in (tmp_path / "warehouse" / "db" / "events").rglob("*.parquet")
        }
        assert there == {file.path.removeprefix("file://") for file in staged.files}
        assert len(staged.dead_letter_files) == 1
        found.commit(both)
    assert numbers(tmp_path) == list(range(10))


def test_files_that_were_staged_long_ago_are_looked_for_before_they_are_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with operations(tmp_path, "a") as found:
        claimed(found, {P0: 0})
        found.recover()
        gone, there = found.flush(batch(0)), STAGED_SECONDS_MAX + 1
        for file in gone.files:
            Path(file.path.removeprefix("file://")).unlink()
        now = time.time()
        monkeypatch.setattr("k2i_tasks.operations.time.time", lambda: now + there)
        with pytest.raises(IntegrityError, match="is not there any more"):
            found.commit(batch(0))
        monkeypatch.undo()
    assert numbers(tmp_path) == []
    with operations(tmp_path, "b") as found:
        claimed(found, {P0: 0})
        assert found.recover() == {P0: 0}, "its records are read again"
        found.flush(batch(0))
        monkeypatch.setattr("k2i_tasks.operations.time.time", lambda: now + there)
        found.commit(batch(0))
    assert numbers(tmp_path) == list(range(10))
