"""What integration tests do around the program: produce known events, and read as an outsider.

The outsider is DuckDB with its own Iceberg reader, loaded from files, so that nothing of the
program's read path or PyIceberg's takes part in the verdict.
"""

from __future__ import annotations

import importlib
import itertools
import json
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from k2i_tasks.calls import RetryPolicy, Tracker
from k2i_tasks.clock import SystemClock
from k2i_tasks.codecs.conflicts import Conflicts
from k2i_tasks.engine.schedule import Schedule
from k2i_tasks.maintenance import Maintenance
from k2i_tasks.metrics import Metrics
from k2i_tasks.progress import Progress
from k2i_tasks.standstill import Gate
from k2i_tasks.upkeep import Upkeep

#: Where a record is in a topic.
Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class CatalogAt:
    """A REST catalog for tests: its address, its warehouse, and the properties of the store.

    Keys that a test stack made up are no secrets.
    """

    uri: str
    warehouse: str
    store: Mapping[str, str] = field(default_factory=dict)

    def set_fault(self, **fault: Any) -> None:
        """Makes the catalog misbehave.

        Args:
            fault: `path` (a regular expression), `method`, `when` ("before" or "after" the request
                is carried out), `status` or `close` or `delay_ms` or `compact` (a table, before
                the request is carried out), and `times`.
        """
        self._faults("POST", json.dumps(fault).encode())

    def clear_faults(self) -> None:
        """Ends all faults that are not used up."""
        self._faults("DELETE", None)

    def compact(self, table: str) -> int:
        """Has Iceberg's Java library rewrite the data files of `namespace.name` into one.

        Returns:
            How many files there were. May block for seconds.
        """
        answer = self._ask("POST", f"__compact?table={table}")
        return int(json.loads(answer)["files"])

    def _faults(self, method: str, body: bytes | None) -> None:
        self._ask(method, "__faults", body)

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.uri}/{path}", data=body, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: bytes = answer.read()
        return found


def create_topic(
    bootstrap: str, topic: str, partitions: int = 4, config: Mapping[str, str] | None = None
) -> None:
    """Creates a topic and waits until every partition has a leader. May block for a minute."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    new = NewTopic(topic, num_partitions=partitions, config=dict(config or {}))
    admin.create_topics([new])[topic].result(timeout=30)
    await_leaders(admin, topic, partitions)


def await_leaders(admin: AdminClient, topic: str, partitions: int) -> None:
    """Waits until the topic has so many partitions, each with a leader. May block for 30 s."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = admin.list_topics(topic, timeout=10).topics[topic].partitions
        if len(found) == partitions and all(each.leader >= 0 for each in found.values()):
            return
        time.sleep(0.05)
    raise AssertionError(f"topic {topic} has no leader for each of {partitions} partitions")


def event(number: int) -> dict[str, Any]:
    """The order event of this number: every kind of JSON value, all derived from the number."""
    return {
        "order_id": number,
        "customer": f"customer-{number % 997:04d}",
        "amount": round(number * 0.25, 2),
        "express": number % 3 == 0,
        "created_at": f"2026-01-{1 + number % 28:02d}T{number % 24:02d}:00:00Z",
        "address": {"city": f"city-{number % 50}", "zip": f"{number % 100_000:05d}"},
        "items": [f"sku-{number % 7}", f"sku-{number % 11}"],
        "note": None if number % 5 == 0 else f"note ü {number}",
    }


def produce(
    bootstrap: str,
    topic: str,
    values: Iterable[bytes | None],
    *,
    key_of: Callable[[int], bytes | None] = lambda number: f"key-{number}".encode(),
    partition_of: Callable[[int], int] = lambda number: number % 4,
    config: Mapping[str, Any] | None = None,
) -> dict[Position, bytes | None]:
    """Writes the values to a topic and returns what stands at each (partition, offset).

    Args:
        values: payloads; None is a tombstone. The n-th goes to `partition_of(n)`.

    Raises:
        AssertionError: if the broker did not take one of them within a minute.
    """
    written: dict[Position, bytes | None] = {}
    failures: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failures.append(error)
        else:
            place = (message.partition(), message.offset())
            assert None not in place
            written[place] = message.value()  # type: ignore[index]

    settings = {"bootstrap.servers": bootstrap, "linger.ms": 20, "enable.idempotence": True}
    producer = Producer({**settings, "message.timeout.ms": 60_000, **(config or {})})
    for number, value in enumerate(values):
        while True:
            try:
                producer.produce(
                    topic,
                    value,
                    key=key_of(number),
                    partition=partition_of(number),
                    on_delivery=delivered,
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    left = producer.flush(70)
    assert not left, f"{left} messages were not delivered"
    assert not failures, f"{len(failures)} messages were refused: {failures[0]}"
    return written


def produce_events(
    bootstrap: str, topic: str, count: int, *, first: int = 0, partitions: int = 4
) -> dict[Position, dict[str, Any]]:
    """Writes events `first` to `first + count - 1`; returns the event at each position."""
    values = (json.dumps(event(number)).encode() for number in range(first, first + count))
    written = produce(bootstrap, topic, values, partition_of=lambda number: number % partitions)
    return {place: json.loads(value or b"null") for place, value in written.items()}


def outsider(store: Mapping[str, str] | None = None) -> duckdb.DuckDBPyConnection:
    """DuckDB with its Iceberg reader; fetches nothing.

    Args:
        store: S3 properties as in `CatalogAt.store`; none for local files.
    """
    offline: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    connection = duckdb.connect(config=offline)
    for name in ("avro", "httpfs", "iceberg"):  # in this order: iceberg asks for the other two
        package = importlib.import_module(f"duckdb_extension_{name}")
        folder = Path(str(package.__file__)).parent
        file = next(folder.glob(f"extensions/*/{name}.duckdb_extension"))
        connection.execute(f"LOAD '{file}'")
    connection.execute("SET TimeZone = 'UTC'")
    if store:
        endpoint = store["s3.endpoint"].removeprefix("http://")
        connection.execute(
            f"CREATE SECRET (TYPE s3, KEY_ID '{store['s3.access-key-id']}', "
            f"SECRET '{store['s3.secret-access-key']}', REGION '{store['s3.region']}', "
            f"ENDPOINT '{endpoint}', URL_STYLE 'path', USE_SSL false)"
        )
    return connection


def read_by_catalog(
    catalog: CatalogAt, table: str, columns: Sequence[str] = ("*",)
) -> list[dict[str, Any]]:
    """Every row of `namespace.name`, found and read by DuckDB through the REST catalog."""
    with outsider(catalog.store) as connection:
        connection.execute(
            f"ATTACH '' AS lake (TYPE iceberg, ENDPOINT '{catalog.uri}', AUTHORIZATION_TYPE 'none')"
        )
        return _rows(connection, f"SELECT {', '.join(columns)} FROM lake.{table}")


def read_by_metadata(
    metadata_location: str,
    columns: Sequence[str] = ("*",),
    *,
    store: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Every row of the table with this metadata file, read by DuckDB."""
    with outsider(store) as connection:
        return _rows(
            connection, f"SELECT {', '.join(columns)} FROM iceberg_scan('{metadata_location}')"
        )


def _rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[dict[str, Any]]:
    result = connection.execute(query)
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def positions(rows: Iterable[Mapping[str, Any]]) -> list[Position]:
    """The (partition, offset) of each row, sorted, doubles kept."""
    return sorted((row["_kafka_partition"], row["_kafka_offset"]) for row in rows)


def assert_exactly_once(
    rows: Sequence[Mapping[str, Any]], expected: Mapping[Position, Mapping[str, Any] | None]
) -> None:
    """Every expected position is one row, no other row is there, and every value is equal.

    Args:
        rows: as an outsider read them, with `_kafka_partition` and `_kafka_offset`.
        expected: position -> values by column; None where only the position counts. Values are
            compared as they are, so a caller turns its timestamps into what the column holds.
    """
    found = positions(rows)
    doubled = sorted({here for here, after in itertools.pairwise(found) if here == after})
    assert not doubled, f"{len(doubled)} positions more than once, first {doubled[:5]}"
    missing = sorted(expected.keys() - set(found))
    assert not missing, f"{len(missing)} positions missing, first {missing[:5]}"
    foreign = sorted(set(found) - expected.keys())
    assert not foreign, f"{len(foreign)} positions nobody wrote, first {foreign[:5]}"
    for row in rows:
        place = (row["_kafka_partition"], row["_kafka_offset"])
        for column, value in (expected[place] or {}).items():
            assert row[column] == value, f"{place}: {column} is {row[column]!r}, not {value!r}"


def open_gate() -> Gate:
    """Every dead letter passes."""
    return Gate(Conflicts(), SystemClock())


def no_upkeep(tracker: Tracker, progress: Progress) -> Upkeep:
    """The upkeep of a run whose table needs none."""
    nothing = Schedule({}, commits_max=1, now=0.0)
    return Upkeep(
        Maintenance(lambda _stopped: ()),
        nothing,
        tracker,
        Metrics(),
        progress,
        RetryPolicy(budget_seconds=0),
        SystemClock(),
    )
