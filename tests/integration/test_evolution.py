"""Drifting records through real runs: what the table becomes, as another reader sees it."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.schema import Schema
from pyiceberg.types import DecimalType, LongType

from k2i_tasks.config import load_config
from k2i_tasks.iceberg.catalog import open_catalog
from k2i_tasks.verification.report import Verdict
from tests.integration.test_bad_input import METADATA_COLUMNS
from tests.integration.test_end_to_end import landed, unique
from tests.integration.test_iceberg_world import table_of
from tests.integration.test_verify import verified
from tests.program import Program
from tests.running import running
from tests.support import create_topic, produce

pytestmark = pytest.mark.integration

SETTINGS = """
[schema_evolution]
on_breaking_change = "variant-column"
max_columns = 12
"""
HINTS = {"price": "decimal(9,2)", "payload": "json"}


@pytest.fixture
def program(kafka_bootstrap: str, tmp_path: Path) -> Program:
    topic = unique("drift")
    create_topic(kafka_bootstrap, topic, partitions=1)
    environ = {"K2I_KAFKA_FORMAT_FIELDS": json.dumps(HINTS)}
    return Program(tmp_path, kafka_bootstrap, topic, extra=SETTINGS, environ=environ)


def send(program: Program, *payloads: str) -> None:
    values = [payload.encode() for payload in payloads]
    produce(program.bootstrap, program.topic, values, partition_of=lambda _number: 0)


def rows_of(program: Program) -> list[dict[str, Any]]:
    return sorted(landed(program), key=lambda row: row["_kafka_offset"])


def test_what_drifts_is_kept_digit_by_digit_through_runs_and_restarts(program: Program) -> None:
    send(program, '{"id":1,"price":1.50,"payload":{"a":[1.0]},"s":{"n":1}}')
    with running(program) as run:
        run.until_committed(1)
        send(
            program,
            '{"id":"two","price":0.001,"payload":2.50}',
            '{"id":3,"s":{"n":0.10000000000000000001},"more":true}',
        )
        run.until_committed(3)
        run.drain()
    with running(program) as run:
        many = {f"new{number}": number for number in range(12)}
        send(program, '{"id":4.25,"price":12345678.90}', json.dumps({"id": 5, **many}))
        run.until_committed(2)
        run.drain()
    rows = rows_of(program)
    assert [row["id"] for row in rows] == [1, None, 3, None, 5]
    assert [row["id__string"] for row in rows] == [None, '"two"', None, "4.25", None]
    assert [row["price"] for row in rows[:2]] == [Decimal("1.50"), None]
    assert rows[1]["price__string"] == "0.001"
    assert rows[3]["price__string"] == "12345678.90"
    assert [row["payload"] for row in rows[:2]] == ['{"a":[1.0]}', "2.50"]
    assert rows[2]["s"]["n"] is None
    assert rows[2]["s"]["n__string"] == "0.10000000000000000001"
    rest = json.loads(rows[4]["_rest"])
    own = {name: value for name, value in rows[4].items() if name in many}
    assert own.keys() | rest.keys() == many.keys()
    assert {**own, **rest} == many
    names = table_of(program).schema()._lazy_id_to_name
    assert len([name for name in names.values() if not name.startswith("_")]) == 12
    assert program.load_table(f"{program.table}__dead_letters") is None
    report = verified(program)
    assert report.verdict is Verdict.PROVEN, report


def make_required(program: Program) -> None:
    """The table as others made it, with columns that require a value."""
    catalog = open_catalog(load_config(program.config, environ={}, overrides={}).iceberg, {})
    catalog.create_namespace_if_not_exists("tests")
    columns = {"id": pa.int32(), "price": pa.decimal128(5, 2)}
    fields = [pa.field(name, kind, nullable=False) for name, kind in columns.items()]
    others = [pa.field(name, kind) for name, kind in METADATA_COLUMNS.items()]
    catalog.create_table(("tests", program.table), pa.schema([*fields, *others]))


def required(schema: Schema) -> set[str]:
    return {field.name for field in schema.fields if field.required}


def test_a_required_column_is_widened_and_in_permissive_mode_made_optional(
    program: Program,
) -> None:
    program.extra, program.environ = '[schema_evolution]\nmode = "permissive"', {}
    make_required(program)
    assert required(table_of(program).schema()) == {"id", "price"}
    send(program, '{"id":1,"price":1.5}', '{"id":1099511627776,"price":12345.67}', '{"price":1}')
    with running(program) as run:
        run.until_committed(3)
        run.drain()
    assert [(row["id"], row["price"]) for row in rows_of(program)] == [
        (1, Decimal("1.50")),
        (2**40, Decimal("12345.67")),
        (None, Decimal("1.00")),
    ]
    schema = table_of(program).schema()
    assert required(schema) == {"price"}
    assert schema.find_type("id") == LongType()
    assert schema.find_type("price") == DecimalType(7, 2)
    report = verified(program)
    assert report.verdict is Verdict.PROVEN, report
