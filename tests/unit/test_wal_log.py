"""The write-ahead log on a disk that works: appends, checkpoints, bounds."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from k2i_tasks.wal import (
    WalFullError,
    WalKind,
    WriteAheadLog,
)
from k2i_tasks.wal.scan import scan
from tests.unit.wal_disks import append_many, bodies, open_log


def test_entries_come_back_in_order_with_rising_lsn(tmp_path: Path) -> None:
    with open_log(tmp_path / "wal") as log:
        assert log.entries == ()
        assert log.append(WalKind.CLAIMED, {"i": 0}) == 1
        assert log.append(WalKind.SEALED, {"i": 1}, sync=True) == 2
    with open_log(tmp_path / "wal") as log:
        assert [(e.lsn, e.kind, e.body) for e in log.entries] == [
            (1, WalKind.CLAIMED, {"i": 0}),
            (2, WalKind.SEALED, {"i": 1}),
        ]
        assert (log.entries_since_checkpoint, log.last_lsn, log.damage) == (2, 2, ())
        assert log.append(WalKind.STAGED, {"i": 2}) == 3


def test_a_checkpoint_replaces_all_before_it_and_leaves_one_segment(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for i in range(50):
            log.append(WalKind.SEALED, {"i": i})
        assert log.checkpoint({"i": "all"}) == 51
        assert log.entries_since_checkpoint == 0
        log.append(WalKind.STAGED, {"i": "next"})
        assert [path.name for path in tmp_path.glob("*.log*")] == ["00000002.log"]
        assert log.size_bytes == (tmp_path / "00000002.log").stat().st_size
    with open_log(tmp_path) as log:
        assert bodies(log) == ["all", "next"]
        assert log.entries[0].kind is WalKind.CHECKPOINT
        assert log.entries_since_checkpoint == 1


def test_a_segment_names_the_last_entry_of_the_one_before(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.append(WalKind.SEALED, {"i": 1})
        crc = scan((tmp_path / "00000001.log").read_bytes()).frames[-1].crc
        log.checkpoint({})
    header = scan((tmp_path / "00000002.log").read_bytes()).header
    assert header is not None
    assert (header.previous_lsn, header.previous_crc) == (1, crc)


def test_two_threads_append_at_once_and_every_entry_is_there_once(tmp_path: Path) -> None:
    lsns: dict[str, list[int]] = {"flush": [], "commit": []}
    with open_log(tmp_path) as log:

        def work(lane: str) -> None:
            for i in range(300):
                lsns[lane].append(log.append(WalKind.STAGED, {"i": [lane, i]}))

        threads = [threading.Thread(target=work, args=(lane,)) for lane in lsns]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(lsns["flush"] + lsns["commit"]) == list(range(1, 601))
    with open_log(tmp_path) as log:
        found = {entry.lsn: entry.body["i"] for entry in log.entries}
    for lane, its_lsns in lsns.items():
        assert [found[lsn] for lsn in its_lsns] == [[lane, i] for i in range(300)]


def test_a_heeded_checkpoint_bounds_the_log_and_an_unheeded_one_stops_it(tmp_path: Path) -> None:
    bound = 4 * 4096
    with open_log(tmp_path, segment_bytes_max=4096, segments_max=4) as log:
        checkpoints = 0
        for i in range(300):
            append_many(log, 1)
            assert log.size_bytes <= bound
            if log.needs_checkpoint:
                log.checkpoint({"i": i})
                checkpoints += 1
        assert checkpoints > 5
        with pytest.raises(WalFullError, match="its bound") as caught:
            append_many(log, 300)
        assert "max_log_files" in caught.value.remedy
        assert log.size_bytes <= bound - 4096
        log.checkpoint({"i": "x" * 4000})
        assert sum(path.stat().st_size for path in tmp_path.glob("*.log")) <= bound
        log.append(WalKind.SEALED, {"i": "again"})


def test_an_entry_larger_than_a_segment_is_refused_and_the_log_goes_on(tmp_path: Path) -> None:
    with open_log(tmp_path, segment_bytes_max=4096) as log:
        with pytest.raises(WalFullError, match="does not fit"):
            log.append(WalKind.SEALED, {"i": "x" * 4096})
        with pytest.raises(WalFullError, match="does not fit"):
            log.checkpoint({"i": "x" * 4096})
        assert log.append(WalKind.SEALED, {"i": 1}) == 1


def test_the_seconds_of_each_fsync_are_told(tmp_path: Path) -> None:
    seen: list[float] = []
    log = WriteAheadLog.open(tmp_path, segment_bytes_max=4096, segments_max=4, on_sync=seen.append)
    log.append(WalKind.SEALED, {})
    log.append(WalKind.COMMIT_STARTED, {}, sync=True)
    log.close()
    assert len(seen) == 1  # the synced entry was the last one: the close has nothing left to do
    assert seen[0] >= 0


def test_misuse_is_refused_and_does_not_break_the_log(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    with pytest.raises(ValueError, match="checkpoint"):
        log.append(WalKind.CHECKPOINT, {})
    with pytest.raises(TypeError):
        log.append(WalKind.SEALED, {"x": object()})
    log.append(WalKind.SEALED, {"i": 1})
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.append(WalKind.SEALED, {"i": 2})
    for segment_bytes_max, segments_max in ((100, 4), (2**31, 4), (4096, 0)):
        with pytest.raises(ValueError, match="bounds"):
            open_log(tmp_path, segment_bytes_max=segment_bytes_max, segments_max=segments_max)
