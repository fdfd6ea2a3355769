"""What the write-ahead log's entries mean: the intentions and outcomes of each batch.

One pure function folds entries into a state. Replay after a crash and the running program use the
same one, so that a checkpoint always holds exactly what a replay would have found.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from k2i_tasks.clock import Clock, SystemClock
from k2i_tasks.engine.recovery import LeftBatch, Progress
from k2i_tasks.types import OffsetRange, Offsets, Ranges, StagedFile, TopicPartition
from k2i_tasks.wal.entries import WalEntry, WalKind
from k2i_tasks.wal.format import PLAIN_VERSION, SCHEMA_VERSION

if TYPE_CHECKING:
    from k2i_tasks.wal.log import WriteAheadLog

Body = Mapping[str, Any]

#: Gaps that checkpoints carry on, so that they can be looked up long after.
GAPS_KEPT = 32


@dataclass(frozen=True, slots=True)
class JournalState:
    """What the log knows.

    Args:
        table: dotted name of the table that the log belongs to; empty before the first claim.
        table_uuid: Iceberg's id of it.
        epoch: epoch of the last claim.
        offsets: next offsets after the last batch that is known to have landed.
        batches: batches that have neither landed nor been given up, oldest first.
        gaps: bodies of the last `gap` entries, oldest first.
    """

    table: str = ""
    table_uuid: str = ""
    epoch: int = 0
    offsets: Offsets = field(default_factory=dict)
    batches: Mapping[str, LeftBatch] = field(default_factory=dict)
    gaps: tuple[Body, ...] = ()


def fold(state: JournalState, kind: WalKind, body: Body) -> JournalState:
    """The state after one more entry. Pure."""
    if kind is WalKind.CHECKPOINT:
        return _state_from_json(body)
    if kind is WalKind.CLAIMED:
        return replace(
            state, table=body["table"], table_uuid=body["table_uuid"], epoch=body["epoch"]
        )
    if kind is WalKind.GAP:
        return replace(state, gaps=(*state.gaps, body)[-GAPS_KEPT:])
    batch_id = body.get("batch")
    if batch_id is None:
        return state
    batches = dict(state.batches)
    if kind is WalKind.SEALED:
        ranges = ranges_from_json(body["ranges"])
        batches[batch_id] = LeftBatch(batch_id, Progress.SEALED, ranges)
    elif batch_id not in batches:
        return state
    elif kind is WalKind.STAGED:
        batches[batch_id] = replace(
            batches[batch_id],
            progress=Progress.STAGED,
            files=_files(body["files"]),
            dead_letter_files=_files(body["dead_letter_files"]),
            rows=body["rows"],
            schema=body.get("schema"),
        )
    elif kind is WalKind.COMMIT_STARTED:
        batches[batch_id] = replace(batches[batch_id], progress=Progress.STARTED)
    elif kind is WalKind.COMMIT_LANDED:
        ends = {tp: span.end for tp, span in batches.pop(batch_id).ranges.items()}
        return replace(state, batches=batches, offsets={**state.offsets, **ends})
    elif kind is WalKind.ABANDONED:
        del batches[batch_id]
    return replace(state, batches=batches)


class Journal:
    """Writes entries and keeps the folded state. Thread-safe; calls may block on the disk.

    Args:
        log: the open write-ahead log.
        checkpoint_entries_max: entries after which a checkpoint is due.
        checkpoint_seconds: time after which it is due if there was an entry.
        clock: time.
    """

    def __init__(
        self,
        log: WriteAheadLog,
        *,
        checkpoint_entries_max: int = 10_000,
        checkpoint_seconds: float = 300.0,
        clock: Clock | None = None,
    ) -> None:
        self.log = log
        self._entries_max = checkpoint_entries_max
        self._seconds = checkpoint_seconds
        self._clock = clock or SystemClock()
        self._checkpointed_at = self._clock.monotonic()
        self._lock = threading.Lock()
        self.state = replay(log.entries)

    def claimed(self, table: str, table_uuid: str, epoch: int, snapshot_owner: str) -> None:
        """This run owns the table."""
        body = {"table": table, "table_uuid": table_uuid, "epoch": epoch, "owner": snapshot_owner}
        self._write(WalKind.CLAIMED, body)

    def sealed(self, batch_id: str, ranges: Ranges) -> None:
        """The batch is about to be written."""
        self._write(WalKind.SEALED, {"batch": batch_id, "ranges": ranges_to_json(ranges)})

    def staged(
        self,
        batch_id: str,
        files: Sequence[StagedFile],
        dead_letter_files: Sequence[StagedFile],
        rows: int,
        schema: Body | None = None,
    ) -> None:
        """All files of the batch are durable in the store.

        Args:
            batch_id: of the batch.
            files, dead_letter_files: the files.
            rows: of the batch.
            schema: the change of the table's schema that the commit of `files` has to carry.
        """
        body: dict[str, Any] = {
            "batch": batch_id,
            "files": [file.to_json() for file in files],
            "dead_letter_files": [file.to_json() for file in dead_letter_files],
            "rows": rows,
        }
        if schema is not None:
            body["schema"] = schema
        self._write(WalKind.STAGED, body, version=_version([schema]))

    def commit_started(self, batch_id: str, snapshot_id: int, parent: int | None) -> None:
        """A commit is about to be sent; durable before it is, since its answer may be lost."""
        body = {"batch": batch_id, "snapshot_id": snapshot_id, "parent": parent}
        self._write(WalKind.COMMIT_STARTED, body, sync=True)

    def commit_landed(self, batch_id: str, snapshot_id: int) -> None:
        """The batch is in the table."""
        self._write(WalKind.COMMIT_LANDED, {"batch": batch_id, "snapshot_id": snapshot_id})

    def abandoned(self, batch_id: str, why: str) -> None:
        """The batch is given up; its rows are in the table by another run, or are read again."""
        self._write(WalKind.ABANDONED, {"batch": batch_id, "why": why})

    def acknowledged(self, offsets: Offsets) -> None:
        """Kafka was told the offsets; for people who read the log."""
        self._write(WalKind.ACKNOWLEDGED, {"offsets": offsets_to_json(offsets)})

    def gap(self, lost: Ranges) -> None:
        """Kafka no longer has `lost`, and the operator chose to go on."""
        body = {"ranges": ranges_to_json(lost), "at": round(self._clock.unix(), 3)}
        self._write(WalKind.GAP, body, sync=True)

    def checkpoint(self, *, forced: bool = False, offsets: Offsets | None = None) -> None:
        """Rotates the log when that is due, keeping only the folded state.

        Args:
            forced: rotate now.
            offsets: replaces the offsets known to have landed (after a recovery).
        """
        with self._lock:
            if offsets is not None:
                self.state = replace(self.state, offsets=dict(offsets))
            if forced or self._due():
                version = _version(batch.schema for batch in self.state.batches.values())
                self.log.checkpoint(_state_to_json(self.state), version=version)
                self._checkpointed_at = self._clock.monotonic()

    def close(self) -> None:
        self.log.close()

    def _due(self) -> bool:
        entries = self.log.entries_since_checkpoint
        waited = self._clock.monotonic() - self._checkpointed_at
        by_time = entries > 0 and waited >= self._seconds
        return self.log.needs_checkpoint or by_time or entries >= self._entries_max

    def _write(
        self, kind: WalKind, body: Body, *, sync: bool = False, version: int = PLAIN_VERSION
    ) -> None:
        with self._lock:
            self.log.append(kind, body, sync=sync, version=version)
            self.state = fold(self.state, kind, body)


def replay(entries: Iterable[WalEntry]) -> JournalState:
    """The state that the entries leave."""
    state = JournalState()
    for entry in entries:
        state = fold(state, entry.kind, entry.body)
    return state


# JSON forms.


def ranges_to_json(ranges: Ranges) -> dict[str, dict[str, list[int]]]:
    topics: dict[str, dict[str, list[int]]] = {}
    for tp, span in sorted(ranges.items()):
        topics.setdefault(tp.topic, {})[str(tp.partition)] = [span.start, span.end]
    return topics


def ranges_from_json(body: Body) -> dict[TopicPartition, OffsetRange]:
    return {
        TopicPartition(topic, int(partition)): OffsetRange(*span)
        for topic, spans in body.items()
        for partition, span in spans.items()
    }


def offsets_to_json(offsets: Offsets) -> dict[str, dict[str, int]]:
    topics: dict[str, dict[str, int]] = {}
    for tp, offset in sorted(offsets.items()):
        topics.setdefault(tp.topic, {})[str(tp.partition)] = offset
    return topics


def offsets_from_json(body: Body) -> dict[TopicPartition, int]:
    return {
        TopicPartition(topic, int(partition)): offset
        for topic, offsets in body.items()
        for partition, offset in offsets.items()
    }


def _version(schemas: Iterable[Body | None]) -> int:
    """Of an entry about batches with these changes: a program that knows of none must not read it.

    It would commit the files without the columns that are in them.
    """
    return PLAIN_VERSION if all(each is None for each in schemas) else SCHEMA_VERSION


def _files(bodies: Iterable[Body]) -> tuple[StagedFile, ...]:
    return tuple(StagedFile.from_json(body) for body in bodies)


def _state_to_json(state: JournalState) -> dict[str, Any]:
    return {
        "table": state.table,
        "table_uuid": state.table_uuid,
        "epoch": state.epoch,
        "offsets": offsets_to_json(state.offsets),
        "batches": [_batch_to_json(batch) for batch in state.batches.values()],
        "gaps": list(state.gaps),
    }


def _batch_to_json(batch: LeftBatch) -> dict[str, Any]:
    body: dict[str, Any] = {
        "batch": batch.batch_id,
        "progress": batch.progress.value,
        "ranges": ranges_to_json(batch.ranges),
        "files": [file.to_json() for file in batch.files],
        "dead_letter_files": [file.to_json() for file in batch.dead_letter_files],
        "rows": batch.rows,
    }
    if batch.schema is not None:
        body["schema"] = batch.schema
    return body


def _state_from_json(body: Body) -> JournalState:
    batches = [
        LeftBatch(
            item["batch"],
            Progress(item["progress"]),
            ranges_from_json(item["ranges"]),
            _files(item["files"]),
            _files(item["dead_letter_files"]),
            item["rows"],
            item.get("schema"),
        )
        for item in body.get("batches", ())
    ]
    return JournalState(
        table=body.get("table", ""),
        table_uuid=body.get("table_uuid", ""),
        epoch=body.get("epoch", 0),
        offsets=offsets_from_json(body.get("offsets", {})),
        batches={batch.batch_id: batch for batch in batches},
        gaps=tuple(body.get("gaps", ())),
    )
