"""Named places beside every durable step, where a test can make the process die or act.

A place is a call `hit("wal.append.written")`: one attribute check while nothing is armed. A process
that is started with `K2I_TEST_FAILPOINT=wal.append.written:3` kills itself, as `kill -9` does, when
it comes by for the third time. In the process, `arm` runs any action instead.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from k2i_tasks.errors import ConfigError

#: What runs at a place; gets the place's name.
Action = Callable[[str], None]

VARIABLE = "K2I_TEST_FAILPOINT"

#: Every place there is. A name that is not here cannot be armed, so a misspelt test fails.
NAMES: tuple[str, ...] = (
    # The write-ahead log's folder is made ready.
    "wal.open.quarantined",
    "wal.open.cut",
    "wal.open.tmp",
    "wal.open.synced",
    "wal.open.renamed",
    "wal.open.unlinked",
    # One entry.
    "wal.append.before",
    "wal.append.written",
    "wal.append.synced",
    # A new segment that starts with a checkpoint takes over.
    "wal.checkpoint.before",
    "wal.checkpoint.tmp",
    "wal.checkpoint.synced",
    "wal.checkpoint.renamed",
    "wal.checkpoint.switched",
    "wal.checkpoint.unlinked",
    # The log is closed.
    "wal.close.before",
    "wal.close.synced",
    # A table, its dead letters' table, and a column that records need: in a commit of its own, or
    # in that of the rows.
    "table.create.before",
    "table.created",
    "dead_letters.create.before",
    "dead_letters.created",
    "schema.evolve.before",
    "schema.evolved",
    "schema.commit.before",
    "schema.committed",
    # A sealed batch becomes durable files.
    "flush.before",
    "flush.file.before",
    "flush.file.group",
    "flush.file.written",
    "flush.file.synced",
    "flush.staged.before",
    "flush.staged",
    # Dead letters go before their batch.
    "dead_letters.commit.before",
    "dead_letters.committed",
    # Those that go to a topic, before they are staged.
    "letters.send.before",
    "letters.commit.before",
    "letters.sent",
    # Manifests and metadata files of a local warehouse: their bytes, and before they are told of.
    "metadata.file.written",
    "metadata.file.synced",
    # The batch's commit; first, before it looks at the table.
    "commit.before",
    "commit.manifests.before",
    "commit.intent.before",
    "commit.send.before",
    "commit.answered",
    "commit.landed.before",
    "commit.landed",
    "offsets.commit.before",
    "offsets.committed",
    # The start of a run.
    "claim.before",
    "claim.landed",
    "claim.recorded",
    "recovery.step",
    # Dead letters are replayed: claim, what is left of an earlier replay, the commits of a piece.
    "replay.claimed",
    "replay.settled",
    "replay.choose.before",
    "replay.chosen",
    "replay.staged",
    "replay.committed",
    "replay.finished",
    # Small data files are joined: files, then one commit that replaces the old ones.
    "compact.file.written",
    "compact.staged",
    "compact.send.before",
    "compact.answered",
    # Snapshots are expired, and the files that only they reached deleted; files of nobody are.
    "expire.send.before",
    "expire.answered",
    "expire.file.removed",
    "orphans.listed",
    "orphans.file.removed",
)

_lock = threading.Lock()
_armed: dict[str, tuple[int, Action]] = {}
_dispatch: Action | None = None


def hit(name: str) -> None:
    """Passes the place `name`; nothing happens unless it is armed. Must not block when off."""
    if _dispatch is not None:
        _dispatch(name)


def kill_self(name: str) -> None:
    """Ends this process as `kill -9` does: no clean-up, no flush, no exit code of its own."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(name: str, action: Action = kill_self, *, nth: int = 1) -> None:
    """Runs `action` when `name` is hit for the `nth` time from now; later hits run nothing.

    Raises:
        ValueError: no such place, or `nth` below 1.
    """
    global _dispatch
    if name not in NAMES:
        raise ValueError(f"no failpoint is called {name!r}")
    if nth < 1:
        raise ValueError(f"the {nth}th hit of a failpoint never comes")
    with _lock:
        _armed[name] = (nth, action)
        _dispatch = _count


def disarm() -> None:
    """Makes every place pass freely again. Idempotent."""
    global _dispatch
    with _lock:
        _armed.clear()
        _dispatch = None


@contextmanager
def armed(name: str, action: Action = kill_self, *, nth: int = 1) -> Iterator[None]:
    """`arm` for the length of a block; leaves nothing armed."""
    arm(name, action, nth=nth)
    try:
        yield
    finally:
        disarm()


def arm_from(environ: Mapping[str, str]) -> None:
    """Arms what `K2I_TEST_FAILPOINT=name[:n]` names, if it is set.

    Raises:
        ConfigError: no such place, or `n` is not a number from 1 on.
    """
    wanted = environ.get(VARIABLE, "")
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    try:
        arm(name, nth=int(count or "1"))
    except ValueError as error:
        raise ConfigError(
            f"{VARIABLE}={wanted!r} is not a failpoint: {error}.",
            field=VARIABLE,
            remedy="Unset it; it is for tests alone.",
        ) from error


def _count(name: str) -> None:
    with _lock:
        if name not in _armed:
            return
        left, action = _armed[name]
        if left == 1:
            del _armed[name]
        else:
            _armed[name] = (left - 1, action)
    if left == 1:
        action(name)


arm_from(os.environ)
