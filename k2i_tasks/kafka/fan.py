"""One topic read once for several tables: each gets the records that are its own.

Each table's run is given a source of its own, a `Branch`, and knows nothing of the others. A thread
reads the topic from the least offset that any of them still needs, deals the records out, and goes
back whenever a run begins again further behind; what a branch was handed before is dropped then.

A branch whose run is slow fills its queue, and after a while is left behind: the others go on, and
once it has caught up with its queue the topic is read again from there.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import numpy as np

from k2i_tasks.errors import Component, K2IError, TransientError
from k2i_tasks.kafka.branch import Branch
from k2i_tasks.kafka.dealing import Dealing
from k2i_tasks.kafka.feeds import Feed, Gap
from k2i_tasks.kafka.front import Front
from k2i_tasks.kafka.held import Held
from k2i_tasks.kafka.places import Places
from k2i_tasks.kafka.start import recreated
from k2i_tasks.kafka.state import TopicState
from k2i_tasks.kafka.stream import Reader
from k2i_tasks.status import ErrorNote
from k2i_tasks.types import Offsets, Ranges, RawBatch, TopicPartition

log = logging.getLogger(__name__)

POLL_RECORDS = 20_000
POLL_SECONDS = 0.05
#: How much longer than it lets them go on a full queue may stop the others.
STALL_SECONDS = 5.0
#: How long the first reading waits for all tables that are known; then it begins without the rest.
GATHER_SECONDS = 10.0
#: How often lag, positions without records and new partitions are looked at.
LOOK_SECONDS = 0.5
INSPECT_SECONDS = 15.0
_NONE = np.empty(0, np.int64)


class Fan:
    """Reads one topic for its branches, on a thread of its own.

    Args:
        open_reader: makes what reads the topic.
        places: the tables that are known; used by that thread.
        dealing: decides on the table of each record.
        on_found: called when there are new tables; must not block.
    """

    def __init__(
        self,
        open_reader: Callable[[], Reader],
        places: Places,
        dealing: Dealing,
        *,
        on_found: Callable[[], None],
    ) -> None:
        self._open_reader = open_reader
        self._places = places
        self._dealing = dealing
        #: What was read and cannot be dealt out yet.
        self.held = Held(dealing.prepare)
        self._on_found = on_found
        #: Guards all that follows.
        self._changed = threading.Condition()
        self._feeds: dict[str, Feed] = {}
        self._committed: dict[str, Offsets] = {}
        #: Where the reader stands; None before it was assigned.
        self._at: dict[TopicPartition, int] | None = None
        self._front = Front()
        self._ends: dict[TopicPartition, int] = {}
        #: Of each partition, when the reading began.
        self._first_ends: dict[TopicPartition, int] = {}
        #: Of the reader; None before it was asked.
        self._state: TopicState | None = None
        self._reader: Reader | None = None
        self._settling = self._stopping = False
        self._began = 0.0
        self._thread: threading.Thread | None = None
        #: Why the reading has ended, if it failed.
        self.failure: K2IError | None = None

    # For the process. Any thread.

    def ensure(self) -> None:
        """Begins to read, or begins again after a failure. Idempotent; does not block."""
        with self._changed:
            if self._stopping or (self._thread is not None and self._thread.is_alive()):
                return
            self.failure, self._at, self._began = None, None, time.monotonic()
            self._front = Front()
            self.held.forget()
            self._thread = threading.Thread(target=self._work, name="k2i-fan", daemon=True)
            self._thread.start()

    def branch(self, key: str, inspect: Callable[[float], TopicState]) -> Branch:
        """A source for one run of the table of `key`; see `Branch`."""
        return Branch(self, key, inspect)

    def settle(self, timeout_seconds: float) -> None:
        """Reads nothing more, and waits, not beyond the time-out, until each run has taken its own.

        After a drain all tables then stand at the same offsets, if all are well.
        """
        with self._changed:
            self._settling = True
            self._changed.notify_all()

            def settled() -> bool:
                return all(one.settled or one.behind or one.failure for one in self._feeds.values())

            self._changed.wait_for(settled, timeout_seconds)

    def stop(self) -> None:
        """Ends the reading; branches give nothing more. Does not wait for it."""
        self._stopping = True

    def close(self) -> None:
        """As `stop`, and blocks until it has ended."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    # For branches. Any thread.

    def attach(self, key: str, offsets: Offsets) -> None:
        """The run of `key` wants the records from `offsets` on, whatever it was given before."""
        self.ensure()
        with self._changed:
            self._feeds[key] = Feed(offsets)
            self._changed.notify_all()

    def detach(self, key: str) -> None:
        """The run of `key` has ended. Idempotent."""
        with self._changed:
            self._feeds.pop(key, None)
            self._changed.notify_all()

    def take(
        self, key: str, max_records: int, timeout_seconds: float
    ) -> tuple[Gap, RawBatch | None]:
        """What is next for `key`: positions that are lost, and then a batch. May block.

        Raises:
            K2IError: the topic cannot be read on, and all before that was given.
        """
        with self._changed:
            feed = self._feeds.get(key)
            if feed is None:
                return {}, None
            self._changed.wait_for(lambda: not feed.empty or feed.failure, timeout_seconds)
            if feed.empty and feed.failure is not None:
                raise feed.failure
            if feed.empty and feed.behind:
                # It has caught up with what it had: the topic is read again from there.
                feed.leave_behind(False)
                self._changed.notify_all()
            gaps, batch = feed.take(max_records)
            if gaps or batch is not None:  # else nobody waits for it, and there may be many
                self._changed.notify_all()
            return gaps, batch

    def passed(self, key: str) -> Ranges:
        """Positions that the run of `key` may pass: none of their records is its own."""
        with self._changed:
            feed = self._feeds.get(key)
            ranges = {} if feed is None else feed.passed()
            if ranges:
                self._changed.notify_all()
            return ranges

    def added(self, key: str) -> Offsets:
        """Partitions that are new to the run of `key`; it reads them from now on."""
        with self._changed:
            feed = self._feeds.get(key)
            return {} if feed is None else feed.accept()

    def lag(self, key: str) -> dict[TopicPartition, int]:
        """Positions between what the run of `key` was given and the end of each partition."""
        with self._changed:
            feed = self._feeds.get(key)
            given = {} if feed is None else feed.given
            return {tp: max(0, self._ends.get(tp, at) - at) for tp, at in given.items()}

    def errors(self) -> tuple[ErrorNote, ...]:
        """The last complaints of the client."""
        reader = self._reader
        return () if reader is None else reader.errors()

    def confirm(self, topic_id: str | None) -> None:
        """Returns if all that was read so far is of the topic of this id.

        May block for some seconds.

        Raises:
            IntegrityError: the topic was deleted and created again.
            TransientError: the topic is not read at the moment.
        """
        with self._changed:
            reader, state = self._reader, self._state
        if reader is None or state is None:
            raise TransientError("The topic is being opened again.", component=Component.KAFKA)
        if None not in (topic_id, state.topic_id) and topic_id != state.topic_id:
            raise recreated(state.topic, topic_id, state.topic_id)
        reader.confirm()

    def publish(self, key: str, offsets: Offsets) -> None:
        """Publishes the least offsets that all runs have committed, for lag tools. May block."""
        with self._changed:
            self._committed[key] = {**self._committed.get(key, {}), **offsets}
            every = [self._committed.get(name, {}) for name in self._feeds]
            least = {
                tp: min(one[tp] for one in every)
                for tp in offsets
                if every and all(tp in one for one in every)
            }
            reader = self._reader
        if reader is not None and least:
            reader.commit_offsets(least)

    # The thread that reads.

    def _work(self) -> None:
        failure: K2IError | None = None
        try:
            self._open_and_read()
        except K2IError as error:
            failure = error
        except Exception as error:
            log.exception("reading a topic for several tables failed")
            failure = K2IError(f"Unexpected {type(error).__name__}: {error}")
            failure.__cause__ = error
        if failure is None:
            return
        with self._changed:
            # Whoever comes from now on has to begin the reading again.
            self.failure, self._thread = failure, None
            # Each is told, also when another has begun the reading again by then.
            for feed in self._feeds.values():
                feed.failure = feed.failure or failure
            self._changed.notify_all()

    def _open_and_read(self) -> None:
        reader = self._open_reader()
        try:
            state = reader.inspect(INSPECT_SECONDS)
            with self._changed:
                self._reader, self._state = reader, state
            self._read(reader, self._begin(state))
        finally:
            with self._changed:
                self._reader = None
            reader.close()

    def _begin(self, state: TopicState) -> Offsets:
        """Where the topic is begun if it was not before, or was not without the known tables."""
        begun, marks = self._places.begun, state.partitions.items()
        self._first_ends = {TopicPartition(state.topic, n): m.high for n, m in marks}
        if begun is None:
            begin = self._dealing.begin(state)
            if not self._places.all:
                self._places.begin(begin)
            return begin
        return {TopicPartition(state.topic, n): max(begun.get(n, 0), m.low) for n, m in marks}

    def _read(self, reader: Reader, begin: Offsets) -> None:
        next_look = 0.0
        while not self._stopping:
            with self._changed:
                wanted = None if self._settling or self._full() else self._wanted(begin)
                if wanted is None:
                    self._changed.wait(POLL_SECONDS)
                turns = wanted is not None and wanted != self._at
                if turns and wanted is not None:
                    self._at = dict(wanted)
                    self._front.reached(wanted)
            if wanted is None:
                reader.pause()
                reader.poll(1, 0.0)
                continue
            if turns:
                places = [f"{tp}@{at}" for tp, at in sorted(wanted.items())[:8]]
                log.info("reading from %s", " ".join(places))
                reader.assign(wanted)
                self.held.forget()
            read = self._poll(reader)
            gaps = reader.gaps()
            if gaps:
                self._lose(gaps)
            batch = self.held.ready(read, POLL_SECONDS)
            if batch is not None:
                self._deal(batch)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + LOOK_SECONDS
                self._look(reader)

    def _poll(self, reader: Reader) -> RawBatch | None:
        """What is next in the topic; while something is held, only keeps the client alive."""
        if self.held.waiting:
            reader.pause()
            return reader.poll(1, 0.0)
        reader.resume()
        return reader.poll(POLL_RECORDS, POLL_SECONDS)

    def _live(self) -> dict[str, Feed]:
        return {k: one for k, one in self._feeds.items() if not one.behind and not one.failure}

    def _wanted(self, begin: Offsets) -> dict[TopicPartition, int] | None:
        """Where to read on: where we stand, or further back; None while nobody wants anything.

        Raises:
            IntegrityError: the rules have changed while tables stand at different offsets.
        """
        if not self._places.all:
            return dict(begin if self._at is None else self._at)
        feeds = self._live()
        complete = self._places.all.keys() <= feeds.keys()
        gathering = self._at is None and time.monotonic() < self._began + GATHER_SECONDS
        if not feeds or (gathering and not complete):
            return None
        if self._places.ruled_anew:
            stand = [feed.expected for feed in feeds.values()]
            self._places.accept_rules(self._dealing.key_of, stand, complete=complete)
        wanted = self._front.wanted(feeds, self._at or {}, self._ends)
        if self._at is None and self._places.begun is not None:
            return {tp: min(at, wanted.get(tp, at)) for tp, at in {**wanted, **begin}.items()}
        return wanted

    def _full(self) -> bool:
        """Whether some branch has no room; one that the others need not wait for is left behind."""
        now, limit = time.monotonic(), self._dealing.queue_bytes()
        found = False
        for key, feed in self._live().items():
            if not feed.is_full(limit, now):
                continue
            others = [one for name, one in self._feeds.items() if name != key]
            pointless = self._front.lags(feed) and not all(map(self._front.lags, others))
            if pointless or (others and feed.waited_seconds >= STALL_SECONDS):
                log.warning("table %s is slower than its topic: the others go on", key)
                feed.leave_behind(True)
            else:
                found = True
        return found

    def _deal(self, batch: RawBatch) -> None:
        codes, found = self._dealing.keys_of(batch)
        fresh = {key: value for key, value in found.items() if key not in self._places.all}
        if fresh:
            # Before anybody is given anything: see `Places`.
            self._places.add(fresh, self._at or {})
            self._on_found()
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(found) + 1))
        records = {key: order[bounds[n] : bounds[n + 1]] for n, key in enumerate(found)}
        with self._changed:
            self._move({tp: span.end for tp, span in batch.ranges.items()})
            for key, feed in self._live().items():
                feed.hand(batch, records.get(key, _NONE))
            self._changed.notify_all()

    def _lose(self, gaps: Ranges) -> None:
        with self._changed:
            self._move({tp: span.end for tp, span in gaps.items()})
            for feed in self._live().values():
                feed.lose(gaps)
            self._changed.notify_all()

    def _look(self, reader: Reader) -> None:
        """Positions without records, the ends of the partitions, new partitions."""
        # What is held stands before whatever positions have moved to since.
        passed = {} if self.held.waiting else reader.advance()
        added, lag = reader.new_partitions(), reader.lag()
        with self._changed:
            self._move({tp: span.end for tp, span in passed.items()})
            assert self._at is not None
            self._move({tp: at for tp, at in added.items() if tp not in self._at})
            for feed in self._live().values():
                feed.move(passed)
                known = feed.expected.keys() | feed.added.keys()
                feed.added.update({tp: 0 for tp in self._at if tp not in known})
            self._ends = self.held.ends(self._at, lag)
            if passed or added:
                self._changed.notify_all()
        dealt, ends = self._front.dealt, self._first_ends.items()
        whole = all(dealt.get(tp, 0) >= end for tp, end in ends)
        if whole and self._places.all and self._places.begun is not None:
            self._places.whole()

    def _move(self, offsets: Offsets) -> None:
        assert self._at is not None
        self._at.update(offsets)
        self._front.reached(offsets)
