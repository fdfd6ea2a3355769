"""The loop of one run: poll -> decode -> buffer -> engine -> lanes -> outcomes.

One thread runs it. Flushes and commits happen on the lanes' threads and come back as outcomes. The
runner knows protocols only; what is behind them is decided in `wiring`. When the consumer group
changes, or another writer the schema, what is not committed is given up, and the run begins anew.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa

from k2i_tasks.batch_calls import BatchCalls
from k2i_tasks.buffer.hot import HotBuffer
from k2i_tasks.calls import figures
from k2i_tasks.clock import Clock
from k2i_tasks.closing import close_all
from k2i_tasks.engine.engine import (
    Action,
    Arrival,
    Commit,
    Committed,
    Encode,
    Engine,
    Failed,
    Flushed,
    Pause,
    Release,
    Resume,
    Seal,
    Stop,
)
from k2i_tasks.errors import (
    K2IError,
    PartitionsLostError,
    SchemaMovedError,
    component_of,
    health_component_of,
)
from k2i_tasks.intake import Intake
from k2i_tasks.operations import Operations
from k2i_tasks.ports import Decoder, Meter, Settings, Source, StartRule, TrackerFactory
from k2i_tasks.progress import Progress
from k2i_tasks.standstill import Gate
from k2i_tasks.status import RunState, Status
from k2i_tasks.takeover import Share, Takeover
from k2i_tasks.types import DecodedBatch
from k2i_tasks.underway import Underway
from k2i_tasks.upkeep import UpkeepFactory

log = logging.getLogger(__name__)

Read = TypeVar("Read")

#: Longest that one poll waits for records, in seconds; also the resolution of time triggers.
POLL_SECONDS = 0.05
#: How often lag, silent positions and errors are looked at, in seconds.
HOUSEKEEPING_SECONDS = 0.5
READ_ANEW = (PartitionsLostError, SchemaMovedError)


class Runner:
    """One run from start to drain.

    Args:
        topic, table, source, operations, meter, clock: what the run works with.
        decoder_for: makes the decoder, given the table's payload schema (None: no table yet).
        start_rule: where to start reading.
        gate: decides which dead letters pass.
        tracker_factory: makes what runs flushes and commits.
        settings: bounds.
        batch_prefix: makes batch ids unique over restarts.
        upkeep_factory: makes what does the table's upkeep.
        buffer: of the table's rows; one that keeps none when None.
    """

    def __init__(
        self,
        *,
        topic: str,
        table: str,
        source: Source,
        operations: Operations,
        decoder_for: Callable[[pa.Schema | None], Decoder],
        start_rule: StartRule,
        gate: Gate,
        tracker_factory: TrackerFactory,
        meter: Meter,
        clock: Clock,
        settings: Settings,
        batch_prefix: str,
        upkeep_factory: UpkeepFactory,
        buffer: HotBuffer | None = None,
    ) -> None:
        self.buffer = HotBuffer() if buffer is None else buffer
        self._source = source
        self._operations = operations
        self._meter = meter
        self._clock = clock
        self._settings = settings
        self._limits = settings.limits
        self._prefix = batch_prefix
        self._shares, self._moved_at = 0, -1
        self._drain_asked = threading.Event()
        self._give_up = threading.Event()
        self._drain_deadline: float | None = None
        self._next_housekeeping = 0.0
        self._error: K2IError | None = None
        self.progress = Progress(topic, table, settings.limits.buffer_bytes_max, clock)
        self.progress.kept = lambda: self.buffer.kept
        self._intake = Intake(
            source, operations, gate, lambda: decoder_for(operations.reload()), meter, self.progress
        )
        calls = BatchCalls(
            operations, meter, self.progress, source.confirm, settings.retry, self._give_up
        )
        self._takeover = Takeover(
            source,
            operations,
            start_rule,
            settings,
            limits=lambda: self._limits,
            decoder_for=decoder_for,
            intake=self._intake,
            calls=calls,
            progress=self.progress,
            clock=clock,
            budget=self._poll_records,
            drain_asked=self._drain_asked,
        )
        self.tracker = tracker_factory(self.status, self.request_drain)
        self._underway = Underway(calls, self.tracker, clock)
        self._upkeep = upkeep_factory(self.tracker, self.progress)

    # For other threads.

    def status(self) -> Status:
        """The run as it stands. Cheap; any thread."""
        return self.progress.status()

    def request_drain(self, reason: str) -> None:
        """Asks the run to commit what it has consumed and end. Idempotent; any thread."""
        if not self._drain_asked.is_set():
            log.info("draining: %s", reason)
            self._drain_asked.set()

    def resize(self, buffer_bytes: int) -> None:
        """Changes the bound of the buffer. Any thread."""
        self._limits = self._settings.limits.within(buffer_bytes)
        self.progress.buffer_bytes_max = buffer_bytes
        self.buffer.resize(buffer_bytes)

    # The run.

    def run(self) -> Status:
        """Runs until drained; the final status. Blocks.

        Raises:
            K2IError: why the run could not start or go on. What was not committed is read again by
                the next run.
        """
        for sentence in self._operations.wal_damage:
            self.progress.note("txlog", sentence)
        try:
            while self._one_share():
                log.info("reading anew: the group or the table has changed")
            if self._error is not None:
                raise self._error
            self.progress.state = RunState.STOPPED
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._close()
        return self.progress.status()

    def _failed(self, error: BaseException) -> None:
        self.progress.failed(error)
        self._meter.on_error(component_of(error))

    def _close(self) -> None:
        """Lets go of everything. What fails in it is raised unless it only follows a failure."""
        self._give_up.set()
        self._underway.close(5.0)
        self._upkeep.close(5.0)
        closers = (self._operations.close, self._source.close, self.buffer.close)
        first = close_all(closers, failed=self.progress.state is RunState.FAILED)
        if first is not None:
            self._failed(first)
            raise first

    # A share: everything, or what the group gives us until it changes.

    def _one_share(self) -> bool:
        """Ingests until the drain, an error, or a change of the group; whether to go on."""
        share = None
        while share is None:
            try:
                share = self._takeover.begin()
            except PartitionsLostError as stolen:
                self._takeover.await_rebalance(stolen)
        self._begin(share)
        while not self._engine.stopped and not self._source.rebalanced:
            self._turn()
        lost = self._error if isinstance(self._error, READ_ANEW) else None
        if self._engine.stopped and (lost is None or self._in_vain(lost)):
            return False
        self._let_go(lost)
        return not self._drain_asked.is_set() and self._error is None

    def _in_vain(self, lost: K2IError) -> bool:
        """Whether reading anew would come to the same."""
        before, self._moved_at = self._moved_at, self.progress.snapshots_committed
        ends = self._drain_asked.is_set() or before == self._moved_at
        return isinstance(lost, SchemaMovedError) and ends

    def _begin(self, share: Share) -> None:
        # Batch ids are unique over all shares: by them the table knows what has landed.
        self._shares += 1
        prefix = self._prefix if self._shares == 1 else f"{self._prefix}.{self._shares}"
        self._engine = Engine(self._limits, share.offsets, batch_prefix=prefix)
        self._upkeep.begin(share.offsets)
        self.buffer.begin(share.offsets)
        self._arrive(share.batches)
        self.progress.state = RunState.RUNNING

    def _let_go(self, lost: K2IError | None) -> None:
        """Gives up what is not committed, and ends what is on its way. Polls meanwhile.

        What became of batches that were on their way is settled as after a crash: by the log and
        the table, once the next share is claimed.
        """
        self.progress.state = RunState.REBALANCING
        if not isinstance(lost, SchemaMovedError):
            self._meter.on_rebalance()
        self._give_up.set()
        self._underway.forget_encoded()
        while not self._underway.empty:
            self._source.poll(1, POLL_SECONDS)
            self._note_outcomes()
        self._give_up.clear()
        self._underway.forget()
        self._intake.forget()
        log.info("%d consumed records are given up: they are read again", self._engine.used_rows)
        self.progress.let_go(self._engine.used_rows)
        self.buffer.clear()
        if lost is not None:
            self._error = None
        if isinstance(lost, PartitionsLostError):
            self._takeover.await_rebalance(lost)

    def _note_outcomes(self) -> None:
        """Takes in what became of calls that no engine waits for any more."""
        for call, batch_id in self._underway.over():
            if call.error is not None:
                log.info("%s: given up: %s", call.label, call.failure())
            elif call.kind == "commit":
                self._landed(batch_id)
                self._engine.outcome(Committed(batch_id), self._clock.monotonic())

    # One turn of the loop.

    def _turn(self) -> None:
        now = self._clock.monotonic()
        self._engine.limits = self._limits
        self._take_outcomes(now)
        if self._drain_asked.is_set() and not self._engine.stopped:
            self._drain(now)
        self._perform(self._engine.tick(now))
        if now >= self._next_housekeeping:
            self._housekeeping(now)
        wanted = self._poll_records(self._engine.poll_budget())
        if wanted == 0 and not self._engine.stopped:
            self._underway.wait(POLL_SECONDS)
        if wanted == 0 or self._engine.stopped:
            return
        came = self._read(lambda: self._take_in(wanted))
        self._arrive(came)
        if self._intake.standing:
            self._perform(self._engine.settle(self._clock.monotonic()))
        elif self._intake.lacking:
            self._perform(self._engine.lacks_room(self._intake.lacking, self._clock.monotonic()))
        elif not came and self._intake.at_end:
            self._perform(self._engine.idle(self._clock.monotonic()))

    def _take_in(self, wanted: int) -> list[DecodedBatch]:
        engine = self._engine
        if engine.paused:
            self._intake.keep_alive(POLL_SECONDS)
            return []
        empty = engine.used_bytes == 0
        return self._intake.poll(wanted, POLL_SECONDS, room_bytes=engine.room_bytes, empty=empty)

    def _read(self, read: Callable[[], list[Read]]) -> list[Read]:
        """What the source gives; nothing more after its first error, which ends the run.

        What it gave before is committed first: Kafka may not have it any more.
        """
        if self._error is not None:
            return []
        try:
            return read()
        except K2IError as error:
            log.error("%s", error)
            self._error = error
            self.progress.note(health_component_of(error), str(error))
            self.request_drain("the topic cannot be read on")
            return []

    def _poll_records(self, budget: int) -> int:
        """Records to ask for: the engine's budget, or what is left of `records_max`."""
        if self._settings.records_max is None:
            return budget
        left = self._settings.records_max - self.progress.records_consumed
        if left <= 0:
            self.request_drain(f"{self._settings.records_max} records consumed")
        return max(0, min(budget, left))

    def _arrive(self, batches: Sequence[DecodedBatch]) -> None:
        for decoded in batches:
            self.buffer.append(decoded)
            arrival = Arrival(decoded.records, decoded.nbytes, decoded.ranges)
            self._perform(self._engine.arrived(arrival, self._clock.monotonic()))

    def _drain(self, now: float) -> None:
        if self._drain_deadline is None:
            self.progress.state = RunState.DRAINING
            self._drain_deadline = now + self._settings.drain_seconds
            self._source.pause()
            self._upkeep.stop()
        self._perform(self._engine.drain(now))
        if now >= self._drain_deadline and not self._engine.stopped:
            late = self._settings.late(self._engine.used_rows)
            if self._error is None:
                raise late
            log.error("%s", late.what)
            raise self._error

    def _housekeeping(self, now: float) -> None:
        self._next_housekeeping = now + HOUSEKEEPING_SECONDS
        self.progress.wal_bytes = self._operations.wal_bytes
        self.buffer.expire()
        draining = self._engine.draining
        self._arrive(self._read(lambda: self._intake.look(advance=not draining)))
        if draining:
            return
        self._upkeep.tick()
        for added in self._read(lambda: [self._source.new_partitions()]):
            if added:
                log.info("the topic has new partitions: %s", ", ".join(map(str, added)))
                self.buffer.add(added)
                self._perform(self._engine.partitions_added(added, now))

    # Actions and outcomes.

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Encode(batch_id):
                    self._underway.encode(batch_id, self.buffer.take_new())
                case Seal(batch_id, reason, ranges):
                    self._underway.flush(self.buffer.seal(batch_id, reason, ranges))
                case Commit(batch_id):
                    self._underway.commit(self.buffer.sealed(batch_id))
                case Release(batch_id):
                    self.buffer.release(batch_id)
                case Pause():
                    self._intake.no_room()
                case Resume():
                    self._intake.room_again()
                case Stop(error):
                    if self._error is not None and error is not None:
                        log.error("%s", error)
                    self._error = self._error or error
        engine = self._engine
        self.progress.buffered(engine.used_rows, engine.used_bytes, engine.batches_in_flight)

    def _take_outcomes(self, now: float) -> None:
        for call, batch_id in self._underway.over():
            if call.error is not None:
                failed = Failed(batch_id, call.failure())
                self._perform(self._engine.outcome(failed, now))
                continue
            log.info("%s: %s", call.label, figures(call.summary))
            if call.kind == "flush":
                self.progress.flushes += 1
                self._perform(self._engine.outcome(Flushed(batch_id), now))
            else:
                self._landed(batch_id)
                self._perform(self._engine.outcome(Committed(batch_id), now))

    def _landed(self, batch_id: str) -> None:
        commit, waited = self._underway.landed(batch_id)
        self._meter.on_commit(commit, waited)
        self.progress.landed(commit, waited)
        self._upkeep.committed()
