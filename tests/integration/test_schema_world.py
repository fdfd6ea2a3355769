"""Columns that others widen or rename while we write: the run goes on, and every value is there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.types import DecimalType, DoubleType, LongType

from k2i_tasks.verification.report import Verdict
from tests.integration.test_bad_input import METADATA_COLUMNS, make_table
from tests.integration.test_end_to_end import expected, landed, unique
from tests.integration.test_iceberg_world import insistently, table_of
from tests.integration.test_verify import verified
from tests.program import Program
from tests.running import running
from tests.support import (
    Position,
    assert_exactly_once,
    create_topic,
    event,
    produce,
)

pytestmark = pytest.mark.integration

NARROW = {
    "n": pa.int32(),
    "ratio": pa.float32(),
    "price": pa.decimal128(9, 2),
    "inner": pa.struct([("count", pa.int32())]),
}


def sale(number: int) -> dict[str, Any]:
    """Values that the narrow columns hold exactly."""
    return {"n": number, "ratio": number / 4, "price": number / 4, "inner": {"count": -number}}


def large_sale(number: int) -> dict[str, Any]:
    """Values that only the wide columns hold."""
    price = 10_000_000_000 + number / 4
    return {"n": 2**40 + number, "ratio": 0.1, "price": price, "inner": {"count": 2**33 + number}}


class Records:
    """The records of one topic so far."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.written: dict[Position, dict[str, Any]] = {}

    def more(self, values: Iterable[dict[str, Any]]) -> dict[Position, dict[str, Any]]:
        """Writes them; what stands where now, of these."""
        bootstrap, topic = self._program.bootstrap, self._program.topic
        found = produce(bootstrap, topic, [json.dumps(each).encode() for each in values])
        new = {place: json.loads(value or b"null") for place, value in found.items()}
        self.written |= new
        return new


def widen(program: Program) -> None:
    with table_of(program).update_schema() as update:
        update.update_column("n", LongType())
        update.update_column("ratio", DoubleType())
        update.update_column("price", DecimalType(18, 2))
        update.update_column(("inner", "count"), LongType())


def test_columns_widened_by_others_during_a_run_keep_every_value(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    topic = unique("widened")
    create_topic(kafka_bootstrap, topic)
    program = Program(tmp_path, kafka_bootstrap, topic)
    make_table(program, {**NARROW, **METADATA_COLUMNS})
    sales = Records(program)
    with running(program) as run:
        sales.more(map(sale, range(200)))
        run.until_committed(200)
        insistently(lambda: widen(program))
        sales.more(map(sale, range(200, 400)))
        run.until_committed(400)
        # This run began with the narrow columns, and widens its own when values need it.
        sales.more(map(large_sale, range(20)))
        run.until_committed(420)
        # A column more has the flush thread load the widened table.
        sales.more({**sale(number), "more": "yes"} for number in range(400, 600))
        run.until_committed(620)
        run.drain()
    with running(program) as run:
        sales.more(map(large_sale, range(20, 220)))
        run.until_committed(200)
        run.drain()
    schema = table_of(program).schema()
    assert schema.find_type("n") == schema.find_type("inner.count") == LongType()
    assert schema.find_type("ratio") == DoubleType()
    assert schema.find_type("price") == DecimalType(18, 2)
    wanted = {at: {**row, "price": Decimal(str(row["price"]))} for at, row in sales.written.items()}
    assert_exactly_once(landed(program), wanted)
    by_bounds = table_of(program).scan("n >= 350 and price < 90 and ratio >= 88").to_arrow()
    assert sorted(by_bounds.column("n").to_pylist()) == list(range(352, 360))
    report = verified(program)
    assert report.verdict is Verdict.PROVEN, report


def rename(program: Program) -> None:
    with table_of(program).update_schema() as update:
        update.rename_column("note", "remark")


@pytest.mark.parametrize("amid", [True, False], ids=["during a run", "between two runs"])
def test_a_column_renamed_by_others_keeps_its_values_and_what_follows(
    kafka_bootstrap: str, tmp_path: Path, amid: bool
) -> None:
    topic = unique("renamed")
    create_topic(kafka_bootstrap, topic)
    program = Program(tmp_path, kafka_bootstrap, topic)
    records = Records(program)
    with running(program) as run:
        records.more(map(event, range(200)))
        run.until_committed(200)
        if amid:
            insistently(lambda: rename(program))
            records.more(map(event, range(200, 400)))
            run.until_committed(400)
            records.more({**event(number), "more": "yes"} for number in range(400, 600))
            run.until_committed(600)
        run.drain()
    if not amid:
        rename(program)
    with running(program) as run:
        records.more(map(event, range(600, 800)))
        run.until_committed(200)
        run.drain()
    rows = landed(program)
    # What was renamed is a column of its own from then on: records still say `note`.
    assert not any(row["note"] is not None and row["remark"] is not None for row in rows)
    for row in rows:
        row["note"] = row["remark"] if row["note"] is None else row["note"]
    assert_exactly_once(rows, expected(records.written))
