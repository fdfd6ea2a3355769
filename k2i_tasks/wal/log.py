"""The write-ahead log: append, fsync, checkpoint with rotation, replay."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from k2i_tasks.errors import ServiceError
from k2i_tasks.failpoints import hit
from k2i_tasks.wal.disk import Disk, lock_folder, make_folder
from k2i_tasks.wal.entries import WalBrokenError, WalDamage, WalEntry, WalFullError, WalKind
from k2i_tasks.wal.format import (
    FRAME_BYTES_MAX,
    FRAME_HEAD_BYTES,
    HEADER_BYTES,
    PLAIN_VERSION,
    encode_payload,
)
from k2i_tasks.wal.replay import Replay, broken, replay_folder
from k2i_tasks.wal.segment import Segment

__all__ = ["WalDamage", "WalEntry", "WalKind", "WriteAheadLog"]

log = logging.getLogger(__name__)

SEGMENT_BYTES_MIN = 4096
SEGMENT_BYTES_MAX = 1024**3
#: A full segment, room to go on until the caller's checkpoint, and that checkpoint.
SEGMENTS_MIN = 3


class WriteAheadLog:
    """The intent log of one pipeline, in a folder of its own. Thread-safe.

    Its loss loses no row: the table knows what was committed. An append survives `kill -9` when the
    call returns, and a power cut when it was synced. One segment is live; a checkpoint holds the
    whole state, begins the next segment and removes the one before.
    """

    def __init__(
        self,
        folder: Path,
        disk: Disk,
        lock_descriptor: int,
        replay: Replay,
        *,
        segment_bytes_max: int,
        segments_max: int,
        on_sync: Callable[[float], None] | None,
    ) -> None:
        """Not for callers: use `WriteAheadLog.open`."""
        self.folder = folder
        #: Segments that could not be trusted and were set aside by this opening.
        self.damage: tuple[WalDamage, ...] = replay.damage
        #: What this opening found, from the newest checkpoint on; it does not grow by appends.
        self.entries: tuple[WalEntry, ...] = replay.entries
        #: Bytes of an unfinished entry that this opening cut.
        self.cut_bytes = replay.cut_bytes
        self._disk = disk
        self._on_sync = on_sync
        self._lock_descriptor = lock_descriptor
        self._segment_bytes_max = segment_bytes_max
        self._bytes_max = segment_bytes_max * max(segments_max, SEGMENTS_MIN)
        self._lock = threading.Lock()
        self._poison: WalBrokenError | None = None
        self._closed = False
        self._superseded: dict[Path, int] = {}
        self._since_checkpoint = sum(e.kind is not WalKind.CHECKPOINT for e in replay.entries)
        self._number = replay.next_number
        if replay.tail is None:
            self._segment = self._begin("wal.open", replay.last_lsn, 0, None)
        else:
            self._segment = Segment.resume(disk, replay.tail)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        segment_bytes_max: int,
        segments_max: int,
        on_sync: Callable[[float], None] | None = None,
        disk: Disk | None = None,
    ) -> WriteAheadLog:
        """Opens the log in `directory` for this process alone and replays it. May block.

        Args:
            directory: made, for this user alone, if it is missing.
            segment_bytes_max: size from which a checkpoint is due, and bound of one entry.
            segments_max: the log never takes more bytes than so many segments; 3 at least count.
            on_sync: called with the seconds of each fsync of entries; must not block.
            disk: the system calls, for tests.

        Raises:
            WalLockedError: another process has it.
            WalVersionError: a later version wrote it.
            ServiceError: the folder cannot be made, read or written.
            WalBrokenError: an fsync failed.
            ValueError: a bound that is out of bounds.
        """
        if not SEGMENT_BYTES_MIN <= segment_bytes_max <= SEGMENT_BYTES_MAX or segments_max < 1:
            raise ValueError(f"not the bounds of a log: {segments_max} x {segment_bytes_max} bytes")
        disk = disk or Disk()
        make_folder(disk, directory)
        lock_descriptor = lock_folder(disk, directory)
        try:
            return cls(
                directory,
                disk,
                lock_descriptor,
                replay_folder(disk, directory),
                segment_bytes_max=segment_bytes_max,
                segments_max=segments_max,
                on_sync=on_sync,
            )
        except BaseException:
            disk.close(lock_descriptor)
            raise

    def __enter__(self) -> WriteAheadLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of the live segment, and of older ones that could not be removed yet."""
        return self._segment.size + sum(self._superseded.values())

    @property
    def last_lsn(self) -> int:
        """The newest entry's lsn."""
        return self._segment.last_lsn

    @property
    def entries_since_checkpoint(self) -> int:
        """Entries behind the newest checkpoint."""
        return self._since_checkpoint

    @property
    def needs_checkpoint(self) -> bool:
        """Whether the live segment has reached `segment_bytes_max`: checkpoint soon."""
        return self._since_checkpoint > 0 and self._segment.size >= self._segment_bytes_max

    def append(
        self,
        kind: WalKind,
        body: Mapping[str, Any],
        *,
        sync: bool = False,
        version: int = PLAIN_VERSION,
    ) -> int:
        """Appends one entry and returns its lsn. May block on the disk.

        Args:
            kind: anything but CHECKPOINT, which has a method of its own.
            body: a JSON object.
            sync: whether the entry, and all before it, is on disk when this returns.
            version: of the payload's form; programs that know only earlier ones refuse the log.

        Raises:
            WalFullError: disk full or read-only, or a bound reached; the log is as before the call.
            WalBrokenError: the disk failed; every later call raises this too.
            TypeError, ValueError: `body` is not JSON, or the log is closed.
        """
        if kind is WalKind.CHECKPOINT:
            raise ValueError("a checkpoint begins a segment: call checkpoint()")
        payload = encode_payload(body)
        with self._lock, self._usable():
            hit("wal.append.before")
            self._check_frame(payload)
            self._check_room(payload)
            lsn = self._segment.append(kind.code, payload, version)
            self._since_checkpoint += 1
            hit("wal.append.written")
            if sync:
                self._sync()
                hit("wal.append.synced")
            return lsn

    def checkpoint(self, body: Mapping[str, Any], *, version: int = PLAIN_VERSION) -> int:
        """Begins a new segment with the whole state, durable on return; removes what was before.

        Args:
            body: everything that a later replay needs of what was logged so far, as a JSON object.
            version: of its form, as for `append`.

        Raises:
            ServiceError: the disk refused; the log is as before the call.
            WalBrokenError, TypeError, ValueError: as `append`.
        """
        payload = encode_payload(body)
        with self._lock, self._usable():
            hit("wal.checkpoint.before")
            self._check_frame(payload)
            old = self._segment
            first = (WalKind.CHECKPOINT.code, payload, version)
            self._segment = self._begin("wal.checkpoint", old.last_lsn, old.last_crc, first)
            self._since_checkpoint = 0
            self._superseded[old.path] = old.size
            hit("wal.checkpoint.switched")
            old.close()
            self._remove_superseded()
            hit("wal.checkpoint.unlinked")
            return self._segment.last_lsn

    def close(self) -> None:
        """Makes all entries durable and lets go of the folder. Idempotent. May block on the disk.

        Raises:
            WalBrokenError: the fsync failed; the folder is let go all the same.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                hit("wal.close.before")
                if self._segment.unsynced and self._poison is None:
                    self._sync()
                    hit("wal.close.synced")
            finally:
                self._segment.close()
                self._disk.close(self._lock_descriptor)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Refuses a closed or broken log; a failure that leaves it in doubt breaks it for good."""
        if self._closed:
            raise ValueError(f"the write-ahead log in {self.folder} is closed")
        if self._poison is not None:
            raise WalBrokenError(self._poison.what, remedy=self._poison.remedy)
        try:
            yield
        except ServiceError:
            raise  # the log is as it was
        except WalBrokenError as error:
            self._poison = error
            raise
        except BaseException as error:
            self._poison = broken(f"{type(error).__name__} came between its steps")
            raise

    def _begin(
        self, place: str, last_lsn: int, last_crc: int, first: tuple[int, bytes, int] | None
    ) -> Segment:
        segment = Segment.begin(
            self._disk,
            self.folder,
            self._number,
            last_lsn=last_lsn,
            last_crc=last_crc,
            first=first,
            place=place,
        )
        self._number += 1
        return segment

    def _check_frame(self, payload: bytes) -> None:
        most = min(FRAME_BYTES_MAX, self._segment_bytes_max - HEADER_BYTES)
        size = FRAME_HEAD_BYTES + len(payload)
        if size > most:
            raise WalFullError(
                f"An entry of {size} bytes does not fit into the write-ahead log in {self.folder}, "
                f"which takes {most} at most.",
                remedy="Raise transaction_log.segment_size_mb.",
            )

    def _check_room(self, payload: bytes) -> None:
        # One segment's bytes stay free: the checkpoint that ends the want must find room.
        size = self.size_bytes + FRAME_HEAD_BYTES + len(payload)
        if size + self._segment_bytes_max > self._bytes_max:
            raise WalFullError(
                f"The write-ahead log in {self.folder} holds {self.size_bytes} bytes, its bound, "
                f"with {self._since_checkpoint} entries since its last checkpoint.",
                remedy="Start again, which takes a checkpoint; or raise "
                "transaction_log.max_log_files.",
            )

    def _sync(self) -> None:
        seconds = self._segment.sync()
        if self._on_sync is not None:
            self._on_sync(seconds)

    def _remove_superseded(self) -> None:
        for path in list(self._superseded):
            try:
                self._disk.unlink(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                # Harmless but for its bytes, which count; the next checkpoint tries again.
                log.warning("Cannot remove %s, which a checkpoint replaced: %s", path, error)
                continue
            del self._superseded[path]
