"""What comes in: polls, decodes, and keeps the figures of it. Used by the runner's thread."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from k2i_tasks.errors import (
    Component,
    IntegrityError,
    K2IError,
    TransientError,
    component_of,
    health_component_of,
)
from k2i_tasks.operations import Operations
from k2i_tasks.ports import Decoder, Meter, Source
from k2i_tasks.progress import Progress
from k2i_tasks.standstill import Gate
from k2i_tasks.status import Cause
from k2i_tasks.types import DeadLetter, DecodedBatch, Origin, Ranges, RawBatch, describe_ranges

log = logging.getLogger(__name__)


class Intake:
    """Turns what the source gives into batches that follow one another without a hole.

    Args:
        source: where records come from.
        operations: keeps gaps in the log.
        gate: decides which dead letters pass.
        renewed: makes the decoder anew, by the table as it is now; None where it is away.
        meter, progress: told what came in.
    """

    def __init__(
        self,
        source: Source,
        operations: Operations,
        gate: Gate,
        renewed: Callable[[], Decoder],
        meter: Meter,
        progress: Progress,
    ) -> None:
        self._source = source
        self._operations = operations
        self._gate = gate
        self._renewed = renewed
        self._meter = meter
        self._progress = progress
        #: Set before the first poll; another one when the table turns out to be another.
        self.decoder: Decoder
        #: Bytes of the next record, if it did not fit the last time; else 0.
        self.lacking = 0
        #: Polled, not yet given: in order.
        self._held: deque[RawBatch | DecodedBatch] = deque()
        #: Why the source is paused: "buffer", "schemas", "standstill".
        self._stops: set[str] = set()

    @property
    def standing(self) -> bool:
        """Whether nothing is given until an operator says so."""
        return self._progress.standstill is not None

    @property
    def at_end(self) -> bool:
        """Whether all that the topic is known to have was given."""
        stands = self._held or self._stops or self._source.rebalanced
        return not (stands or any(self._progress.lag.values()))

    def forget(self) -> None:
        """What was polled and not given yet is not ours any more, or is read again.

        The source is to be assigned anew, which ends its pauses.
        """
        self._held.clear()
        self._stops.clear()
        self._progress.standstill = None

    def pause(self, why: str = "buffer") -> None:
        """Stops the flow of records until `resume` of the same reason. Idempotent."""
        self._stops.add(why)
        self._source.pause()

    def resume(self, why: str = "buffer") -> None:
        """Lets records flow, unless there is another reason against it. Idempotent."""
        self._stops.discard(why)
        if not self._stops:
            self._source.resume()

    def no_room(self) -> None:
        """The buffer is full: consumption pauses."""
        self.pause()
        self._progress.pause()
        self._meter.on_pause()
        log.info("buffer is full: consumption pauses")

    def room_again(self) -> None:
        """The buffer has room: consumption resumes."""
        self.resume()
        self._progress.paused = False
        log.info("buffer has room: consumption resumes")

    def poll(
        self, max_records: int, timeout_seconds: float, *, room_bytes: int, empty: bool
    ) -> list[DecodedBatch]:
        """The next batches, in order, as far as they fit. May block for the time-out.

        What does not fit is kept and comes first the next time; until then nothing is polled. The
        same goes for records whose schema is not known yet, and from the record on that the run
        stands before, while the source is paused and polled only to keep its client alive.

        Args:
            max_records: most records to poll.
            timeout_seconds: longest wait.
            room_bytes: Arrow bytes that the batches may have, all together.
            empty: whether the buffer is, so that one record is given whatever its size.

        Raises:
            K2IError: the source cannot be read on, or is not to be.
        """
        self.lacking = 0
        if self.standing:
            self.keep_alive(timeout_seconds)
            # Columns that are known only here would be forgotten with the decoder.
            if not (empty or self.decoder.schema is None) or not self._goes_on():
                return []
        waiting = "schemas" in self._stops
        if waiting:
            self.keep_alive(0.0)
        elif not self._held:
            self._hold(max_records, timeout_seconds)
        given: list[DecodedBatch] = []
        while self._held:
            held = self._held.popleft()
            if isinstance(held, DecodedBatch):
                given.append(held)
                continue
            ready = self._ready(held, 0.0 if given else timeout_seconds)
            if ready is None:
                break
            decoded = self._fitting(ready, room_bytes, first=not given, empty=empty)
            if decoded is None:
                break
            given.append(decoded)
            room_bytes -= decoded.nbytes
        return given

    def keep_alive(self, timeout_seconds: float) -> None:
        """Polls while consumption is paused, so that the client lives. Blocks for the time-out."""
        self._hold(1, timeout_seconds)

    def _hold(self, max_records: int, timeout_seconds: float) -> None:
        raw = self._source.poll(max_records, timeout_seconds)
        lost = self._source.gaps()
        if lost:
            self._held.append(self.skip(lost))
        if raw is not None and raw.ranges:
            self._held.append(raw)

    def _ready(self, raw: RawBatch, timeout_seconds: float) -> RawBatch | None:
        """As much of `raw` as can be decoded now; the rest is held. None when nothing can."""
        try:
            count = self.decoder.prepare(raw, timeout_seconds)
        except TransientError as error:
            log.warning("records wait for their schemas: %s", error)
            self._progress.note(health_component_of(error), str(error))
            self._meter.on_error(component_of(error))
            count = 0
        except K2IError:
            # It ends the run; until then this is still to come.
            self._held.appendleft(raw)
            raise
        if count == len(raw):
            if "schemas" in self._stops:
                self.resume("schemas")
            return raw
        self.pause("schemas")
        if count == 0:
            self._held.appendleft(raw)
            return None
        first, rest = raw.split(count)
        self._held.appendleft(rest)
        return first

    def _fitting(
        self, raw: RawBatch, room_bytes: int, *, first: bool, empty: bool
    ) -> DecodedBatch | None:
        """As much of `raw` as fits and may pass, decoded; the rest is held. None when nothing."""
        while True:
            decoded = self.decoder.decode(raw)
            stop = self._gate.first_stop(decoded.dead_letters)
            if stop is not None:
                at = _index_of(raw, stop[0])
                if at == 0:
                    self._held.appendleft(raw)
                    if first:  # else what came before it is given first
                        self._stand(*stop)
                    return None
                raw, rest = raw.split(at)
                self._held.appendleft(rest)
                continue
            if decoded.nbytes <= room_bytes or (first and empty and len(raw) == 1):
                return self._accepted(raw, decoded)
            if len(raw) == 1:
                self._held.appendleft(raw)
                self.lacking = decoded.nbytes
                return None
            # As records are much alike, nine tenths of what would fit do.
            share = int(0.9 * len(raw) * room_bytes / decoded.nbytes)
            raw, rest = raw.split(min(max(share, 1), len(raw) - 1))
            self._held.appendleft(rest)

    def _stand(self, letter: DeadLetter, cause: Cause) -> None:
        """Stands still before this record, which is held.

        Raises:
            SchemaConflictError: the run is to end there.
        """
        stand = self._gate.stand(letter, cause)
        self._progress.standstill = stand
        self.pause("standstill")
        log.error("%s", stand)

    def _goes_on(self) -> bool:
        """Whether an operator has said so, and the table could be looked at."""
        stand = self._progress.standstill
        assert stand is not None
        if not self._gate.may_go_on(stand):
            return False
        try:
            self.decoder = self._renewed()
        except TransientError as error:
            log.warning("the run cannot go on yet, say so again: %s", error)
            self._progress.note(health_component_of(error), str(error))
            return False
        log.info("the run goes on from partition %d, offset %d", stand.partition, stand.offset)
        self._progress.standstill = None
        self.resume("standstill")
        return True

    def look(self, *, advance: bool) -> list[DecodedBatch]:
        """Takes in lag and complaints. Does not block.

        Args:
            advance: whether to give positions that moved without a record, too.

        Raises:
            K2IError: the source cannot be read on.
        """
        self._progress.lag = dict(self._source.lag())
        for note in self._source.errors():
            self._progress.note_once(note)
        # What is held stands before whatever positions have moved to since.
        moved = self._source.advance() if advance and not self._held else {}
        return [self._without_records(moved)] if moved else []

    def skip(self, lost: Ranges) -> DecodedBatch:
        """Reports what Kafka no longer has, as the operator accepts; passes it as positions.

        May block on the log's disk.
        """
        what = f"gone from Kafka before they were read, and skipped: {describe_ranges(lost)}"
        log.error('Records are %s (partition:[first,next)); kafka.on_gap = "continue".', what)
        self._progress.note(Component.KAFKA.value, f"Records are {what}.")
        self._meter.on_error(Component.KAFKA.value)
        self._operations.pass_gap(lost)
        return self._without_records(lost)

    def no_records(self, origin: Origin) -> DecodedBatch:
        """A batch of no records: what it decodes to has the columns."""
        none = np.empty(0, np.int64)
        return self.decoder.decode(
            RawBatch(origin.topic, none.astype(np.int32), none, none, (), (), None, {}, 0)
        )

    def _accepted(self, raw: RawBatch, decoded: DecodedBatch) -> DecodedBatch:
        if decoded.records != len(raw):
            raise IntegrityError(
                f"{len(raw)} records were decoded to {decoded.records} rows and dead letters.",
                remedy="Nothing of this batch was committed; report this with the log.",
            )
        if len(raw):
            letters = decoded.dead_letters
            kinds = Counter((letter.stage, letter.code) for letter in letters)
            self._meter.on_batch(len(raw), raw.payload_bytes, kinds)
            self._progress.consumed(len(raw), letters)
            self._gate.passed(len(letters))
            if decoded.spread is not None:  # it is appended next
                self._meter.on_queryable(decoded.spread)
                self._progress.arrived(decoded.spread)
        self._move(raw.ranges)
        return decoded

    def _without_records(self, ranges: Ranges) -> DecodedBatch:
        self._move(ranges)
        return DecodedBatch(pa.table({}), (), ranges, 0, -1)

    def _move(self, ranges: Ranges) -> None:
        for tp, span in ranges.items():
            self._progress.positions[tp] = span.end


def _index_of(raw: RawBatch, letter: DeadLetter) -> int:
    """Which record of `raw` the letter is."""
    found = (raw.partitions == letter.partition) & (raw.offsets == letter.offset)
    return int(np.flatnonzero(found)[0])
