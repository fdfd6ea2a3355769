"""The tables that records of one topic are dealt out to, and where each table's first record is.

A file in the log folder. It is written before a record of a new table, or any behind it, is handed
on: once another table has committed beyond that record, only this file knows that it is to be read
again should the process end before the new table is made. It is written as well before records are
handed on that had no value because the schema registry did not know what wrote them: should it come
to know that, they go where they went when they are read again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from k2i_tasks.durable import checksum, holder_of, replace, take
from k2i_tasks.errors import Component, IntegrityError, ServiceError
from k2i_tasks.types import OffsetRange, Offsets, TopicPartition

_FORMAT = 1
#: Tables of one topic: a value that is never the same must not make tables without an end.
TABLES_MAX = 10_000
#: Schemas that the registry did not know, the latest ones; what is known of others is forgotten.
UNREAD_MAX = 1_000
#: Beside the file; by it one process keeps others off.
LOCK_NAME = "lock"


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
        self._topic = topic
        self._rules = hashlib.sha256(rules.encode()).hexdigest()
        self._known: dict[str, Place] = {}
        #: Where the topic was begun without this file, by partition; None once all that was in it
        #: then was dealt out. Tables that another file knew may have passed records of others.
        self.begun: Mapping[int, int] | None = None
        #: Id of a schema -> partition -> offsets of records that had no value for want of it.
        self._unread: dict[int, dict[int, OffsetRange]] = {}
        #: Whether other rules decided until now.
        self.ruled_anew = False
        self._lock: int | None = None
        self._read()

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

    def unread(self, schema_id: int) -> Mapping[int, OffsetRange]:
        """Where records of a schema have no value whatever is known of it now, by partition."""
        return self._unread.get(schema_id, {})

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
            wider = {number: span.over(known.get(number, span)) for number, span in spans.items()}
            unread[schema_id] = {**known, **wider}
        latest = list(unread.items())[-UNREAD_MAX:]
        if dict(latest) != self._unread:
            self._write(self._known, dict(latest))

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
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise _failed(self._path, "read", error) from error
        try:
            whole = json.loads(text)
            body = whole["body"]
            if whole["format"] != _FORMAT or whole["sha256"] != checksum(body):
                raise ValueError
            known = {
                key: Place(value, {int(number): int(at) for number, at in start.items()})
                for key, value, start in body["tables"]
            }
            topic, rules = body["topic"], body["rules"]
            begun = body["begun"]
            if begun is not None:
                begun = {int(number): int(at) for number, at in begun.items()}
            unread = {
                schema_id: {number: OffsetRange(start, end) for number, start, end in spans}
                for schema_id, spans in body.get("unread", ())
            }
        except (KeyError, TypeError, ValueError) as error:
            raise self._refused("is damaged") from error
        if topic != self._topic:
            raise self._refused(f"is about topic {topic}")
        self._known, self.begun, self.ruled_anew = known, begun, rules != self._rules
        self._unread = unread

    def _write(
        self, known: dict[str, Place], unread: dict[int, dict[int, OffsetRange]] | None = None
    ) -> None:
        unread = self._unread if unread is None else unread
        tables = [
            [key, place.value, {str(number): at for number, at in place.start.items()}]
            for key, place in known.items()
        ]
        begun = None
        if self.begun is not None:
            begun = {str(number): at for number, at in self.begun.items()}
        body = {
            "topic": self._topic,
            "rules": self._rules,
            "tables": tables,
            "begun": begun,
            "unread": [
                [schema_id, [[number, span.start, span.end] for number, span in spans.items()]]
                for schema_id, spans in unread.items()
            ],
        }
        whole = {"format": _FORMAT, "sha256": checksum(body), "body": body}
        try:
            replace(self._path, json.dumps(whole).encode())
        except OSError as error:
            raise _failed(self._path, "written", error) from error
        self._known, self._unread = known, unread

    def _refused(self, why: str) -> IntegrityError:
        return IntegrityError(
            f"The file {self._path} {why}.",
            component=Component.WAL,
            remedy="Put it back. Without it the topic is read from its beginning: tables that are "
            "there go on where they stopped, and records that are still in Kafka are found again.",
        )


def _failed(path: Path, what: str, error: OSError) -> ServiceError:
    return ServiceError(
        f"The file {path} cannot be {what}: {error.strerror}.",
        component=Component.WAL,
        remedy="Look after the disk and the rights on the folder.",
    )
