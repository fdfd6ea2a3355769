"""What to do with a batch that an earlier run left behind: a total function, kept as data.

For a batch that covers `[s, e)` in each of its partitions, `t` is the next offset that the table
records. The write-ahead log says how far the batch got, the table says whether its commit is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from k2i_tasks.errors import Component, IntegrityError
from k2i_tasks.types import (
    OffsetRange,
    Offsets,
    Ranges,
    StagedFile,
    TopicPartition,
    describe_ranges,
)


class Progress(StrEnum):
    """The last entry of the batch in the write-ahead log."""

    SEALED = "sealed"
    STAGED = "files staged"
    STARTED = "commit started"
    LANDED = "commit landed"


class Position(StrEnum):
    """Where the table's `t` lies against the batch's `[s, e)`."""

    BEFORE = "t < s"
    START = "t = s"
    INSIDE = "s < t < e"
    COVERED = "t >= e"


class Decision(StrEnum):
    """What recovery does with the batch."""

    DISCARD = "discard the staged files, read again from t"
    COMMIT = "commit the staged files"
    RECORD_LANDED = "record as landed"
    ABANDON = "record as abandoned, discard the staged files"
    NOTHING = "nothing"
    HALT_ROLLED_BACK = "halt: the table was rolled back"
    HALT_OVERLAP = "halt: the table covers a part of the batch"


_ANY = (False, True)

#: (progress, commit found in the table, position) -> decision. Every combination is listed once.
TABLE: dict[tuple[Progress, bool, Position], Decision] = {
    # Sealed: nothing durable but the intention.
    (Progress.SEALED, False, Position.BEFORE): Decision.DISCARD,
    (Progress.SEALED, False, Position.START): Decision.DISCARD,
    (Progress.SEALED, False, Position.INSIDE): Decision.HALT_OVERLAP,
    (Progress.SEALED, False, Position.COVERED): Decision.DISCARD,
    (Progress.SEALED, True, Position.BEFORE): Decision.HALT_ROLLED_BACK,
    (Progress.SEALED, True, Position.START): Decision.HALT_ROLLED_BACK,
    (Progress.SEALED, True, Position.INSIDE): Decision.HALT_OVERLAP,
    (Progress.SEALED, True, Position.COVERED): Decision.RECORD_LANDED,
    # Staged: the files are whole; t < s when an earlier batch was given up.
    (Progress.STAGED, False, Position.BEFORE): Decision.DISCARD,
    (Progress.STAGED, False, Position.START): Decision.COMMIT,
    (Progress.STAGED, False, Position.INSIDE): Decision.HALT_OVERLAP,
    (Progress.STAGED, False, Position.COVERED): Decision.DISCARD,
    (Progress.STAGED, True, Position.BEFORE): Decision.HALT_ROLLED_BACK,
    (Progress.STAGED, True, Position.START): Decision.HALT_ROLLED_BACK,
    (Progress.STAGED, True, Position.INSIDE): Decision.HALT_OVERLAP,
    (Progress.STAGED, True, Position.COVERED): Decision.RECORD_LANDED,
    # Commit started: the table knows whether it landed.
    (Progress.STARTED, False, Position.BEFORE): Decision.DISCARD,
    (Progress.STARTED, False, Position.START): Decision.COMMIT,
    (Progress.STARTED, False, Position.INSIDE): Decision.HALT_OVERLAP,
    (Progress.STARTED, False, Position.COVERED): Decision.ABANDON,
    (Progress.STARTED, True, Position.BEFORE): Decision.HALT_ROLLED_BACK,
    (Progress.STARTED, True, Position.START): Decision.HALT_ROLLED_BACK,
    (Progress.STARTED, True, Position.INSIDE): Decision.HALT_OVERLAP,
    (Progress.STARTED, True, Position.COVERED): Decision.RECORD_LANDED,
    # Landed: the log has seen it in the table; it must still be covered.
    **{(Progress.LANDED, found, Position.BEFORE): Decision.HALT_ROLLED_BACK for found in _ANY},
    **{(Progress.LANDED, found, Position.START): Decision.HALT_ROLLED_BACK for found in _ANY},
    **{(Progress.LANDED, found, Position.INSIDE): Decision.HALT_ROLLED_BACK for found in _ANY},
    **{(Progress.LANDED, found, Position.COVERED): Decision.NOTHING for found in _ANY},
}


@dataclass(frozen=True, slots=True)
class LeftBatch:
    """A batch of an earlier run, as its write-ahead log tells.

    Args:
        schema: the change of the table's schema that the files were written for, as it was logged.
    """

    batch_id: str
    progress: Progress
    ranges: Ranges
    files: tuple[StagedFile, ...] = ()
    dead_letter_files: tuple[StagedFile, ...] = ()
    rows: int = 0
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One decision of a recovery plan."""

    batch: LeftBatch
    decision: Decision


def position(ranges: Ranges, offsets: Offsets) -> Position:
    """Where the table's offsets lie against the batch, over all its partitions.

    A partition that the table does not record stands before its range. Partitions that disagree
    (one covered, one not) make the batch `INSIDE`: the table covers a part of it.
    """
    seen = {
        _one(span.start, span.end, offsets.get(tp, -1 if span.start else 0))
        for tp, span in ranges.items()
        if span.end > span.start
    }
    if not seen:
        return Position.COVERED
    if len(seen) > 1:
        return Position.INSIDE
    return seen.pop()


def _one(start: int, end: int, next_offset: int) -> Position:
    if next_offset < start:
        return Position.BEFORE
    if next_offset == start:
        return Position.START
    return Position.COVERED if next_offset >= end else Position.INSIDE


def decide(progress: Progress, found: bool, where: Position) -> Decision:
    """The decision for one batch."""
    return TABLE[progress, found, where]


def decide_shared(decision: Decision, ranges: Ranges, mine: Set[TopicPartition]) -> Decision:
    """The decision for a batch of a run that shares the table with other members of its group.

    Another member may have read a part of the batch since, so that an overlap is no contradiction;
    and what is no longer ours cannot be committed. Either is read again, by whoever owns it.
    """
    if decision is Decision.HALT_OVERLAP:
        return Decision.DISCARD
    if decision is Decision.COMMIT and not ranges.keys() <= mine:
        return Decision.DISCARD
    return decision


def plan(
    batches: Iterable[LeftBatch],
    offsets: Offsets,
    landed: frozenset[str],
    mine: Set[TopicPartition] | None = None,
) -> Iterator[Step]:
    """Decides batch by batch, oldest first, against the table as each step leaves it.

    Args:
        batches: what the log holds of unfinished batches, in order; each is asked for once the
            step before it is done.
        offsets: next offsets that the table records.
        landed: ids of batches whose commits the table holds.
        mine: the partitions that this run has claimed, where it shares the table; None where it
            owns all of it.

    Raises:
        IntegrityError: a halting decision; names the batch and both sides.
    """
    table = dict(offsets)
    for batch in batches:
        decision = decide(batch.progress, batch.batch_id in landed, position(batch.ranges, table))
        if mine is not None:
            decision = decide_shared(decision, batch.ranges, mine)
        if decision in (Decision.HALT_OVERLAP, Decision.HALT_ROLLED_BACK):
            raise halt(batch, table, decision)
        if decision is Decision.COMMIT:
            table.update({tp: span.end for tp, span in batch.ranges.items()})
        yield Step(batch, decision)


def must_not_be_behind(known: Offsets, offsets: Offsets) -> None:
    """Checks that the table, at `offsets`, holds at least what the log saw landing, up to `known`.

    Raises:
        IntegrityError: it was rolled back.
    """
    behind = {tp: o for tp, o in known.items() if offsets.get(tp, 0) < o}
    if behind:
        ranges = {tp: OffsetRange(max(0, o - 1), o) for tp, o in behind.items()}
        batch = LeftBatch("(last landed)", Progress.LANDED, ranges)
        raise halt(batch, offsets, Decision.HALT_ROLLED_BACK)


def halt(batch: LeftBatch, offsets: Offsets, decision: Decision) -> IntegrityError:
    """The error for a halting decision."""
    recorded = " ".join(f"{tp.partition}:{offsets.get(tp, 'none')}" for tp in sorted(batch.ranges))
    rolled_back = decision is Decision.HALT_ROLLED_BACK
    return IntegrityError(
        f"Batch {batch.batch_id} ({batch.progress}) covers {describe_ranges(batch.ranges)}, but "
        f"the table records next offsets {recorded}"
        + (": the table was rolled back." if rolled_back else ": it covers a part of the batch."),
        component=Component.ICEBERG,
        remedy="To ingest again from the table's offsets, move the write-ahead log folder away; "
        "to keep the newer state, roll the table forward. Nothing was changed.",
    )
