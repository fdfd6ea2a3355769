"""Counts of one run, written by its thread and read by any: what `Status` is made of."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence

from k2i_tasks.ages import Ages
from k2i_tasks.clock import Clock
from k2i_tasks.errors import health_component_of
from k2i_tasks.status import (
    Cause,
    ComponentHealth,
    ErrorNote,
    Health,
    Refusal,
    RunState,
    Standstill,
    Status,
)
from k2i_tasks.types import DeadLetter, Offsets, Spread, TableCommit, TopicPartition

#: Errors younger than this make their component degraded, in seconds.
RECENT_SECONDS = 30.0
#: Rates are taken over this many seconds.
RATE_SECONDS = 5.0
_ERRORS_KEPT = 20
_SAMPLES_KEPT = 10_000
#: Component of an error -> component of K2I's health page.
_PAGE = {
    "kafka": "kafka",
    "registry": "registry",
    "iceberg": "iceberg",
    "catalog": "catalog",
    "schema": "schema",
    "storage": "iceberg",
    "txlog": "txlog",
}


class Progress:
    """Plain attributes, each replaced or added to by one thread; readers copy.

    Args:
        topic, table: names, for people.
        buffer_bytes_max: the buffer's bound.
        clock: time.
    """

    def __init__(self, topic: str, table: str, buffer_bytes_max: int, clock: Clock) -> None:
        self._clock = clock
        self.topic = topic
        self.table = table
        self.buffer_bytes_max = buffer_bytes_max
        self.started_at = clock.unix()
        self.state = RunState.STARTING
        self.epoch = 0
        self.records_consumed = 0
        self.rows_committed = 0
        self.snapshots_committed = 0
        self.dead_letters = 0
        self.flushes = 0
        self.positions: dict[TopicPartition, int] = {}
        self.committed: Offsets = {}
        self.lag: dict[TopicPartition, int] = {}
        self.buffer_rows = 0
        self.buffer_bytes = 0
        self.batches_in_flight = 0
        self.paused = False
        self.pauses = 0
        #: The record that waits for an operator's word; set by the intake.
        self.standstill: Standstill | None = None
        self.wal_bytes = 0
        self.first_record_at: float | None = None
        self.newest_committed_ms: int | None = None
        self.last_commit: TableCommit | None = None
        #: Seal-to-commit and commit seconds of the last commits, for the summary's percentiles.
        self.seal_to_commit_seconds: deque[float] = deque(maxlen=_SAMPLES_KEPT)
        #: Ages of records when they were in memory, and when they were in the table.
        self.queryable, self.committed_age = Ages(), Ages()
        #: What is kept in memory after its commit: rows and bytes, asked when somebody looks.
        self.kept: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.commit_seconds: deque[float] = deque(maxlen=_SAMPLES_KEPT)
        #: Errors come from the lanes' threads too.
        self._lock = threading.Lock()
        self._errors: deque[ErrorNote] = deque(maxlen=_ERRORS_KEPT)
        self._rate: deque[tuple[float, int]] = deque(maxlen=1000)
        self._refusals: dict[tuple[str, str], Refusal] = {}

    def consumed(self, records: int, letters: Sequence[DeadLetter]) -> None:
        """Counts records that were decoded, those that became dead letters among them."""
        now = self._clock.unix()
        if self.first_record_at is None:
            self.first_record_at = now
            self._rate.append((now, 0))
        self.records_consumed += records
        self.dead_letters += len(letters)
        if letters:
            self._refuse(letters, now)
        if now - self._rate[-1][0] >= 0.1:
            self._rate.append((now, self.records_consumed))

    def forget_records(self) -> None:
        """What was consumed so far is given up, and consumed again from elsewhere."""
        self.records_consumed = 0
        self.dead_letters = 0
        with self._lock:
            self._refusals.clear()

    def assigned(self, offsets: Offsets) -> None:
        """These partitions are read from now on, from there, and no others."""
        self.positions = dict(offsets)
        self.committed = {tp: at for tp, at in self.committed.items() if tp in offsets}
        self.lag = {}

    def let_go(self, records: int) -> None:
        """So many consumed records are given up: they are read again, here or elsewhere."""
        self.records_consumed = max(0, self.records_consumed - records)
        self.paused = False
        self.assigned({})

    def landed(self, commit: TableCommit, seal_to_commit_seconds: float) -> None:
        self.rows_committed += commit.rows
        self.snapshots_committed += 1
        ends = {tp: span.end for tp, span in commit.ranges.items()}
        self.committed = {**self.committed, **ends}
        self.last_commit = commit
        self.committed_age.add(commit.spreads, self._clock.unix())
        self.commit_seconds.append(commit.seconds)
        self.seal_to_commit_seconds.append(seal_to_commit_seconds)
        if commit.newest_timestamp_ms >= 0:
            self.newest_committed_ms = max(
                self.newest_committed_ms or 0, commit.newest_timestamp_ms
            )

    def arrived(self, spread: Spread) -> None:
        """Records with these times are in memory since now."""
        self.queryable.add((spread,), self._clock.unix())

    def buffered(self, rows: int, nbytes: int, batches_in_flight: int) -> None:
        """What is in memory now."""
        self.buffer_rows, self.buffer_bytes = rows, nbytes
        self.batches_in_flight = batches_in_flight

    def pause(self) -> None:
        """The buffer is full."""
        self.paused = True
        self.pauses += 1

    def failed(self, error: BaseException) -> None:
        """The run ends with this error."""
        self.state = RunState.FAILED
        self.note(health_component_of(error), str(error))

    def note(self, component: str, message: str) -> None:
        """Keeps an error for people to see; repeated ones are shown once, at their last time."""
        self.note_once(ErrorNote(self._clock.unix(), component, message))

    def note_once(self, note: ErrorNote) -> None:
        """The same, for an error that was noted elsewhere, when it happened. Any thread."""
        known = (note.component, note.message)
        with self._lock:
            same = [n for n in self._errors if (n.component, n.message) == known]
            for old in same:
                self._errors.remove(old)
            self._errors.append(note if not same or note.at > same[-1].at else same[-1])

    def status(self) -> Status:
        now = self._clock.unix()
        with self._lock:
            errors = tuple(self._errors)
            refusals = tuple(sorted(self._refusals.values(), key=lambda one: -one.letters))
        kept_rows, kept_bytes = self.kept()
        return Status(
            state=RunState.PAUSED if self._shown_paused() else self.state,
            started_at=self.started_at,
            now=now,
            topic=self.topic,
            table=self.table,
            epoch=self.epoch,
            records_consumed=self.records_consumed,
            records_per_second=self._rate_at(now),
            rows_committed=self.rows_committed,
            snapshots_committed=self.snapshots_committed,
            dead_letters=self.dead_letters,
            flushes=self.flushes,
            positions=dict(self.positions),
            committed=dict(self.committed),
            lag=dict(self.lag),
            buffer_rows=self.buffer_rows,
            buffer_bytes=self.buffer_bytes,
            buffer_bytes_max=self.buffer_bytes_max,
            batches_in_flight=self.batches_in_flight,
            paused=self.paused,
            pauses=self.pauses,
            wal_bytes=self.wal_bytes,
            first_record_at=self.first_record_at,
            newest_committed_timestamp_ms=self.newest_committed_ms,
            last_commit=self.last_commit,
            last_errors=errors,
            components=self._components(errors, now),
            refusals=refusals,
            standstill=self.standstill,
            kept_rows=kept_rows,
            kept_bytes=kept_bytes,
            queryable=self.queryable.summary(),
            committed_age=self.committed_age.summary(),
        )

    def _refuse(self, letters: Sequence[DeadLetter], now: float) -> None:
        """Counts letters by kind; there are as many kinds as the decoders have codes."""
        last = {(letter.stage, letter.code): letter for letter in letters}
        counts = Counter((letter.stage, letter.code) for letter in letters)
        with self._lock:
            for kind, letter in last.items():
                known = self._refusals.get(kind)
                self._refusals[kind] = Refusal(
                    *kind,
                    letters=counts[kind] + (known.letters if known else 0),
                    first_at=known.first_at if known else now,
                    last_at=now,
                    place=letter.place,
                    reason=letter.reason,
                )

    def _shown_paused(self) -> bool:
        waits = self.paused or self.standstill is not None
        return waits and self.state is RunState.RUNNING

    def _rate_at(self, now: float) -> float:
        window = [(at, n) for at, n in tuple(self._rate) if now - at <= RATE_SECONDS]
        if not window:
            return 0.0
        at, count = window[0]
        elapsed = now - at
        return (self.records_consumed - count) / elapsed if elapsed > 0.2 else 0.0

    def _components(self, errors: tuple[ErrorNote, ...], now: float) -> dict[str, ComponentHealth]:
        starting = self.state is RunState.STARTING
        base = Health.UNKNOWN if starting else Health.HEALTHY
        names = ("kafka", "buffer", "iceberg", "catalog", "txlog", "schema")
        found = {name: ComponentHealth(base) for name in names}
        if self.paused:
            found["buffer"] = ComponentHealth(Health.DEGRADED, "full: consumption is paused")
        stand = self.standstill
        if stand is not None:
            name = "schema" if stand.cause is Cause.CONFLICT else "dead_letters"
            found[name] = ComponentHealth(Health.DEGRADED, str(stand))
        worst = Health.UNHEALTHY if self.state is RunState.FAILED else Health.DEGRADED
        for note in errors:
            recent = now - note.at <= RECENT_SECONDS or worst is Health.UNHEALTHY
            if recent and note.component in _PAGE:
                found[_PAGE[note.component]] = ComponentHealth(worst, note.message)
        if self.state is RunState.FAILED and all(
            part.status is not Health.UNHEALTHY for part in found.values()
        ):
            message = errors[-1].message if errors else "the run failed"
            found["iceberg"] = ComponentHealth(Health.UNHEALTHY, message)
        return found
