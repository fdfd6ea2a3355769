"""The start of a run, and of each share of a group: from what is there to where reading begins."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from k2i_tasks.batch_calls import BatchCalls
from k2i_tasks.clock import Clock
from k2i_tasks.engine.triggers import Limits
from k2i_tasks.errors import PartitionsLostError
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.intake import Intake
from k2i_tasks.operations import Operations
from k2i_tasks.ports import Decoder, Settings, Source, StartRule, Topic
from k2i_tasks.progress import Progress
from k2i_tasks.status import RunState
from k2i_tasks.types import DecodedBatch, Offsets, Origin, TopicPartition

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Longest wait of one poll while nothing is read yet, in seconds.
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Share:
    """What is to be read now.

    Args:
        offsets: the partitions, each with the next offset to read; the source stands there.
        batches: what was read from there already, and what Kafka no longer has there.
    """

    offsets: Offsets
    batches: tuple[DecodedBatch, ...] = ()


class Takeover:
    """Opens or creates the table, claims it, finishes what an earlier run left. Runner's thread.

    Args:
        source, operations, start_rule, settings: what the run works with.
        limits: the bounds of the buffer, as they are now.
        decoder_for: makes the decoder, given the table's payload schema (None: no table yet).
        intake: given the decoder.
        calls: runs steps under the retry policy.
        progress: told of epoch and offsets.
        clock: time.
        budget: how many records may be polled, given how many would be best; 0 asks for a drain.
        drain_asked: set when the run is to end.
    """

    def __init__(
        self,
        source: Source,
        operations: Operations,
        start_rule: StartRule,
        settings: Settings,
        *,
        limits: Callable[[], Limits],
        decoder_for: Callable[[pa.Schema | None], Decoder],
        intake: Intake,
        calls: BatchCalls,
        progress: Progress,
        clock: Clock,
        budget: Callable[[int], int],
        drain_asked: threading.Event,
    ) -> None:
        self._source = source
        self._operations = operations
        self._start_rule = start_rule
        self._settings = settings
        self._limits = limits
        self._decoder_for = decoder_for
        self._intake = intake
        self._calls = calls
        self._progress = progress
        self._clock = clock
        self._budget = budget
        self._drain_asked = drain_asked

    def begin(self) -> Share | None:
        """Where to read from now on; the table is claimed for it. May block.

        Returns:
            None when it has to be asked again: there was no table and now there is one, or the
            group has decided anew.

        Raises:
            K2IError: why the run cannot start.
        """
        operations = self._operations
        # In this order: a run that we take over from may commit between the two, and what the table
        # has read must not seem to be more than Kafka holds.
        state = self._retried("open the table", operations.open)
        topic = self._source.inspect(self._settings.connect_seconds)
        offsets = self._start_rule.offsets(topic, state)
        mine = self._given()
        if not mine <= offsets.keys():
            return None  # partitions that are newer than our look at the topic
        if not mine:
            return self._standby()
        if state is None:
            return self._begin_without_table(offsets, mine, topic)
        if not operations.unfinished:
            # Raises before anything is changed. Staged files of an earlier run may hold what Kafka
            # has deleted meanwhile, so where there are any they are committed first.
            self._start_rule.lost(topic, {tp: offsets[tp] for tp in mine})
        self._intake.decoder = self._decoder_for(operations.payload_schema())
        left = operations.unfinished
        owned = self._take_over(state, offsets, mine, topic)
        if left:
            # What is committed now may have brought columns with it.
            columns = self._retried("open the table", operations.reload)
            self._intake.decoder = self._decoder_for(columns)
        return Share(owned, tuple(self._read_from(owned, topic)))

    def _given(self) -> frozenset[TopicPartition]:
        """The partitions that are ours; none when a drain is asked before the group decides."""
        while (given := self._source.given()) is None and not self._drain_asked.is_set():
            self._source.poll(1, POLL_SECONDS)
        return given or frozenset()

    def await_rebalance(self, lost: PartitionsLostError) -> None:
        """Waits for the group's word: what it gave us before is not ours by the table's.

        Claiming at once would take the partitions from a member that the group gave them to.

        Raises:
            PartitionsLostError: `lost`, when no word comes.
        """
        deadline = self._clock.monotonic() + self._settings.rebalance_seconds
        while not self._source.rebalanced and not self._drain_asked.is_set():
            self._source.poll(1, POLL_SECONDS)
            if self._clock.monotonic() >= deadline:
                raise lost

    def _standby(self) -> Share:
        """The group has more members than partitions, for now."""
        self._source.assign({})
        self._progress.assigned({})
        return Share({})

    def _begin_without_table(
        self, offsets: Offsets, mine: frozenset[TopicPartition], topic: Topic
    ) -> Share | None:
        """The first records say what the table looks like; raw formats know it beforehand."""
        decoder = self._intake.decoder = self._decoder_for(None)
        start = {tp: offsets[tp] for tp in mine}
        first = self._read_from(start, topic)
        self._progress.state = RunState.RUNNING
        # A topic that nothing of can be decoded gets a table for its coordinates in the end:
        # dead letters, too, have a bound in memory.
        enough = self._limits().flush_bytes
        while decoder.schema is None and sum(batch.nbytes for batch in first) < enough:
            if self._source.rebalanced:
                self._progress.forget_records()
                return None
            first += self._intake.look(advance=False)
            start.update(self._source.new_partitions())
            wanted = self._budget(self._limits().poll_records_max)
            if self._drain_asked.is_set():
                break
            first += self._first_records(wanted, sum(batch.nbytes for batch in first))
            if self._intake.lacking:
                break
        offsets = {**offsets, **start}
        records = [batch for batch in first if batch.records]
        if decoder.schema is None and not records:
            # Drained before the first record: there is nothing to commit.
            return Share(start, tuple(first))
        self._source.confirm()
        known = records[-1] if records else self._intake.no_records(_origin(topic))
        schema = known.table.schema
        state = self._retried("create the table", lambda: self._operations.create(schema))
        if self._settings.decides_anew:
            self._progress.forget_records()
            return None
        recovered = self._take_over(state, offsets, start.keys(), topic)
        if recovered != start:
            # Another run has made the table and filled it meanwhile: what was read before it was
            # known is in it, or is read again, by that table's columns.
            log.info("the table was filled by another run meanwhile: going on from there")
            self._progress.forget_records()
            self._intake.decoder = self._decoder_for(self._operations.payload_schema())
            first = self._read_from(recovered, topic)
        return Share(recovered, tuple(first))

    def _first_records(self, wanted: int, used_bytes: int) -> list[DecodedBatch]:
        room_bytes = self._limits().buffer_bytes_max - used_bytes
        empty = used_bytes == 0
        return self._intake.poll(wanted, POLL_SECONDS, room_bytes=room_bytes, empty=empty)

    def _take_over(
        self, state: SinkState, offsets: Offsets, mine: Set[TopicPartition], topic: Topic
    ) -> dict[TopicPartition, int]:
        """Claims the table and recovers what an earlier run left; offsets to read from."""
        origin, operations = _origin(topic), self._operations
        self._retried("claim the table", lambda: operations.claim(state, offsets, mine, origin))
        recovered = self._retried("recover", operations.recover)
        owned = {tp: recovered[tp] for tp in sorted(mine)}
        self._progress.epoch = operations.epoch
        self._progress.committed = dict(owned)
        return owned

    def _read_from(self, offsets: Offsets, topic: Topic) -> list[DecodedBatch]:
        """From `offsets` on, or from behind what Kafka has deleted there if that is accepted."""
        lost = self._start_rule.lost(topic, offsets)
        self._intake.forget()
        self._source.assign({**offsets, **{tp: span.end for tp, span in lost.items()}})
        self._progress.assigned(offsets)
        return [self._intake.skip(lost)] if lost else []

    def _retried(self, doing: str, work: Callable[[], Result]) -> Result:
        """Runs a step under the retry policy, on this thread."""
        result: list[Any] = []
        call = self._calls.start(doing, lambda: result.append(work()), self._drain_asked)
        call.claim("runner")
        call.run_with_retries()
        if call.error is not None:
            raise call.error
        found: Result = result[-1]
        return found


def _origin(topic: Topic) -> Origin:
    return Origin(topic.topic, topic.topic_id, topic.cluster_id)
