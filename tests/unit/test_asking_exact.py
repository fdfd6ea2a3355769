"""Large whole numbers and fractions mean the same on both ways that a query may go."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pyarrow as pa
import pytest

from k2i_tasks.asking.engine import Engine
from k2i_tasks.asking.plain import plain_scan
from k2i_tasks.errors import ConfigError
from k2i_tasks.sql_guard import check_query
from k2i_tasks.tickets import Condition, Rows
from tests.unit.asking_world import limited, rows
from tests.unit.views_world import ArrowView

NEAR = 1_234_567_890_123_456_789
NUMBERS = [NEAR - 1, NEAR, NEAR + 1, -NEAR, 2**63 - 1, -(2**63), 5]


@pytest.fixture(scope="module")
def numbers() -> Iterator[Engine]:
    whole = pa.table(
        {
            "id": pa.array(NUMBERS, pa.int64()),
            "large": pa.array([Decimal(n) for n in NUMBERS], pa.decimal128(38, 2)),
            "tenth": pa.array([Decimal(n % 100) + Decimal("0.1") for n in NUMBERS]),
        }
    )
    one = limited({"demo.n": ArrowView("demo.n", whole.slice(0, 3), whole.slice(3))})
    yield one
    one.close()


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (f"id = {NEAR}", [NEAR]),
        (f"id < {NEAR}", [NEAR - 1, -NEAR, -(2**63), 5]),
        (f"id = -{NEAR}", [-NEAR]),
        (f"id >= {2**63 - 1}", [2**63 - 1]),
        (f"id = {2**63}", []),
        (f"large = {NEAR}", [NEAR]),
        (f"large > {NEAR}", [NEAR + 1, 2**63 - 1]),
        ("tenth = 5.1", [5]),
        ("id = 5.0", [5]),
    ],
)
def test_numbers_are_compared_exactly(numbers: Engine, condition: str, found: list[int]) -> None:
    # In parentheses it is for a worker.
    for where in (condition, f"({condition})"):
        assert [row["id"] for row in rows(numbers, f"SELECT id FROM n WHERE {where}")] == found


def test_a_number_beyond_64_bits_is_for_a_worker() -> None:
    for number, is_plain in ((2**63 - 1, True), (2**63, False), ("1" * 5_000, False)):
        for end in (f"WHERE id = {number}", f"LIMIT {number}"):
            checked = check_query(f"SELECT id FROM n {end}", ["n"])
            assert (plain_scan(checked.sql, ["n"], "all") is not None) == is_plain


def test_a_number_that_polars_cannot_hold_is_a_wrong_ticket(numbers: Engine) -> None:
    with pytest.raises(ConfigError, match="column id"):
        numbers.answer(Rows("demo.n", where=(Condition("id", "=", 10**60),))).table()
    assert numbers.places.taken == 0
