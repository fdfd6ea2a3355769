"""The rows of an answer as they come, within its limits, and what is known at their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from k2i_tasks.asking.limits import Limits, Turn


@dataclass(slots=True)
class End:
    """What is known once all rows are out.

    Args:
        rows: how many there were.
        cut: `rows`, `bytes` or empty: which limit left rows out. A limit that the client gave
            counts too, if there were more.
    """

    rows: int = 0
    cut: str = ""


class Answer:
    """Schema and rows of one answer. To be closed, also when not all rows were taken.

    Args:
        schema: of the rows.
        batches: the rows; one more than `rows_max` tells that some are left out.
        turn: the query's place and time; None for what needs neither.
        limits: of the result.
        rows_max: rows at most.
        close: gives back what the rows came from.
    """

    def __init__(
        self,
        schema: pa.Schema,
        batches: Iterator[pa.RecordBatch],
        *,
        turn: Turn | None,
        limits: Limits,
        rows_max: int,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self.schema = schema
        self.end = End()
        self._batches = batches
        self._turn = turn
        self._bytes_max = limits.bytes_max
        self._rows_max = rows_max
        self._close = close

    @property
    def at_once(self) -> bool:
        """Whether all rows are there, so that taking them does not block."""
        return self._turn is None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The rows. Blocks.

        Raises:
            QueryLimitError: it took too long, or too much memory.
            QueryCancelledError: whoever asked is gone.
            K2IError: the query or the table is at fault.
        """
        left_bytes = self._bytes_max
        for batch in self._batches:
            if self._turn is not None:
                self._turn.check()
            room = self._rows_max - self.end.rows
            if batch.num_rows > room:
                self.end.cut = "rows"
                batch = batch.slice(0, room)
            if batch.nbytes > left_bytes:
                self.end.cut = "bytes"
                batch = batch.slice(0, int(batch.num_rows * left_bytes / batch.nbytes))
            left_bytes -= batch.nbytes
            self.end.rows += batch.num_rows
            if batch.num_rows:
                yield batch
            if self.end.cut:
                break

    def check(self) -> None:
        """Raises why the query was stopped, if it was; for whoever sends its rows slowly."""
        if self._turn is not None:
            self._turn.check()

    def table(self) -> pa.Table:
        """All rows at once, and closed."""
        with self:
            return pa.Table.from_batches(list(self), self.schema)

    def close(self) -> None:
        """Frees the place. Idempotent."""
        self._close()
        if self._turn is not None:
            self._turn.end()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
