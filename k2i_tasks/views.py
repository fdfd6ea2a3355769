"""What a query may ask of one table whose newest rows are still in memory: protocols and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import pyarrow as pa

from k2i_tasks.types import Offsets

if TYPE_CHECKING:  # a run that nobody queries does not load it
    import polars as pl

#: `hot`: rows in this process's memory; `cold`: the committed table; `all`: each row once.
Part = Literal["all", "hot", "cold"]


@dataclass(frozen=True, slots=True)
class Cut:
    """One state of one table, which stays as it is however long it is read.

    Args:
        frame: its rows, in the table's columns; opened lazily.
        positions: per partition, the next offset: each record below it that became a row is in
            `frame`, none from there on. Of the partitions that this process reads.
        snapshot_id: of the committed part; None where there is none, or it was not asked for.
        hot_rows: rows that came from memory.
    """

    frame: pl.LazyFrame
    positions: Offsets
    snapshot_id: int | None
    hot_rows: int


@dataclass(frozen=True, slots=True)
class Tail:
    """Rows that came after some positions, and the positions to go on from.

    Args:
        rows: in the order of their arrival.
        positions: the next offsets.
        missed: whether rows between the positions asked for and these had left memory already.
    """

    rows: pa.Table
    positions: Offsets
    missed: bool


class View(Protocol):
    """One table, hot and cold. Thread-safe; never waits for the run's own thread."""

    @property
    def name(self) -> str:
        """Full name of the table, such as `demo.orders`."""
        ...

    @property
    def key_column(self) -> str | None:
        """The indexed column; None for none."""
        ...

    def cut(self, part: Part = "all") -> Cut:
        """The table as it is now. May block on catalog and store unless `part` is `hot`.

        Raises:
            K2IError: the committed part cannot be read, or does not fit what is in memory.
        """
        ...

    def at(self, topic: str, partition: int, offset: int) -> pa.Table:
        """The row of this record if it is in memory, else no rows. Does not block."""
        ...

    def with_key(self, value: object) -> pa.Table:
        """Rows in memory whose key column has this value, oldest first. Does not block.

        Raises:
            ConfigError: no key column is configured, or the value is not of its type.
        """
        ...

    def after(self, positions: Offsets | None, rows_max: int) -> Tail:
        """Rows in memory from these positions on; None: nothing yet, but the positions of now.

        Does not block.
        """
        ...
