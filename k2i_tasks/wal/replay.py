"""Replay: what the newest segment holds, and making the folder fit to be appended to."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from k2i_tasks.failpoints import hit
from k2i_tasks.wal.disk import Disk, disk_errors
from k2i_tasks.wal.entries import WalBrokenError, WalDamage, WalEntry, WalKind, WalVersionError
from k2i_tasks.wal.folder import Listing, evidence_path, list_folder, set_aside
from k2i_tasks.wal.format import (
    ENTRY_VERSION,
    FORMAT_VERSION,
    Frame,
    SegmentHeader,
    decode_payload,
)
from k2i_tasks.wal.scan import Ending, Scan, scan

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the next frame goes: the segment's path, its checksum seed, size and last frame."""

    path: Path
    seed: int
    size: int
    last_lsn: int
    last_crc: int


@dataclass(frozen=True, slots=True)
class Replay:
    """What was found; `tail` is None where a fresh segment must be begun after `last_lsn`."""

    entries: tuple[WalEntry, ...]
    damage: tuple[WalDamage, ...]
    cut_bytes: int
    tail: Tail | None
    next_number: int
    last_lsn: int


def replay_folder(disk: Disk, folder: Path) -> Replay:
    """Reads the newest segment, cuts a torn tail, sets damage aside, removes what it replaces.

    Older segments are not read: a segment gets its name only when the checkpoint it begins with,
    which holds the whole state, is on disk.

    Raises:
        WalVersionError: a later version wrote it; nothing was changed.
        ServiceError: a file cannot be read or changed.
        WalBrokenError: the cut could not be made durable.
    """
    listing = list_folder(folder)
    if not listing.segments:
        replay = Replay((), (), 0, None, listing.highest + 1, _base_lsn(listing.highest))
    else:
        replay = _replay_newest(disk, folder, listing)
    # Beside a damaged segment the older ones are evidence, and renamed.
    spare = [] if replay.damage else list(listing.segments.values())[:-1]
    for path in (*listing.unfinished, *spare):
        with disk_errors(f"remove {path}"):
            disk.unlink(path)
        hit("wal.open.unlinked")
    return replay


def _replay_newest(disk: Disk, folder: Path, listing: Listing) -> Replay:
    number, path = max(listing.segments.items())
    with disk_errors(f"read {path}"):
        data = path.read_bytes()
    found, entries = read_segment(data, number)
    if found.ending is Ending.CORRUPT or found.header is None:
        damage = WalDamage(evidence_path(path), found.position, found.why)
        set_aside(disk, folder, listing, damage)
        last_lsn = max(_base_lsn(listing.highest), found.highest_lsn)
        return Replay((), (damage,), 0, None, listing.highest + 1, last_lsn)
    cut_bytes = len(data) - found.position
    if cut_bytes:
        log.warning("%s: %d bytes of an unfinished entry are cut: %s", path, cut_bytes, found.why)
        _cut(disk, path, found.position)
    last = found.frames[-1] if found.frames else None
    tail = Tail(
        path,
        found.header.seed,
        found.position,
        last.lsn if last else found.header.previous_lsn,
        last.crc if last else found.header.previous_crc,
    )
    kept = _since_checkpoint(entries)
    return Replay(kept, (), cut_bytes, tail, listing.highest + 1, tail.last_lsn)


def read_segment(data: bytes, number: int, *, last: bool = True) -> tuple[Scan, list[WalEntry]]:
    """Scans the bytes of segment `number` and decodes its entries.

    Raises:
        WalVersionError: a later version of K2I wrote it.
    """
    found = scan(data, last=last)
    if found.header is None:
        return found, []
    if found.header.version > FORMAT_VERSION:
        raise _too_new(f"segment format {found.header.version}")
    if found.header.number != number:
        why = f"the header belongs to segment {found.header.number}, the name to {number}"
        return _corrupt(found, 0, why, found.header), []
    entries: list[WalEntry] = []
    for frame in found.frames:
        try:
            entries.append(_entry(frame))
        except ValueError as error:
            why = f"entry {frame.lsn} is whole but cannot be read: {error}"
            return _corrupt(found, frame.position, why, found.header), entries
    return found, entries


def _corrupt(found: Scan, position: int, why: str, header: SegmentHeader) -> Scan:
    frames = tuple(frame for frame in found.frames if frame.position < position)
    return Scan(header, frames, Ending.CORRUPT, position, why, found.highest_lsn)


def _entry(frame: Frame) -> WalEntry:
    kind = WalKind.of_code(frame.kind)
    if kind is None or frame.version > ENTRY_VERSION:
        raise _too_new(f"entry {frame.lsn} of kind {frame.kind}, version {frame.version}")
    return WalEntry(frame.lsn, kind, decode_payload(frame.payload))


def _too_new(what: str) -> WalVersionError:
    return WalVersionError(
        f"The write-ahead log was written by a later version of K2I ({what}).",
        remedy="Run that version, or move the log's folder away: the table knows what was "
        "committed. Nothing was changed.",
    )


def _since_checkpoint(entries: Sequence[WalEntry]) -> tuple[WalEntry, ...]:
    newest = [i for i, entry in enumerate(entries) if entry.kind is WalKind.CHECKPOINT][-1:]
    return tuple(entries[newest[0] :] if newest else entries)


def _base_lsn(number: int) -> int:
    """An lsn above all that segments up to `number` can have held, readable or not."""
    return number << 32


def _cut(disk: Disk, path: Path, size: int) -> None:
    with disk_errors(f"cut the torn end of {path}"):
        descriptor = disk.open(path, os.O_RDWR)
    try:
        with disk_errors(f"cut the torn end of {path}"):
            disk.truncate(descriptor, size)
        hit("wal.open.cut")
        sync_or_break(disk, descriptor, path)
    finally:
        disk.close(descriptor)


def sync_or_break(disk: Disk, descriptor: int, path: Path) -> None:
    """One fsync. Its failure is final: the system may have dropped what it could not write.

    Raises:
        WalBrokenError: it failed. It must not be tried again on this descriptor.
    """
    try:
        disk.sync(descriptor)
    except OSError as error:
        raise broken(f"an fsync of {path} failed", error) from error


def broken(why: str, error: OSError | None = None) -> WalBrokenError:
    """The error for a log that can take nothing more.

    Args:
        why: what failed.
        error: what the system said to it.
    """
    said = f" ({error.strerror or error})" if error is not None else ""
    todo = "Check the disk"
    if error is not None and error.errno == errno.EROFS:
        todo = "Make the disk writable"
    return WalBrokenError(
        f"The write-ahead log is out of use: {why}{said}.",
        remedy=f"{todo}, then start again: the table knows what was committed.",
    )
