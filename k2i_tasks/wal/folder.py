"""The files in a log's folder: their names, and setting damage aside."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from k2i_tasks.failpoints import hit
from k2i_tasks.wal.disk import Disk, disk_errors
from k2i_tasks.wal.entries import WalDamage

log = logging.getLogger(__name__)

_NAME = re.compile(r"(\d{8,20})\.log(\.tmp|\.corrupt)?")
#: Segments that were set aside; older ones make room, so that evidence is bounded too.
EVIDENCE_FILES_MAX = 8


@dataclass(frozen=True, slots=True)
class Listing:
    """Paths in the folder, by segment number."""

    segments: Mapping[int, Path]
    unfinished: Sequence[Path]
    evidence: Sequence[Path]
    highest: int


def segment_path(folder: Path, number: int) -> Path:
    """The path of segment `number`."""
    return folder / f"{number:08d}.log"


def list_folder(folder: Path) -> Listing:
    """The log's files in `folder`, oldest first; other files are not looked at."""
    segments: dict[int, Path] = {}
    unfinished: list[Path] = []
    evidence: list[tuple[int, Path]] = []
    highest = 0
    with disk_errors(f"list {folder}"):
        names = sorted(os.listdir(folder))
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        number = int(match[1])
        if match[2] == ".tmp":
            unfinished.append(folder / name)
            continue
        highest = max(highest, number)
        if match[2] is None:
            segments[number] = folder / name
        else:
            evidence.append((number, folder / name))
    ordered = dict(sorted(segments.items()))
    return Listing(ordered, unfinished, [path for _, path in sorted(evidence)], highest)


def evidence_path(path: Path) -> Path:
    """Where the segment at `path` goes when it is damaged."""
    return path.with_name(path.name + ".corrupt")


def set_aside(disk: Disk, folder: Path, listing: Listing, damage: WalDamage) -> None:
    """Renames every segment to `.corrupt` and keeps the newest of such files.

    Idempotent: oldest first, so that a crash on the way leaves the damaged one to be found again.
    """
    for path in listing.segments.values():
        with disk_errors(f"set {path} aside"):
            disk.rename(path, evidence_path(path))
    with disk_errors(f"sync {folder}"):
        disk.sync_folder(folder)
    log.error("The write-ahead log is damaged and set aside, the table decides: %s", damage)
    hit("wal.open.quarantined")
    for path in list_folder(folder).evidence[:-EVIDENCE_FILES_MAX]:
        with disk_errors(f"remove {path}"):
            disk.unlink(path)
