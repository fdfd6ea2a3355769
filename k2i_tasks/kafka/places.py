"""The tables that records of one topic are dealt out to, and where each table's first record is.

A file in the log folder. It is written before a record of a new table, or any behind it, is handed
on: once another table has committed beyond that record, only this file knows that it is to be read
again should the process end before the new table is made. A second file is written before records
are handed on that had no value because the schema registry did not know what wrote them: should it
come to know that, they go where they went when they are read again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2i_tasks.durable import checksum, holder_of, replace, take
from k2i_tasks.errors import Component, IntegrityError, ServiceError
from k2i_tasks.types import OffsetRange, Offsets, TopicPartition

_FORMAT = 1
_LOST_TABLES = (
    "Put it back. Without it the topic is read from its beginning: tables that are there go on "
    "where they stopped, and records that are still in Kafka are found again."
)
_LOST_UNREAD = (
    "Put it back. Without it, records that had no value since the schema registry did not know "
    "what wrote them may have one when they are read again, and be in two tables."
)
#: Tables of one topic: a value that is never the same must not make tables without an end.
TABLES_MAX = 10_000
#: Schemas that the registry did not know, the latest ones; what is known of others is forgotten.
UNREAD_MAX = 1_000
#: Spans of offsets that are kept apart for one of them and one partition.
SPANS_MAX = 16
#: Beside the file: where records had no value. Small, for it is written for a batch of records.
UNREAD_NAME = "unread.json"
#: Beside the file; by it one process keeps others off.
LOCK_NAME = "lock"

_Unread = dict[int, dict[int, tuple[OffsetRange, ...]]]


@dataclass(frozen=True, slots=True)
class Place:
    """One table.

    Args:
        value: a value whose records go there, None for records without one.
        start: where its first record is, or before it, by partition.
    """

    value: str | None
    start: Mapping[int, int]


class Places:
    """The tables of one topic by key, on disk. For one thread; `all` for any.

    Only who has taken the file, see `taken`, may change it.

    Args:
        path: the file; made with the first table.
        topic: the topic.
        rules: what decides on a record's table, as text.

    Raises:
        IntegrityError: the file is damaged, or of another topic.
        ServiceError: it cannot be read.
    """

    def __init__(self, path: Path, topic: str, rules: str) -> None:
        self._path = path
        self._unread_path = path.with_name(UNREAD_NAME)
        self._topic = topic
        self._rules = hashlib.sha256(rules.encode()).hexdigest()
        self._known: dict[str, Place] = {}
        #: Where the topic was begun without this file, by partition; None once all that was in it
        #: then was dealt out. Tables that another file knew may have passed records of others.
        self.begun: Mapping[int, int] | None = None
        #: Id of a schema -> partition -> offsets of records that had no value for want of it,
        #: the latest last.
        self._unread: _Unread = {}
        #: Id of a schema -> partitions whose last ones may go on: none of it had a value since.
        self._going_on: dict[int, set[int]] = {}
        #: Whether other rules decided until now.
        self.ruled_anew = False
        self._lock: int | None = None
        self._read()
        self._read_unread()

    @classmethod
    def taken(cls, path: Path, topic: str, rules: str) -> Places:
        """As the class, and for this process alone until `release`. May block on the disk.

        Raises:
            ServiceError: another process has it.
        """
        lock = path.with_name(LOCK_NAME)
        try:
            descriptor = take(lock)
        except BlockingIOError as error:
            raise ServiceError(
                f"The records of topic {topic} are dealt out by {holder_of(lock)}, which works in "
                f"{path.parent}, too.",
                component=Component.WAL,
                remedy="Stop that process, or set transaction_log.log_dir to a folder of this "
                "run's own.",
            ) from error
        except OSError as error:
            raise _failed(lock, "locked", error) from error
        try:
            found = cls(path, topic, rules)
        except BaseException:
            os.close(descriptor)
            raise
        found._lock = descriptor
        return found

    def release(self) -> None:
        """Lets other processes have it. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def all(self) -> Mapping[str, Place]:
        """Every table by its key, in the order they were found."""
        return self._known

    @property
    def values(self) -> dict[str, str | None]:
        """Of each table a value that leads there."""
        return {key: place.value for key, place in self._known.items()}

    def start(self, key: str) -> dict[TopicPartition, int]:
        """Where to begin with a table that records nothing yet.

        Raises:
            IntegrityError: no records go there any more.
        """
        if key not in self._known:
            raise IntegrityError(
                f"No records of topic {self._topic} go to table {key} any more.",
                component=Component.KAFKA,
                remedy="The rules of routing have changed: nothing is missing.",
            )
        start = self._known[key].start
        return {TopicPartition(self._topic, number): at for number, at in start.items()}

    def begin(self, offsets: Offsets) -> None:
        """The topic is begun at `offsets`; kept with the first tables that are found."""
        self.begun = {tp.partition: at for tp, at in offsets.items()}

    def whole(self) -> None:
        """All tables are known that have records in what the topic was when it was begun."""
        self.begun = None
        if self._known:
            self._write(self._known)

    def add(self, found: Mapping[str, str | None], position: Offsets) -> None:
        """Keeps new tables, synced. May block.

        Args:
            found: key -> value.
            position: all partitions, each with an offset that is not behind their first record.

        Raises:
            IntegrityError: there would be more than `TABLES_MAX`.
            ServiceError: the disk fails.
        """
        if len(self._known) + len(found) > TABLES_MAX:
            raise IntegrityError(
                f"The records of topic {self._topic} would go to more than {TABLES_MAX} tables.",
                component=Component.KAFKA,
                remedy="Choose a field or header with fewer values, or join some by a rule of "
                "routing.tables. Nothing is lost: they are read again.",
            )
        start = {tp.partition: at for tp, at in position.items()}
        added = {key: Place(value, start) for key, value in found.items()}
        self._write({**self._known, **added})

    def unread(self, schema_id: int) -> Mapping[int, Sequence[OffsetRange]]:
        """Where records of a schema have no value whatever is known of it now, by partition."""
        return self._unread.get(schema_id, {})

    def note_read(self, schema_id: int) -> None:
        """Records of a schema were read: what is without a value from now on is apart."""
        self._going_on.pop(schema_id, None)

    def keep_unread(self, found: Mapping[int, Mapping[int, OffsetRange]]) -> None:
        """Keeps where records have no value since their schemas are not known, synced. May block.

        Args:
            found: id of a schema -> partition -> offsets.

        Raises:
            ServiceError: the disk fails.
        """
        unread = dict(self._unread)
        for schema_id, spans in found.items():
            # The latest last.
            known = unread.pop(schema_id, {})
            going_on = self._going_on.get(schema_id, ())
            wider = {
                number: _with(known.get(number, ()), span, number in going_on)
                for number, span in spans.items()
            }
            unread[schema_id] = {**known, **wider}
        latest = dict(list(unread.items())[-UNREAD_MAX:])
        if latest != self._unread:
            self._write_unread(latest)
        self._going_on = {
            schema_id: {*self._going_on.get(schema_id, ()), *found.get(schema_id, ())}
            for schema_id in latest
        }

    def accept_rules(
        self, key_of: Callable[[str | None], str], offsets: Sequence[Offsets], *, complete: bool
    ) -> None:
        """From now on the rules are those that were given. May block.

        Tables that no known value leads to any more are left; should another value lead there,
        they are found again.

        Args:
            key_of: a value -> key of its table, by these rules.
            offsets: where each table stands, one or more.
            complete: whether those are all tables.

        Raises:
            IntegrityError: they stand at different offsets.
        """
        if not complete or self.begun is not None or any(one != offsets[0] for one in offsets):
            raise IntegrityError(
                "What decides on the tables of records was changed while the tables stand at "
                "different offsets: some records would be in two tables, or in none.",
                component=Component.KAFKA,
                remedy="Run it with the settings from before, let all tables catch up, and end it "
                "by a drain. Then change them.",
            )
        known = self._known.items()
        self._write({key: place for key, place in known if key_of(place.value) == key})
        self.ruled_anew = False

    def _read(self) -> None:
        body = self._body(self._path, _LOST_TABLES)
        if body is None:
            return
        try:
            known = {
                key: Place(value, {int(number): int(at) for number, at in start.items()})
                for key, value, start in body["tables"]
            }
            rules, begun = body["rules"], body["begun"]
            if begun is not None:
                begun = {int(number): int(at) for number, at in begun.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _refused(self._path, "is damaged", _LOST_TABLES) from error
        self._known, self.begun = known, begun
        # Where no table is known, nothing was dealt out by other rules.
        self.ruled_anew = bool(known) and rules != self._rules

    def _read_unread(self) -> None:
        body = self._body(self._unread_path, _LOST_UNREAD)
        if body is None:
            return
        try:
            self._unread = {
                int(schema_id): {
                    int(number): tuple(OffsetRange(start, end) for start, end in spans)
                    for number, spans in partitions
                }
                for schema_id, partitions in body["unread"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise _refused(self._unread_path, "is damaged", _LOST_UNREAD) from error

    def _body(self, path: Path, remedy: str) -> Any:
        """What a file holds about the topic; None if there is none."""
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(path, "read", error) from error
        try:
            whole = json.loads(text)
            body = whole["body"]
            if whole["format"] != _FORMAT or whole["sha256"] != checksum(body):
                raise ValueError
            topic = body["topic"]
        except (KeyError, TypeError, ValueError) as error:
            raise _refused(path, "is damaged", remedy) from error
        if topic != self._topic:
            raise _refused(path, f"is about topic {topic}", remedy)
        return body

    def _write(self, known: dict[str, Place]) -> None:
        tables = [
            [key, place.value, {str(number): at for number, at in place.start.items()}]
            for key, place in known.items()
        ]
        begun = None
        if self.begun is not None:
            begun = {str(number): at for number, at in self.begun.items()}
        body = {"topic": self._topic, "rules": self._rules, "tables": tables, "begun": begun}
        _replace(self._path, body)
        self._known = known

    def _write_unread(self, unread: _Unread) -> None:
        listed = [
            [
                schema_id,
                [[n, [[span.start, span.end] for span in spans]] for n, spans in found.items()],
            ]
            for schema_id, found in unread.items()
        ]
        _replace(self._unread_path, {"topic": self._topic, "unread": listed})
        self._unread = unread


def _with(
    known: Sequence[OffsetRange], span: OffsetRange, goes_on: bool
) -> tuple[OffsetRange, ...]:
    """Spans of offsets with one more, as part of one that is there or of the last if that goes on.

    It is in the last one then: that is where the reading is. Records between two that are apart
    had a value. Beyond `SPANS_MAX` the oldest two become one.
    """
    around = [one for one in known if one.over(span) == one]
    if around:
        span = around[-1]
    elif known and known[-1].start <= span.start and (goes_on or span.start <= known[-1].end):
        span = span.over(known[-1])
    apart = [one for one in known if span.over(one) != span]
    found = [*apart, span]
    if len(found) > SPANS_MAX:
        found[:2] = [found[0].over(found[1])]
    return tuple(found)


def _replace(path: Path, body: Any) -> None:
    whole = {"format": _FORMAT, "sha256": checksum(body), "body": body}
    try:
        replace(path, json.dumps(whole).encode())
    except OSError as error:
        raise _failed(path, "written", error) from error


def _refused(path: Path, why: str, remedy: str) -> IntegrityError:
    return IntegrityError(f"The file {path} {why}.", component=Component.WAL, remedy=remedy)


def _failed(path: Path, what: str, error: OSError) -> ServiceError:
    return ServiceError(
        f"The file {path} cannot be {what}: {error.strerror}.",
        component=Component.WAL,
        remedy="Look after the disk and the rights on the folder.",
    )
