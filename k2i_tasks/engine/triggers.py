"""When the buffer is sealed, when consumption pauses, how much is polled. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from k2i_tasks.types import SealReason

#: Assumed size of a decoded record before any has been seen, in bytes.
FIRST_RECORD_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds the engine works within.

    Args:
        flush_interval_seconds: longest that a row waits before its batch is sealed.
        flush_rows: rows after which a batch is sealed.
        flush_bytes: Arrow bytes after which a batch is sealed.
        buffer_bytes_max: hard bound on Arrow bytes buffered and in flight.
        low_water_ratio: share of `buffer_bytes_max` below which consumption resumes.
        poll_records_max: records asked for in one poll.
        batches_in_flight_max: sealed batches not yet committed; one flushes while one commits.
        encode_rows: rows of the open batch that are encoded before it is sealed, at once; 0: none.
        encode_bytes: the same in Arrow bytes, for large rows.
        idle_commit_seconds: longest that positions without rows (control records, aborted
            transactions) stay uncommitted.
    """

    flush_interval_seconds: float = 30.0
    flush_rows: int = 10_000
    flush_bytes: int = 128 << 20
    buffer_bytes_max: int = 512 << 20
    low_water_ratio: float = 0.5
    poll_records_max: int = 20_000
    batches_in_flight_max: int = 2
    encode_rows: int = 65_536
    encode_bytes: int = 32 << 20
    idle_commit_seconds: float = 60.0

    def within(self, buffer_bytes: int) -> Limits:
        """The same in a buffer of another size, of which a batch is a quarter at most."""
        flush_bytes = min(self.flush_bytes, max(1, buffer_bytes // 4))
        return replace(self, buffer_bytes_max=buffer_bytes, flush_bytes=flush_bytes)


@dataclass(slots=True)
class OpenBatch:
    """What is buffered and not sealed: counts, and when its first row or position arrived."""

    rows: int = 0
    nbytes: int = 0
    encoded_rows: int = 0
    encoded_bytes: int = 0
    first_row_at: float | None = None
    first_position_at: float | None = None

    @property
    def empty(self) -> bool:
        return self.first_position_at is None


def seal_reason(
    limits: Limits, batch: OpenBatch, *, in_flight: int, paused: bool, draining: bool, now: float
) -> SealReason | None:
    """Why the open batch should be sealed at `now`, or None.

    While `batches_in_flight_max` batches are on their way nothing is sealed: what arrives meanwhile
    goes into one larger batch, so that a backlog makes fewer commits, not a queue of small ones.
    """
    if batch.empty or in_flight >= limits.batches_in_flight_max:
        return None
    if draining:
        return SealReason.DRAIN
    if batch.nbytes >= limits.flush_bytes:
        return SealReason.BYTES
    if batch.rows >= limits.flush_rows:
        return SealReason.ROWS
    if paused:
        return SealReason.PRESSURE
    if batch.first_row_at is not None:
        waited = now - batch.first_row_at
        return SealReason.TIME if waited >= limits.flush_interval_seconds else None
    assert batch.first_position_at is not None
    idle = now - batch.first_position_at
    return SealReason.TIME if idle >= limits.idle_commit_seconds else None


def encode_due(limits: Limits, batch: OpenBatch) -> bool:
    """Whether the rows of the open batch that are not encoded yet are enough for a row group."""
    if limits.encode_rows == 0:
        return False
    rows, nbytes = batch.rows - batch.encoded_rows, batch.nbytes - batch.encoded_bytes
    return rows >= limits.encode_rows or nbytes >= limits.encode_bytes


@dataclass(slots=True)
class RecordSize:
    """Running estimate of a decoded record's Arrow bytes: rises at once, falls slowly."""

    nbytes: float = FIRST_RECORD_BYTES
    seen: bool = False

    def observe(self, records: int, nbytes: int) -> None:
        if records <= 0:
            return
        mean = max(1.0, nbytes / records)
        if not self.seen:
            self.nbytes, self.seen = mean, True
        else:
            self.nbytes = max(mean, self.nbytes * 0.9 + mean * 0.1)


def should_pause(limits: Limits, used_bytes: int, reserve_bytes: int, *, paused: bool) -> bool:
    """Whether consumption is to stand still, with hysteresis between high and low water.

    Args:
        used_bytes: buffered and in flight.
        reserve_bytes: room kept for one more poll of the size seen lately.
        paused: whether it stands still now.
    """
    high = limits.buffer_bytes_max - min(reserve_bytes, limits.buffer_bytes_max // 2)
    low = min(limits.buffer_bytes_max * limits.low_water_ratio, high * 0.9)
    return used_bytes > low if paused else used_bytes >= high


def poll_budget(limits: Limits, used_bytes: int, size: RecordSize) -> int:
    """Records that may be asked for so that they fit, at the size seen lately; at least 1."""
    room = max(0, limits.buffer_bytes_max - used_bytes)
    fits = int(room / (2 * size.nbytes))
    return max(1, min(limits.poll_records_max, fits))
