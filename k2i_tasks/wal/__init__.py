"""The write-ahead log: what a run means to do, written down before it is done."""

from k2i_tasks.wal.disk import Disk
from k2i_tasks.wal.entries import (
    WalBrokenError,
    WalDamage,
    WalEntry,
    WalFullError,
    WalKind,
    WalLockedError,
    WalVersionError,
)
from k2i_tasks.wal.log import WriteAheadLog

__all__ = [
    "Disk",
    "WalBrokenError",
    "WalDamage",
    "WalEntry",
    "WalFullError",
    "WalKind",
    "WalLockedError",
    "WalVersionError",
    "WriteAheadLog",
]
