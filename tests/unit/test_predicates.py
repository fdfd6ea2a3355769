"""What is known of a predicate of Polars, without Polars."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from k2i_tasks.predicates import Comparison, Joined, Predicate, conjuncts, plain

NOON = datetime(2026, 11, 1, 12, 30, 15, 250_000)
A, B = pl.col("a"), pl.col("b")


@pytest.mark.parametrize(
    ("expression", "known"),
    [
        (A > 5, Comparison("a", ">", 5)),
        (pl.lit(5) > A, Comparison("a", "<", 5)),
        (A == "x", Comparison("a", "=", "x")),
        (A != 2.5, Comparison("a", "!=", 2.5)),
        (pl.lit(True) == A, Comparison("a", "=", True)),
        (A.is_null(), Comparison("a", "is null")),
        (A.is_not_null(), Comparison("a", "is not null")),
        (A <= NOON, Comparison("a", "<=", NOON)),
        (NOON.replace(tzinfo=UTC) <= A, Comparison("a", ">=", NOON.replace(tzinfo=UTC))),
        (date(1969, 2, 3) > A, Comparison("a", "<", date(1969, 2, 3))),
        ((A > 1) | (B < 2), Joined(Comparison("a", ">", 1), Comparison("b", "<", 2), both=False)),
        ((A > 1) & (B < A), Joined(Comparison("a", ">", 1), None, both=True)),
        (A > B, None),
        (A + 1 > 5, None),
        (~(A > 5), None),
        (pl.lit(0.1, pl.Float32) == A, None),
        (pl.lit(None) == A, None),
        (
            pl.lit(NOON, pl.Datetime("us", "Europe/Zurich")) == A,
            Comparison("a", "=", NOON.replace(hour=11, tzinfo=UTC)),
        ),
        (pl.lit(NOON, pl.Datetime("ns")) == A, None),
        (A.is_in([1, 2]), None),
        (A.map_batches(lambda values: values, pl.Boolean), None),
        (pl.lit(True), None),
    ],
    ids=str,
)
def test_comparisons_are_known_and_all_else_lets_rows_through(
    expression: pl.Expr, known: Predicate
) -> None:
    assert plain(expression) == known


def test_what_must_hold_is_not_what_may_hold() -> None:
    predicate = plain((A > 1) & ((B == 2) & (B + 1 > 2)) & ((A == 3) | (A == 4)))
    assert {(one.column, one.operator, one.value) for one in conjuncts(predicate)} == {
        ("a", ">", 1),
        ("b", "=", 2),
    }
    assert conjuncts(None) == []


def test_one_that_is_too_deep_lets_all_rows_through() -> None:
    deep = A > 0
    for number in range(3_000):
        deep = deep & (number < A)
    assert plain(deep) is None or conjuncts(plain(deep))
