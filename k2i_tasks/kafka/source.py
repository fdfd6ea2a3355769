"""The consumer of one topic: batches in columns, positions without a hole, pause and resume."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import AdminClient

from k2i_tasks.kafka.client import address, admin_settings, with_callbacks
from k2i_tasks.kafka.columns import Columns
from k2i_tasks.kafka.errors import ErrorLog, kafka_errors, settings_errors
from k2i_tasks.kafka.faults import PartitionFaults
from k2i_tasks.kafka.flow import Flow, client_partitions
from k2i_tasks.kafka.group import MemberClient, OffsetPublisher, OwnClient
from k2i_tasks.kafka.identity import TopicIdentity
from k2i_tasks.kafka.membership import Membership
from k2i_tasks.kafka.metadata import inspect_topic
from k2i_tasks.kafka.positions import Positions
from k2i_tasks.kafka.state import TopicState
from k2i_tasks.kafka.watch import TopicWatch
from k2i_tasks.status import ErrorNote
from k2i_tasks.types import OffsetRange, Offsets, Ranges, RawBatch, TopicPartition

log = logging.getLogger(__name__)

#: Bytes of keys and values that one poll aims to stay below, by the size of the records before.
POLL_BYTES = 32 << 20
#: Most records that are taken before their size is looked at; their messages live as long.
STEP_RECORDS = 2_000
#: Size that a record is taken to have until records were seen.
FIRST_RECORD_BYTES = 2_048
#: Longest wait for the group to take offsets.
COMMIT_SECONDS = 5.0
#: Longest wait for the broker to say that the topic is still the same.
CONFIRM_SECONDS = 3.0
#: Longest wait for that at the end.
CLOSE_SECONDS = 2.0


class KafkaSource:
    """Reads one topic from explicit positions: all partitions, or those that a group gives.

    One thread owns it, the one that polls; only `confirm`, `commit_offsets`, `errors` and
    `error_counts` may be called from others.

    Args:
        settings: of the consumer, as `consumer_settings` makes them.
        topic: the topic.
        poll_records_max: most records of one poll.
        max_message_bytes: largest record that `settings` allow, for messages.
        watch_seconds: time between two looks at the topic for new partitions and end offsets.
        accept_gaps: whether to go on after records that the broker deleted before they were read.
        shared: whether the members of the consumer group share the partitions; else all are read.

    Raises:
        ConfigError: librdkafka refuses a setting.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        topic: str,
        *,
        poll_records_max: int = 20_000,
        max_message_bytes: int = 10 << 20,
        watch_seconds: float = 10.0,
        accept_gaps: bool = False,
        shared: bool = False,
    ) -> None:
        self._topic = topic
        self._where = address(settings)
        self._poll_records_max = poll_records_max
        self._watch_seconds = watch_seconds
        self._log = ErrorLog()
        self._positions = Positions(topic)
        self._watch: TopicWatch | None = None
        #: Whether the client may have passed records that were never handed over.
        self._torn = False
        #: Errors of partitions that came behind the records handed over last.
        self._faulty: list[tuple[int, KafkaError]] = []
        self._gaps: dict[TopicPartition, OffsetRange] = {}
        #: Never set: to wait for.
        self._idle = threading.Event()
        self._record_bytes = float(FIRST_RECORD_BYTES)
        self._closed = False
        #: Records dropped, by reason: "rewound" (handed over before) and "foreign" (not ours).
        self.dropped: Counter[str] = Counter()
        with settings_errors():
            self._admin = AdminClient(with_callbacks(admin_settings(settings), self._log.add))
            self._consumer = Consumer(with_callbacks(settings, self._log.add))
        self._identity = TopicIdentity(self._admin, topic, CONFIRM_SECONDS)
        self._faults = PartitionFaults(
            self._consumer,
            topic,
            self._where,
            max_message_bytes,
            self._log,
            confirm=self._identity.confirm,
            accept_gaps=accept_gaps,
        )
        self._flow = Flow(self._consumer)
        self._membership: Membership | None = None
        client: MemberClient | OwnClient
        if shared:
            self._membership = Membership(self._consumer, topic, self._let_go)
            client = MemberClient(self._consumer)
        else:
            client = OwnClient(lambda: Consumer(with_callbacks(settings, self._log.add)))
        self._publisher = OffsetPublisher(client, COMMIT_SECONDS)

    # Start.

    def inspect(self, timeout_seconds: float) -> TopicState:
        """The topic as the broker describes it. May block up to `timeout_seconds`; idempotent.

        Raises:
            ServiceError: nothing answers in time, the login is refused, or there is no such topic.
        """
        state = inspect_topic(self._admin, self._topic, self._log, self._where, timeout_seconds)
        by_leader = {leader: number for number, leader in sorted(state.leaders.items())}
        self._flow.wake_by([TopicPartition(self._topic, n) for n in by_leader.values()])
        self._watch = TopicWatch(self._admin, state, self._log, self._watch_seconds)
        self._identity.begin(state.topic_id)
        return state

    def given(self) -> frozenset[TopicPartition] | None:
        """The partitions that are ours to read. Joins the group, if there is one; does not block.

        Returns:
            None while the group has not decided: keep polling.
        """
        if self._membership is None:
            numbers = () if self._watch is None else self._watch.partitions
            return frozenset(TopicPartition(self._topic, number) for number in numbers)
        self._membership.join()
        return self._membership.given()

    @property
    def rebalanced(self) -> bool:
        """Whether the group has decided anew since `given` was last answered: nothing is read."""
        return self._membership is not None and self._membership.changed

    def _let_go(self) -> None:
        """The group takes our partitions: what the client still hands over is not ours."""
        self._positions.reset({})
        self._flow.open()
        self._faulty.clear()
        self._gaps.clear()

    def assign(self, offsets: Offsets) -> None:
        """Reads from `offsets` on, and nothing else; unpauses. Idempotent."""
        self._positions.reset(offsets)
        self._flow.open()
        self._rejoin()

    def _rejoin(self) -> None:
        expected = self._positions.offsets()
        if self._membership is not None and not expected:
            self._torn = False  # nothing is assigned, and while that is so it is the group's turn
            return
        with kafka_errors(f"Assigning the partitions of {self._topic}"):
            self._consumer.assign([_client(tp, offset) for tp, offset in expected.items()])
        self._flow.hold(expected)
        self._flow.wake()
        self._torn = False

    # Records.

    def poll(self, max_records: int, timeout_seconds: float) -> RawBatch | None:
        """The next records, at most `max_records`; None when there are none. Keeps us alive.

        May block up to `timeout_seconds`, and does unless `max_records` arrive before. After an
        exception the positions are as before the call: the next poll reads the same again.

        Raises:
            IntegrityError: the broker no longer has our position, or cannot be read on.
            ServiceError: the topic is gone, or our right to read it.
        """
        self._take_faults()
        if self._torn:
            self._rejoin()
        if self._flow.stopped:
            self._flow.settle(self._positions.offsets())
        if self._flow.stopped:
            self._idle.wait(timeout_seconds)
            return None
        wanted = min(max_records, self._poll_records_max, self._records_in(POLL_BYTES))
        # Whatever is raised from here on, by a signal too, may have lost records that the
        # client counts as handed over.
        self._torn = True
        with kafka_errors(f"Reading {self._topic} at {self._where}"):
            columns = self._consume(max(1, wanted), timeout_seconds)
        batch = self._batch(columns) if len(columns) else None
        self._torn = False
        if batch is None:
            self._take_faults()
        return batch

    def _consume(self, wanted: int, timeout_seconds: float) -> Columns:
        """Records in steps, so that suddenly larger ones are noticed before there are many."""
        deadline = time.monotonic() + timeout_seconds
        columns, taken = Columns(), 0
        while taken < wanted and columns.payload_bytes < POLL_BYTES:
            step = min(wanted - taken, STEP_RECORDS)
            came = self._step(columns, step, max(0.0, deadline - time.monotonic()))
            taken += came
            if came < step:
                break
        return columns

    def _step(self, columns: Columns, wanted: int, timeout_seconds: float) -> int:
        """Adds to `columns` what comes, and lets the messages go; how many there were."""
        messages = self._consumer.consume(wanted, timeout_seconds)
        columns.take(self._records(messages))
        return len(messages)

    def _records_in(self, size_bytes: int) -> int:
        return int(size_bytes / self._record_bytes)

    def _records(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages that are records; the others are errors of a partition."""
        # Never by `==`: the client's errors cannot be compared with None.
        if not any(map(Message.error, messages)):
            return messages
        errors = list(map(Message.error, messages))
        for message, error in zip(messages, errors, strict=True):
            if error is not None:
                partition = message.partition()
                self._faulty.append((-1 if partition is None else partition, error))
        return [m for m, error in zip(messages, errors, strict=True) if error is None]

    def _take_faults(self) -> None:
        """Reports errors once the records before them were handed over: then we know where."""
        if not self._faulty:
            return
        faulty, self._faulty = self._faulty, []
        torn, self._torn = self._torn, True  # whatever is raised: the client has stopped there
        for number, error in faulty:
            lost = self._faults.report(number, self._positions.expected(number), error)
            if lost is not None:
                tp = TopicPartition(self._topic, number)
                self._positions.move({tp: lost})
                self._gaps[tp] = self._gaps[tp].then(lost) if tp in self._gaps else lost
                torn = True
        self._torn = torn

    def gaps(self) -> Ranges:
        """Ranges that the broker deleted before they were read, since the last call.

        To be asked after each `poll`: they stand before what that one gave. Does not block.
        """
        gaps, self._gaps = self._gaps, {}
        return gaps

    def confirm(self) -> None:
        """Returns if all that was polled so far is of the topic that the run began with.

        Thread-safe; may block for `CONFIRM_SECONDS`.

        Raises:
            IntegrityError: the topic was deleted and created again.
        """
        self._identity.confirm()

    def _batch(self, columns: Columns) -> RawBatch | None:
        partitions, offsets = columns.positions()
        mask, ends = self._positions.fresh(partitions, offsets)
        if mask is not None:
            self._count_dropped(partitions[~mask].tolist())
            columns = columns.only(mask)
            if not len(columns):
                return None
        ranges = self._positions.passed(ends)
        batch = columns.batch(self._topic, ranges)
        self._positions.move(ranges)
        # The larger of the last and the mean so far, so that a run of large records counts at once.
        mean = batch.payload_bytes / len(batch) + 1
        self._record_bytes = max(mean, 0.8 * self._record_bytes + 0.2 * mean)
        self._faults.cleared(ends)
        return batch

    def _count_dropped(self, partitions: Sequence[int]) -> None:
        for number, count in Counter(partitions).items():
            reason = "foreign" if self._positions.expected(number) < 0 else "rewound"
            self.dropped[reason] += count
            log.info("%d records of %s:%d dropped: %s", count, self._topic, number, reason)

    # Flow control.

    def pause(self) -> None:
        """Stops the flow of records on all partitions; keep polling. Idempotent."""
        self._flow.pause()

    def resume(self) -> None:
        """Lets records flow again from where they stopped. Idempotent."""
        self._flow.resume(self._positions.offsets())

    # Positions.

    def positions(self) -> dict[TopicPartition, int]:
        """Next offset to read of each partition, past control records and aborted transactions."""
        expected = self._positions.offsets()
        if self._torn or not expected:
            return expected
        with kafka_errors(f"Asking for the positions in {self._topic}"):
            held = self._consumer.position(client_partitions(expected))
        # Before its first record a partition has no position of its own.
        moved = {TopicPartition(p.topic, p.partition): p.offset for p in held}
        return {tp: max(offset, moved.get(tp, 0)) for tp, offset in expected.items()}

    def advance(self) -> Ranges:
        """Ranges passed without a record since the last call: control records and the like.

        Every record below a position was handed over by `poll` before, since the client moves
        positions only inside it. Does not block.
        """
        ends = {tp.partition: end for tp, end in self.positions().items()}
        ranges = self._positions.passed(ends)
        self._positions.move(ranges)
        return ranges

    def lag(self) -> dict[TopicPartition, int]:
        """Records, by position, between us and the end of each partition; as last heard."""
        if self._watch is not None:
            self._watch.turn()
        ends = {} if self._watch is None else self._watch.ends
        lag: dict[TopicPartition, int] = {}
        for tp, position in self.positions().items():
            asked = ClientPartition(tp.topic, tp.partition)
            heard = self._consumer.get_watermark_offsets(asked, cached=True)
            end = max(ends.get(tp.partition, 0), heard[1] if heard else 0)
            lag[tp] = max(0, end - position)
        return lag

    def new_partitions(self) -> dict[TopicPartition, int]:
        """Partitions that appeared since the last call, now read from 0. Does not block.

        Raises:
            IntegrityError: the topic was deleted and created again.
        """
        if self._watch is None:
            return {}
        self._watch.turn()
        if self._membership is not None:
            return {}  # the group sees them too, and gives them to a member
        seen = {TopicPartition(self._topic, number): 0 for number in self._watch.partitions}
        added = {tp: 0 for tp in sorted(seen) if tp not in self._positions}
        if added:
            with kafka_errors(f"Assigning new partitions of {self._topic}"):
                self._consumer.incremental_assign([_client(tp, 0) for tp in added])
            self._flow.hold(added)
            self._positions.add(added)
        return added

    def commit_offsets(self, offsets: Offsets) -> None:
        """Publishes `offsets` in the consumer group, for lag tools only. Thread-safe, idempotent.

        May block for `COMMIT_SECONDS`.

        Raises:
            TransientError: not published. Nothing depends on it; the next commit makes it good.
        """
        mine = {tp: offset for tp, offset in offsets.items() if tp.topic == self._topic}
        if self._membership is not None:
            mine = {tp: offset for tp, offset in mine.items() if tp in self._positions}
        self._publisher.publish(mine)

    # Complaints and end.

    def errors(self) -> tuple[ErrorNote, ...]:
        """The last distinct complaints of the client, oldest first. Thread-safe."""
        return self._log.recent()

    def error_counts(self) -> Mapping[str, int]:
        """Complaints so far by librdkafka's name of the error. Thread-safe."""
        return self._log.counts

    def close(self) -> None:
        """Leaves the broker. May block for some seconds; idempotent."""
        if self._closed:
            return
        self._closed = True
        if not self._publisher.close(CLOSE_SECONDS):
            log.warning("offsets are still being published: that Kafka client is left open")
        with kafka_errors("Closing the consumer"):
            self._consumer.close()


def _client(tp: TopicPartition, offset: int) -> ClientPartition:
    return ClientPartition(tp.topic, tp.partition, offset)
