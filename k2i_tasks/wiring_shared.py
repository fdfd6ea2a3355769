"""Builds what reads topics whose records are dealt out to several tables by their values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from k2i_tasks import secrets
from k2i_tasks.codecs.values import FieldValues, ValuesOf, coded, header_values
from k2i_tasks.config import Config
from k2i_tasks.config.plans import TableValues
from k2i_tasks.config.routes import Route, dealing_config, rules_of, target, topic_folder
from k2i_tasks.errors import K2IError
from k2i_tasks.iceberg.state import SinkState
from k2i_tasks.kafka.client import consumer_settings
from k2i_tasks.kafka.dealing import Dealing
from k2i_tasks.kafka.fan import Fan
from k2i_tasks.kafka.places import Places
from k2i_tasks.kafka.policy import look_at
from k2i_tasks.kafka.source import KafkaSource
from k2i_tasks.kafka.start import start_offsets
from k2i_tasks.kafka.state import TopicState
from k2i_tasks.ports import Source
from k2i_tasks.status import ErrorNote
from k2i_tasks.types import Offsets, RawBatch
from k2i_tasks.wiring import StartRule, open_source
from k2i_tasks.wiring_decoders import schemas_of

#: As `kafka.held.Held` has it.
Prepare = Callable[[RawBatch, float], int]

#: Payload bytes that wait for all tables of a topic together, and for one at least.
QUEUES_BYTES, QUEUE_BYTES_MIN = 64 << 20, 1 << 20
#: Tables' folders have a dot in their names.
PLACES_FOLDER, PLACES_FILE = "routing", "tables.json"


class SharedTopics:
    """The topics whose records go to several tables. Each is read once. For one thread.

    Args:
        config: of the process, with `routing.by_field` or `by_header`.
        resolved: plain secrets by the dotted name of their key.
        on_found: called when there are new tables; must not block.
    """

    def __init__(
        self, config: Config, resolved: Mapping[str, str], on_found: Callable[[], None]
    ) -> None:
        self._config = config
        self._resolved = resolved
        self._on_found = on_found
        self._fans: dict[str, tuple[Fan, Places]] = {}

    def look(self, topics: Iterable[str]) -> tuple[dict[str, TableValues], dict[str, str]]:
        """Reads `topics`, also those that are new or have failed. Does not block for long.

        Returns:
            topic -> its tables that are known; and topic -> why it is not read.
        """
        found: dict[str, TableValues] = {}
        failed: dict[str, str] = {}
        wanted = list(topics)
        for topic in wanted:
            try:
                fan, places = self._opened(topic, len(wanted))
            except K2IError as error:
                failed[topic] = str(error)
                continue
            if fan.failure is not None:
                failed[topic] = str(fan.failure)
            fan.ensure()
            found[topic] = places.values
        return found, failed

    def source(self, route: Route) -> Source:
        """What gives the records of one table."""
        config, resolved = route.config, self._resolved

        def inspect(timeout_seconds: float) -> TopicState:
            settings = consumer_settings(config.kafka, resolved)
            return look_at(settings, route.topic, timeout_seconds)[0]

        return self._fans[route.topic][0].branch(route.key, inspect)

    def start_rule(self, route: Route) -> StartRule:
        """Where its table begins."""
        return _FoundRule(route.config, self._fans[route.topic][1], route.key)

    def errors(self) -> tuple[ErrorNote, ...]:
        """Why records wait, or did the last time, by topic. Any thread."""
        notes = [(topic, fan.held.note) for topic, (fan, _) in tuple(self._fans.items())]
        return tuple(
            replace(note, message=f"{topic}: {note.message}") for topic, note in notes if note
        )

    def settle(self, timeout_seconds: float) -> None:
        """Reads nothing more, and waits until the tables have what was read. Blocks at most so."""
        fans = [fan for fan, _ in self._fans.values()]
        for fan in fans:
            fan.settle(0.0)  # so that none reads while others are waited for
        deadline = time.monotonic() + timeout_seconds
        for fan in fans:
            fan.settle(max(0.0, deadline - time.monotonic()))

    def close(self) -> None:
        """Ends the reading. Blocks until it has ended."""
        for fan, _ in self._fans.values():
            fan.stop()
        for fan, places in self._fans.values():
            fan.close()
            places.release()

    def _values_of(self, topic: str, places: Places) -> tuple[ValuesOf, Prepare | None]:
        """What reads the values of a topic's records, and what has to be waited for before."""
        routing = self._config.routing
        if routing.by_header is not None:
            return header_values(routing.by_header), None
        assert routing.by_field is not None
        config, path = dealing_config(self._config, topic), routing.by_field.split(".")
        kind, limit = config.kafka.format, config.kafka.max_message_bytes
        if kind.type not in ("avro", "protobuf"):
            return FieldValues(
                path, framed=kind.type == "jsonschema", max_message_bytes=limit
            ), None
        # Others need none of it.
        from k2i_tasks.codecs.registered_values import RegisteredValues

        # An entry of `routing.tables` may have a login of its own.
        own = config is not self._config
        schemas = schemas_of(config, secrets.opened(config) if own else self._resolved)
        assert schemas is not None
        values = RegisteredValues(
            kind.type,
            schemas,
            path,
            max_message_bytes=limit,
            unknown_seconds=float(kind.cache_ttl_seconds),
            unread=places,
        )
        return values, values.prepare

    def _opened(self, topic: str, clients: int) -> tuple[Fan, Places]:
        """Raises K2IError where the kept tables cannot be read, or a table has no name."""
        if topic in self._fans:
            return self._fans[topic]
        config = self._config
        # So that there is a place for every record, whatever its value.
        target(config, topic, None)

        def key_of(value: str | None) -> str:
            return target(config, topic, value).key

        def keys_of(batch: RawBatch) -> Any:
            return coded(values(batch), key_of)

        def open_reader() -> KafkaSource:
            return open_source(config, topic, self._resolved, clients)

        def begin(state: TopicState) -> Offsets:
            return start_offsets(state, {}, None, config.kafka.auto_offset_reset)

        places = Places.taken(places_file(config, topic), topic, rules_of(config, topic))
        try:
            values, prepare = self._values_of(topic, places)
        except BaseException:
            places.release()
            raise
        dealing = Dealing(
            keys_of,
            key_of,
            begin,
            lambda: max(QUEUE_BYTES_MIN, QUEUES_BYTES // max(1, len(places.all))),
            prepare,
        )
        fan = Fan(open_reader, places, dealing, on_found=self._on_found)
        self._fans[topic] = fan, places
        return fan, places


def known_values(config: Config, topics: Iterable[str]) -> dict[str, TableValues]:
    """Where records are dealt out by value: the tables of each topic that were found so far.

    Raises:
        K2IError: what was kept of them cannot be read.
    """
    if not config.routing.by_value:
        return {}
    return {
        topic: Places(places_file(config, topic), topic, rules_of(config, topic)).values
        for topic in topics
    }


def places_file(config: Config, topic: str) -> Path:
    """Where the tables of a topic are kept."""
    return topic_folder(config, topic) / PLACES_FOLDER / PLACES_FILE


class _FoundRule(StartRule):
    """A table that records nothing of the topic yet begins where its first record was found."""

    def __init__(self, config: Config, places: Places, key: str) -> None:
        super().__init__(config)
        self._places = places
        self._key = key

    def offsets(self, topic: Any, state: SinkState | None) -> Offsets:
        found = super().offsets(topic, state)
        recorded = {} if state is None else state.offsets
        if any(tp.topic == topic.topic for tp in recorded):
            return found
        start = self._places.start(self._key)
        # A partition that is not there came later: all its records did.
        return {tp: start.get(tp, 0) for tp in found}
