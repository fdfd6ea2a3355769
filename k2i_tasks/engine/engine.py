"""Decides what happens next to the records of one table.

The runner tells the engine what came in and what became of earlier actions; the engine answers with
actions. It owns the offset ledger, the triggers, backpressure and the order of commits, and does
nothing itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from k2i_tasks.engine.ledger import Ledger
from k2i_tasks.engine.triggers import (
    Limits,
    OpenBatch,
    RecordSize,
    encode_due,
    poll_budget,
    seal_reason,
    should_pause,
)
from k2i_tasks.errors import K2IError
from k2i_tasks.types import Offsets, Ranges, SealReason


@dataclass(frozen=True, slots=True)
class Encode:
    """Encode what was buffered since the last seal or encoding; it will be of `batch_id`."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class Seal:
    """Seal the hot buffer as `batch_id`; it must cover exactly `ranges`. Then flush it."""

    batch_id: str
    reason: SealReason
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit the staged files of `batch_id` with its offsets."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class Release:
    """`batch_id` is in the table: drop it from the hot buffer, tell Kafka `offsets` (advisory)."""

    batch_id: str
    offsets: Offsets


@dataclass(frozen=True, slots=True)
class Pause:
    """Stand still: pause all partitions, go on polling."""


@dataclass(frozen=True, slots=True)
class Resume:
    """Consume again."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the run: drained when `error` is None, failed otherwise."""

    error: K2IError | None


Action = Encode | Seal | Commit | Release | Pause | Resume | Stop


@dataclass(frozen=True, slots=True)
class Arrival:
    """What one decoded batch brings: records (rows and dead letters), Arrow bytes, positions."""

    records: int
    nbytes: int
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Flushed:
    """The data files of `batch_id` are staged."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class Committed:
    """`batch_id` is in the table."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class Failed:
    """An action on `batch_id` ended in an error that no retry can mend."""

    batch_id: str
    error: K2IError


Outcome = Flushed | Committed | Failed


#: A batch that was sealed for one of these may leave the rest of a backlog behind it.
_FULL = (SealReason.BYTES, SealReason.ROWS, SealReason.PRESSURE)


@dataclass(slots=True)
class _InFlight:
    nbytes: int
    rows: int
    stage: Literal["flushing", "staged", "committing"]


class Engine:
    """The decisions for one table.

    Args:
        limits: bounds to work within.
        start: next offset to read per partition, as the table records it.
        batch_prefix: makes batch ids unique over restarts; a batch id is `<prefix>-<n>`.
    """

    def __init__(self, limits: Limits, start: Offsets, *, batch_prefix: str) -> None:
        self.limits = limits
        self.ledger = Ledger(start)
        self.paused = False
        self.draining = False
        self.stopped = False
        self._open = OpenBatch()
        self._in_flight: dict[str, _InFlight] = {}
        self._size = RecordSize()
        #: Bytes of what waits outside because it does not fit; 0 if nothing does.
        self._waiting = 0
        #: Whether the topic has had more all the time since the first row of the open batch, and
        #: whether it had while the batch before was filled: then it was of a backlog.
        self._is_fed = self._after_backlog = False
        self._prefix = batch_prefix
        self._sealed_count = 0

    # What the views show.

    @property
    def used_bytes(self) -> int:
        """Arrow bytes buffered and in flight."""
        return self._open.nbytes + sum(batch.nbytes for batch in self._in_flight.values())

    @property
    def used_rows(self) -> int:
        return self._open.rows + sum(batch.rows for batch in self._in_flight.values())

    @property
    def batches_in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def room_bytes(self) -> int:
        """Arrow bytes that may still arrive."""
        return max(0, self.limits.buffer_bytes_max - self.used_bytes)

    def poll_budget(self) -> int:
        """Records to ask for in the next poll; 0 while draining or stopped.

        While paused it stays positive: polling goes on so that the client lives, and what still
        arrives is taken in.
        """
        if self.draining or self.stopped:
            return 0
        return poll_budget(self.limits, self.used_bytes, self._size)

    # What comes in.

    def arrived(self, arrival: Arrival, now: float) -> list[Action]:
        """A decoded batch, or positions that moved without records, went into the hot buffer."""
        if not arrival.ranges:
            return []
        self.ledger.extend(arrival.ranges)
        self._waiting = 0
        self._size.observe(arrival.records, arrival.nbytes)
        if self._open.first_position_at is None:
            self._open.first_position_at = now
        if arrival.records and self._open.first_row_at is None:
            self._open.first_row_at, self._is_fed = now, True
        self._open.rows += arrival.records
        self._open.nbytes += arrival.nbytes
        return [*self.tick(now), *self._encode()]

    def lacks_room(self, nbytes: int, now: float) -> list[Action]:
        """The next record, of so many bytes, does not fit: stands still until it does."""
        self._waiting = nbytes
        return self.tick(now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        if self.stopped:
            return []
        actions = self._backpressure()
        reason = seal_reason(
            self.limits,
            self._open,
            in_flight=len(self._in_flight),
            paused=self.paused,
            draining=self.draining,
            now=now,
        )
        if reason is not None:
            actions.append(self._seal(reason))
        if self.draining and self._open.empty and not self._in_flight:
            self.stopped = True
            actions.append(Stop(None))
        return actions

    def outcome(self, outcome: Outcome, now: float) -> list[Action]:
        """What became of an earlier action."""
        if self.stopped:
            return []
        match outcome:
            case Failed(error=error):
                self.stopped = True
                return [Stop(error)]
            case Flushed(batch_id):
                self._in_flight[batch_id].stage = "staged"
                return self._next_commit() + self.tick(now)
            case Committed(batch_id):
                self.ledger.commit(batch_id)
                del self._in_flight[batch_id]
                release = Release(batch_id, self.ledger.committed)
                return [release, *self._next_commit(), *self.tick(now)]

    def partitions_added(self, offsets: Offsets, now: float) -> list[Action]:
        """The topic has grown: what is buffered is sealed, then the new partitions take part."""
        actions: list[Action] = []
        if not self._open.empty:
            actions.append(self._seal(SealReason.REBALANCE))
        self.ledger.add(offsets)
        return actions + self.tick(now)

    def idle(self, now: float) -> list[Action]:
        """All that the topic has was read. Idempotent.

        The rest of a backlog is sealed now rather than after `flush_interval_seconds`; a topic that
        comes in drops or bursts makes no more commits for it.
        """
        self._is_fed = False
        busy = len(self._in_flight) >= self.limits.batches_in_flight_max
        rest = self._after_backlog and self._open.first_row_at is not None
        if self.stopped or busy or not rest:
            return []
        return [self._seal(SealReason.CAUGHT_UP), *self.tick(now)]

    def settle(self, now: float) -> list[Action]:
        """Nothing more comes for now: what is buffered is sealed at once. Idempotent."""
        if self.stopped:
            return []
        sealed = [] if self._open.empty else [self._seal(SealReason.STANDSTILL)]
        return [*sealed, *self.tick(now)]

    def drain(self, now: float) -> list[Action]:
        """Consume nothing more, commit what is buffered, then stop. Idempotent."""
        self.draining = True
        return self.tick(now)

    # Decisions.

    def _encode(self) -> list[Action]:
        """What is sealed already needs none of it: its flush is on the way."""
        batch = self._open
        if not encode_due(self.limits, batch):
            return []
        batch.encoded_rows, batch.encoded_bytes = batch.rows, batch.nbytes
        return [Encode(self._batch_id(self._sealed_count + 1))]

    def _batch_id(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    def _seal(self, reason: SealReason) -> Seal:
        self._sealed_count += 1
        batch_id = self._batch_id(self._sealed_count)
        ranges = self.ledger.seal(batch_id)
        self._in_flight[batch_id] = _InFlight(self._open.nbytes, self._open.rows, "flushing")
        self._open = OpenBatch()
        self._after_backlog = self._is_fed and reason in _FULL
        return Seal(batch_id, reason, ranges)

    def _next_commit(self) -> list[Action]:
        """Only the oldest batch may be committed: offsets must follow one another."""
        if not self._in_flight:
            return []
        batch_id, batch = next(iter(self._in_flight.items()))
        if batch.stage != "staged":
            return []
        batch.stage = "committing"
        return [Commit(batch_id)]

    def _backpressure(self) -> list[Action]:
        if self.draining:
            return []  # nothing is consumed any more, full or not
        if self._waiting:
            # Alone it is taken in whatever its size: it could never be otherwise.
            wanted = self.used_bytes > 0 and self._waiting > self.room_bytes
        else:
            reserve = int(2 * self._size.nbytes * min(self.limits.poll_records_max, 1000))
            wanted = should_pause(self.limits, self.used_bytes, reserve, paused=self.paused)
        if wanted == self.paused:
            return []
        self.paused = wanted
        return [Pause() if wanted else Resume()]
