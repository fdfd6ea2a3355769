"""The log against a list: any order of appends, checkpoints, closings, crashes and torn writes."""

from __future__ import annotations

import contextlib
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from k2i_tasks import failpoints
from k2i_tasks.wal import Disk, WalEntry, WalKind, WriteAheadLog
from tests.scale import times

SEGMENT_BYTES = 4096
SEGMENTS = 4
KINDS = st.sampled_from([kind for kind in WalKind if kind is not WalKind.CHECKPOINT])
#: Examples and steps of each: with every change; in a night, so many at a time.
EXAMPLES, STEPS = 200, 50
NIGHTLY_EXAMPLES, NIGHTLY_STEPS, AT_ONCE = 20_000, 100, 20


def _body(seed: int) -> dict[str, object]:
    """Any JSON object. Of one number: what Hypothesis draws in pieces costs more than the log."""
    draw = random.Random(seed)
    letters = 'aB9 ü€\n"\\\0\U0001f600'
    values: list[Callable[[], object]] = [
        lambda: None,
        lambda: draw.random() < 0.5,
        lambda: draw.randint(-(2**70), 2**70),
        lambda: "".join(draw.choices(letters, k=draw.randrange(40))),
        lambda: [draw.randrange(1000) for _ in range(draw.randrange(8))],
    ]
    return {f"{letters[at]}{at}": draw.choice(values)() for at in range(draw.randrange(5))}


BODIES = st.builds(_body, st.integers(0, 2**32))


class MortalDisk(Disk):
    """Skips the waits for the disk, and can end as its process does by `kill -9`."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def open(self, path: Path, flags: int) -> int:
        descriptor = super().open(path, flags)
        self._open.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        self._open.remove(descriptor)
        super().close(descriptor)

    def kill(self) -> None:
        """Closes every file, the lock too."""
        for descriptor in tuple(self._open):
            self.close(descriptor)

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
        self.folder = Path(tempfile.mkdtemp(prefix="k2i-wal-model-"))
        self.model: list[WalEntry] = []

    @initialize()
    def start(self) -> None:
        self.log = self._open()

    def _open(self) -> WriteAheadLog:
        self.disk = MortalDisk()
        return WriteAheadLog.open(
            self.folder,
            segment_bytes_max=SEGMENT_BYTES,
            segments_max=SEGMENTS,
            disk=self.disk,
        )

    def _live_again(self, torn: bytes = b"") -> None:
        """Goes on with the folder as it is now, as after `kill -9`."""
        self.disk.kill()
        if torn:
            with max(self.folder.glob("*.log")).open("ab") as newest:
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
        (segment,) = self.folder.glob("*.log*")
        assert self.log.size_bytes == segment.stat().st_size <= SEGMENT_BYTES * SEGMENTS
        behind = [entry for entry in self.model if entry.kind is not WalKind.CHECKPOINT]
        assert self.log.entries_since_checkpoint == len(behind)

    def teardown(self) -> None:
        self.log.close()
        shutil.rmtree(self.folder)


def play(chosen: settings) -> None:
    run_state_machine_as_test(LogAgainstList, settings=settings(chosen, deadline=None))


def test_the_log_and_a_list_agree() -> None:
    play(settings(max_examples=EXAMPLES, stateful_step_count=STEPS))


@pytest.mark.slow
@pytest.mark.timeout(10_800)
def test_the_log_and_a_list_agree_all_night() -> None:
    for _ in range(times(AT_ONCE, NIGHTLY_EXAMPLES) // AT_ONCE):
        # Others in each round, under CI too.
        play(settings(max_examples=AT_ONCE, stateful_step_count=NIGHTLY_STEPS, derandomize=False))
