"""Flush and commit as a run does them, without Kafka: a table, and batches of order events for it.

The batches are those of the topic of `benchmarks.topic`, read as one partition, so that the table
can be compared with it in the end.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyiceberg.table import Table

from benchmarks import topic as topics
from benchmarks.services import services
from k2i_tasks.config import Config
from k2i_tasks.iceberg.catalog import find_table, open_catalog
from k2i_tasks.kafka.orders import OrderPool
from k2i_tasks.metrics import Metrics
from k2i_tasks.operations import Operations
from k2i_tasks.types import DecodedBatch, OffsetRange, Origin, RawBatch, TopicPartition
from k2i_tasks.wiring import build_operations, open_journal
from k2i_tasks.wiring_decoders import Decoders

TOPIC = "events"
P0 = TopicPartition(TOPIC, 0)
CATALOGS = ("rest", "sql")
SEED = 7


@contextmanager
def catalog(kind: str, home: Path) -> Iterator[dict[str, Any]]:
    """The keys of `[iceberg]` for a catalog of `CATALOGS` below `home`, running while inside."""
    if kind == "sql":
        url = f"sqlite:///{home}/catalog.db"
        warehouse = str(home / "warehouse")
        yield {"catalog_type": "sql", "warehouse_path": warehouse, "sql_catalog": {"url": url}}
        return
    with services(home, ("iceberg-rest",)) as running:
        at = running.catalog
        yield {"catalog_type": "rest", "rest_uri": at.uri, "warehouse_path": at.warehouse}


def config_of(iceberg: Mapping[str, Any], folder: Path, table: str, **maintenance: Any) -> Config:
    """A configuration with the defaults of all else.

    Args:
        iceberg: as `catalog` gives it.
        folder: for the write-ahead log.
        table: its name.
        maintenance: changes to the section's defaults.
    """
    kafka = {
        "bootstrap_servers": ["127.0.0.1:1"],
        "topic": TOPIC,
        "consumer_group": "bench",
        "format": {"type": "json"},
    }
    names = {"database_name": "bench", "table_name": table, "compression": "zstd"}
    return Config.model_validate(
        {
            "kafka": kafka,
            "iceberg": {**iceberg, **names},
            "transaction_log": {"log_dir": str(folder / "wal")},
            "maintenance": maintenance,
        }
    )


@contextmanager
def claimed(config: Config, metrics: Metrics, schema: pa.Schema) -> Iterator[Operations]:
    """The actions of a run that has made the table for rows of `schema` and owns it."""
    owner = uuid.uuid4().hex
    operations = build_operations(
        config, {}, owner, open_journal(config, metrics), lambda _offsets: None
    )
    try:
        state = operations.open() or operations.create(schema)
        operations.claim(state, {P0: 0}, {P0}, Origin(TOPIC, "topic-id", "cluster-id"))
        operations.recover()
        yield operations
    finally:
        operations.close()


def loaded(config: Config) -> Table:
    """The table as its catalog has it now, through a client of its own."""
    table = find_table(open_catalog(config.iceberg, {}), config.iceberg.identifier)
    assert table is not None
    return table


class Events:
    """Decoded order events, numbered from 0; the number is the event's id and its offset."""

    def __init__(self, config: Config) -> None:
        self._pool = OrderPool(SEED, topics.POOL)
        keys, values = zip(*self._pool.events(0, topics.POOL, time.time()), strict=True)
        raw = RawBatch(
            topic=TOPIC,
            partitions=np.zeros(topics.POOL, np.int32),
            offsets=np.arange(topics.POOL, dtype=np.int64),
            timestamps_ms=np.full(topics.POOL, int(time.time() * 1000), np.int64),
            keys=keys,
            values=values,
            headers=None,
            ranges={P0: OffsetRange(0, topics.POOL)},
            payload_bytes=sum(map(len, values)),
        )
        self._decoded = Decoders(config, {}).decoder(None).decode(raw)
        self._offset = config.iceberg.metadata_columns.offset

    @property
    def schema(self) -> pa.Schema:
        """Of the rows, Kafka's columns included."""
        return self._decoded.table.schema

    def polls(self, first: int, count: int) -> Iterator[DecodedBatch]:
        """Events `first` to `first + count - 1`, in batches as polls give them.

        All columns but id and offset are shared: the bodies come again after `topics.POOL`.
        """
        number, end = first, first + count
        while number < end:
            at = number % topics.POOL
            rows = min(topics.POOL - at, end - number)
            table = self._decoded.table.slice(at, rows)
            numbers = pa.array(np.arange(number, number + rows, dtype=np.int64))
            for name in ("event_id", self._offset):
                index = table.schema.get_field_index(name)
                table = table.set_column(index, table.schema.field(index), numbers)
            ranges = {P0: OffsetRange(number, number + rows)}
            newest = self._decoded.newest_timestamp_ms
            yield DecodedBatch(table, (), ranges, table.nbytes, newest)
            number += rows

    def compared(self, config: Config, messages: int) -> dict[str, Any]:
        """What DuckDB finds in the table, against the first `messages` events."""
        written = topics.Topic("", TOPIC, messages, 0.0, topics.sums_of(self._pool, messages))
        return topics.compared(written, loaded(config).metadata_location, typed=True)
