"""The log against a list: any order of appends, checkpoints, closings, crashes and torn writes."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from k2i_tasks import failpoints
from k2i_tasks.wal import Disk, WalEntry, WalKind, WriteAheadLog

SEGMENT_BYTES = 4096
SEGMENTS = 4
KINDS = st.sampled_from([kind for kind in WalKind if kind is not WalKind.CHECKPOINT])
BODIES = st.dictionaries(
    st.text(max_size=5),
    st.none() | st.booleans() | st.integers() | st.text(max_size=40) | st.lists(st.integers()),
    max_size=4,
)


class UnsyncedDisk(Disk):
    def sync(self, descriptor: int) -> None:
        pass

    def sync_data(self, descriptor: int) -> None:
        pass


class Crashed(BaseException):
    """The process ends here; nothing in it is asked again."""


def _crash(name: str) -> None:
    raise Crashed(name)


class LogAgainstList(RuleBasedStateMachine):
    """`model` is what a replay must find: entries from the newest checkpoint on."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="k2i-wal-model-"))
        self.lives = 0
        self.model: list[WalEntry] = []
        self.dead: list[WriteAheadLog] = []

    @initialize()
    def start(self) -> None:
        self.log = self._open()

    def _open(self) -> WriteAheadLog:
        return WriteAheadLog.open(
            self.root / f"life-{self.lives}",
            segment_bytes_max=SEGMENT_BYTES,
            segments_max=SEGMENTS,
            disk=UnsyncedDisk(),
        )

    def _live_again(self, torn: bytes = b"") -> None:
        """Goes on in a copy of the folder as it is now, as after `kill -9`."""
        old = self.root / f"life-{self.lives}"
        self.lives += 1
        new = self.root / f"life-{self.lives}"
        shutil.copytree(old, new)
        self.dead.append(self.log)
        if torn:
            with max(new.glob("*.log")).open("ab") as newest:
                newest.write(torn)
        self.log = self._open()
        assert self.log.damage == ()
        assert self.log.cut_bytes == len(torn)

    def _check_replay(self) -> None:
        assert list(self.log.entries) == self.model

    @rule(kind=KINDS, body=BODIES, sync=st.booleans())
    def append(self, kind: WalKind, body: dict[str, object], sync: bool) -> None:
        lsn = self.log.append(kind, body, sync=sync)
        assert lsn == (self.model[-1].lsn + 1 if self.model else 1)
        self.model.append(WalEntry(lsn, kind, body))

    @rule(body=BODIES)
    def checkpoint(self, body: dict[str, object]) -> None:
        lsn = self.log.checkpoint(body)
        self.model = [WalEntry(lsn, WalKind.CHECKPOINT, body)]

    @rule()
    def reopen(self) -> None:
        self.log.close()
        self.log = self._open()
        self._check_replay()

    @rule(torn=st.binary(max_size=30))
    def crash(self, torn: bytes) -> None:
        self._live_again(torn)
        self._check_replay()

    @rule(kind=KINDS, body=BODIES, name=st.sampled_from(["before", "written", "synced"]))
    def crash_in_append(self, kind: WalKind, body: dict[str, object], name: str) -> None:
        lsn = self.log.last_lsn + 1
        with failpoints.armed(f"wal.append.{name}", _crash), contextlib.suppress(Crashed):
            self.log.append(kind, body, sync=True)
        if name != "before":
            self.model.append(WalEntry(lsn, kind, body))
        self._live_again()
        self._check_replay()

    @rule(
        body=BODIES,
        name=st.sampled_from(["before", "tmp", "synced", "renamed", "switched", "unlinked"]),
    )
    def crash_in_checkpoint(self, body: dict[str, object], name: str) -> None:
        lsn = self.log.last_lsn + 1
        place = f"wal.checkpoint.{name}"
        with failpoints.armed(place, _crash), contextlib.suppress(Crashed):
            self.log.checkpoint(body)
        if name in ("renamed", "switched", "unlinked"):
            self.model = [WalEntry(lsn, WalKind.CHECKPOINT, body)]
        self._live_again()
        self._check_replay()

    @invariant()
    def the_log_counts_and_bounds_itself(self) -> None:
        if not hasattr(self, "log"):
            return
        folder = self.root / f"life-{self.lives}"
        on_disk = sum(path.stat().st_size for path in folder.glob("*.log*"))
        assert self.log.size_bytes == on_disk <= SEGMENT_BYTES * SEGMENTS
        assert len(list(folder.glob("*.log*"))) == 1
        behind = [entry for entry in self.model if entry.kind is not WalKind.CHECKPOINT]
        assert self.log.entries_since_checkpoint == len(behind)

    def teardown(self) -> None:
        for log in (*self.dead, self.log):
            log.close()
        shutil.rmtree(self.root)


LogAgainstList.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
test_the_log_and_a_list_agree = LogAgainstList.TestCase
