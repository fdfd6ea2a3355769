"""`kill -9` at every place of the write-ahead log's work, in a fork, then a restart."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from k2i_tasks import failpoints
from k2i_tasks.wal import WalKind, WriteAheadLog

#: Each place of the log, with the state of the folder in which a run comes by it.
FRESH, TORN, CORRUPT, OLDER = "fresh", "torn", "corrupt", "older"
PLACES = {
    "wal.open.quarantined": CORRUPT,
    "wal.open.cut": TORN,
    "wal.open.tmp": FRESH,
    "wal.open.synced": FRESH,
    "wal.open.renamed": FRESH,
    "wal.open.unlinked": OLDER,
}


def open_log(folder: Path) -> WriteAheadLog:
    return WriteAheadLog.open(folder, segment_bytes_max=4096, segments_max=4)


def killed_in_child(work: Callable[[], None], place: str, nth: int) -> bool:
    """Runs `work` in a fork that dies at `place`; whether it died there rather than ended."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            failpoints.arm(place, nth=nth)
            work()
            code = 0
        finally:
            os._exit(code)
    status = _wait(child)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.waitstatus_to_exitcode(status) == 0, f"the work failed before {place}"
    return False


def _wait(child: int) -> int:
    deadline = time.monotonic() + 60
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"the forked process {child} did not end")
        time.sleep(0.002)


def live_on(folder: Path, done: Path) -> None:
    """Appends and checkpoints; notes each call in `done` once it has returned."""
    with open_log(folder) as log, done.open("ab", buffering=0) as notes:
        for i in range(15):
            if i % 4 == 3:
                log.checkpoint({"i": i})
            else:
                log.append(WalKind.SEALED, {"i": i}, sync=i % 4 == 1)
            notes.write(b"%d\n" % i)


def expected(last: int) -> list[int]:
    """What a replay must find when calls 0 .. `last` took effect."""
    checkpoint = (last + 1) // 4 * 4 - 1
    return list(range(max(checkpoint, 0), last + 1))


@pytest.mark.parametrize(
    "place", [n for n in failpoints.NAMES if n.startswith("wal.") and n not in PLACES]
)
def test_a_kill_at_work_loses_no_call_that_returned_and_halves_none(
    tmp_path: Path, place: str
) -> None:
    killed = 0
    for nth in range(1, 5):
        folder, done = tmp_path / f"wal-{nth}", tmp_path / f"done-{nth}"
        if not killed_in_child(partial(live_on, folder, done), place, nth):
            break
        killed += 1
        returned = len(done.read_text().splitlines()) - 1
        with open_log(folder) as log:
            found = [entry.body["i"] for entry in log.entries]
            assert found in (expected(returned), expected(returned + 1)), (nth, returned)
            assert (log.damage, log.cut_bytes) == ((), 0)
            assert len(list(folder.glob("*.log*"))) == 1
            newest = log.entries[-1].lsn if found else 0
            assert log.append(WalKind.CLAIMED, {}) == newest + 1
    assert killed > 0, "no run came by this place"


def _prepare(folder: Path, state: str) -> None:
    if state == FRESH:
        return
    with open_log(folder) as log:
        log.append(WalKind.SEALED, {"i": 0})
        older = (folder / "00000001.log").read_bytes()
        log.checkpoint({"i": 1})
        log.append(WalKind.SEALED, {"i": 2})
    path = folder / "00000002.log"
    if state == OLDER:
        (folder / "00000001.log").write_bytes(older)
    elif state == TORN:
        with path.open("ab") as file:
            file.write(b"torn")
    else:
        path.write_bytes(path.read_bytes()[:45])  # within its checkpoint, which was durable


@pytest.mark.parametrize(("place", "state"), [*PLACES.items(), ("wal.open.renamed", CORRUPT)])
def test_a_kill_while_the_folder_is_made_ready_is_made_good_by_the_next_opening(
    tmp_path: Path, place: str, state: str
) -> None:
    folder = tmp_path / "wal"
    _prepare(folder, state)
    assert killed_in_child(lambda: open_log(folder).close(), place, 1)
    with open_log(folder) as log:
        found = [entry.body["i"] for entry in log.entries]
        assert found == ([1, 2] if state in (OLDER, TORN) else [])
        assert (log.damage, log.cut_bytes) == ((), 0)
        assert list(folder.glob("*.tmp")) == []
        assert len(list(folder.glob("*.log"))) == 1
        lsn = log.append(WalKind.CLAIMED, {"i": 9})
    if state == CORRUPT:
        assert (folder / "00000002.log.corrupt").exists()
        assert lsn > 3
    with open_log(folder) as log:
        assert [entry.body["i"] for entry in log.entries] == [*found, 9]


def test_the_folder_is_free_as_soon_as_its_holder_is_killed(tmp_path: Path) -> None:
    assert killed_in_child(lambda: live_on(tmp_path, tmp_path / "done"), "wal.append.written", 3)
    open_log(tmp_path).close()
