"""A table for tests of what answers queries: rows in memory and rows committed, both in Arrow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from k2i_tasks.errors import ConfigError
from k2i_tasks.types import Offsets, TopicPartition
from k2i_tasks.views import Cut, Part, Tail

P0 = TopicPartition("orders", 0)
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def orders(first: int, count: int) -> pa.Table:
    """Rows of partition 0 from offset `first` on."""
    offsets = range(first, first + count)
    return pa.table(
        {
            "id": pa.array(offsets, pa.int64()),
            "city": pa.array(
                [None if n % 5 == 4 else ("Bern", "Basel", "Chur")[n % 3] for n in offsets],
                pa.string(),
            ),
            "price": pa.array([n / 2 for n in offsets], pa.float64()),
            "at": pa.array(
                [NOON + timedelta(seconds=n) for n in offsets], pa.timestamp("us", "UTC")
            ),
            "item": pa.array([{"sku": f"s{n}", "tags": ["a", f"t{n}"]} for n in offsets]),
            "_offset": pa.array(offsets, pa.int64()),
        }
    )


class ArrowView:
    """A table of which the first rows are committed and the others are in memory.

    Args:
        name: full name.
        cold, hot: rows, in the order of their offsets.
        slow_seconds: what each cut takes.
    """

    key_column: str | None = "id"

    def __init__(
        self, name: str, cold: pa.Table, hot: pa.Table, *, slow_seconds: float = 0.0
    ) -> None:
        self.name = name
        self.cold = cold
        self.hot = hot
        self.slow_seconds = slow_seconds
        self.cuts: list[Part] = []

    def cut(self, part: Part = "all") -> Cut:
        self.cuts.append(part)
        time.sleep(self.slow_seconds)
        hot = self.hot
        parts = {"all": (self.cold, hot), "hot": (hot,), "cold": (self.cold,)}[part]
        frame = pl.from_arrow(pa.concat_tables(parts))
        assert isinstance(frame, pl.DataFrame)
        return Cut(frame.lazy(), self._positions(), None, 0 if part == "cold" else hot.num_rows)

    def at(self, topic: str, partition: int, offset: int) -> pa.Table:
        known = (topic, partition) == (P0.topic, P0.partition)
        return self.hot.filter(pc.field("_offset") == (offset if known else -1))

    def with_key(self, value: object) -> pa.Table:
        if not isinstance(value, int):
            raise ConfigError("The value is not of the key's type, int64.", field="key")
        return self.hot.filter(pc.field("id") == value)

    def after(self, positions: Offsets | None, rows_max: int) -> Tail:
        hot = self.hot
        if positions is None:
            return Tail(hot.slice(0, 0), self._positions(), False)
        start = positions.get(P0, 0)
        rows = hot.filter(pc.field("_offset") >= start).slice(0, rows_max)
        first = hot["_offset"][0].as_py() if hot.num_rows else start
        next_offset = rows["_offset"][-1].as_py() + 1 if rows.num_rows else start
        return Tail(rows, {P0: next_offset}, start < first)

    def append(self, count: int) -> None:
        """Rows that come while somebody looks."""
        first = self._positions()[P0]
        self.hot = pa.concat_tables([self.hot, orders(first, count)])

    def _positions(self) -> dict[TopicPartition, int]:
        return {P0: self.cold.num_rows + self.hot.num_rows}


def world(cold: int = 60, hot: int = 40) -> Mapping[str, ArrowView]:
    """`demo.orders` with rows on both sides, `demo.other` with a few."""
    whole = orders(0, cold + hot)
    first = ArrowView("demo.orders", whole.slice(0, cold), whole.slice(cold))
    small = orders(0, 3)
    return {"demo.orders": first, "demo.other": ArrowView("demo.other", small, small.slice(0, 0))}
