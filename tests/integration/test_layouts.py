"""Tables as configured, read by an outsider: spec, order, raw bytes, what Kafka adds."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from confluent_kafka import Producer

from k2i_tasks.iceberg.files import local_path
from tests.integration.test_end_to_end import expected, landed
from tests.program import Program, finished
from tests.running import running
from tests.support import (
    CatalogAt,
    assert_exactly_once,
    create_topic,
    produce,
    produce_events,
    read_by_metadata,
)

pytestmark = pytest.mark.integration

Make = Callable[..., Program]
AT_MS = 1_700_000_000_123


@pytest.fixture
def make(kafka_bootstrap: str, tmp_path: Path) -> Make:
    def build(**environ: str) -> Program:
        topic = f"layout-{uuid.uuid4().hex[:8]}"
        create_topic(kafka_bootstrap, topic)
        return Program(tmp_path, kafka_bootstrap, topic, environ=environ)

    return build


def test_rows_are_where_the_partition_spec_says_in_the_order_that_is_set(make: Make) -> None:
    spec = [
        {"source_field": "created_at", "transform": "day"},
        {"source_field": "address.city", "transform": "bucket[3]"},
        {"source_field": "customer", "transform": "truncate[11]"},
    ]
    order = [{"source_field": "amount", "direction": "desc"}, {"source_field": "order_id"}]
    program = make(
        K2I_ICEBERG_PARTITION_SPEC=json.dumps(spec), K2I_ICEBERG_SORT_ORDER=json.dumps(order)
    )
    written = produce_events(program.bootstrap, program.topic, 4_000)
    code, output = program.run("--max-messages", "4000")
    assert code == 0, output
    assert_exactly_once(landed(program), expected(written))
    table = program.load_table()
    assert table is not None
    assert [str(field.transform) for field in table.spec().fields] == [
        "day",
        "bucket[3]",
        "truncate[11]",
    ]
    for task in table.scan().plan_files():
        assert task.file.sort_order_id == table.sort_order().order_id != 0
        path = local_path(task.file.file_path)
        assert path is not None
        rows = pq.read_table(path, partitioning=None).to_pylist()
        assert rows == sorted(rows, key=lambda row: (-row["amount"], row["order_id"]))
        days = {row["created_at"].date() for row in rows}
        assert len(days) == len({row["customer"][:11] for row in rows}) == 1


def test_identifier_fields_are_required_from_the_first_record_on(make: Make) -> None:
    identifiers = ["order_id", "_kafka_offset"]
    program = make(K2I_ICEBERG_IDENTIFIER_FIELDS=",".join(identifiers))
    written = produce_events(program.bootstrap, program.topic, 400)
    bad: list[bytes | None] = [b'{"order_id":null}', b'{"customer":"x"}', None]
    refused = produce(program.bootstrap, program.topic, bad)
    code, output = program.run("--max-messages", "403")
    assert code == 0, output
    assert_exactly_once(landed(program), expected(written))
    table = program.load_table()
    assert table is not None
    schema = table.schema()
    assert sorted(schema.identifier_field_names()) == sorted(identifiers)
    assert all(schema.find_field(name).required for name in identifiers)
    letters = read_by_metadata(program.metadata_location(f"{program.table}__dead_letters"))
    assert {(one["partition"], one["offset"]) for one in letters} == refused.keys()
    assert {one["code"] for one in letters} == {"json.missing_field"}
    code, output = finished(program.command("verify", "--values", "full"))
    assert code == 0, output


def test_raw_bytes_keep_whatever_was_sent_with_key_headers_and_time(make: Make) -> None:
    program = make(K2I_KAFKA_FORMAT_TYPE="raw")
    values: list[bytes | None] = [b"\x00\xff", b"", None, b'{"a": 1}', "ü".encode() * 1000]
    headers: list[tuple[str, str | bytes | None]] = [
        ("trace", b"\x01\x02"),
        ("trace", b""),
        ("none", None),
    ]
    producer = Producer({"bootstrap.servers": program.bootstrap})
    for number, value in enumerate(values):
        key = None if number == 3 else b"key-%d" % number
        extra = headers if number == 1 else None
        producer.produce(
            program.topic, value, key, partition=0, timestamp=AT_MS + number, headers=extra
        )
    assert producer.flush(60) == 0
    code, output = program.run("--max-messages", str(len(values)))
    assert code == 0, output
    rows = sorted(landed(program), key=lambda row: int(row["_kafka_offset"]))
    assert [row["value"] for row in rows] == values
    assert [row["_kafka_key"] for row in rows] == [b"key-0", b"key-1", b"key-2", None, b"key-4"]
    times = [round(row["_kafka_timestamp"].timestamp() * 1000) for row in rows]
    assert times == [AT_MS + number for number in range(len(values))]
    assert [(one["key"], one["value"]) for one in rows[1]["_kafka_headers"]] == headers
    assert {row["_kafka_topic"] for row in rows} == {program.topic}


def test_text_is_a_column_and_bytes_that_are_none_are_dead_letters(make: Make) -> None:
    program = make(K2I_KAFKA_FORMAT_TYPE="string")
    producer = Producer({"bootstrap.servers": program.bootstrap})
    for value in (b"one", "zwölf".encode(), b"\xff", None):
        producer.produce(program.topic, value, partition=0)
    assert producer.flush(60) == 0
    code, output = program.run("--max-messages", "4")
    assert code == 0, output
    rows = sorted(landed(program), key=lambda row: int(row["_kafka_offset"]))
    assert [(row["_kafka_offset"], row["value"]) for row in rows] == [
        (0, "one"),
        (1, "zwölf"),
        (3, None),
    ]
    letters = program.load_table(f"{program.table}__dead_letters")
    assert letters is not None
    assert letters.scan().to_arrow()["value"].to_pylist() == [b"\xff"]


def test_wrong_keys_of_the_store_are_one_message_and_4(
    rest_catalog_s3: CatalogAt, make: Make
) -> None:
    keys = {**rest_catalog_s3.store, "s3.access-key-id": "nobody"}
    program = make()
    program.rest = replace(rest_catalog_s3, store=keys)
    # The catalog hands out keys of its own, which win: the check of the store uses ours.
    process = program.command("validate", "--connect")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 4, output
    assert "failed  object store" in output
    assert "Traceback" not in output


def test_a_second_signal_ends_a_drain_that_does_not_end(
    make: Make, rest_catalog: CatalogAt
) -> None:
    program = make()
    program.rest = rest_catalog
    produce_events(program.bootstrap, program.topic, 500)
    # What is consumed is held, so that the drain has to commit it.
    hold = {"K2I_BUFFER_FLUSH_INTERVAL_SECONDS": "600", "K2I_BUFFER_FLUSH_BATCH_SIZE": "1000000"}
    with running(program, environ=hold) as run:
        run.until_consumed(500)
        rest_catalog.set_fault(status=503, times=1000)
        try:
            run.signal(signal.SIGTERM)
            run.until(lambda report: report["state"] == "draining", "draining")
            run.signal(signal.SIGTERM)
            code, output = run.end()
        finally:
            rest_catalog.clear_faults()
    assert code == 130, output
    assert "Second signal" in output
