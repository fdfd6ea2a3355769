"""What a write-ahead log holds, and how its errors are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from k2i_tasks.errors import Component, IntegrityError, K2IError, ServiceError


class WalKind(StrEnum):
    """What an entry records. Stored as one byte, `code`; a code is never given a second meaning."""

    CHECKPOINT = "checkpoint"
    CLAIMED = "claimed"
    SEALED = "sealed"
    STAGED = "staged"
    COMMIT_STARTED = "commit-started"
    COMMIT_LANDED = "commit-landed"
    ABANDONED = "abandoned"
    ACKNOWLEDGED = "acknowledged"
    GAP = "gap"
    SCHEMA = "schema"
    MAINTENANCE = "maintenance"

    @property
    def code(self) -> int:
        """The byte that stands for this kind on disk."""
        return _CODES[self]

    @classmethod
    def of_code(cls, code: int) -> WalKind | None:
        """The kind that `code` stands for; None for one that this version does not know."""
        return _KINDS.get(code)


_CODES: dict[WalKind, int] = {
    WalKind.CHECKPOINT: 1,
    WalKind.CLAIMED: 2,
    WalKind.SEALED: 3,
    WalKind.STAGED: 4,
    WalKind.COMMIT_STARTED: 5,
    WalKind.COMMIT_LANDED: 6,
    WalKind.ABANDONED: 7,
    WalKind.ACKNOWLEDGED: 8,
    WalKind.GAP: 9,
    WalKind.SCHEMA: 10,
    WalKind.MAINTENANCE: 11,
}
_KINDS: dict[int, WalKind] = {code: kind for kind, code in _CODES.items()}


@dataclass(frozen=True, slots=True)
class WalEntry:
    """One entry: its place in the log, what it records, and the record itself."""

    lsn: int
    kind: WalKind
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WalDamage:
    """A segment that was set aside: where it is now, its first bad byte, what is wrong there."""

    path: Path
    position: int
    why: str

    def __str__(self) -> str:
        return f"{self.path}, byte {self.position}: {self.why}"


class WalLockedError(K2IError):
    """Another process works on this log. Stop it, or give this run a log folder of its own."""

    component = Component.WAL


class WalFullError(ServiceError):
    """The disk is full or read-only, or a bound is reached. The log is as before the call.

    Free space and start again; the call may also be repeated in this process.
    """

    component = Component.WAL


class WalBrokenError(IntegrityError):
    """The disk failed under the log, which takes nothing more. Check the disk, then start again."""

    component = Component.WAL


class WalVersionError(K2IError):
    """A later version of K2I wrote this log. Nothing was changed."""

    component = Component.WAL
