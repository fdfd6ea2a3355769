"""When the journal rotates its log: by entries, and by time if anything was written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from k2i_tasks.engine.recovery import Progress
from k2i_tasks.journal import GAPS_KEPT, Journal
from k2i_tasks.types import OffsetRange, TopicPartition
from k2i_tasks.wal import replay as replay_module
from k2i_tasks.wal.entries import WalKind, WalVersionError
from k2i_tasks.wal.log import WriteAheadLog
from k2i_tasks.wal.scan import scan

RANGES = {TopicPartition("orders", 0): OffsetRange(0, 10)}


class HandClock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def unix(self) -> float:
        return self.now


def open_log(tmp_path: Path) -> WriteAheadLog:
    return WriteAheadLog.open(tmp_path / "wal", segment_bytes_max=1 << 20, segments_max=10)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[WriteAheadLog]:
    opened = open_log(tmp_path)
    yield opened
    opened.close()


def test_a_checkpoint_is_due_after_its_interval_if_there_was_an_entry(log: WriteAheadLog) -> None:
    clock = HandClock()
    journal = Journal(log, checkpoint_seconds=300, clock=clock)
    journal.sealed("a-1", RANGES)
    clock.now += 299
    journal.checkpoint()
    assert log.entries_since_checkpoint == 1
    clock.now += 1
    journal.checkpoint()
    assert log.entries_since_checkpoint == 0
    segments = log.size_bytes
    clock.now += 10_000
    journal.checkpoint()
    assert log.size_bytes == segments, "nothing was written, so nothing was rotated"


def test_a_checkpoint_is_due_after_so_many_entries(log: WriteAheadLog) -> None:
    journal = Journal(log, checkpoint_entries_max=2, clock=HandClock())
    journal.sealed("a-1", RANGES)
    journal.checkpoint()
    assert log.entries_since_checkpoint == 1
    journal.staged("a-1", [], [], 0)
    journal.checkpoint()
    assert log.entries_since_checkpoint == 0
    assert list(journal.state.batches) == ["a-1"], "a checkpoint holds what is on its way"


def test_gaps_are_kept_over_checkpoints_and_restarts_and_the_oldest_make_room(
    tmp_path: Path,
) -> None:
    log, clock = open_log(tmp_path), HandClock()
    journal = Journal(log, clock=clock)
    for number in range(GAPS_KEPT + 3):
        clock.now += 1
        journal.gap({TopicPartition("orders", 0): OffsetRange(number, number + 1)})
        if number == 5:
            journal.checkpoint(forced=True)
    log.close()
    again = open_log(tmp_path)
    kept = Journal(again).state.gaps
    again.close()
    assert [gap["ranges"]["orders"]["0"] for gap in kept] == [
        [number, number + 1] for number in range(3, GAPS_KEPT + 3)
    ]
    assert kept[0]["at"] == 1004.0


def test_what_the_outcome_of_a_commit_or_a_skip_hangs_on_is_durable_at_once() -> None:
    log = SimpleNamespace(entries=[], synced=[])
    log.append = lambda kind, _body, *, sync, version: log.synced.append((kind, sync))
    journal = Journal(log)  # type: ignore[arg-type]
    journal.sealed("b-1", RANGES)
    journal.staged("b-1", [], [], 10)
    journal.commit_started("b-1", 1, None)
    journal.commit_landed("b-1", 1)
    journal.gap(RANGES)
    assert [kind for kind, sync in log.synced if sync] == [WalKind.COMMIT_STARTED, WalKind.GAP]


CHANGE = {"schema": {"fields": []}, "base": "00", "last_column_id": 3}


def versions(folder: Path) -> list[tuple[int, int]]:
    """Kind and version of each entry on the disk."""
    [newest] = sorted(folder.glob("*.log"))
    return [(frame.kind, frame.version) for frame in scan(newest.read_bytes()).frames]


def test_a_staged_schema_change_outlives_the_process_and_a_checkpoint(tmp_path: Path) -> None:
    for forced in (False, True):
        with open_log(tmp_path) as log:
            journal = Journal(log)
            if not journal.state.batches:
                journal.sealed("a-1", RANGES)
                journal.staged("a-1", [], [], 10, CHANGE)
                journal.sealed("a-2", RANGES)
                journal.staged("a-2", [], [], 10)
            found = journal.state.batches
            assert (found["a-1"].schema, found["a-2"].schema) == (CHANGE, None)
            if forced:
                journal.checkpoint(forced=True)
    with open_log(tmp_path) as log:
        assert Journal(log).state.batches == found


def test_only_entries_with_a_schema_change_are_of_the_version_that_older_programs_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged, checkpoint = WalKind.STAGED.code, WalKind.CHECKPOINT.code
    with open_log(tmp_path) as log:
        journal = Journal(log)
        journal.sealed("a-1", RANGES)
        journal.staged("a-1", [], [], 10)
        journal.sealed("a-2", RANGES)
        assert {version for _kind, version in versions(log.folder)} == {1}
        journal.staged("a-2", [], [], 10, CHANGE)
        assert versions(log.folder)[-1] == (staged, 2)
        journal.commit_landed("a-1", 7)
        journal.checkpoint(forced=True)
        assert versions(log.folder) == [(checkpoint, 2)]
    with monkeypatch.context() as older:
        older.setattr(replay_module, "ENTRY_VERSION", 1)
        with pytest.raises(WalVersionError, match="later version"):
            open_log(tmp_path)
    with open_log(tmp_path) as log:
        journal = Journal(log)
        journal.commit_landed("a-2", 8)
        journal.checkpoint(forced=True)
        assert versions(log.folder) == [(checkpoint, 1)]


def test_a_log_of_an_older_program_is_read_as_one_without_schema_changes(tmp_path: Path) -> None:
    spans = {"orders": {"0": [0, 10]}}
    left = {"batch": "a-1", "progress": "files staged", "ranges": spans, "files": [], "rows": 10}
    with open_log(tmp_path) as log:
        log.checkpoint({"table": "db.t", "batches": [{**left, "dead_letter_files": []}]})
        log.append(WalKind.SEALED, {"batch": "a-2", "ranges": spans})
        body = {"batch": "a-2", "files": [], "dead_letter_files": [], "rows": 10}
        log.append(WalKind.STAGED, body)
    with open_log(tmp_path) as log:
        found = Journal(log).state.batches
    assert [batch.schema for batch in found.values()] == [None, None]
    assert [batch.progress for batch in found.values()] == [Progress.STAGED] * 2
